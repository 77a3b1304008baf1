"""Whether this worker should get traffic: one named check after the other, each with its reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gevent.lock import BoundedSemaphore

from app.errors import BaseError
from app.journal import Journal

KEPT_S = 1.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """``checks``: ``"ok"`` or the reason, by name."""

    checks: Mapping[str, str]

    @property
    def ready(self) -> bool:
        return all(reason == "ok" for reason in self.checks.values())


class ReadinessCheck:
    """Asks the journal whether it could take a write now, which is a write to the disk: once for all who ask within
    ``KEPT_S`` of its answer, so probes cost the same however many there are.

    :param clock: monotonic seconds.
    """

    def __init__(self, journal: Journal, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._asking = BoundedSemaphore()
        self._said = ""
        self._said_at: float | None = None

    def ask(self, *, draining: bool) -> Readiness:
        """A draining worker wants no new traffic; that is never an old answer."""
        with self._asking:  # whoever comes while the journal is asked gets that answer
            if self._said_at is None or self._clock() - self._said_at >= KEPT_S:
                self._said = self._journal_says()
                self._said_at = self._clock()
            journal_says = self._said
        return Readiness({"journal": journal_says, "worker": "draining" if draining else "ok"})

    def _journal_says(self) -> str:
        try:
            self._journal.check()
        except BaseError as exc:
            return exc.detail
        return "ok"
