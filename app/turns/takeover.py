"""A turn that its worker did not end: how it is ended by whoever goes on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from app.journal import Claim, Journal, NewEvent, Put, events
from app.repairs.attempt import Attempts

MAX_TAKEOVERS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LostTurn:
    """What ends a turn that its worker did not end. ``over``: its input needs no other turn."""

    takeovers: int
    outcome: str = ""
    turn_id: str = ""
    events: list[NewEvent] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)
    over: bool = False

    def tell(self) -> None:
        """The one line of the lost turn's end, once that is durable."""
        if self.outcome:
            level = logging.ERROR if self.outcome == "failed" else logging.INFO
            log.log(level, "turn finished", extra={"outcome": self.outcome, "turnId": self.turn_id, "lost": True})


def end_lost_turn(journal: Journal, attempts: Attempts, claim: Claim, *, done: bool) -> LostTurn:
    """How to end the turn that was begun before for this input, if there was one.

    :param done: what it was to do is done; only its end is missing.
    """
    lost = claim.input
    if lost.turn_id is None:
        return LostTurn(lost.takeovers, over=done)
    takeovers = lost.takeovers + 1
    error = None
    if done:
        outcome = "completed"
    elif lost.cancelled:
        outcome = "cancelled"
    elif takeovers > MAX_TAKEOVERS:
        outcome, error = "failed", f"Its worker was lost {takeovers} times."
    else:
        outcome = "interrupted"
    end = events.turn_finished(outcome, turn_id=lost.turn_id, duration_ms=0, error=error, repair_id=lost.key or None)
    more: tuple[list[NewEvent], list[Put]] = ([], [])
    if lost.kind == "repair" and outcome in ("cancelled", "failed"):
        more = attempts.conclude(lost.key, reason=error or "It was cancelled.", turn_id=lost.turn_id)
    ended = [*void_deltas(journal, claim), *more[0], end]
    return LostTurn(takeovers, outcome, lost.turn_id, ended, more[1], over=outcome != "interrupted")


def void_deltas(journal: Journal, claim: Claim) -> list[NewEvent]:
    """Resets for what the lost turn had shown of messages that never became final."""
    lost, turn_id = claim.input, claim.input.turn_id or ""
    shown: dict[str, None] = {}
    after = max(0, lost.started_seq - 1)
    while found := journal.events(lost.session_id, after=after, types=("assistant_delta",)):
        after = found[-1].seq
        shown.update({e.data["messageId"]: None for e in found if e.body.get("turnId") == turn_id})
    return [events.assistant_reset(message_id, turn_id=turn_id) for message_id in shown]
