"""A scrape: all workers' values added up, with what is only known now, as text that Prometheus reads."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gevent
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from app.telemetry import logs, metric_files, metrics

Labels = tuple[tuple[str, str], ...]


def scrape(accept: str, *, active_sessions: Callable[[], int | None]) -> tuple[bytes, str]:
    """The text, and its content type as ``Accept`` asks for it.

    :param active_sessions: live sessions in the journal; ``None``: not known now, and left out.
    :raises metric_files.FolderBusyError: another worker held the files for too long.
    """
    sync_dropped_lines()
    folder = metric_files.folder()
    registry = CollectorRegistry(auto_describe=False)
    # A collector of its own for each scrape: whoever asks next may find other values.
    registry.register(_Scrape(folder, active_sessions()))
    try:
        encode, content_type = choose_encoder(accept)
        content_type.encode("ascii")  # it repeats what the caller asked for
        return encode(registry), content_type
    except (TypeError, ValueError):  # the library compares versions as they come
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def sums(folder: Path | None) -> dict[str, float]:
    """The workers' gauges, added up, by metric name."""
    if folder is None:
        gauges = (metrics.active_connections, metrics.active_turns)
        return {family.name: family.samples[0].value for gauge in gauges for family in gauge.collect()}
    found: dict[str, float] = defaultdict(float)
    for key, value in metric_files.totals(list(folder.glob("gauge_live*_*.db"))).items():
        found[_parsed(key)[0]] += value
    return found


_synced = 0


def sync_dropped_lines() -> None:
    """Count the log lines that were dropped since the last call. In the loop: the thread that drops may not count."""
    global _synced  # how much of this process's one log is counted
    dropped = logs.dropped_lines()
    if dropped > _synced:
        metrics.log_lines_dropped.inc(dropped - _synced)
        _synced = dropped


class _Scrape:
    def __init__(self, folder: Path | None, active_sessions: int | None) -> None:
        self._folder = folder
        self._active_sessions = active_sessions

    def collect(self) -> Iterable[Metric]:
        if self._active_sessions is not None:
            yield GaugeMetricFamily(
                f"{metrics.PREFIX}_active_sessions", "Live sessions in the journal.", value=self._active_sessions
            )
        # The exporter's own, made here: in a worker's file it would have a series for each pid.
        info = GaugeMetricFamily(
            "flask_exporter_info", "Information about the Prometheus Flask exporter", labels=["version"]
        )
        info.add_metric([_exporter_version()], 1)
        yield info
        if self._folder is None:
            yield from REGISTRY.collect()
            return
        with metric_files.counting(self._folder) as paths:
            # By type, which only the files' names tell.
            found = {
                kind: metric_files.totals([path for path in paths if path.name.startswith(f"{kind}_")])
                for kind in ("counter", "gauge", "histogram")
            }
        in_master = metric_files.dropped_by_master(self._folder)
        for kind, values in found.items():
            gevent.sleep(0)  # a scrape is some milliseconds; others run in between
            for family in _families(kind, values):
                if in_master and family.name == f"{metrics.PREFIX}_log_lines_dropped":
                    family.samples = [sample._replace(value=sample.value + in_master) for sample in family.samples]
                yield family


def _families(kind: str, values: Mapping[str, float]) -> Iterable[Metric]:
    """Values by the library's keys as metrics.

    Not the library's ``MultiProcessCollector``: it reads every key of every file as JSON at each scrape and takes three
    times as long, and that time is the loop's.
    """
    families: dict[str, Metric] = {}
    # By metric and labels, not by key: that has the metric's help in it, which may have changed with a reload.
    series: dict[tuple[str, Labels], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    buckets: dict[tuple[str, Labels], dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for key, value in values.items():
        name, sample, labels, text = _parsed(key)
        if name not in families:
            families[name] = Metric(name, text, kind)
        if kind == "histogram" and sample.endswith("_bucket"):
            edge = next(float(given) for label, given in labels if label == "le")
            buckets[name, tuple(pair for pair in labels if pair[0] != "le")][edge] += value
        else:
            series[name, labels][sample] += value
    for (name, labels), samples in series.items():
        family, named, total = families[name], dict(labels), 0.0
        for edge, value in sorted(buckets[name, labels].items()) if kind == "histogram" else ():
            total += value
            bound = floatToGoString(edge)  # type: ignore[no-untyped-call]  # the library has no type for it
            family.add_sample(f"{name}_bucket", {**named, "le": bound}, total)
        if kind == "histogram":
            family.add_sample(f"{name}_count", named, total)
        for sample, value in samples.items():
            family.add_sample(sample, named, value)
    return families.values()


@lru_cache(maxsize=20_000)
def _parsed(key: str) -> tuple[str, str, Labels, str]:
    """Metric, sample, labels and help. There is a bounded number of keys, the same ones at each scrape."""
    name, sample, labels, text = json.loads(key)
    items: dict[str, Any] = labels
    return name, sample, tuple(sorted((label, str(value)) for label, value in items.items())), text


@lru_cache(maxsize=1)
def _exporter_version() -> str:
    return version("prometheus-flask-exporter")
