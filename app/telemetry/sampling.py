"""Lines that say the same again and again: the first of a kind in an interval is told, with how many were not."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

INTERVAL_S = 60.0
MAX_KINDS = 1024


class Sampler:
    """One for a process and a place that logs. Kinds that were not met for the longest time are forgotten first."""

    def __init__(
        self,
        interval_s: float = INTERVAL_S,
        *,
        max_kinds: int = MAX_KINDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s, self._max_kinds, self._clock = interval_s, max_kinds, clock
        self._kinds: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def take(self, kind: Hashable) -> int | None:
        """How many of ``kind`` were not told since the last that was; ``None``: this one is not told either."""
        now = self._clock()
        known = self._kinds.get(kind)
        if known is not None:
            self._kinds.move_to_end(kind)
            told_at, suppressed = known
            if now - told_at < self._interval_s:
                self._kinds[kind] = (told_at, suppressed + 1)
                return None
        elif len(self._kinds) >= self._max_kinds:
            self._kinds.popitem(last=False)
        self._kinds[kind] = (now, 0)
        return known[1] if known else 0
