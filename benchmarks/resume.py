"""Resume of a session with many events: ``python -m benchmarks.resume``; from ``hello`` to the last replayed frame.

Prints one JSON line; times are milliseconds.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import tempfile
import time
from pathlib import Path

import gevent

from app.journal import Change, NewEvent, OpenSession
from app.journal.sqlite import SqliteJournal
from benchmarks.bridge import WebSocket, quantiles, running_bridge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        path = Path(folder, "journal.db")
        fill(path, options.events)
        with running_bridge(path) as port:
            whole, tail = [], []
            for _ in range(options.rounds):
                whole.append(resume(port, after=0, last=options.events))
                tail.append(resume(port, after=options.events - 10, last=options.events))
    line = {
        "benchmark": "resume",
        "events": options.events,
        "whole_ms": quantiles(whole),
        "last_10_ms": quantiles(tail),
    }
    print(json.dumps(line))


def fill(path: Path, count: int) -> None:
    journal = SqliteJournal(path)
    journal.commit(Change(session_id="bench", open_session=OpenSession("", 10)))
    event = NewEvent("assistant_message", {"messageId": "m", "text": "x" * 300}, turn_id="t")
    for _ in range(count // 100):
        journal.commit(Change(session_id="bench", events=[event] * 100))
    journal.close()


def resume(port: int, *, after: int, last: int) -> float:
    began = time.perf_counter()
    with gevent.Timeout(60):
        socket = WebSocket(port, {"sessionId": "bench", "after": after})
        marker = f'"seq":{last},'.encode()
        while marker not in socket.receive_raw():
            pass
    took = (time.perf_counter() - began) * 1000
    socket.close()
    return took


if __name__ == "__main__":
    main()
