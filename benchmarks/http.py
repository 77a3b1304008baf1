"""What the bridge adds to an HTTP request, beside a bare Flask app: ``python -m benchmarks.http``.

Both run on the same gunicorn settings, one worker each, in turn (A B A B …), under the same load. The figure that
counts is processor time per request, as a ratio to the bare app's of the same round: requests per second also depend on
who else uses the machine. Prints one JSON line per kind of request, and a table.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import gevent

from benchmarks.bridge import Http, WebSocket, cpu_seconds, running_server
from benchmarks.delivery import ERROR

CONNECTIONS = 64
Ask = Callable[[Http], tuple[int, bytes]]


@dataclass
class Kind:
    """One kind of request: what is asked of which server, and what was measured of it."""

    name: str
    app: str
    settings: dict[str, str]
    status: int
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)


KINDS = [
    Kind("bare /health", "benchmarks.bare:app", {}, 200),
    Kind("/health, limit off", "wsgi:app", {}, 200),
    Kind("/health, limit of a million", "wsgi:app", {"RATE_LIMIT_HEALTH_PER_MINUTE": "1000000"}, 200),
    Kind("/health, limited", "wsgi:app", {"RATE_LIMIT_HEALTH_PER_MINUTE": "10"}, 429),
    Kind("bare callback", "benchmarks.bare:app", {}, 202),
    Kind("callback, durable", "wsgi:app", {}, 202),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running_server(app=kind.app, WEB_CONCURRENCY="1", **kind.settings)) for kind in KINDS
        ]
        asks = [ask_for(kind, port) for kind, (port, _) in zip(KINDS, servers, strict=True)]
        for round_ in range(options.rounds + 1):
            for kind, ask, (port, master) in zip(KINDS, asks, servers, strict=True):
                measured = measure(port, master, ask, kind.status, options.seconds if round_ else 0.5)
                if round_:  # the first one warms up
                    kind.per_s.append(measured[0])
                    kind.cpu_us.append(measured[1])
    report()


def ask_for(kind: Kind, port: int) -> Ask:
    if "callback" not in kind.name:
        return lambda http: http.get("/health")
    if kind.app == "wsgi:app":
        socket = WebSocket(port, {})
        path = f"/sessions/{socket.welcome['sessionId']}/workflows"
        status, _ = Http(port).post(path, b'{"workflowId":"bench"}', socket.welcome["token"])
        assert status == 201, status
        socket.close()

    def ask(http: Http) -> tuple[int, bytes]:
        report = {"id": str(time.perf_counter_ns()), "error": ERROR, "lastNodeExecuted": "Code", "mode": "webhook"}
        body = {"execution": report, "workflow": {"id": "bench", "name": "bench"}}
        return http.post("/callbacks/n8n/error", json.dumps(body).encode())

    return ask


def measure(port: int, master: int, ask: Ask, expected: int, seconds: float) -> tuple[float, float]:
    """Requests per second, and microseconds of processor time per request."""
    statuses: Counter[int] = Counter()
    connections = [Http(port) for _ in range(CONNECTIONS)]
    began, used = time.perf_counter(), cpu_seconds(master)

    def go_on(http: Http) -> None:
        while time.perf_counter() - began < seconds:
            statuses[ask(http)[0]] += 1

    gevent.joinall([gevent.spawn(go_on, http) for http in connections], raise_error=True)
    took, used = time.perf_counter() - began, cpu_seconds(master) - used
    for http in connections:
        http.close()
    others = {status: count for status, count in statuses.items() if status != expected}
    # Of a limited address, the first few are let through.
    assert sum(others.values()) <= 10, others
    return statuses.total() / took, used / statuses.total() * 1e6


def report() -> None:
    bare: Kind = KINDS[0]
    print(f"{'':28} {'µs of CPU':>10} {'× bare':>8} {'per s':>8} {'× bare':>8}")
    for kind in KINDS:
        if kind.app == "benchmarks.bare:app":
            bare = kind
        cpu = statistics.median(a / b for a, b in zip(kind.cpu_us, bare.cpu_us, strict=True))
        rate = statistics.median(a / b for a, b in zip(kind.per_s, bare.per_s, strict=True))
        cpu_us, per_s = statistics.median(kind.cpu_us), statistics.median(kind.per_s)
        print(f"{kind.name:28} {cpu_us:10.0f} {cpu:8.2f} {per_s:8.0f} {rate:8.2f}")
        line = {"benchmark": "http", "kind": kind.name, "cpu_us": round(cpu_us, 1), "cpu_ratio": round(cpu, 3)}
        print(json.dumps({**line, "per_s": round(per_s), "per_s_ratio": round(rate, 3), "rounds": len(kind.cpu_us)}))


if __name__ == "__main__":
    main()
