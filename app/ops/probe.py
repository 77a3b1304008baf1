"""The image's health check: exit code 0 where ``/healthz`` answers 200 on the address of ``BIND``.

It is started every few seconds, so it imports next to nothing, and is run by its path with ``python -IS``.
"""

import os
import socket
import sys

LIMIT_S = 4.0
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def healthy(bind: str) -> bool:
    """:param bind: ``HOST:PORT``, as in ``BIND``; a wildcard is asked on loopback."""
    host, _, port = bind.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104 - where it listens
    try:
        with socket.create_connection((host, int(port)), timeout=LIMIT_S) as connection:
            connection.sendall(REQUEST)
            with connection.makefile("rb") as answer:
                return answer.readline(100).split(b" ")[1:2] == [b"200"]
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(0 if healthy(os.environ.get("BIND", "127.0.0.1:3000")) else 1)
