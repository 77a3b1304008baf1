"""Group commit by itself: what is written in the loop and what beside it, and that nothing stops the loop."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey

from app.errors import JournalUnavailableError
from app.journal.sqlite_schema import connect, prepare
from app.journal.writer import GroupCommitter

Write = Callable[[sqlite3.Connection], tuple[int, Iterable[str]]]
LIMIT_S = 10.0
thread_id: Callable[[], int] = monkey.get_original("_thread", "get_ident")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    prepare(tmp_path / "journal.db")
    return tmp_path / "journal.db"


@contextmanager
def committer_on(path: Path, connect: Callable[[Path], sqlite3.Connection] = connect) -> Iterator[GroupCommitter]:
    committer = GroupCommitter(
        partial(connect, path), number=lambda _: 0, on_commit=lambda *_: None, announce=lambda *_: None
    )
    try:
        committer.run(lambda connection: (None, ()))  # the first one opens the connection
        yield committer
    finally:
        committer.stop()


def counting(name: str) -> Write:
    """An operation that writes a row and returns in which thread it did."""

    def write(connection: sqlite3.Connection) -> tuple[int, Iterable[str]]:
        connection.execute("INSERT INTO counters VALUES (?, 1)", (name,))
        return thread_id(), ()

    return write


def names(path: Path) -> set[str]:
    with closing(connect(path, read_only=True)) as reader:
        return {name for (name,) in reader.execute("SELECT name FROM counters WHERE name LIKE 'test%'")}


def test_only_what_is_quick_is_written_in_the_loop(path: Path) -> None:
    with committer_on(path) as committer:
        quick = committer.run(counting("test-1"), quick=True)
        slow = committer.run(counting("test-2"))

    assert quick == thread_id()
    assert slow != thread_id()
    assert names(path) == {"test-1", "test-2"}


def test_what_is_written_in_the_loop_comes_to_the_disk_with_its_commit(path: Path) -> None:
    """However much it is: SQLite would put out what its cache has no room for, and the loop would wait for the disk."""
    log_path = path.with_name(f"{path.name}-wal")

    def write(connection: sqlite3.Connection) -> tuple[int, Iterable[str]]:
        before = log_path.stat().st_size
        for number in range(64):
            connection.execute("INSERT INTO counters VALUES (?, 1)", (f"test-{number}-{'x' * 65_536}",))
        return log_path.stat().st_size - before, ()

    with committer_on(path) as committer:
        committer.run(counting("test"))  # in the thread, where it may
        assert committer.run(write, quick=True) == 0

    assert len(names(path)) == 65


def test_what_shares_a_transaction_with_something_slow_is_written_beside_the_loop(path: Path) -> None:
    with committer_on(path) as committer:
        before = committer.transactions
        pair = [gevent.spawn(committer.run, counting("test-1"), quick=True), gevent.spawn(committer.run, counting("x"))]
        gevent.joinall(pair, timeout=LIMIT_S, raise_error=True)

        assert committer.transactions == before + 1
        assert thread_id() not in {one.value for one in pair}


def test_the_loop_goes_on_while_another_process_has_the_write_lock(path: Path) -> None:
    patience_ms: list[int] = []  # for the lock, in the loop

    class Watched(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            if statement.startswith("BEGIN") and thread_id() == loops_thread:
                patience_ms.append(super().execute("PRAGMA busy_timeout").fetchone()[0])
            return super().execute(statement, *values)

    def watched(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Watched)

    loops_thread = thread_id()
    with committer_on(path, watched) as committer, closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = gevent.spawn(committer.run, counting("test-1"), quick=True)
        waiting.join(0.05)
        assert not waiting.ready()
        other.execute("COMMIT")

        assert waiting.get(timeout=LIMIT_S) != loops_thread
    assert patience_ms == [0]
    assert names(path) == {"test-1"}


def test_a_quick_one_that_fails_is_undone_alone(path: Path) -> None:
    def refused(connection: sqlite3.Connection) -> tuple[int, Iterable[str]]:
        connection.execute("INSERT INTO counters VALUES ('test-refused', 1)")
        raise JournalUnavailableError("no")

    with committer_on(path) as committer:
        good = [gevent.spawn(committer.run, counting(f"test-{number}"), quick=True) for number in (1, 2)]
        bad = gevent.spawn(committer.run, refused, quick=True)
        gevent.joinall([*good, bad], timeout=LIMIT_S)

    assert isinstance(bad.exception, JournalUnavailableError)
    assert names(path) == {"test-1", "test-2"}


def test_a_database_that_refuses_in_the_loop_fails_the_group_and_no_more(path: Path) -> None:
    def broken(connection: sqlite3.Connection) -> tuple[int, Iterable[str]]:
        connection.execute("INSERT INTO counters VALUES ('test-broken', 1)")
        raise sqlite3.OperationalError("disk I/O error")

    with committer_on(path) as committer:
        with pytest.raises(JournalUnavailableError):
            committer.run(broken, quick=True)
        committer.run(counting("test-after"), quick=True)

    assert names(path) == {"test-after"}


def test_a_waker_that_fails_does_not_stop_the_commits(path: Path) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such watch")

    committer = GroupCommitter(partial(connect, path), number=lambda _: 1, on_commit=fail, announce=lambda *_: None)
    try:
        for name in ("test-1", "test-2"):
            committer.run(lambda connection, name=name: (counting(name)(connection)[0], ["a-topic"]))
    finally:
        committer.stop()

    assert names(path) == {"test-1", "test-2"}
