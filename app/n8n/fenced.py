"""A write to n8n leaves only from whoever holds its leases: they are looked at once more right before it is sent."""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.errors import BusyError
from app.journal import Change, Journal, Lease

FRESH_S = 0.2
"""So long a look at the leases counts. They are renewed each third of their time, so one that is held outlives it."""
LOOKS_MAX = 5


class Confirm:
    """Given along with a write, and called when all but its body is sent, each time that it is tried.

    n8n has no conditional write, so what comes late cannot be refused there. Between the first look and the sending lie
    a connection to be made and other greenlets' turns, between two tries seconds. A worker that was paused in there
    looks again; left are the microseconds between the last look's end and the system call.
    """

    def __init__(self, journal: Journal, leases: Sequence[Lease]) -> None:
        """To be made right before the leases are looked at."""
        self._journal = journal
        self._leases = leases
        self._looked_at = time.monotonic()

    def __call__(self) -> None:
        """:raises LeaseLostError: somebody else is in charge now. :raises BusyError: the journal is too slow to say."""
        for _ in range(LOOKS_MAX):
            if time.monotonic() - self._looked_at < FRESH_S:
                return
            self._looked_at = time.monotonic()
            self._journal.commit(Change(fences=self._leases))
        raise BusyError("The journal is too slow to write to n8n safely.")


def confirm(journal: Journal, fences: Sequence[Lease]) -> Confirm | None:
    """For a write whose leases are looked at next; ``None`` for one that stands under none."""
    return Confirm(journal, fences) if fences else None


def check(journal: Journal, fences: Sequence[Lease]) -> Confirm | None:
    """Look at the leases; returns what looks again before the write is sent.

    :raises LeaseLostError: somebody else is in charge now.
    """
    confirmed = confirm(journal, fences)
    if fences:
        journal.commit(Change(fences=fences))
    return confirmed
