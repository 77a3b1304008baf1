"""Requests to n8n that may be made once, and what came of them: written down before they are sent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from app.errors import BaseError, LeaseLostError, StaleDocumentError
from app.journal import Change, Journal, Lease
from app.journal.records import Record
from app.n8n.errors import N8nDownError, N8nFailedError, N8nTooLargeError, N8nTooOldError

ECHO_S = 3_600.0
"""So long a trial whose run is not known yet may be what a callback tells of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent(Record):
    """A request to n8n that may be made once: written down before it is sent.

    :ivar name: what is to be done, for whoever asks again.
    :ivar result_id: id of the workflow or run that came of it; empty while it is not known.
    """

    KIND = "intent"
    name: str
    result_id: str = ""

    @property
    def key(self) -> str:
        return intent_key(self.name)

    @property
    def labels(self) -> tuple[str, ...]:
        if not self.name.startswith("trial:"):
            return ()
        # ``trial:EXECUTION:VERSION``, under the run that is tried again, and under the run that this has become.
        return (self.name.rpartition(":")[0], *((f"run:{self.result_id}",) if self.result_id else ()))


def intent_key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_trial(journal: Journal, run_id: str | None, *, retry_of: str) -> bool:
    """Whether that run, a retry of ``retry_of``, is a trial of ours; one that n8n has not named yet may be it."""
    for known in Intent.find(journal, f"trial:{retry_of}"):
        if known.result_id:
            if known.result_id == run_id:
                return True
        elif known.stored_at is not None and (datetime.now(UTC) - known.stored_at).total_seconds() < ECHO_S:
            return True
    return False


def is_trial_run(journal: Journal, run_id: str) -> bool:
    """Whether that run is a trial of ours that n8n has named."""
    return bool(Intent.find(journal, f"run:{run_id}", limit=1))


def has_unnamed_trial(journal: Journal, failed_run_id: str) -> bool:
    """Whether a trial of that failed run may be going on whose own run is not known yet."""
    return any(not known.result_id for known in Intent.find(journal, f"trial:{failed_run_id}"))


@dataclass(frozen=True, slots=True)
class Intents:
    journal: Journal

    def get(self, name: str) -> Intent | None:
        return Intent.get(self.journal, intent_key(name))

    def begin(self, name: str, fences: Sequence[Lease]) -> tuple[Intent, bool]:
        """Write down what is about to be sent. ``False``: somebody did before, and may have sent it."""
        key = intent_key(name)
        known = Intent.get(self.journal, key)
        if known is None:
            try:
                self.journal.commit(Change(puts=[Intent(name=name).put()], fences=fences))
            except StaleDocumentError:
                known = Intent.get(self.journal, key)
        if known is not None:
            return known, False
        return Intent.get(self.journal, key) or Intent(name=name), True

    def conclude(self, known: Intent, result_id: str) -> None:
        """Note what came of it."""
        if known.result_id == result_id:
            return
        try:
            self.journal.commit(Change(puts=[known.put(result_id=result_id)]))
        except StaleDocumentError:
            # Whoever looked for it at the same time found the same.
            return

    def forget(self, known: Intent, fences: Sequence[Lease] = ()) -> None:
        """It was certainly not done, so it may be sent again.

        :param fences: for what whoever takes over sends under the same intent: it is theirs then, and stays.
        """
        try:
            self.journal.commit(Change(deletes=[known.delete()], fences=fences))
        except (StaleDocumentError, LeaseLostError):
            return


def maybe_done(error: BaseError) -> bool:
    """Whether n8n may have done what it was asked although this came of it."""
    return isinstance(error, N8nTooLargeError | N8nTooOldError) or (
        isinstance(error, N8nDownError | N8nFailedError) and error.maybe_done
    )
