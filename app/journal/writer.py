"""Group commit: whatever waits for the only writing connection goes into one transaction.

A commit with ``synchronous=FULL`` costs one fsync, however much it carries, so durability is cheap as long as callers
that arrive together share it. What may take long is done in an OS thread, for a greenlet in SQLite stops the whole
loop: the COMMIT with its fsync, always; all of a group with something slow in it, or while another process has the
write lock. A group of quick operations is written in the loop, which takes microseconds: in the thread each statement
would let go of Python's lock some times and wait to get it back.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import gevent
from gevent import monkey
from gevent.event import Event as GreenEvent
from gevent.hub import Waiter

from app.errors import BaseError, JournalUnavailableError
from app.journal.sqlite_schema import BUSY_TIMEOUT_S
from app.telemetry.sampling import Sampler

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], tuple[T, Iterable[str]]]
"""Checks and writes; returns its result and the topics to wake. Where it raises, what it wrote is undone."""

GROUP_MAX = 256
QUICK_GROUP_MAX = 64
"""Of quick operations: so long the loop is not kept from its sockets."""
QUEUE_MAX = 10_000
COMMIT_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)
# Not the patched ones: these meet a thread that has no gevent hub.
_SimpleQueue = monkey.get_original("queue", "SimpleQueue")
_start_thread = monkey.get_original("_thread", "start_new_thread")


class _Op:
    __slots__ = ("abandoned", "done", "error", "operation", "quick", "result", "topics")

    def __init__(self, operation: Operation[Any], quick: bool) -> None:
        self.operation = operation
        self.quick = quick
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
        self._queue: deque[_Op] = deque()
        self._some = GreenEvent()
        self._waiting = 0
        self._connection: sqlite3.Connection | None = None
        self._spills = True  # as SQLite does
        self._sampler = Sampler()
        self._closed = False
        self._thread = _Thread()
        self._greenlet = gevent.spawn(self._run)

    def run(self, operation: Operation[T], *, quick: bool = False, timeout_s: float = COMMIT_TIMEOUT_S) -> T:
        """Have ``operation`` committed and return its result.

        :param quick: it is a few statements on a few rows, so it may run in the loop.
        :raises BaseError: what the operation raised; :raises JournalUnavailableError: not committed in time, or the
            database refused. An operation that was already running when the time was up may still take effect:
            callers that cannot repeat safely carry an idempotency key.
        """
        if self._closed or self._waiting >= QUEUE_MAX:
            raise JournalUnavailableError("The journal is closed." if self._closed else "The journal cannot keep up.")
        op = _Op(operation, quick)
        self._waiting += 1
        try:
            self._queue.append(op)
            self._some.set()
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
        self._closed = True
        self._some.set()
        self._greenlet.join(STOP_TIMEOUT_S)

    # -- in a greenlet of its own

    def _run(self) -> None:
        while self._queue or not self._closed:
            if not self._queue:
                self._some.clear()
                self._some.wait()
            group = self._next_group()
            if group:
                try:
                    self._commit(group)
                except Exception:
                    # The top of this greenlet, which must go on; who waits for this group hears that no answer came.
                    log.exception("a group of the journal failed")
        self._thread.run(self._disconnect)
        self._thread.end()

    def _next_group(self) -> list[_Op]:
        group: list[_Op] = []
        while self._queue and len(group) < GROUP_MAX:
            op = self._queue.popleft()
            if not op.abandoned:
                group.append(op)
        return group

    def _commit(self, group: list[_Op]) -> None:
        topics: set[str] = set()
        number = 0
        try:
            if len(group) <= QUICK_GROUP_MAX and all(op.quick for op in group) and self._begin_at_once():
                topics, number = self._write(group)
                self._thread.run(partial(self._end, topics, number))
            else:
                topics, number = self._thread.run(partial(self._transaction, group))
        except sqlite3.Error as exc:
            self._fail(group, exc)
            topics = set()
        try:
            if topics:
                # Before the answers, which the readers would else stand behind for half a millisecond.
                self._on_commit(topics, number)
        finally:
            for op in group:
                op.done.set()

    def _begin_at_once(self) -> bool:
        """Begin, unless there is something to wait for."""
        if self._connection is None:
            return False
        try:
            self._let_spill(self._connection, False)
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                return False
            raise
        return True

    def _fail(self, group: list[_Op], exc: sqlite3.Error) -> None:
        # A full disk fails each write at once.
        suppressed = self._sampler.take(str(exc))
        if suppressed is not None:
            log.warning("journal write failed: %s", exc, extra={"suppressed": suppressed} if suppressed else None)
        for op in group:
            op.error = JournalUnavailableError("The journal cannot be written now.")
            op.error.__cause__ = exc
        # A connection that has seen an I/O error is not trusted again; the next group opens a new one.
        self._thread.run(self._disconnect)

    # -- in the thread

    def _transaction(self, group: list[_Op]) -> tuple[set[str], int]:
        if self._connection is None:
            self._connection, self._spills = self._connect(), True
        # Here there is time to wait for the lock, and to make room in the cache by writing; in the loop there is none.
        self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")
        self._let_spill(self._connection, True)
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("PRAGMA busy_timeout = 0")
        topics, number = self._write(group)
        self._end(topics, number)
        return topics, number

    def _end(self, topics: set[str], number: int) -> None:
        assert self._connection is not None
        try:
            self._connection.execute("COMMIT")
        except BaseException:
            self._undo()
            raise
        self.transactions += 1
        if topics:
            try:
                self._announce(topics, number)
            except Exception:
                # The top of this thread, and the commit has happened: others find it by looking.
                log.exception("announcing a commit failed")

    def _disconnect(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error:
                log.warning("closing the journal's connection failed")
            self._connection = None

    # -- in either

    def _let_spill(self, connection: sqlite3.Connection, wanted: bool) -> None:
        """Whether what a transaction has no room for in the cache goes to the disk before its COMMIT."""
        if wanted != self._spills:
            connection.execute(f"PRAGMA cache_spill = {'ON' if wanted else 'OFF'}")
            self._spills = wanted

    def _write(self, group: list[_Op]) -> tuple[set[str], int]:
        assert self._connection is not None
        topics: set[str] = set()
        try:
            for op in group:
                topics.update(self._one(op, self._connection))
            return topics, self._number(self._connection) if topics else 0
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

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


class _Thread:
    """A real thread that does one step after the other, while the greenlet that asked for it waits.

    gevent has a pool of such threads; a task in it takes three times as long.
    """

    def __init__(self) -> None:
        self._steps: Any = _SimpleQueue()
        self._result: Any = None
        self._error: BaseException | None = None
        self._asker: Waiter[None] = Waiter()
        self._bell = gevent.get_hub().loop.async_()
        self._bell.start(lambda: self._asker.switch(None))
        _start_thread(self._work, ())

    def run(self, step: Callable[[], T]) -> T:
        """:raises BaseException: what the step raised."""
        self._asker = Waiter()
        self._steps.put(step)
        self._asker.get()
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def end(self) -> None:
        self._steps.put(None)
        self._bell.stop()

    def _work(self) -> None:
        while (step := self._steps.get()) is not None:
            self._result = self._error = None
            try:
                self._result = step()
            except BaseException as exc:
                self._error = exc
            self._bell.send()
