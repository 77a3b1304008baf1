"""The Flask exporter's request metrics, by endpoint: how many requests, how long they took, how many failed by a bug.

Of prometheus-flask-exporter its metrics are kept: their names, labels, helps and buckets, as dashboards know them. Its
hooks are not: for each request they look up every series by name (45 µs, against 5 for the counts themselves), label
with whatever method a client makes up, and take a WebSocket's life for a request's duration.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from flask import Flask, Response, request
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_flask_exporter import PrometheusMetrics  # type: ignore[import-untyped]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"})
OTHER_METHOD = "other"
NOWHERE = "None"
"""The endpoint of a request that matches no route, as the exporter writes it."""
LEFT_OUT = frozenset({"socket", "metrics"})
"""Blueprints: the WebSocket, and the scrapes themselves."""
_BEGAN = "bridge.began"


class _Exporter(PrometheusMetrics):  # type: ignore[misc]  # the library has no types
    def info(self, *args: Any, **kwargs: Any) -> None:
        """Left out: a gauge for each process. A scrape has it once."""


def _exporters_metrics() -> dict[str, Any]:
    """The exporter's metrics by name: made by itself, in an application and a registry that nobody else uses."""
    made: dict[str, Any] = {}

    class Registry(CollectorRegistry):
        def register(self, collector: Any) -> None:
            made[collector._name] = collector

    _Exporter(Flask("exporter"), path=None, group_by="endpoint", registry=Registry())
    return made


_made = _exporters_metrics()
duration: Histogram = _made["flask_http_request_duration_seconds"]
total: Counter = _made["flask_http_request"]
exceptions: Counter = _made["flask_http_request_exceptions"]
for _metric in (duration, total, exceptions):
    REGISTRY.register(_metric)
# One of each, so that the first scrape has them.
duration.labels("GET", "probes.health", 200)
total.labels("GET", 200)
exceptions.labels("GET", 500)

_series: dict[tuple[str, str | None, int], tuple[Any, Any, Any]] = {}


def register(app: Flask) -> None:
    """Count the requests of ``app``. To be called before whatever may answer in a ``before_request``."""
    app.before_request(_begin)
    app.after_request(_count)


def _begin() -> None:
    request.environ[_BEGAN] = perf_counter()


def _count(response: Response) -> Response:
    asked = request._get_current_object()  # type: ignore[attr-defined]  # each look through the proxy costs 1 µs
    environ = asked.environ
    began = environ.get(_BEGAN)
    if began is None:
        return response
    key = (environ["REQUEST_METHOD"], asked.endpoint, response.status_code)
    found = _series.get(key)
    if found is None:
        found = _find(*key)
    observed, counted, failed = found
    if observed is not None:
        observed.observe(perf_counter() - began)
        counted.inc()
        if failed is not None:
            failed.inc()
    return response


def _find(method: str, endpoint: str | None, status: int) -> tuple[Any, Any, Any]:
    """The series of such a request, remembered where the client cannot make up any number of them."""
    found: tuple[Any, Any, Any]
    label = method if method in METHODS else OTHER_METHOD
    if (endpoint or "").partition(".")[0] in LEFT_OUT:
        found = (None, None, None)
    else:
        found = (
            duration.labels(label, endpoint or NOWHERE, status),
            total.labels(label, status),
            exceptions.labels(label, status) if status == 500 else None,
        )
    if method in METHODS:
        _series[method, endpoint, status] = found
    return found
