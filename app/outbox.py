"""What is on its way to somewhere else: at least once each, with an id, and in nobody's way.

An entry is journalled by the very change that it tells of. It is claimed by a write before it is sent, and removed when
it was taken. So two workers never send one at the same time, and one whose worker was lost is sent again by any other.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Generic, Literal, TypeVar

from gevent.pool import Pool

from app.errors import BaseError, StaleDocumentError
from app.journal import Change, Delete, Journal
from app.journal.records import Record
from app.telemetry import context

AT_ONCE = 5
AT_ONCE_IN_ROUND = 50
"""At most so many in one round, so that one with a receiver that hangs ends, too."""
ROUND_PAUSE_S = 0.1
MAX_SEEN = 1_000
"""Of the newest, and, where there are more, of those that nobody has written for longest: so each has its turn."""
MAX_PAUSE_S = 43_200.0
MOST_PAUSE_S = 1.1 * MAX_PAUSE_S
AHEAD = timedelta(days=365)
"""No clock is so wrong that what is written by it now would be later."""

Outcome = Literal["delivered", "failed", "given_up"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing(Record):
    """An entry, until it was taken or given up.

    :ivar tries: how often it was sent, or was about to be.
    :ivar due_at_s: epoch seconds; not sent before.
    """

    tries: int = 0
    due_at_s: float = 0.0

    @property
    def ids(self) -> Mapping[str, str | None]:
        """For the context of what is logged while it is sent, as ``context.bind`` takes them."""
        return {}

    @property
    def shown(self) -> Mapping[str, object]:
        """What tells it apart in a line about it."""
        return {}


Entry = TypeVar("Entry", bound=Outgoing)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a try. ``failed``: why it was not taken, without anything secret; empty: it was.

    :ivar final: it never will be.
    """

    failed: str = ""
    final: bool = False
    retry_after_s: float = 0.0


def _uncounted(_: Outcome) -> None:
    """Nobody counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox(Generic[Entry]):
    """:ivar noun: what an entry is called in the log.
    :ivar send: one try, bounded; ``None``: there is nothing to send any more. Without it, what is left of a time with
        one is dropped.
    :ivar held_s: no try takes longer; nobody else sends it meanwhile.
    :ivar pauses_s: between tries; then it is given up.
    """

    journal: Journal
    kind: type[Entry]
    noun: str
    send: Callable[[Entry], Answer | None] | None
    held_s: float
    pauses_s: Sequence[float]
    count: Callable[[Outcome], None] = _uncounted

    def round(self) -> float | None:
        """Send what is due, oldest first; returns in how many seconds more will be. A chore; safe beside others'."""
        found = self.kind.find(self.journal, limit=MAX_SEEN)[::-1]
        if self.send is None:
            # Not kept for later: who sets it then wants to know what happens then.
            if found:
                self.journal.commit(Change(deletes=[Delete(self.kind.KIND, one.key) for one in found]))
            return None
        now, more = time.time(), len(found) == MAX_SEEN
        if more:
            known = {entry.key for entry in found}
            waited = self.journal.find_stale(self.kind.KIND, before=datetime.now(UTC) + AHEAD, limit=MAX_SEEN)
            found[:0] = [self.kind.of(one) for one in waited if one.key not in known]
        # One that is due later than any pause lasts was put back by a clock that was wrong.
        wait_s = {entry.key: entry.due_at_s - now for entry in found}
        due = [entry for entry in found if not 0 < wait_s[entry.key] <= MOST_PAUSE_S]
        pool = Pool(AT_ONCE)
        try:
            dealt_with = [pool.spawn(self._deliver, entry, self.send) for entry in due[:AT_ONCE_IN_ROUND]]
            pool.join()
        finally:
            pool.kill(block=False)
        if not all(one.value for one in dealt_with):
            return None  # what could not be written now cannot be in a moment: with the next round by time
        if len(due) > AT_ONCE_IN_ROUND or (due and more):
            return ROUND_PAUSE_S
        return min((left for left in wait_s.values() if left > 0), default=None)

    def _deliver(self, entry: Entry, send: Callable[[Entry], Answer | None]) -> bool:
        """Whether something has become of it that the journal knows of."""
        with context.bind(**entry.ids):
            try:
                self._try(entry, send)
            except StaleDocumentError:
                return True  # another worker has it
            except BaseError as exc:
                log.warning("%s was not dealt with: %s", self.noun, exc)
                return False
            return True

    def _try(self, entry: Entry, send: Callable[[Entry], Answer | None]) -> None:
        if entry.tries > len(self.pauses_s):
            self._give_up(entry, "its last try was lost with its worker")
            return
        claimed = self._put_back(entry, self.held_s, tries=entry.tries + 1)
        answer = self._send(claimed, send)
        if answer is None:
            self._remove(claimed)
        elif not answer.failed:
            self._remove(claimed)
            self.count("delivered")
        elif answer.final or claimed.tries > len(self.pauses_s):
            self._give_up(claimed, answer.failed)
        else:
            spread = random.uniform(0.9, 1.1)  # noqa: S311 - so that not all come back at once; guards nothing
            pause_s = max(self.pauses_s[claimed.tries - 1] * spread, min(answer.retry_after_s, MAX_PAUSE_S))
            self._put_back(claimed, pause_s, tries=claimed.tries)
            self.count("failed")
            log.warning("%s was not taken: %s", self.noun, answer.failed, extra=_shown(claimed))

    def _send(self, entry: Entry, send: Callable[[Entry], Answer | None]) -> Answer | None:
        try:
            return send(entry)
        except BaseError:
            raise
        except Exception:
            # Of whatever kind it is: its pauses are kept, or its tries would be used up within the hour.
            log.exception("%s failed by a bug", self.noun)
            return Answer("it failed by a bug")

    def _put_back(self, entry: Entry, pause_s: float, *, tries: int) -> Entry:
        """Nobody sends it before that.

        :raises StaleDocumentError: another worker has it.
        """
        changed = replace(entry, tries=tries, due_at_s=time.time() + pause_s)
        self.journal.commit(Change(puts=[changed.put()]))
        return replace(changed, version=entry.version + 1)

    def _give_up(self, entry: Entry, why: str) -> None:
        self._remove(entry)
        self.count("given_up")
        log.error("%s was given up: %s", self.noun, why, extra=_shown(entry))

    def _remove(self, entry: Entry) -> None:
        self.journal.commit(Change(deletes=[entry.delete()]))


def _shown(entry: Outgoing) -> dict[str, object]:
    return {**entry.shown, "tries": entry.tries}
