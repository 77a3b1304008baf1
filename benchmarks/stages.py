"""Where the time of a callback at a fixed rate goes, from its POST to its frame: ``python -m benchmarks.stages``.

For each number of ``--workers`` a table: the median and the 99th percentile of each stage, and its mean among the
slowest hundredth of all callbacks, which is what the 99th percentile of the whole is made of. The stages of one
callback are noted by :mod:`benchmarks.staged`; they add up to the whole. Milliseconds.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
from gevent.queue import Queue

from benchmarks.bridge import Http, WebSocket, running_bridge
from benchmarks.delivery import ERROR

STAGES = {
    "arrived": "sent, until a worker has read it",
    "parsed": "gunicorn: head, environ",
    "view": "layers and Flask, until the view",
    "entered": "body, schema, redaction; its workflow's turn",
    "queued": "look-ups, decision, encoding",
    "taken": "the wait for the writer's thread",
    "written": "lock and statements of the group",
    "committed": "its COMMIT: WAL, fsync",
    "woken": "until the socket's worker knows",
    "read": "until its reader runs and has read",
    "framed": "the frame is written",
    "received": "until the client has it",
}
"""A stage ends with the mark of its name and begins with the one before; the first begins as the request is sent."""
SESSIONS, CONNECTIONS = 8, 64
SETTLE_S = 1.0


@dataclass(frozen=True)
class Measured:
    """The marks of each callback; the processes' full garbage collections, as (pid, from, to)."""

    callbacks: list[dict[str, float]]
    collections: list[tuple[int, float, float]]

    def slowest(self) -> list[dict[str, float]]:
        ordered = sorted(self.callbacks, key=lambda marks: marks["received"] - marks["sent"])
        return ordered[-max(1, len(ordered) // 100) :]

    def through(self, marks: dict[str, float]) -> bool:
        """Whether a full collection took place while this callback was in hand."""
        return any(since < marks["received"] and until > marks["sent"] for _, since, until in self.collections)


def measure(workers: int, *, seconds: float, rate: float) -> Measured:
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        settings = {"WEB_CONCURRENCY": str(workers), "STAGES_FOLDER": folder}
        with running_bridge(app="benchmarks.staged:app", **settings) as port:
            known = _drive(port, seconds=seconds, rate=rate)
        collections: list[tuple[int, float, float]] = []
        for path in Path(folder).glob("*.json"):
            told = json.loads(path.read_text())
            # Each worker makes one of its own accord before it serves.
            collections += [(told["pid"], since, until) for since, until in told["collections"][1:]]
            for request_id, marks in told["marks"].items():
                if request_id in known:
                    taker = {"taker": told["pid"]} if "arrived" in marks else {}
                    known[request_id].update(marks, **taker)
    whole = [marks for marks in known.values() if all(name in marks for name in STAGES)]
    assert len(whole) == len(known), f"{len(known) - len(whole)} of {len(known)} have not all marks"
    return Measured(whole, collections)


def _drive(port: int, *, seconds: float, rate: float) -> dict[str, dict[str, float]]:
    """An open loop; what the client knows of each callback, by its request id."""
    known: dict[str, dict[str, float]] = {}

    def follow(socket: WebSocket) -> None:
        while True:
            frame = socket.receive()
            if frame["type"] == "workflow_error":
                known[frame["requestId"]]["received"] = perf_counter()

    followers = []
    for number in range(SESSIONS):
        socket = WebSocket(port, {})
        body = json.dumps({"workflowId": f"stages-{number}"}).encode()
        status, _ = Http(port).post(f"/sessions/{socket.welcome['sessionId']}/workflows", body, socket.welcome["token"])
        assert status == 201, status
        followers.append(gevent.spawn(follow, socket))
    connections: Queue[Http] = Queue()
    for _ in range(CONNECTIONS):
        connections.put(Http(port))

    def post(number: int) -> None:
        request_id = f"stages-{number:06}"
        report = {"id": str(number), "error": ERROR, "lastNodeExecuted": "Code", "mode": "webhook"}
        workflow = {"id": f"stages-{number % SESSIONS}", "name": "stages"}
        body = json.dumps({"execution": report, "workflow": workflow}).encode()
        marks = known[request_id] = {"sent": perf_counter()}
        connection = connections.get()
        status, _ = connection.post("/callbacks/n8n/error", body, request_id=request_id)
        assert status == 202, status
        marks["replied"] = perf_counter()
        connections.put(connection)

    began, jobs = perf_counter(), []
    for number in range(int(seconds * rate)):
        gevent.sleep(max(0.0, began + number / rate - perf_counter()))
        jobs.append(gevent.spawn(post, number))
    gevent.joinall(jobs, raise_error=True)
    gevent.sleep(SETTLE_S)
    gevent.killall(followers)
    # The first second is the start's: memory, caches, the first pages of the file.
    return {request_id: known[request_id] for request_id in sorted(known)[int(rate) :]}


def table(measured: Measured) -> str:
    slowest = measured.slowest()
    lines = [f"{'stage':44} {'p50':>7} {'p99':>7} {'in the slowest 1 %':>19}"]
    last = "sent"
    for name, title in STAGES.items():
        lines.append(_line(title, _took(measured.callbacks, last, name), _took(slowest, last, name)))
        last = name
    whole = [(group, _took(group, "sent", "received")) for group in (measured.callbacks, slowest)]
    lines.append(_line("POST → frame, the whole", whole[0][1], whole[1][1]))
    lines.append(
        _line("POST → answer", _took(measured.callbacks, "sent", "replied"), _took(slowest, "sent", "replied"))
    )
    for title, same in (("taken by the socket's worker", True), ("taken by another worker", False)):
        found = [marks for marks in measured.callbacks if (marks["taker"] == marks["reader"]) is same]
        if found:
            among = [marks for marks in slowest if (marks["taker"] == marks["reader"]) is same]
            share = f"{title}: {len(found)}, {len(among)} of the slowest {len(slowest)}"
            lines.append(_line(share, _took(found, "sent", "received"), _took(among, "sent", "received")))
    again = [sum(marks["tries"] > 1 for marks in group) for group in (measured.callbacks, slowest)]
    lines.append(f"decided anew, for another worker had written the case: {again[0]}, {again[1]} of the slowest")
    through = sum(map(measured.through, slowest))
    longest = max((until - since for _, since, until in measured.collections), default=0.0)
    lines.append(
        f"full garbage collections: {len(measured.collections)}, the longest {longest * 1000:.1f} ms; during "
        f"{through} of the slowest {len(slowest)} callbacks"
    )
    return "\n".join(lines)


def _took(callbacks: list[dict[str, float]], since: str, until: str) -> list[float]:
    return [(marks[until] - marks[since]) * 1000 for marks in callbacks]


def _line(title: str, all_: list[float], slowest: list[float]) -> str:
    ordered = sorted(all_)
    mean = f"{statistics.mean(slowest):19.2f}" if slowest else ""
    return f"{title:44} {ordered[len(ordered) // 2]:7.2f} {ordered[int(len(ordered) * 0.99)]:7.2f} {mean}"


def as_json(workers: int, measured: Measured) -> dict[str, Any]:
    names = ["sent", *STAGES]
    return {
        "workers": workers,
        "callbacks": len(measured.callbacks),
        "p50Ms": {
            name: round(statistics.median(_took(measured.callbacks, last, name)), 3) for last, name in pairwise(names)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    for workers in options.workers:
        measured = measure(workers, seconds=options.seconds, rate=options.rate)
        print(json.dumps({"benchmark": "stages", "rate": options.rate, **as_json(workers, measured)}))
        print(f"{workers} worker{'s' if workers > 1 else ''}, {options.rate:g} per second:\n{table(measured)}\n")


if __name__ == "__main__":
    main()
