"""What ``GET /metrics`` says, as numbers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import BridgeServer, wait_for

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
PREFIX = "n8n_builder_"


def samples(server: BridgeServer, **headers: str) -> Samples:
    """All samples of a scrape, by name and sorted labels; asserts that none is there twice."""
    answer = server.get("/metrics", headers=headers)
    assert answer.status == 200, (answer.status, answer.body[:500])
    found: Samples = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """One sample of ours, without the prefix."""
    return found[PREFIX + name, tuple(sorted(labels.items()))]


def by_label(found: Samples, name: str) -> dict[str, float]:
    """The samples of one of our metrics by their only label's value."""
    return {labels[0][1]: amount for (one, labels), amount in found.items() if one == PREFIX + name}


def grown(before: Samples, after: Samples, name: str) -> dict[str, float]:
    """How much each series of a metric has grown; those that have not are left out."""
    old, new = by_label(before, name), by_label(after, name)
    return {label: new[label] - old.get(label, 0) for label in new if new[label] != old.get(label, 0)}


@contextmanager
def answered_by(server: BridgeServer, pid: int) -> Iterator[None]:
    """Only this worker accepts connections; the others are paused, perhaps with the journal's lock: it may not be
    written in the meantime."""
    # One that is paused as it comes up may have the journal's lock for good.
    wait_for(lambda: len(server.log_lines("worker started")) >= len(server.worker_pids()), what="all workers to be up")
    others = [other for other in server.worker_pids() if other != pid]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)
