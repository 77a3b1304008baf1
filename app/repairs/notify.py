"""Notifications on their way to ``NOTIFY_URL``: at least once each, with an id, and in nobody's way.

Each is claimed by a write before it is sent, and removed when it was taken. So two workers never send one at the same
time, and one whose worker was lost is sent again by any other.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gevent.pool import Pool

from app.errors import BaseError, StaleDocumentError
from app.journal import Change, Delete, Journal
from app.repairs import delivery
from app.repairs.notices import Notification
from app.telemetry import context

PAUSES_S: tuple[float, ...] = (15.0, 120.0, 600.0, 3_600.0, 10_800.0, 28_800.0, 43_200.0)
"""Between its tries, 8 in about a day; then it is given up."""
MAX_PAUSE_S = 43_200.0
AT_ONCE = 5
AT_ONCE_IN_ROUND = 50
"""At most so many in one round, so that one with a receiver that hangs ends, too."""
ROUND_PAUSE_S = 0.1
MAX_SEEN = 1_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notifier:
    """:ivar url: ``NOTIFY_URL``; ``None``: what is left of a time with one is dropped.
    :ivar secrets: of the signature, the first ones first; none: nothing is signed.
    """

    journal: Journal
    url: str | None
    secrets: Sequence[str]
    public_url: str

    def round(self) -> float | None:
        """Send what is due, oldest first; returns in how many seconds more will be. A chore; safe beside others'."""
        found = Notification.find(self.journal, limit=MAX_SEEN)[::-1]
        if self.url is None:
            # Not kept for later: who sets it then wants to know what happens then.
            if found:
                self.journal.commit(Change(deletes=[Delete(Notification.KIND, one.key) for one in found]))
            return None
        now = time.time()
        due = [notification for notification in found if notification.due_at_s <= now]
        pool = Pool(AT_ONCE)
        try:
            for notification in due[:AT_ONCE_IN_ROUND]:
                pool.spawn(self._deliver, notification, self.url)
            pool.join()
        finally:
            pool.kill(block=False)
        if len(due) > AT_ONCE_IN_ROUND:
            return ROUND_PAUSE_S
        return min((max(0.0, n.due_at_s - now) for n in found if n.due_at_s > now), default=None)

    def _deliver(self, notification: Notification, url: str) -> None:
        facts = notification.facts
        with context.bind(session_id=facts.get("sessionId"), workflow_id=facts.get("workflowId")):
            try:
                self._send(notification, url)
            except StaleDocumentError:
                return  # another worker has it
            except BaseError as exc:
                log.warning("a notification was not dealt with: %s", exc)
            except Exception:
                log.exception("a notification failed by a bug")

    def _send(self, notification: Notification, url: str) -> None:
        if notification.tries > len(PAUSES_S):
            self._give_up(notification, "its last try was lost with its worker")
            return
        held_s = 1.5 * (delivery.POST_TIMEOUT_S + delivery.ANSWER_TIMEOUT_S)
        claimed = self._put_back(notification, held_s, tries=notification.tries + 1)
        body = json.dumps(claimed.body(self.public_url), allow_nan=False).encode()
        headers = delivery.headers_for(claimed.key, body, self.secrets, now_s=int(time.time()))
        answer = delivery.post(url, body, headers)
        if not answer.failed:
            self._remove(claimed)
        elif answer.final or claimed.tries > len(PAUSES_S):
            self._give_up(claimed, answer.failed)
        else:
            spread = random.uniform(0.9, 1.1)  # noqa: S311 - so that not all come back at once; guards nothing
            pause_s = max(PAUSES_S[claimed.tries - 1] * spread, min(answer.retry_after_s, MAX_PAUSE_S))
            self._put_back(claimed, pause_s, tries=claimed.tries)
            log.warning("a notification was not taken: %s", answer.failed, extra=_shown(claimed))

    def _put_back(self, notification: Notification, pause_s: float, *, tries: int) -> Notification:
        """Nobody sends it before that.

        :raises StaleDocumentError: another worker has it.
        """
        changed = replace(notification, tries=tries, due_at_s=time.time() + pause_s)
        self.journal.commit(Change(puts=[changed.put()]))
        return replace(changed, version=notification.version + 1)

    def _give_up(self, notification: Notification, why: str) -> None:
        self._remove(notification)
        log.error("a notification was given up: %s", why, extra=_shown(notification))

    def _remove(self, notification: Notification) -> None:
        self.journal.commit(Change(deletes=[notification.delete()]))


def _shown(notification: Notification) -> dict[str, object]:
    return {"notificationId": notification.key, "type": notification.type, "tries": notification.tries}
