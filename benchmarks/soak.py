"""Whether a worker grows with the sessions it has seen: opens and closes sessions with sockets, prints its memory.

``python -m benchmarks.soak [--sessions 2000] [--seconds 120] [--at-once 20]``: each session is opened on a socket,
resumed on another and left; every tenth hears an answer, every second one is ended. One JSON line per tenth: sessions
so far, and the worker's resident memory, with and without what it shares.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import os
import time
from pathlib import Path

import gevent
from gevent.pool import Pool

from benchmarks.bridge import WebSocket, running_bridge

LIVE = 50


def one(port: int, number: int) -> None:
    """A session's life."""
    socket = WebSocket(port, {})
    try:
        session_id, token = socket.welcome["sessionId"], socket.welcome["token"]
        if number % 10 == 0:
            socket.send({"type": "message", "text": "hello"})
            while socket.receive()["type"] != "turn_finished":
                continue
    finally:
        socket.close()
    WebSocket(port, {"sessionId": session_id, "after": 3}).close()
    if number % 2:
        delete(port, session_id, token)


def delete(port: int, session_id: str, token: str) -> None:
    with gevent.socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"DELETE /sessions/{session_id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        connection.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
        while connection.recv(65_536):
            continue


def worker_of(port: int) -> int:
    """The youngest process of the bridge on this port."""
    mark, found = f"BIND=127.0.0.1:{port}\0".encode(), []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes() + b"\0":
                found.append(int(entry.name))
        except OSError:
            continue
    return max(found)


def memory(pid: int) -> dict[str, float]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    kib = {name: int(lines[name].split()[0]) for name in ("VmRSS", "RssAnon")}
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return {"rssMb": round(kib["VmRSS"] / 1024, 1), "ownMb": round(kib["RssAnon"] / 1024, 1), "files": files}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--at-once", type=int, default=20)
    options = parser.parse_args()
    settings = {
        "WEB_CONCURRENCY": "1",
        "MAX_SESSIONS": str(LIVE),
        "SESSION_SWEEP_SECONDS": "1",
        "SESSION_IDLE_TTL_SECONDS": "2",
    }
    with running_bridge(**settings) as port:
        pid, pool, began = worker_of(port), Pool(options.at_once), time.monotonic()
        part = max(1, options.sessions // 10)
        for number in range(options.sessions):
            if number % part == 0:
                pool.join()
                seconds = round(time.monotonic() - began, 1)
                print(json.dumps({"sessions": number, "seconds": seconds, **memory(pid)}), flush=True)
                if seconds > options.seconds:
                    break
            pool.spawn(one, port, number)
        pool.join()
        print(json.dumps({"sessions": number + 1, **memory(pid)}), flush=True)


if __name__ == "__main__":
    main()
