"""Many callers on one connection: what waits goes out together, and is answered in its order.

While one group is on its way the next gathers, so under load a group shares one round trip and, on the server, one
sync of its file. A group whose connection is lost is sent once more, but for what was answered: each write carries an
id by which the functions know it again. Where that fails, too, everybody who waits is told at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event as GreenEvent
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

Command = tuple[str | bytes | int | float, ...]
GROUP_MAX, GROUP_MAX_BYTES = 128, 1_048_576
"""A group ends with the call that takes it over the second; it has to go out within a connection's timeout."""
STOP_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
"""Longer than all that the lane itself waits for."""


class _Call:
    __slots__ = ("answer", "done", "packed")

    def __init__(self, command: Command) -> None:
        self.packed = _pack(command)
        self.done = GreenEvent()
        self.answer: Any = None


class Lane:
    """One connection and the greenlet that uses it.

    :ivar waiting: calls that have no answer yet.
    :ivar groups: how many groups were sent, for tests and benchmarks.
    """

    def __init__(self, connect: Callable[[], Any], *, on_lost: Callable[[], None]) -> None:
        """
        :param connect: opens the connection, or raises why it cannot.
        :param on_lost: told before another one is opened.
        """
        self.waiting = self.groups = 0
        self._connect, self._on_lost = connect, on_lost
        self._queue: deque[_Call] = deque()
        self._bell = GreenEvent()
        self._connection: Any = None
        self._old = self._stopping = False
        self._greenlet: Any = gevent.spawn(self._run)

    def call(self, command: Command) -> Any:
        """Send a command and return its answer.

        :raises ResponseError: it is refused. :raises redis.ConnectionError: there is none, nor will be.
        """
        made = _Call(command)
        self.waiting += 1
        try:
            self._queue.append(made)
            self._bell.set()
            if not made.done.wait(ANSWER_TIMEOUT_S):
                raise RedisConnectionError("no answer")
        finally:
            self.waiting -= 1
        if isinstance(made.answer, Exception):
            raise made.answer
        return made.answer

    def reset(self) -> None:
        """Open another connection for the next group."""
        self._old = True

    def stop(self) -> None:
        """Answer what waits, then end. Idempotent."""
        self._stopping = True
        self._bell.set()
        self._greenlet.join(STOP_TIMEOUT_S)
        self._greenlet.kill()
        self._disconnect()

    def _run(self) -> None:
        while self._queue or not self._stopping:
            if not self._queue:
                self._bell.clear()
                self._bell.wait()
                continue
            group = self._gather()
            failure = self._exchange(group)
            if failure is not None:
                # Nobody waits for a timeout behind another one.
                group += self._queue
                self._queue.clear()
            for made in group:
                if made.answer is None:
                    made.answer = RedisConnectionError(type(failure).__name__)
                    made.answer.__cause__ = failure
                made.done.set()

    def _gather(self) -> list[_Call]:
        group: list[_Call] = []
        size = 0
        while self._queue and len(group) < GROUP_MAX and size <= GROUP_MAX_BYTES:
            group.append(self._queue.popleft())
            size += len(group[-1].packed)
        return group

    def _exchange(self, group: list[_Call]) -> Exception | None:
        """Have each call of the group answered; returns why those that were not have no answer."""
        for last in (False, True):
            try:
                self._send([made for made in group if made.answer is None])
                return None
            except Exception as exc:
                # The top of this greenlet; whatever it was, it goes to those who wait.
                self._disconnect()
                self._on_lost()
                if last:
                    return exc
        raise AssertionError("unreachable")

    def _disconnect(self) -> None:
        self._old = False
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _send(self, calls: list[_Call]) -> None:
        if self._old:
            self._disconnect()
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        connection.send_packed_command([b"".join(made.packed for made in calls)])
        self.groups += 1
        for made in calls:
            try:
                made.answer = connection.read_response()
            except ResponseError as exc:  # its own answer; the others' follow
                made.answer = exc


def _pack(command: Command) -> bytes:
    parts = [part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass") for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
