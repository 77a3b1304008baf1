"""Whether costs stay flat: append, follow and delivery by the number of sessions and of a session's events.

``python -m benchmarks.scale [--backend redis] [--rounds 5] [--samples 100] [--sockets 5000]``; both backends unless one
is named. All stores are filled first; then they are measured in turn, round by round, so that a busy moment of the
machine meets all of them. Times are the median of all rounds' medians, in milliseconds; ``ratio`` is to the smallest
store of its table.

append: one durable commit. follow: from that commit's call to its reader's having read it. delivery: from an error
report's routing to its session's reader's having read it. ``--sockets``: that many idle sockets on one worker of a real
bridge: memory for each, and connections a second.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent

from app.callbacks.report import parse_error_report
from app.callbacks.routing import Router
from app.journal import Change, Journal, NewEvent, OpenSession
from app.journal.records import Registration
from app.journal.redis import RedisJournal
from app.journal.sqlite import SqliteJournal
from benchmarks.bridge import WebSocket, running_bridge
from benchmarks.soak import memory, worker_of
from tests.support.redis import RedisServer

SESSIONS = (10, 1_000, 10_000)
EVENTS = (100, 100_000)
TEXT = "x" * 200
Open = Callable[[], Journal]


@contextmanager
def sqlite(folder: Path) -> Iterator[Open]:
    path = folder / f"{uuid.uuid4().hex}.db"
    yield lambda: SqliteJournal(path)


@contextmanager
def redis(folder: Path) -> Iterator[Open]:
    """A server of its own for each store, with each write synced to disk, as SQLite's are."""
    with RedisServer() as server:
        yield lambda: RedisJournal(server.url)


BACKENDS = {"sqlite": sqlite, "redis": redis}


@dataclass
class Store:
    """A filled store. ``sessions``: those that are measured in."""

    label: int
    journal: Journal
    sessions: list[str]


def fill(journal: Journal, sessions: int, events: int) -> list[str]:
    """``sessions`` with a workflow each, and ``events`` events in each."""
    made = []
    for _ in range(sessions):
        session_id = uuid.uuid4().hex
        journal.commit(Change(session_id, open_session=OpenSession("hash", 10_000_000)))
        registration = Registration(workflow_id=f"w{session_id}", session_id=session_id, name="W", autonomy="observe")
        journal.commit(Change(session_id, puts=[registration.put()]))
        for begin in range(0, events, 500):
            appended = [NewEvent("notice", {"text": TEXT}) for _ in range(min(500, events - begin))]
            journal.commit(Change(session_id, events=appended))
        made.append(session_id)
    return made


def append(journal: Journal, session_id: str) -> float:
    began = time.perf_counter()
    journal.commit(Change(session_id, events=[NewEvent("notice", {"text": TEXT})]))
    return time.perf_counter() - began


def followed(journal: Journal, session_id: str, write: Callable[[], Any]) -> float:
    """Seconds from ``write``'s call to a reader's having read what it appended."""
    session = journal.session(session_id)
    cursor = session.last_seq if session else 0
    read_at: list[float] = []

    def read() -> None:
        with journal.watch(f"session:{session_id}") as watch:
            ready.set()
            while not journal.events(session_id, after=cursor, limit=10):
                watch.wait(5)
            read_at.append(time.perf_counter())

    ready = gevent.event.Event()
    reader = gevent.spawn(read)
    ready.wait()
    began = time.perf_counter()
    write()
    reader.get()
    return read_at[0] - began


def delivery(journal: Journal, session_id: str) -> float:
    router = Router(journal)
    error = {"message": "It failed.", "name": "Error"}
    # Another node each time, so that each is a first failure, in a small store as in a large one.
    failed = {"id": uuid.uuid4().hex, "mode": "webhook", "error": error, "lastNodeExecuted": uuid.uuid4().hex}
    body = {
        "execution": failed,
        "workflow": {"id": f"w{session_id}", "name": "W"},
    }
    report = parse_error_report(body)
    return followed(journal, session_id, lambda: router.route(report, source="callback", request_id="r" * 8))


MEASURES: dict[str, Callable[[Journal, str], float]] = {
    "append": append,
    "follow": lambda journal, session_id: followed(journal, session_id, lambda: append(journal, session_id)),
    "delivery": delivery,
}


def measure(stores: list[Store], rounds: int, samples: int) -> list[dict[str, Any]]:
    medians: dict[tuple[int, str], list[float]] = {}
    for _ in range(rounds):
        for name, run in MEASURES.items():
            for store in random.sample(stores, len(stores)):
                taken = [run(store.journal, random.choice(store.sessions)) for _ in range(samples)]
                medians.setdefault((store.label, name), []).append(statistics.median(taken) * 1000)
    rows = []
    for store in stores:
        row: dict[str, Any] = {"size": store.label}
        for name in MEASURES:
            value = statistics.median(medians[store.label, name])
            row[name] = round(value, 3)
            row[f"{name}_ratio"] = round(value / statistics.median(medians[stores[0].label, name]), 2)
        rows.append(row)
    return rows


def table(backend: str, rounds: int, samples: int) -> dict[str, Any]:
    result: dict[str, Any] = {"backend": backend, "rounds": rounds, "samples": samples}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for title, sizes in (("sessions", SESSIONS), ("events_in_one_session", EVENTS)):
            stores = []
            for size in sizes:
                journal = stack.enter_context(BACKENDS[backend](Path(folder)))()
                stack.callback(journal.close)
                sessions = fill(journal, size, 5) if title == "sessions" else fill(journal, 1, size)
                stores.append(Store(size, journal, sessions))
            result[title] = measure(stores, rounds, samples)
    return result


def sockets(count: int) -> dict[str, Any]:
    """Idle sockets on one worker, each with a session of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with running_bridge(WEB_CONCURRENCY="1") as port:
        pid = worker_of(port)
        WebSocket(port, {}).close()
        before, began = memory(pid), time.perf_counter()
        pool = gevent.pool.Pool(32)
        opened: list[WebSocket] = []
        for _ in range(count):
            pool.spawn(lambda: opened.append(WebSocket(port, {})))
        pool.join()
        took = time.perf_counter() - began
        after = memory(pid)
        for one in opened:
            one.close()
    grown_kib = (after["ownMb"] - before["ownMb"]) * 1024
    return {"sockets": len(opened), "kibEach": round(grown_kib / count, 1), "connectsPerSecond": round(count / took)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=[*BACKENDS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--sockets", type=int, default=5_000, help="0: not measured")
    options = parser.parse_args()
    for backend in BACKENDS if options.backend == "all" else [options.backend]:
        result = table(backend, options.rounds, options.samples)
        print(json.dumps(result), flush=True)
        for title in ("sessions", "events_in_one_session"):
            print(f"\n{backend}, by {title.replace('_', ' ')}: p50 in ms (ratio to the smallest)")
            for row in result[title]:
                cells = [f"{name} {row[name]:8.3f} ({row[f'{name}_ratio']:.2f})" for name in MEASURES]
                print(f"  {row['size']:>7}  " + "  ".join(cells))
    if options.sockets:
        print("\n" + json.dumps(sockets(options.sockets)))


if __name__ == "__main__":
    main()
