"""Many idle sockets: what they weigh, what they cost, and how long it takes to send them away."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import gevent
import gevent.pool

from benchmarks.bridge import ClosedError, WebSocket, cpu_seconds, memory_kib

OPENERS = 32
OPEN_LIMIT_S = 90.0
SETTLE_S = 1.5
PING_EVERY_S = 30.0
EXIT_LIMIT_S = 40.0


def raise_file_limit() -> None:
    """For us, and for the servers that we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_sockets(port: int, count: int) -> list[WebSocket]:
    opened: list[WebSocket] = []
    pool = gevent.pool.Pool(OPENERS)
    for _ in range(count):
        pool.spawn(lambda: opened.append(WebSocket(port, {})))
    pool.join(OPEN_LIMIT_S)
    assert len(opened) == count, f"{count - len(opened)} of {count} sockets were not let in"
    return opened


def kib_each(port: int, pid: int, count: int) -> float:
    """What the server has grown by for each of ``count`` sockets."""
    open_sockets(port, 50)[0].close()  # whatever the first ones need once
    before = memory_kib(pid)
    opened = open_sockets(port, count)
    gevent.sleep(SETTLE_S)
    grown = memory_kib(pid) - before
    for one in opened:
        one.close()
    return grown / count


def idle_cpu(pids: list[int], crowds: list[list[WebSocket]], *, seconds: float = PING_EVERY_S) -> list[float]:
    """Milliseconds of processor time that each server uses in a second, all of them in the same seconds.

    Each socket pings once in ``PING_EVERY_S``, evenly spread.
    """
    gevent.sleep(SETTLE_S)
    everybody = [one for together in zip(*crowds, strict=True) for one in together]
    before, began = [cpu_seconds(pid) for pid in pids], time.perf_counter()
    for number, one in enumerate(everybody[: int(len(everybody) * seconds / PING_EVERY_S)]):
        gevent.sleep(max(0.0, began + number * PING_EVERY_S / len(everybody) - time.perf_counter()))
        one.send({"type": "ping"})
    gevent.sleep(max(0.0, began + seconds - time.perf_counter()))
    took = time.perf_counter() - began
    return [(cpu_seconds(pid) - used) * 1000 / took for pid, used in zip(pids, before, strict=True)]


def goodbye_s(master: int, crowd: list[WebSocket]) -> float:
    """Seconds from SIGTERM until the bridge is gone.

    :raises AssertionError: a socket was not told where to resume, or not closed with 1012.
    """
    ends: Counter[str] = Counter()

    def follow(one: WebSocket) -> None:
        told = False
        with suppress(ConnectionError):
            try:
                while True:
                    frame = one.receive()
                    told = told or (frame["type"] == "server_shutdown" and bool(frame["reconnect"]["sessionId"]))
            except ClosedError as closed:
                ends[f"{'told' if told else 'not told'}, closed {closed.code}"] += 1
            finally:
                one.close()

    followers = [gevent.spawn(follow, one) for one in crowd]
    gevent.sleep(SETTLE_S)
    began = time.perf_counter()
    os.kill(master, signal.SIGTERM)
    while _runs(master) and time.perf_counter() - began < EXIT_LIMIT_S:
        gevent.sleep(0.01)
    took = time.perf_counter() - began
    gevent.joinall(followers, timeout=5)
    assert ends == {"told, closed 1012": len(crowd)}, dict(ends)
    return took


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
