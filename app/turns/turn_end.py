"""A turn's end: how it ended, its last change, and the line that tells it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import gevent

from app.agents import Finished
from app.errors import JournalUnavailableError, StaleDocumentError
from app.journal import Journal, NewEvent, Postpone, Put, StartInput, events
from app.journal.records import retry_stale
from app.repairs.attempt import AWAY_S, Attempts, Opening
from app.telemetry.redaction import redact_text
from app.turns.output import TurnOutput
from app.turns.running import LOOK_S, RunningTurn, StopReason

JOURNAL_BACK_S = 20.0
"""So long a turn's end waits for a journal that is away; then whoever claims its input next ends it."""

_INTERRUPTED: dict[StopReason | None, str | None] = {
    "drained": None,
    "n8n_away": "n8n is away; this goes on when it is back.",
    "journal_away": "The journal was away.",
}
"""What ends a turn and not its input, and what is told of it."""
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnEnds:
    journal: Journal
    attempts: Attempts
    timeout_s: float

    def finish(
        self,
        running: RunningTurn,
        output: TurnOutput,
        finished: Finished,
        opening: Opening | None,
        *,
        n8n_was_away: bool,
    ) -> None:
        """Make the turn's last change, and tell it.

        :raises BaseError: it could not be made: whoever claims its input next ends it.
        """
        claim, turn_id, input_id = running.claim, running.turn_id, running.claim.input.input_id

        def finish() -> tuple[str, str | None]:
            # All of it anew at each try: while the journal is away a person may cancel.
            outcome, error = self._outcome(running, finished, opening, n8n_was_away=n8n_was_away)
            end = events.turn_finished(
                outcome,
                turn_id=turn_id,
                duration_ms=running.duration_ms,
                cost_usd=finished.cost_usd,
                error=error,
                repair_id=opening.repair_id if opening else None,
            )
            if opening is not None and (cost_usd := finished.cost_usd) is not None:
                self.attempts.note_cost(opening.repair_id, turn_id=turn_id, cost_usd=cost_usd, lease=claim.lease)
            if outcome == "interrupted":
                puts: list[Put] = []
                later: Postpone | None = None
                if opening is not None and running.stop == "n8n_away":
                    puts, later_s = self.attempts.put_off(opening.repair_id)
                    later = Postpone(input_id, later_s)
                elif running.stop == "journal_away":
                    # Nothing else limits how often it is run again, and each time its agent is asked, and paid.
                    later = Postpone(input_id, AWAY_S)
                output.finish([end], puts=puts, park=StartInput(input_id, None, running.takeovers), postpone=later)
                return outcome, error
            more: tuple[list[NewEvent], list[Put]] = ([], [])
            if opening is not None:
                reason = "It was cancelled." if outcome == "cancelled" else error or "The agent proposed no change."
                more = self.attempts.conclude(
                    opening.repair_id, reason=reason, turn_id=turn_id, completed=outcome == "completed"
                )
            output.finish([*more[0], end], puts=more[1], answer=input_id)
            return outcome, error

        outcome, error = self._insist(running, finish)
        tell_end(running, outcome, error)

    def _outcome(
        self, running: RunningTurn, finished: Finished, opening: Opening | None, *, n8n_was_away: bool
    ) -> tuple[str, str | None]:
        """How the turn ends, and what is told of it."""
        away = opening is not None and running.stop is None and n8n_was_away
        if away and opening is not None and self.attempts.is_open(opening.repair_id):
            # Not the agent's failure: with n8n back the same attempt goes on.
            running.stop_for("n8n_away")
        if running.stop in _INTERRUPTED:
            # Parking would forget a cancel that came while the turn was being stopped.
            mine = running.input_in(self.journal)
            cancelled = mine is not None and mine.cancelled
            return ("cancelled", None) if cancelled else ("interrupted", _INTERRUPTED[running.stop])
        if running.stop == "cancelled":
            return "cancelled", None
        if running.stop == "timeout":
            return finished.outcome, f"It took longer than {self.timeout_s:g} s."
        return finished.outcome, redact_text(finished.error) if finished.error else None

    def _insist(self, running: RunningTurn, finish: Callable[[], T]) -> T:
        """Make a turn's last change anew while other errors of its case are counted in between, and while the journal
        is away: without it the turn would be taken for lost, and its agent asked once more.

        :raises StaleDocumentError: its input was answered, or its session ended, meanwhile.
        :raises JournalUnavailableError: it was away for longer than ``JOURNAL_BACK_S``.
        """

        def write() -> T | StaleDocumentError:
            try:
                return finish()
            except StaleDocumentError as exc:
                if running.input_in(self.journal) is not None:
                    raise
                return exc

        deadline, again = time.monotonic() + JOURNAL_BACK_S, False
        while True:
            try:
                if again and running.input_in(self.journal) is None:
                    # What went without an answer was done all the same, or another worker has ended the turn.
                    raise StaleDocumentError
                made: T | StaleDocumentError = retry_stale(write)
                if isinstance(made, StaleDocumentError):
                    raise made
                return made
            except JournalUnavailableError:
                if time.monotonic() >= deadline:
                    raise
                gevent.sleep(LOOK_S)
                again = True


def tell_end(running: RunningTurn, outcome: str, error: str | None) -> None:
    """The one line of a turn's end, after it is durable; at ``error`` where it failed for good."""
    fields = {"kind": running.claim.input.kind, "outcome": outcome, "duration": running.duration_ms}
    if outcome == "failed":
        log.error("turn finished", extra={**fields, "reason": error}, exc_info=running.bug)
    else:
        log.info("turn finished", extra=fields)
