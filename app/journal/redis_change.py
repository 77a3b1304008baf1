"""A change as the arguments of the function that writes it, and its reply as what ``Journal.commit`` returns or raises.

The order is that in which ``redis_functions.lua`` reads them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from app.errors import (
    BaseError,
    LeaseLostError,
    RateLimitError,
    SessionNotFoundError,
    StaleDocumentError,
    TooManyPendingError,
    TooManySessionsError,
)
from app.journal import Change, Committed, Lease, Limit
from app.journal.encoded import Prepared, delta_of

T = TypeVar("T")
Args = list[str | bytes | int | float]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def moment(at: datetime) -> int:
    """A time as Redis keeps it: whole microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def time_of(value: bytes) -> datetime:
    return _EPOCH + int(value) * _MICROSECOND


def optional(value: T | None, encode: Callable[[T], Args] | None = None) -> Args:
    if value is None:
        return ["0"]
    return ["1", *(encode(value) if encode else [text(value)])]


def text(value: object) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def several(values: Sequence[T], encode: Callable[[T], Args]) -> Args:
    found: Args = [len(values)]
    for value in values:
        found += encode(value)
    return found


def limit_args(limit: Limit) -> Args:
    return [text(limit.key), limit.limit, microseconds(limit.window_s)]


def lease_args(lease: Lease) -> Args:
    return [text(lease.name), text(lease.holder), lease.epoch]


def texts(values: Iterable[str]) -> Args:
    return several(list(values), lambda value: [text(value)])


def change_args(prepared: Prepared) -> Args:
    """All of the change.

    :raises IndexError: its input answers an event that it does not have; a function must not find that out half way.
    """
    change = prepared.change
    add = change.add
    if add is not None and add.seq is None:
        change.events[add.event or 0]
    waking = change.activity is not None and change.activity.must_wake
    needs_open = bool(change.events or add or change.start or change.close_session or waking)
    versions = [(e.kind, e.key, e.version) for e in change.expects]
    versions += [(put.kind, put.key, put.expect) for put in change.puts if put.expect is not None]
    versions += [(gone.kind, gone.key, gone.expect) for gone in change.deletes if gone.expect is not None]
    events = list(zip(change.events, prepared.tails, strict=True))
    puts = list(zip(change.puts, prepared.bodies, strict=True))
    return [
        *optional(change.once, lambda once: [text(once.key), prepared.result]),
        *several(change.fences, lease_args),
        *several(versions, lambda one: [text(one[0]), text(one[1]), one[2]]),
        *optional(change.session_id),
        int(needs_open and change.open_session is None),
        *optional(change.open_session, lambda opening: [text(opening.token_hash), opening.max_live]),
        *optional(change.activity, lambda activity: [activity.max_live, int(activity.must_wake)]),
        *optional(change.limit, limit_args),
        *optional(
            add,
            lambda new: [
                new.kind,
                *optional(new.event),
                *optional(new.seq),
                text(new.key),
                microseconds(new.delay_s),
            ],
        ),
        *optional(change.max_pending),
        *optional(change.cancel_turn),
        *optional(change.start, lambda start: [start.input_id, *optional(start.turn_id), start.takeovers]),
        *optional(change.answer),
        *optional(change.postpone, lambda postpone: [postpone.input_id, microseconds(postpone.delay_s)]),
        int(change.close_session),
        *texts(change.drop_deltas),
        *several(events, lambda one: [one[0].type, one[1], *optional(delta_of(one[0]))]),
        *several(
            puts,
            lambda one: [text(one[0].kind), text(one[0].key), one[1], *texts(dict.fromkeys(one[0].groups))],
        ),
        *several(change.deletes, lambda gone: [text(gone.kind), text(gone.key)]),
        *texts(change.wake),
    ]


def committed(change: Change, reply: list[bytes]) -> Committed:
    """What became of it.

    :raises BaseError: as ``Journal.commit`` says.
    """
    outcome = reply[0].decode()
    if outcome == "ok":
        first = int(reply[1])
        return Committed(
            tuple(range(first, first + len(change.events))) if first else (),
            False,
            change.once.result if change.once else {},
        )
    if outcome == "duplicate":
        seq = int(reply[1])
        return Committed((seq,) if seq else (), True, json.loads(reply[2]))
    raise _refusal(outcome, [part.decode("utf-8", "replace") for part in reply[1:]])


def _refusal(outcome: str, told: list[str]) -> BaseError:
    match outcome:
        case "lease_lost":
            return LeaseLostError(f"The lease {told[0]} has moved on.")
        case "stale":
            return StaleDocumentError(f"The {told[0]} {told[1]} changed meanwhile.")
        case "session_exists":
            return StaleDocumentError("A session with this id exists.")
        case "no_session":
            return SessionNotFoundError("No open session has this id.")
        case "too_many_sessions":
            return TooManySessionsError(f"{told[0]} sessions are live.")
        case "rate_limited":
            wait_s = int(told[0]) / 1_000_000
            return RateLimitError("Too many; come back later.", retry_after_s=max(1, math.ceil(wait_s)))
        case "too_many_pending":
            return TooManyPendingError(f"{told[0]} messages wait for an answer already.")
        case "no_turn":
            return StaleDocumentError("This turn is not running.")
        case "answered":
            return StaleDocumentError("This input is answered already.")
    raise AssertionError(f"unknown outcome {outcome}")
