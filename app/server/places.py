"""How many connections a worker has at once: those of its requests, and those that requests have handed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent.pool import Group, Pool


class Places(Pool):  # type: ignore[misc]  # gevent has no types
    """One for all listeners of a worker. A connection has its place while a greenlet serves it; one that is handed over
    (a WebSocket, which has none while it is idle) keeps it until it is given back."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._keepers: set[Any] = set()  # greenlets, until they end
        self._kept = 0

    def keep(self) -> Callable[[], None]:
        """Called in the greenlet of a connection: its place is taken until what this gives is called, once."""
        self._keepers.add(gevent.getcurrent())
        self._kept += 1
        return self._give_back

    def free_count(self) -> int:
        taken = len(self) + self._kept - len(self._keepers)  # a keeper that has not ended has one place, not two
        return max(0, int(self.size) - taken)

    @property
    def unused(self) -> bool:
        return not len(self) and not self._kept

    def _give_back(self) -> None:
        self._kept -= 1
        self._semaphore.release()  # who waits for a place to accept again is told by this

    def _discard(self, greenlet: Any) -> None:
        if greenlet in self._keepers:
            self._keepers.discard(greenlet)
            Group._discard(self, greenlet)  # all that the pool does, but for giving the place back
        else:
            super()._discard(greenlet)
