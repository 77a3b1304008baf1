"""When a worker's chores are done: each now and then, by one worker at a time; two at once do no harm."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gevent

from app.errors import BaseError
from app.journal import Journal, Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """:ivar name: of its lease, ``chore:<name>``.
    :ivar work: one round; returns in how many seconds the next one is wanted, where that is sooner than the interval.
    :ivar topic: of the journal, whose wake-ups begin a round as well.
    """

    name: str
    interval_s: float
    work: Callable[[], float | None]
    topic: str = ""


class Chores:
    """This worker's part of the chores."""

    def __init__(self, journal: Journal, chores: Sequence[Chore], *, holder: str, lease_s: float) -> None:
        self._journal = journal
        self._chores = chores
        self._holder = holder
        self._lease_s = lease_s
        self._draining = False
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        self._greenlets = [gevent.spawn(self._do, chore) for chore in self._chores]

    def drain(self) -> None:
        """Begin no other round."""
        self._draining = True

    def stop(self) -> None:
        gevent.killall(self._greenlets, block=False)

    def _do(self, chore: Chore) -> None:
        with self._journal.watch(chore.topic or f"chore:{chore.name}") as watch:
            self._rounds(chore, watch)

    def _rounds(self, chore: Chore, watch: Watch) -> None:
        while not self._draining:
            wait_s = chore.interval_s
            try:
                lease = self._journal.acquire(f"chore:{chore.name}", self._holder, ttl_s=self._lease_s)
                if lease is None:
                    # Somebody is at it, or was when it died.
                    wait_s = min(wait_s, self._lease_s)
                else:
                    try:
                        wanted_s = chore.work()
                        wait_s = wait_s if wanted_s is None else min(wait_s, wanted_s)
                    finally:
                        self._journal.release(lease)
            except BaseError as exc:
                log.warning("chores failed: %s", exc, extra={"chore": chore.name})
            except Exception:
                # The top of this greenlet: the next round may go well, and without it nothing would be finished.
                log.exception("chores failed by a bug", extra={"chore": chore.name})
            watch.wait(wait_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, guards nothing
