"""Who is woken by a commit: readers of this process at once, those of others by a message that Redis publishes.

A message names topics and carries no data. They are numbered, so one that was lost is noticed, by the next or by a look
at the counter: then everybody is woken and looks.
"""

from __future__ import annotations

import logging
from typing import Any

import gevent
from gevent.event import Event as GreenEvent
from redis.exceptions import RedisError

from app.errors import JournalUnavailableError
from app.journal.redis_link import RedisLink
from app.journal.topics import Topics

LOOK_INTERVAL_S = 0.5
RECEIVE_S = 1.0
BACKOFF_S, BACKOFF_MAX_S = 0.05, 2.0
SUBSCRIBED_WITHIN_S = 1.0

log = logging.getLogger(__name__)


class RedisWakeups(Topics):
    """Topics, their watchers here, and a subscription to what others announce.

    :ivar connected: whether the subscription is there now.
    """

    def __init__(self, link: RedisLink) -> None:
        super().__init__()
        self.connected = False
        self._link = link
        self._channel = f"{link.tag}:wake"
        self._subscribed = GreenEvent()
        self._seen = self._suspected = 0
        self._doubtful = False
        self._greenlets: list[Any] = []

    def start(self) -> None:
        """Subscribe, and wait a moment until that has happened; without it looks have to do."""
        self._greenlets = [gevent.spawn(self._follow)]
        self._subscribed.wait(SUBSCRIBED_WITHIN_S)
        self._seen = max(self._seen, self._announced())
        self._greenlets.append(gevent.spawn(self._look))

    def stop(self) -> None:
        gevent.killall(self._greenlets)

    def doubt(self) -> None:
        """A commit of ours may have happened without our knowing: everybody looks once Redis answers again."""
        self._doubtful = True

    # -- the subscription

    def _follow(self) -> None:
        pause_s, before = BACKOFF_S, False
        while True:
            try:
                subscription = self._link.subscribe(self._channel)
                try:
                    self._receive(subscription, missed=before)
                finally:
                    pause_s = BACKOFF_S if self.connected else pause_s
                    self.connected = False
                    subscription.close()
                    subscription.connection_pool.disconnect()
            except (RedisError, OSError) as exc:
                log.debug("journal: the subscription ended: %s", type(exc).__name__)
            except Exception:
                # The top of this greenlet: what a stranger has published is no reason to hear nothing any more.
                log.exception("journal: the subscription failed")
            before = True
            gevent.sleep(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_MAX_S)

    def _receive(self, subscription: Any, *, missed: bool) -> None:
        """Follow until the connection ends. :raises RedisError: it has."""
        while True:
            message = subscription.get_message(timeout=RECEIVE_S)
            if message is None:
                if not self.connected:
                    return  # nobody answers there
            elif message["type"] == "subscribe":
                self.connected = True
                self._subscribed.set()
                if missed:
                    self.wake_all()
            elif message["type"] == "message":
                self._hear(message["data"])

    def _hear(self, data: bytes) -> None:
        number_text, sender, topics = data.split(b";", 2)
        number = int(number_text)
        lost = number > self._seen + 1
        self._seen = max(self._seen, number)
        if sender.decode() != self._link.sender:  # its own woke their watchers as they were acknowledged
            self.wake_local(_topics(topics))
        if lost:
            self.wake_all()

    # -- looks

    def _look(self) -> None:
        while True:
            gevent.sleep(LOOK_INTERVAL_S)
            try:
                announced = self._announced()
            except JournalUnavailableError:
                continue
            # What was announced a moment ago may still be on its way; what was at the last look is lost.
            lost = self._suspected > self._seen or announced < self._seen
            if lost or self._doubtful or (announced > self._seen and not self.connected):
                self._doubtful = False
                self._seen = announced
                self.wake_all()
            self._suspected = announced

    def _announced(self) -> int:
        return int(self._link.read("announced")[0])


def _topics(data: bytes) -> list[str]:
    """``b"6:inputs3:abc"`` → ``["inputs", "abc"]``."""
    found = []
    while data:
        size, _, data = data.partition(b":")
        found.append(data[: int(size)].decode("utf-8", "surrogatepass"))
        data = data[int(size) :]
    return found
