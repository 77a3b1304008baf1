"""Who follows what in this process: topics, and the watches to wake on each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Set
from typing import TYPE_CHECKING

from gevent.event import Event as GreenEvent

if TYPE_CHECKING:
    from app.journal import Watcher


class TopicWatch:
    """One waiter on some topics; see ``journal.Watch``."""

    __slots__ = ("_event", "_named", "woken_by")

    def __init__(self) -> None:
        self._event = GreenEvent()
        self._named: set[str] = set()
        self.woken_by: Set[str] = frozenset()

    def wait(self, timeout_s: float | None = None) -> bool:
        woken = bool(self._event.wait(timeout_s))
        self._event.clear()
        self.woken_by, self._named = self._named, set()
        return woken

    def wake(self, topic: str = "") -> None:
        self._named.add(topic)
        self._event.set()


class Topics:
    """Topics and their watchers here; all of it in the loop."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}

    @contextlib.contextmanager
    def watch(self, *topics: str) -> Iterator[TopicWatch]:
        watch = TopicWatch()
        self.add_watcher(watch, *topics)
        try:
            yield watch
        finally:
            self.remove_watcher(watch, *topics)

    def add_watcher(self, watcher: Watcher, *topics: str) -> None:
        for topic in topics:
            self._watchers.setdefault(topic, set()).add(watcher)

    def remove_watcher(self, watcher: Watcher, *topics: str) -> None:
        for topic in topics:
            watchers = self._watchers.get(topic)
            if watchers is not None:
                watchers.discard(watcher)
                if not watchers:
                    del self._watchers[topic]

    def wake_local(self, topics: Iterable[str]) -> None:
        """Wake this process's watchers of these topics."""
        for topic in topics:
            for watch in self._watchers.get(topic, ()):
                watch.wake(topic)

    def wake_all(self) -> None:
        for watchers in self._watchers.values():
            for watch in watchers:
                watch.wake()
