"""What each of many idle sockets needs once in a while, by one timer for all of them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent

T = TypeVar("T")

TICKS = 30  # in each interval: so much of it a visit may be late
TICK_MAX_S = 1.0
AT_ONCE = 50  # visits between two looks at everything else
BREATH_S = 0.001


class Rounds(Generic[T]):
    """Visits each of its members every ``interval_s``, the first time so long after it was added.

    :param visit: in the loop; neither waits nor raises.
    """

    def __init__(self, interval_s: float, visit: Callable[[T], None]) -> None:
        self._interval_s = interval_s
        self._visit = visit
        self._due: OrderedDict[T, float] = OrderedDict()  # the next one first: all wait for equally long
        self._timer: Any = None

    def add(self, member: T) -> None:
        self._due[member] = time.monotonic() + self._interval_s
        if self._timer is None:
            self._again(self._tick_s)

    def discard(self, member: T) -> None:
        self._due.pop(member, None)

    @property
    def _tick_s(self) -> float:
        return min(TICK_MAX_S, self._interval_s / TICKS)

    def _again(self, after_s: float) -> None:
        if self._timer is not None:
            self._timer.close()
        self._timer = gevent.get_hub().loop.timer(after_s)
        self._timer.start(self._go_round)

    def _go_round(self) -> None:
        now, visited = time.monotonic(), 0
        try:
            while self._due and visited < AT_ONCE:
                member, at = next(iter(self._due.items()))
                if at > now:
                    break
                self._due[member] = now + self._interval_s
                self._due.move_to_end(member)
                visited += 1
                self._visit(member)
        finally:  # a visit that fails by a bug, which the loop reports, is not the end of everybody's
            if self._due:
                self._again(BREATH_S if visited == AT_ONCE else self._tick_s)
            else:
                self._timer.close()
                self._timer = None
