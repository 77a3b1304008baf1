"""A write to n8n leaves only from whoever holds its leases: they are looked at once more right before it is sent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import BusyError
from app.journal import Change, Journal, Lease

FRESH_PART = 5
"""A look at the leases counts for a fifth of their time. They are renewed each third of it, so what is held outlives
that."""
LOOKS_MAX = 5


class Confirm:
    """Given along with a write, and called when all but its body is sent, each time that it is tried.

    n8n has no conditional write, so what comes late cannot be refused there. Between the first look and the sending lie
    a connection to be made and other greenlets' turns, between two tries seconds. A worker that was paused in there
    looks again; left are the microseconds between the last look's end and the system call.
    """

    def __init__(self, journal: Journal, leases: Sequence[Lease], fresh_s: float) -> None:
        """To be made right before the leases are looked at.

        :param fresh_s: so long a look counts.
        """
        self._journal = journal
        self._leases = leases
        self._fresh_s = fresh_s
        self._looked_at = time.monotonic()

    def __call__(self) -> None:
        """:raises LeaseLostError: somebody else is in charge now. :raises BusyError: the journal is too slow to say."""
        for _ in range(LOOKS_MAX):
            if time.monotonic() - self._looked_at < self._fresh_s:
                return
            self._looked_at = time.monotonic()
            self._journal.commit(Change(fences=self._leases))
        raise BusyError("The journal is too slow to write to n8n safely.")


@dataclass(frozen=True, slots=True)
class Fencing:
    """:ivar lease_s: for how long a lease is taken or renewed."""

    journal: Journal
    lease_s: float

    def confirm(self, fences: Sequence[Lease]) -> Confirm | None:
        """For a write whose leases are looked at next; ``None`` for one that stands under none."""
        return Confirm(self.journal, fences, self.lease_s / FRESH_PART) if fences else None

    def check(self, fences: Sequence[Lease]) -> Confirm | None:
        """Look at the leases; returns what looks again before the write is sent.

        :raises LeaseLostError: somebody else is in charge now.
        """
        confirm = self.confirm(fences)
        if fences:
            self.journal.commit(Change(fences=fences))
        return confirm
