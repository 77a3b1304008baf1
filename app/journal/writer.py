"""Group commit: one OS thread owns the only writing connection and puts whatever waits into one transaction.

A commit with ``synchronous=FULL`` costs one fsync, however much it carries, so durability is cheap as long as callers
that arrive together share it. The thread is a real one: a greenlet in SQLite would stop the whole loop.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import gevent
from gevent import monkey
from gevent.event import Event as GreenEvent

from app.errors import BaseError, JournalUnavailableError
from app.telemetry.sampling import Sampler

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], tuple[T, Iterable[str]]]
"""Checks and writes; returns its result and the topics to wake. Where it raises, what it wrote is undone."""

GROUP_MAX = 256
QUEUE_MAX = 10_000
COMMIT_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)
# Not the patched ones: these meet a thread that has no gevent hub.
_SimpleQueue = monkey.get_original("queue", "SimpleQueue")
_start_thread = monkey.get_original("_thread", "start_new_thread")


class _Op:
    __slots__ = ("abandoned", "done", "error", "operation", "result", "topics")

    def __init__(self, operation: Operation[Any]) -> None:
        self.operation = operation
        self.done = GreenEvent()
        self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.topics: Iterable[str] = ()


class GroupCommitter:
    """Runs operations one after the other, many to a transaction; each caller goes on after *its* commit.

    :ivar transactions: how many transactions were committed, for tests and benchmarks.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        number: Callable[[sqlite3.Connection], int],
        on_commit: Callable[[set[str], int], None],
        announce: Callable[[set[str], int], None],
    ) -> None:
        """
        :param connect: opens the writing connection, in the thread.
        :param number: numbers a group that somebody may wait for, in its transaction.
        :param on_commit: told the topics and the number of each such group once it is committed, in the loop.
        :param announce: the same, in the thread, for other processes; must not block.
        """
        self.transactions = 0
        self._connect = connect
        self._number = number
        self._on_commit = on_commit
        self._announce = announce
        self._queue: Any = _SimpleQueue()
        self._waiting = 0
        self._finished: deque[tuple[list[_Op], set[str], int]] = deque()
        self._connection: sqlite3.Connection | None = None
        self._sampler = Sampler()
        self._closed = False
        self._stopped = GreenEvent()
        loop = gevent.get_hub().loop
        self._bell = loop.async_()
        self._bell.start(self._deliver)
        _start_thread(self._run, ())

    def run(self, operation: Operation[T], *, timeout_s: float = COMMIT_TIMEOUT_S) -> T:
        """Have ``operation`` committed and return its result.

        :raises BaseError: what the operation raised; :raises JournalUnavailableError: not committed in time, or the
            database refused. An operation that was already running when the time was up may still take effect:
            callers that cannot repeat safely carry an idempotency key.
        """
        if self._closed or self._waiting >= QUEUE_MAX:
            raise JournalUnavailableError("The journal is closed." if self._closed else "The journal cannot keep up.")
        op = _Op(operation)
        self._waiting += 1
        try:
            self._queue.put(op)
            if not op.done.wait(timeout_s):
                op.abandoned = True
                raise JournalUnavailableError("The journal did not answer in time.")
        finally:
            self._waiting -= 1
        if op.error is not None:
            raise op.error
        result: T = op.result
        return result

    def stop(self) -> None:
        """Commit what was accepted, close the connection, end the thread. Idempotent."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._stopped.wait(STOP_TIMEOUT_S)
        self._bell.stop()

    # -- in the loop

    def _deliver(self) -> None:
        while self._finished:
            group, topics, number = self._finished.popleft()
            for op in group:
                op.done.set()
            if topics:
                self._on_commit(topics, number)
            if not group:
                self._stopped.set()

    # -- in the thread

    def _run(self) -> None:
        stopping = False
        while not stopping:
            op = self._queue.get()
            group: list[_Op] = []
            while True:
                if op is None:
                    stopping = True
                    break
                if not op.abandoned:
                    group.append(op)
                if len(group) >= GROUP_MAX or self._queue.empty():
                    break
                op = self._queue.get()
            if group:
                self._finish(group, *self._commit(group))
        if self._connection is not None:
            self._connection.close()
        self._finish([], set(), 0)

    def _finish(self, group: list[_Op], topics: set[str], number: int) -> None:
        self._finished.append((group, topics, number))
        self._bell.send()

    def _commit(self, group: list[_Op]) -> tuple[set[str], int]:
        try:
            topics, number = self._transaction(group)
        except sqlite3.Error as exc:
            self._fail(group, exc)
            return set(), 0
        if topics:
            try:
                self._announce(topics, number)
            except Exception:
                # The top of this thread, and the commit has happened: others find it by looking.
                log.exception("announcing a commit failed")
        return topics, number

    def _transaction(self, group: list[_Op]) -> tuple[set[str], int]:
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        topics: set[str] = set()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for op in group:
                topics.update(self._one(op, connection))
            number = self._number(connection) if topics else 0
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.transactions += 1
        return topics, number

    @staticmethod
    def _one(op: _Op, connection: sqlite3.Connection) -> Iterable[str]:
        """Run one operation of the group; what is wrong with it alone undoes it alone.

        :raises sqlite3.OperationalError: the disk is full, locked or broken, for all of the group.
        """
        connection.execute("SAVEPOINT op")
        try:
            op.result, op.topics = op.operation(connection)
            op.error = None
        except sqlite3.OperationalError:
            raise
        except Exception as exc:
            op.error, op.topics = exc, ()
            if not isinstance(exc, BaseError):
                log.exception("journal operation failed")
            connection.execute("ROLLBACK TO op")
        connection.execute("RELEASE op")
        return op.topics

    def _fail(self, group: list[_Op], exc: sqlite3.Error) -> None:
        # A full disk fails each write at once.
        suppressed = self._sampler.take(str(exc))
        if suppressed is not None:
            log.warning("journal write failed: %s", exc, extra={"suppressed": suppressed} if suppressed else None)
        for op in group:
            op.error = JournalUnavailableError("The journal cannot be written now.")
            op.error.__cause__ = exc
        # A connection that has seen an I/O error is not trusted again; the next group opens a new one.
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error:
                log.warning("closing the journal's connection failed")
            self._connection = None
