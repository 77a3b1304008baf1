"""What the SQLite journal does a second, at its default durability; one JSON line on standard output.

``python -m benchmarks.journal [--seconds S] [--folder F]``; the folder should lie on the disk that is to be measured.
An append is one ``commit`` of one event of 200 characters, acknowledged. A wake-up is measured from the call of that
commit to the waiter running again, so the commit is part of it; between processes it was made by another process.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import gevent

from app.journal import Change, Journal, NewEvent, OpenSession
from app.journal.sqlite import SqliteJournal

TEXT = "x" * 200
REPLAYED_EVENTS = 10_000
REPLAY_PAGE = 1000
REPLAY_RUNS = 5
WAKE_PAUSE_S = 0.01
WAKE_LIMIT_S = 10.0


def open_session(journal: Journal) -> str:
    session_id = uuid.uuid4().hex
    journal.commit(Change(session_id, open_session=OpenSession("hash", 1_000_000)))
    return session_id


def append(journal: Journal, session_id: str) -> None:
    """One event; it says when it was handed in, by a clock that all processes of a machine share."""
    data = {"text": TEXT, "at": time.monotonic()}
    journal.commit(Change(session_id, events=[NewEvent("user_message", data)]))


def quantiles_ms(samples_s: Sequence[float]) -> dict[str, float]:
    ordered = sorted(samples_s)
    at = {"p50": len(ordered) // 2, "p99": min(len(ordered) - 1, len(ordered) * 99 // 100)}
    return {name: round(ordered[index] * 1000, 3) for name, index in at.items()}


def measure_appends(journal: Journal, *, greenlets: int, seconds: float) -> dict[str, object]:
    """Each greenlet appends to a session of its own, one append after the other."""
    samples: list[float] = []
    sessions = [open_session(journal) for _ in range(greenlets)]
    began = time.perf_counter()

    def write(session_id: str) -> None:
        while (start := time.perf_counter()) < began + seconds:
            append(journal, session_id)
            samples.append(time.perf_counter() - start)

    gevent.joinall([gevent.spawn(write, session_id) for session_id in sessions], raise_error=True)
    elapsed_s = time.perf_counter() - began
    return {"appendsPerSecond": round(len(samples) / elapsed_s), "latencyMs": quantiles_ms(samples)}


def append_now_and_then(journal: Journal, session_id: str, seconds: float) -> None:
    """Paced at random, so as not to fall into step with anything that looks at fixed intervals."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        gevent.sleep(random.uniform(0, 2 * WAKE_PAUSE_S))
        append(journal, session_id)
    journal.commit(Change(session_id, events=[NewEvent("notice", {"level": "info", "text": "end"})]))


def follow(journal: Journal, session_id: str) -> list[float]:
    """Seconds from each append's call to its reader's running again, until the writer has ended."""
    samples: list[float] = []
    cursor = 0
    with journal.watch(f"session:{session_id}") as watch:
        while True:
            if not watch.wait(WAKE_LIMIT_S):
                raise SystemExit(f"no wake-up within {WAKE_LIMIT_S} s")
            awake_at = time.monotonic()
            for event in journal.events(session_id, after=cursor):
                cursor = event.seq
                if event.type != "user_message":
                    return samples
                samples.append(max(0.0, awake_at - event.data["at"]))


def measure_wake_ups(journal: Journal, path: Path, *, seconds: float) -> dict[str, object]:
    session_id = open_session(journal)
    writer = gevent.spawn(append_now_and_then, journal, session_id, seconds)
    within = follow(journal, session_id)
    writer.get()

    session_id = open_session(journal)
    command = [sys.executable, "-m", "benchmarks.journal", "--write-to", str(path), session_id, str(seconds)]
    # Not terminated: it ends by itself, and ``with`` waits for that.
    with subprocess.Popen(command):
        between = follow(journal, session_id)
    return {"withinProcess": quantiles_ms(within), "betweenProcesses": quantiles_ms(between)}


def measure_replay(journal: Journal) -> dict[str, float]:
    session_id = open_session(journal)
    for n in range(0, REPLAYED_EVENTS, 100):
        events = [NewEvent("user_message", {"text": TEXT, "n": n + m}) for m in range(100)]
        journal.commit(Change(session_id, events=events))

    def replay() -> float:
        start, cursor, count = time.perf_counter(), 0, 0
        while page := journal.events(session_id, after=cursor, limit=REPLAY_PAGE):
            cursor, count = page[-1].seq, count + len(page)
        assert count == REPLAYED_EVENTS
        return time.perf_counter() - start

    runs = sorted(replay() for _ in range(REPLAY_RUNS))
    return {"best": round(runs[0] * 1000, 1), "median": round(runs[REPLAY_RUNS // 2] * 1000, 1)}


def measure(folder: Path, *, seconds: float) -> dict[str, object]:
    path = folder / "journal.db"
    with closing(SqliteJournal(path)) as journal:
        return {
            "backend": "sqlite",
            "sqlite": sqlite3.sqlite_version,
            "seconds": seconds,
            "greenlets": {str(n): measure_appends(journal, greenlets=n, seconds=seconds) for n in (1, 16, 64)},
            "wakeUpMs": measure_wake_ups(journal, path, seconds=seconds),
            f"replayOf{REPLAYED_EVENTS}Ms": measure_replay(journal),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the SQLite journal.")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each figure is measured (default 3)")
    parser.add_argument("--folder", type=Path, default=None, help="where the file is made (default: a temporary one)")
    parser.add_argument("--write-to", nargs=3, metavar=("PATH", "SESSION", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_to:
        path, session_id, seconds = options.write_to
        with closing(SqliteJournal(Path(path))) as journal:
            append_now_and_then(journal, session_id, float(seconds))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(measure(Path(folder), seconds=options.seconds)))


if __name__ == "__main__":
    main()
