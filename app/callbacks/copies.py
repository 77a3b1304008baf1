"""Copies of dead letters on their way to ``DEAD_LETTER_URL``: which changes make one, and what it holds.

Who keeps a letter waits for no copy: the same change journals an entry of the outbox, which a chore delivers. An entry
is the letter's id alone; what is delivered is read from the journal, where it is redacted already. The copy is known by
the letter's id, so one that is delivered twice, or whose letter was kept anew for another reason, is the same one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Protocol

from app.journal import Change, Journal
from app.journal.events import iso
from app.journal.records import DeadLetter
from app.outbox import Answer, Outbox, Outcome, Outgoing
from app.telemetry import metrics

TOPIC = "dead-letter-copies"
"""Woken by each change that adds one."""
PAUSES_S: tuple[float, ...] = (15.0, 60.0, 300.0, 900.0, *(3_600.0,) * 96)
"""Between its tries, 101 in about four days, for a missing right is perhaps mended only after a weekend."""
EXPIRY = timedelta(days=30)
"""Of an item, from when its letter was kept. A bucket's lifecycle is the bucket's."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterCopy(Outgoing):
    """The copy of a letter that is to be delivered."""

    KIND: ClassVar[str] = "dead_letter_copy"
    dead_letter_id: str

    @property
    def key(self) -> str:
        return self.dead_letter_id

    @property
    def shown(self) -> Mapping[str, object]:
        return {"deadLetterId": self.dead_letter_id}


@dataclass(frozen=True, slots=True)
class Copy:
    """What is delivered of a letter.

    :ivar at: when the letter was kept; the same at every try.
    :ivar facts: what is known of it: text and whole numbers, under the names that ``GET /dead-letters`` gives them.
    :ivar body: the callback as the journal has it, redacted; text where it could not be read.
    """

    id: str
    at: datetime
    facts: Mapping[str, str | int]
    body: Mapping[str, Any] | str

    @classmethod
    def of(cls, letter: DeadLetter) -> Copy:
        if letter.stored_at is None:
            raise AssertionError("only what the journal has can be copied")
        known: dict[str, str | int] = {
            "deadLetterId": letter.key,
            "reason": letter.reason,
            "at": iso(letter.stored_at),
            "workflowId": letter.workflow_id,
            "executionId": letter.execution_id,
            "idempotencyKey": letter.idempotency_key,
            "sizeBytes": letter.size_bytes,
            "requestId": letter.request_id,
        }
        body = letter.text if letter.report is None else letter.report
        return cls(letter.key, letter.stored_at, {name: value for name, value in known.items() if value}, body)

    @property
    def expires_at_s(self) -> int:
        return int((self.at + EXPIRY).timestamp())

    def as_json(self) -> str:
        """All of it as one object; ASCII, for a callback's texts may hold halves of characters."""
        return json.dumps({**self.facts, "body": self.body}, allow_nan=False)

    def body_text(self) -> str:
        """The body alone, as JSON; ASCII, too."""
        return json.dumps(self.body, allow_nan=False)


class Store(Protocol):
    """Where copies are kept.

    :ivar limit_s: no write takes longer.
    """

    limit_s: float

    def open(self) -> None:
        """Get ready, as far as that is possible now."""

    def keep(self, copy: Copy) -> Answer:
        """Write it, over what is there of the same id. Blocks only its greenlet."""


def with_copies(change: Change) -> Change:
    """``change``, and the copies that are to be made of what it keeps."""
    kept = [put for put in change.puts if put.kind == DeadLetter.KIND and put.body["state"] == "kept"]
    if not kept:
        return change
    # Whatever is there: a letter whose reason has changed is copied anew, over its first copy.
    copies = [replace(LetterCopy(dead_letter_id=put.key).put(), expect=None) for put in kept]
    return replace(change, puts=[*change.puts, *copies], wake=[*change.wake, TOPIC])


def copies(journal: Journal, store: Store) -> Outbox[LetterCopy]:
    """The outbox of ``DEAD_LETTER_URL``."""

    def send(entry: LetterCopy) -> Answer | None:
        letter = DeadLetter.get(journal, entry.key)
        if letter is None:
            return None  # its time was over, or the doctor has removed what it had made
        answer = store.keep(Copy.of(letter))
        if not answer.failed:
            log.info("dead letter copied", extra=entry.shown)
        return answer

    return Outbox(
        journal=journal,
        kind=LetterCopy,
        noun="a dead letter's copy",
        send=send,
        held_s=1.5 * store.limit_s,
        pauses_s=PAUSES_S,
        count=_count,
    )


def _count(outcome: Outcome) -> None:
    metrics.dead_letter_copies.labels(outcome).inc()
