"""What the libraries below the bridge do alone, at most: measured in the same run as what they are the floor of.

Raw WSGI on gunicorn's gevent worker and on gevent's own server, wsproto's framing without a network, a greenlet that
waits on a socket, and SQLite's durable commits.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import gevent.socket
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from benchmarks import crowd, flood
from benchmarks.bridge import PROJECT, cpu_seconds, free_port, memory_kib, running_server, wait_for

SECONDS = 1.5
WAITERS = 1_000
GROUP = 16
PYWSGI = "from benchmarks.floors import serve; serve({port})"
WAITING = "from benchmarks.floors import wait_for_ever; wait_for_ever({port})"


def raw(environ: dict[str, object], start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
    """The least that WSGI can answer."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]


def serve(port: int) -> None:
    """gevent's own server."""
    from gevent.pywsgi import WSGIServer

    WSGIServer(("127.0.0.1", port), raw, log=None).serve_forever()


def wait_for_ever(port: int) -> None:
    """A greenlet for each connection, and nothing that it does."""
    from gevent.server import StreamServer

    StreamServer(("127.0.0.1", port), lambda client, _: client.recv(1)).serve_forever()


def measure() -> dict[str, float]:
    """Requests per second, microseconds of processor time per request, and the like; by what was measured."""
    found: dict[str, float] = {}
    servers = {
        "gunicorn": running_server(app="benchmarks.floors:raw", WEB_CONCURRENCY="1"),
        "gunicornFlask": running_server(app="benchmarks.bare:app", WEB_CONCURRENCY="1"),
        "pywsgi": _program(PYWSGI),
    }
    for name, server in servers.items():
        with server as (port, pid):
            flood.run(port, "/health", seconds=0.3)
            used = cpu_seconds(pid)
            done = flood.run(port, "/health", seconds=SECONDS)
            found[f"{name}PerSecond"] = done["perSecond"]
            found[f"{name}CpuUs"] = round((cpu_seconds(pid) - used) / done["requests"] * 1e6, 1)
    found["greenletKib"] = round(_greenlet_kib(), 1)
    found["wsprotoEchoUs"] = round(_wsproto_us(), 1)
    for name, rows in (("sqliteCommit", 1), (f"sqliteCommitOf{GROUP}", GROUP)):
        took = sorted(_commits_us(rows))
        found[f"{name}Us"] = round(sum(took) / len(took), 1)
        found[f"{name}P99Us"] = round(took[len(took) * 99 // 100], 1)
    return found


def _greenlet_kib() -> float:
    with _program(WAITING) as (port, pid):
        opened = [gevent.socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        gevent.sleep(crowd.SETTLE_S / 2)
        before = memory_kib(pid)
        opened += [gevent.socket.create_connection(("127.0.0.1", port)) for _ in range(WAITERS)]
        gevent.sleep(crowd.SETTLE_S / 2)
        grown = memory_kib(pid) - before
        for one in opened:
            one.close()
    return grown / WAITERS


def _wsproto_us() -> float:
    """Reading a ping frame and writing a pong frame."""
    client, server = Connection(ConnectionType.CLIENT), Connection(ConnectionType.SERVER)
    sent = client.send(TextMessage('{"type":"ping"}'))
    count, began = 5_000, time.process_time()
    for _ in range(count):
        server.receive_data(sent)
        for _ in server.events():
            server.send(TextMessage('{"type":"pong"}'))
    return (time.process_time() - began) / count * 1e6


def _commits_us(rows: int) -> list[float]:
    """Of durable transactions with ``rows`` inserts of a callback's size."""
    with (
        tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder,
        closing(sqlite3.connect(Path(folder, "floor.db"), isolation_level=None)) as connection,
    ):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE events (n INTEGER PRIMARY KEY, frame TEXT)")
        took, began = [], time.perf_counter()
        while (since := time.perf_counter()) < began + SECONDS / 2:
            connection.execute("BEGIN IMMEDIATE")
            for _ in range(rows):
                connection.execute("INSERT INTO events (frame) VALUES (?)", ("x" * 700,))
            connection.execute("COMMIT")
            took.append((time.perf_counter() - since) * 1e6)
        return took


@contextmanager
def _program(code: str) -> Iterator[tuple[int, int]]:
    port = free_port()
    argv = [sys.executable, "-c", code.format(port=port)]
    process = subprocess.Popen(argv, cwd=PROJECT, env={"PATH": os.environ["PATH"]})
    try:
        wait_for(port, process)
        yield port, process.pid
    finally:
        process.kill()
        process.wait(10)
