"""Ports on loopback that belong to one test process, whoever else tests on this machine."""

from __future__ import annotations

import secrets
import socket

FIRST, COUNT = 10_000, 10_000
"""Below those that the kernel gives to clients. The Redis of a cluster has another one, 10,000 above."""
_places: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on and that no other call is given, in any process, until this process ends.

    A server that is stopped and started anew has clients that come back to its port. Had another server got it
    meanwhile, they would be its clients, and this one's test would ask the other server.
    """
    start = secrets.randbelow(COUNT)
    for number in range(COUNT):
        port = FIRST + (start + number) % COUNT
        # A name in the kernel, which goes with its process.
        place = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            place.bind(f"\0test-port-{port}")
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            place.close()
            continue
        _places.append(place)
        return port
    raise AssertionError("no port is free")
