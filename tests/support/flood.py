"""Many connections that ask without a pause: ``python -m tests.support.flood PORT CONNECTIONS SECONDS``.

Prints one JSON line: how many answers there were by status, and how many connections failed. A program of its own, so
that it does not share a processor's time slice with the test that watches.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json
import sys
import time
from collections import Counter

import gevent

from benchmarks.bridge import Http


def main(port: int, connections: int, seconds: float) -> None:
    seen: Counter[str] = Counter()
    ends = time.monotonic() + seconds

    def ask() -> None:
        try:
            connection = Http(port)
            while time.monotonic() < ends:
                status, _ = connection.get("/health")
                seen[str(status)] += 1
            connection.close()
        except (OSError, ValueError):
            seen["failed"] += 1

    gevent.joinall([gevent.spawn(ask) for _ in range(connections)], raise_error=True)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
