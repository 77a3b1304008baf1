"""What a committed change says in numbers: registrations, callbacks, dead letters, what became of repairs and turns.

Told by what was written, here and nowhere else, so that whoever writes it counts it, once: a change that was refused or
was a duplicate is not counted, and what is told twice (a repair's failure, and that its draft is back) is written once.
A repair that is blocked is also a line in the log, for an alarm to call a person.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, get_args

from app.journal import Change, NewEvent, Put
from app.telemetry import metrics

log = logging.getLogger(__name__)


def count(change: Change) -> None:
    """Count a change that was committed, and was no duplicate. In the loop; a delta costs it one look-up."""
    for event in change.events:
        told = _EVENTS.get(event.type)
        if told is not None:
            told(event)
    for put in change.puts:
        written = _PUTS.get(put.kind)
        if written is not None:
            written(put)


def _registered(event: NewEvent) -> None:
    metrics.workflow_registrations.inc()


def _error(event: NewEvent) -> None:
    # One that was polled, or replayed from a dead letter, is not a callback (any more).
    if event.data.get("source") == "callback":
        _ROUTED.inc()


def _blocked(event: NewEvent) -> None:
    # Told when a case becomes blocked; its later errors write the case as well.
    metrics.repairs.labels("blocked").inc()
    log.warning("repair blocked", extra={name: event.data.get(name) for name in ("workflowId", "signature", "reason")})


def _finished(event: NewEvent) -> None:
    if event.data.get("outcome") == "failed":
        metrics.errors.labels("claude").inc()


def _dead_letter(put: Put) -> None:
    reason = _REASONS.get(put.body.get("reason"))
    if reason is not None and put.expect == 0:  # new; one that is replayed is written again
        reason.inc()
        _UNROUTED.inc()


def _repair(put: Put) -> None:
    # What is written of it later counts nothing. "restoring" becomes "failed" once the draft is back.
    outcome = _OUTCOMES.get(put.body.get("state"))
    if outcome is not None and put.body.get("entered"):
        outcome.inc()


# A look-up by label costs as much as the count.
_ROUTED, _UNROUTED = metrics.error_callbacks.labels("true"), metrics.error_callbacks.labels("false")
_REASONS: dict[Any, Any] = {reason: metrics.dead_letters.labels(reason) for reason in get_args(metrics.Reason)}
_OUTCOMES: dict[Any, Any] = {
    state: metrics.repairs.labels(state)
    for state in (
        *("published", "waiting", "rejected", "expired", "unverified", "failed", "not_a_bug"),
        "rolled_back",
    )
}
_EVENTS: dict[str, Callable[[NewEvent], None]] = {
    "workflow_registered": _registered,
    "workflow_error": _error,
    "repair_blocked": _blocked,
    "turn_finished": _finished,
}
_PUTS: dict[str, Callable[[Put], None]] = {"dead_letter": _dead_letter, "repair": _repair}
