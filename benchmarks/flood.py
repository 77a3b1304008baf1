"""Requests as fast as they are answered, at little cost of its own: ``python -m benchmarks.flood PORT PATH``.

One process, one epoll, sockets without greenlets: a load generator that takes a core for itself would measure itself.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from typing import Any

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
ANSWER_LIMIT_S = 10.0
START_MARGIN_S = 20.0


def flood(port: int, path: str, *, connections: int, seconds: float) -> dict[str, Any]:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    poll, open_, received = select.epoll(), {}, dict[int, bytes]()
    for _ in range(connections):
        one = socket.create_connection(("127.0.0.1", port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        open_[one.fileno()], received[one.fileno()] = one, b""
        poll.register(one, select.EPOLLIN)
    statuses: Counter[str] = Counter()
    began = time.perf_counter()
    for one in open_.values():
        one.sendall(request)
    while (took := time.perf_counter() - began) < seconds:
        ready = poll.poll(ANSWER_LIMIT_S)
        if not ready:
            raise SystemExit(f"no answer within {ANSWER_LIMIT_S} s")
        for number, _ in ready:
            piece = open_[number].recv(65_536)
            if not piece:
                raise SystemExit("a connection was closed")
            data = received[number] + piece
            head, found, body = data.partition(b"\r\n\r\n")
            length = LENGTH.search(head) if found else None
            if length is None or len(body) < int(length[1]):
                received[number] = data
                continue
            received[number] = b""
            statuses[head[9:12].decode()] += 1
            open_[number].sendall(request)
    return {"perSecond": round(statuses.total() / took, 1), "requests": statuses.total(), "statuses": statuses}


def run(port: int, path: str, *, connections: int = 64, seconds: float = 3.0) -> dict[str, Any]:
    """The same in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.flood", str(port), path, f"--connections={connections}"]
    argv.append(f"--seconds={seconds}")
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds + START_MARGIN_S)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    print(json.dumps(flood(options.port, options.path, connections=options.connections, seconds=options.seconds)))


if __name__ == "__main__":
    main()
