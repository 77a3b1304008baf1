"""How a repair ends, and how what has come to pass is told: durable, whatever else is written in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.errors import ConflictError, SessionNotFoundError, StaleDocumentError
from app.journal import Change, Journal, Put, events
from app.journal.records import Case, Repair, RepairState, retry_stale
from app.repairs import policy
from app.repairs.states import moved
from app.telemetry.redaction import redact_text


@dataclass(frozen=True, slots=True)
class Endings:
    journal: Journal

    def end(self, repair: Repair, outcome: str, *, by: str, reason: str = "") -> None:
        """:raises ConflictError: somebody else has brought it further."""
        self.insist(lambda: self.ending(self.same(repair), outcome, by=by, reason=reason))

    def ending(
        self, repair: Repair, outcome: str, *, by: str, reason: str = "", state: RepairState = "failed"
    ) -> Change:
        is_decision = outcome in ("rejected", "expired")
        event = (
            events.repair_decided(repair.repair_id, outcome, by=by)
            if is_decision
            else events.repair_failed(repair.workflow_id, redact_text(reason), repair_id=repair.repair_id)
        )
        to: RepairState = "rejected" if outcome == "rejected" else "expired" if outcome == "expired" else state
        puts = [moved(repair, to, decided_by=repair.decided_by or by, reason=reason)]
        return Change(session_id=repair.session_id, events=[event], puts=[*puts, *self.closing(repair, outcome)])

    def closing(self, repair: Repair, outcome: str) -> list[Put]:
        case = Case.get(self.journal, repair.case_key)
        if case is None or case.repair_id != repair.repair_id:
            return []
        return [case.put(**policy.closing(outcome, now_s=time.time()))]

    def same(self, repair: Repair) -> Repair:
        """As it is now: what its turn has cost may be noted meanwhile.

        :raises ConflictError: somebody else has brought it further.
        """
        fresh = Repair.get(self.journal, repair.repair_id)
        if fresh is None or fresh.state != repair.state:
            raise ConflictError("It was decided already.")
        return fresh

    def insist(self, made: Callable[[], Change]) -> None:
        """:meth:`tell` what ``made`` says, made anew while other errors of its case are counted in between."""

        def write() -> None:
            change = made()
            try:
                self.journal.commit(change)
            except SessionNotFoundError:
                self.journal.commit(replace(change, session_id=None, events=()))

        retry_stale(write)

    def tell(self, change: Change) -> None:
        """Commit what has come to pass, also where its session was closed meanwhile and nobody can be told."""
        try:
            self.once(change)
        except SessionNotFoundError:
            self.once(replace(change, session_id=None, events=()))

    def once(self, change: Change) -> None:
        try:
            self.journal.commit(change)
        except StaleDocumentError as exc:
            raise ConflictError("It was decided already.") from exc
