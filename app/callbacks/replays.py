"""Callbacks that the rate limit held back, routed by the bridge itself: oldest first, as the limit allows.

What is held lies in the journal, so it outlives any worker; one of them works on it at a time, and two do no harm.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from dataclasses import dataclass
from datetime import datetime

import gevent
from gevent.event import Event

from app.callbacks.dead_letters import DeadLetters
from app.errors import BaseError, RateLimitError, SessionNotFoundError, StaleDocumentError
from app.journal import Journal, Limit, Watch
from app.journal.records import HELD, DeadLetter
from app.telemetry import context

LOOK_S = 5.0
UNKNOWN_LOOK_S = 15.0
BATCH = 50
PAGE = 100
QUEUE_MAX = 10_000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pause:
    """Until the next round. ``wakeable``: a letter that is newly held ends it; not where nothing could be done yet."""

    seconds: float
    wakeable: bool = False


class Replays:
    """One worker's part in it."""

    def __init__(
        self, journal: Journal, letters: DeadLetters, limit: Limit | None, holder: str, *, lease_s: float
    ) -> None:
        self._journal = journal
        self._letters = letters
        self._limit = limit
        self._holder = holder
        self._lease_s = lease_s
        self._queue: deque[str] = deque()  # letters' keys, the oldest at the right
        self._draining = Event()
        self._watch: Watch | None = None
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def drain(self) -> None:
        """Begin no other replay. Does not wait."""
        self._draining.set()
        if self._watch is not None:
            self._watch.wake()

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _run(self) -> None:
        with self._journal.watch(HELD) as watch:
            self._watch = watch
            while not self._draining.is_set():
                try:
                    pause = self._round()
                except BaseError as exc:
                    log.warning("replaying held callbacks failed: %s", exc)
                    pause = _Pause(LOOK_S)
                except Exception:
                    # The top of this greenlet: what is held would stay held.
                    log.exception("replaying held callbacks failed by a bug")
                    pause = _Pause(LOOK_S)
                if pause.wakeable:
                    watch.wait(pause.seconds)
                else:
                    self._draining.wait(pause.seconds)

    def _round(self) -> _Pause:
        """Replay a batch, as far as the limit allows."""
        if not self._queue and not self._journal.find(DeadLetter.KIND, HELD, limit=1):
            return _Pause(LOOK_S * random.uniform(0.8, 1.2), wakeable=True)  # noqa: S311 - spreads load, guards nothing
        lease = self._journal.acquire("chore:replays", self._holder, ttl_s=self._lease_s)
        if lease is None:
            return _Pause(LOOK_S)
        try:
            if not self._queue:
                self._load()
            replayed = 0
            for _ in range(BATCH):
                if not self._queue or self._draining.is_set():
                    break
                replayed += self._replay(self._queue.pop())
        except RateLimitError as exc:
            # Not more often than that: others' callbacks fill the window, and each of them would wake us.
            return _Pause(exc.retry_after_s or LOOK_S)
        finally:
            self._journal.release(lease)
        if self._queue or replayed:
            return _Pause(0.0)
        return _Pause(UNKNOWN_LOOK_S, wakeable=True)

    def _load(self) -> None:
        """The keys of what is held. The journal lists the newest first; the oldest that fit stay."""
        found: deque[str] = deque(maxlen=QUEUE_MAX)
        before: datetime | None = None
        while page := self._journal.find(DeadLetter.KIND, HELD, limit=PAGE, before=before):
            found.extend(document.key for document in page)
            before = page[-1].created_at
            gevent.sleep(0)
        self._queue = found

    def _replay(self, key: str) -> bool:
        """Route one letter; whether it is settled by this. :raises RateLimitError: not yet; it keeps its place."""
        letter = DeadLetter.get(self._journal, key)
        if letter is None or not letter.held:
            return False
        with context.bind(
            request_id=letter.request_id, workflow_id=letter.workflow_id, execution_id=letter.execution_id or None
        ):
            try:
                routed = self._letters.replay_held(letter, self._limit)
            except SessionNotFoundError:
                return False  # stays, until its workflow is known
            except RateLimitError:
                self._queue.append(key)
                raise
            except StaleDocumentError:
                return False  # settled by somebody else
            except BaseError as exc:
                log.warning("replaying a held callback failed: %s", exc, extra={"deadLetterId": key})
                return False
            fields = {"deadLetterId": key, "repair": routed.repair, "sessionId": routed.session_id}
            log.info("held callback replayed", extra={**fields, "duplicate": routed.duplicate})
            return True
