"""What only the SQLite journal has: one file, one writer at a time, a disk that can be full."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey

from app.errors import BaseError, ConfigError, JournalUnavailableError
from app.journal import Change, Lease, Limit, Put
from app.journal.sqlite import SqliteJournal
from app.journal.sqlite_schema import FIRST

from .backends import sqlite as sqlite_backend
from .steps import (
    DEADLINE_S,
    acquired,
    append,
    ask,
    message,
    open_session,
    run_python,
    start_python,
    texts,
    together,
    until,
    use,
)

ANSWER_BOUND_S = 15.0
MEGABYTE = "x" * 1_000_000
thread_id: Callable[[], int] = monkey.get_original("_thread", "get_ident")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(path)) as journal:
        yield journal


@pytest.fixture
def source(path: Path) -> Iterator[str]:
    with sqlite_backend(path.parent) as backend:
        yield backend.source


@contextmanager
def locked(path: Path, how: str = "IMMEDIATE") -> Iterator[Callable[[], object]]:
    """Somebody else's write transaction, until the block ends or what it yields is called."""
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute(f"BEGIN {how}")
        yield partial(stranger.execute, "ROLLBACK")
        if stranger.in_transaction:
            stranger.execute("ROLLBACK")


# The file


def test_the_file_has_a_write_ahead_log(journal: SqliteJournal, path: Path) -> None:
    append(journal, open_session(journal))

    with closing(sqlite3.connect(path)) as stranger:
        assert stranger.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_every_connection_waits_for_the_disk(source: str) -> None:
    synchronous = run_python(
        "import sys\n"
        "connections = []\n"
        "def collect(event, args):\n"
        "    if event == 'sqlite3.connect/handle':\n"
        "        connections.append(args[0])\n"
        "sys.addaudithook(collect)\n"
        f"{source}\n"
        "from app.journal import Change, OpenSession\n"
        "journal.commit(Change('s', open_session=OpenSession('hash', 1)))\n"
        "for connection in connections:\n"
        "    try:\n"
        "        print(*connection.execute('PRAGMA synchronous').fetchone())\n"
        "    except Exception as error:\n"
        "        assert 'closed database' in str(error), error\n"
        "journal.close()\n"
    )

    assert set(synchronous.split()) == {"2"}, "FULL"


def test_the_folder_is_made_where_it_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "var" / "lib" / "journal.db"

    with closing(SqliteJournal(path)) as journal:
        append(journal, open_session(journal))

    assert path.is_file()


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(ConfigError, match="JOURNAL_PATH"):
        SqliteJournal(tmp_path / "file" / "journal.db")


def test_a_path_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, JournalUnavailableError)):
        SqliteJournal(tmp_path)


def test_a_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    with closing(SqliteJournal(path)) as journal:
        session_id = open_session(journal)
    with closing(sqlite3.connect(path)) as stranger:
        (version,) = stranger.execute("PRAGMA user_version").fetchone()
        assert version > 0
        stranger.execute(f"PRAGMA user_version = {version + 1}")

    with pytest.raises(ConfigError, match="JOURNAL_PATH"):
        SqliteJournal(path)

    with closing(sqlite3.connect(path)) as stranger:
        assert stranger.execute("PRAGMA user_version").fetchone() == (version + 1,)
        stranger.execute(f"PRAGMA user_version = {version}")
    with closing(SqliteJournal(path)) as journal:
        assert journal.session(session_id) is not None


def test_a_file_of_the_first_version_is_taken_on_as_it_is(path: Path) -> None:
    began = time.time() - 3600
    with closing(sqlite3.connect(path)) as old:
        for statement in FIRST.split(";\n"):
            old.execute(statement)
        session = "(number, session_id, token_hash, state, created_at, last_active_at, last_seq)"
        old.execute(f"INSERT INTO sessions {session} VALUES (1, 's', 'hash', 'asleep', ?, ?, 1)", (began, began))
        frame = '{"type":"user_message","seq":1,"at":"2020-01-01T00:00:00.000Z","data":{"text":"old"}}'
        old.execute("INSERT INTO events VALUES (1 << 32 | 1, 'user_message', NULL, ?)", (frame,))
        old.execute("PRAGMA user_version = 1")
        old.commit()

    with closing(SqliteJournal(path)) as journal:
        assert texts(journal, "s") == ["old"]
        use(journal, "s")
        assert journal.live_sessions() == 1
        assert append(journal, "s", "new").seq == 2
        assert journal.aged_sessions(before=datetime.now(UTC)) == ["s"]
        assert journal.trim("s", before=datetime.fromtimestamp(began, UTC), limit=10) == 1
        assert texts(journal, "s") == ["new"]
    with closing(SqliteJournal(path)) as journal:
        assert texts(journal, "s") == ["new"]


def test_a_file_that_is_no_journal_is_left_alone(path: Path) -> None:
    path.write_bytes(b"somebody's precious text\n" * 1000)

    with pytest.raises(BaseError):
        SqliteJournal(path)

    assert path.read_bytes() == b"somebody's precious text\n" * 1000


def test_workers_that_start_at_once_on_a_new_file_all_come_up(source: str, path: Path) -> None:
    begin = "import sys\nsys.stdin.readline()\n"
    write = (
        "from app.journal import Change, OpenSession\n"
        "journal.commit(Change(sys.argv[1], open_session=OpenSession('hash', 100)))\n"
        "journal.close()\n"
    )
    workers = [start_python(begin + source + write, f"session {n}", stdin=subprocess.PIPE) for n in range(6)]
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()

    try:
        for worker in workers:
            worker.communicate(timeout=DEADLINE_S)
    finally:
        for worker in workers:
            worker.kill()

    assert [worker.returncode for worker in workers] == [0] * 6
    with closing(SqliteJournal(path)) as journal:
        assert journal.live_sessions() == 6


def test_a_new_file_waits_for_whoever_is_making_it(path: Path) -> None:
    """SQLite itself refuses the switch to a write-ahead log at once where somebody else is about to write."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as maker:
        maker.execute("BEGIN IMMEDIATE")
        done = threading.Timer(0.05, partial(maker.execute, "ROLLBACK"))
        done.start()
        SqliteJournal(path).close()
        done.join()


def test_the_write_ahead_log_does_not_grow_without_end(journal: SqliteJournal, path: Path) -> None:
    session_id = open_session(journal)
    with closing(SqliteJournal(path)) as reader, reader.watch(f"session:{session_id}") as watch:
        for _ in range(60):
            seq = append(journal, session_id, MEGABYTE).seq
            watch.wait(0)
            assert len(reader.events(session_id, after=seq - 1, limit=1)) == 1

    assert path.with_name("journal.db-wal").stat().st_size < 30_000_000


# A database that is locked


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_locked_database_is_reported_and_then_works_again(journal: SqliteJournal, path: Path, how: str) -> None:
    session_id = open_session(journal)
    append(journal, session_id, "before")

    with locked(path, how):
        began = time.monotonic()
        with pytest.raises(JournalUnavailableError):
            append(journal, session_id, "while it was locked")
        assert time.monotonic() - began < ANSWER_BOUND_S

    append(journal, session_id, "after")
    assert texts(journal, session_id) == ["before", "after"]


def test_everything_that_writes_says_that_the_database_is_locked(journal: SqliteJournal, path: Path) -> None:
    session_id = open_session(journal)
    ask(journal, session_id)
    lease = acquired(journal, "sweep")
    writes: dict[str, Callable[[], object]] = {
        "commit": partial(append, journal, session_id),
        "sleep": partial(journal.sleep, [session_id], idle_before=datetime.now(UTC)),
        "trim": partial(journal.trim, session_id, before=datetime.now(UTC), limit=10),
        "remove": partial(journal.remove, session_id, limit=10),
        "claim": partial(journal.claim, "worker", ttl_s=60),
        "acquire": partial(journal.acquire, "poll", "worker", ttl_s=60),
        "renew": partial(journal.renew, [lease], ttl_s=60),
        "release": partial(journal.release, lease),
        "check": journal.check,
    }

    with locked(path):
        outcomes = dict(zip(writes, together(writes.values()), strict=True))

    assert {name: type(outcome) for name, outcome in outcomes.items()} == dict.fromkeys(writes, JournalUnavailableError)
    journal.check()
    assert journal.held("sweep")
    assert not journal.held("poll")
    session = journal.session(session_id)
    assert session is not None
    assert session.state == "live"
    assert texts(journal, session_id) == ["hello"]


def test_many_writers_are_all_told_that_the_database_is_locked(journal: SqliteJournal, path: Path) -> None:
    session_id = open_session(journal)

    with locked(path):
        outcomes = together(partial(append, journal, session_id, f"locked {n}") for n in range(50))
    assert {type(outcome) for outcome in outcomes} == {JournalUnavailableError}

    together(partial(append, journal, session_id, f"free {n}") for n in range(50))
    assert sorted(texts(journal, session_id)) == sorted(f"free {n}" for n in range(50))


def test_a_commit_waits_for_a_lock_without_holding_up_the_loop(journal: SqliteJournal, path: Path) -> None:
    session_id = open_session(journal)

    with locked(path) as unlock:
        writer = gevent.spawn(append, journal, session_id, "patient")
        gevent.sleep(0.1)
        assert not writer.ready()
        unlock()
        writer.get(timeout=DEADLINE_S)

    assert texts(journal, session_id) == ["patient"]


def test_reads_never_wait_for_a_write(journal: SqliteJournal, path: Path) -> None:
    session_id = open_session(journal)
    ask(journal, session_id)
    journal.commit(Change(puts=[Put("note", "k", {}, groups=("g",))]))
    lease = acquired(journal, "sweep")

    with locked(path, "EXCLUSIVE"):
        began = time.monotonic()
        for _ in range(20):
            assert len(journal.events(session_id)) == len(journal.pending(session_id)) == 1
            assert journal.session(session_id) == journal.sessions()[0]
            assert journal.get("note", "k") == journal.find("note", "g")[0]
            assert journal.live_sessions() == 1
            assert journal.held(lease.name)
        assert time.monotonic() - began < 2, "one wait for the lock alone would take longer"


def test_a_lease_is_not_lost_by_a_lock_that_goes_away(journal: SqliteJournal, path: Path) -> None:
    lease = acquired(journal, "sweep")

    with locked(path), pytest.raises(JournalUnavailableError):
        journal.renew([lease], ttl_s=60)

    assert journal.renew([lease], ttl_s=60) == set()


# A disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk has no end")


def test_a_full_disk_is_reported_and_then_works_again(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    with closing(SqliteJournal(path)) as journal:
        session_id = open_session(journal)
        append(journal, session_id, "before")
        ballast = fill(small_disk)

        for _ in range(3):
            with pytest.raises(JournalUnavailableError):
                append(journal, session_id, "full", MEGABYTE)
        assert texts(journal, session_id) == ["before"]

        ballast.unlink()
        append(journal, session_id, "after", MEGABYTE)
        assert texts(journal, session_id) == ["before", "after", MEGABYTE]

    with closing(SqliteJournal(path)) as reopened:
        assert texts(reopened, session_id) == ["before", "after", MEGABYTE]


def test_a_disk_that_fills_up_keeps_all_that_was_acknowledged(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    acknowledged: list[str] = []
    with closing(SqliteJournal(path)) as journal:
        session_id = open_session(journal)

        def write(name: str) -> None:
            for n in range(40):
                text = f"{name} {n} " + "x" * 100_000
                append(journal, session_id, text)
                acknowledged.append(text)

        outcomes = together(partial(write, str(n)) for n in range(8))

        assert {type(outcome) for outcome in outcomes} == {JournalUnavailableError}
        assert sorted(texts(journal, session_id)) == sorted(acknowledged)
    with closing(sqlite3.connect(path)) as stranger:
        assert stranger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with closing(SqliteJournal(path)) as reopened:
        assert sorted(texts(reopened, session_id)) == sorted(acknowledged)


def test_a_check_fails_where_a_write_would(small_disk: Path) -> None:
    with closing(SqliteJournal(small_disk / "journal.db")) as journal:
        session_id = open_session(journal)
        ballast = fill(small_disk)
        with pytest.raises(JournalUnavailableError):
            append(journal, session_id, MEGABYTE)
        smallest_write = partial(use, journal, session_id)
        until(lambda: isinstance(together([smallest_write])[0], JournalUnavailableError))

        with pytest.raises(JournalUnavailableError):
            journal.check()

        ballast.unlink()
        journal.check()


LIMITED_FILES = """
import json, resource
from app.errors import JournalUnavailableError
from app.journal import Change, NewEvent, OpenSession

def write(text):
    try:
        journal.commit(Change("s", events=[NewEvent("user_message", {"text": text})]))
    except JournalUnavailableError:
        return False
    return True

journal.commit(Change("s", open_session=OpenSession("hash", 1)))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
accepted = [write("before")]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
accepted += [write("x" * 1_000_000), write("y" * 1_000_000)]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
accepted += [write("after")]
journal.close()
print(json.dumps(accepted))
"""


def test_a_file_that_may_not_grow_is_reported_and_then_works_again(source: str, path: Path) -> None:
    accepted = json.loads(run_python(source + LIMITED_FILES))

    assert accepted == [True, False, False, True]
    with closing(SqliteJournal(path)) as journal:
        assert texts(journal, "s") == ["before", "after"]


# Neighbours and limits of the process


def test_a_worker_without_a_file_descriptor_left_gets_over_it(journal: SqliteJournal, path: Path) -> None:
    session_id = open_session(journal)
    acknowledged: list[str] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    with closing(SqliteJournal(path)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            for n in range(3):
                with suppress(JournalUnavailableError):
                    append(journal, session_id, f"without {n}")
                    acknowledged.append(f"without {n}")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        append(journal, session_id, "with")

    assert texts(journal, session_id) == [*acknowledged, "with"]


def test_wake_ups_do_not_need_what_lies_beside_the_file(journal: SqliteJournal, path: Path) -> None:
    session_id = open_session(journal)
    with closing(SqliteJournal(path)) as other, other.watch(f"session:{session_id}") as watch:
        for beside in path.parent.iterdir():
            if beside.is_dir():
                shutil.rmtree(beside)
        while watch.wait(0):
            pass

        for n in range(3):
            append(journal, session_id, str(n))
            while len(texts(other, session_id)) <= n:
                assert watch.wait(DEADLINE_S) is True


def test_commits_of_other_workers_are_not_only_noticed_by_looking_now_and_then(
    journal: SqliteJournal, path: Path
) -> None:
    session_id = open_session(journal)
    began = time.monotonic()

    with closing(SqliteJournal(path)) as other, other.watch(f"session:{session_id}") as watch:
        for n in range(40):
            append(journal, session_id, str(n))
            assert watch.wait(DEADLINE_S) is True
            assert len(texts(other, session_id)) == n + 1

    assert time.monotonic() - began < 15, "a look a second would take longer"


# Group commit


def test_many_commits_at_once_share_transactions(journal: SqliteJournal) -> None:
    session_id = open_session(journal)
    before = journal.transactions

    outcomes = together(partial(append, journal, session_id, str(n)) for n in range(200))

    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert 0 < journal.transactions - before <= 200 / 4
    assert sorted(texts(journal, session_id)) == sorted(str(n) for n in range(200))


class Watched(list[Lease]):
    """Fences that remember in which thread they were looked at."""

    thread = 0

    def __iter__(self) -> Iterator[Lease]:
        self.thread = thread_id()
        return super().__iter__()


def test_a_large_change_is_written_beside_the_loop(journal: SqliteJournal) -> None:
    small, large = Watched(), Watched()
    session_id = open_session(journal)

    journal.commit(Change(session_id, events=[message("hello")], fences=small))
    journal.commit(Change(session_id, events=[message(MEGABYTE)], fences=large))

    assert small.thread == thread_id()
    assert large.thread not in (0, thread_id())


def test_a_commit_alone_is_a_transaction_of_its_own(journal: SqliteJournal) -> None:
    session_id = open_session(journal)
    before = journal.transactions

    for _ in range(10):
        append(journal, session_id)

    assert journal.transactions - before == 10


def test_a_refusal_in_a_group_undoes_nothing_of_the_others(journal: SqliteJournal) -> None:
    session_id = open_session(journal)
    lost = Lease("never", "worker", 1)

    outcomes = together(
        partial(journal.commit, Change(session_id, events=[message(str(n))], fences=[lost] if n % 2 else []))
        for n in range(100)
    )

    assert [isinstance(outcome, Exception) for outcome in outcomes] == [bool(n % 2) for n in range(100)]
    assert sorted(texts(journal, session_id)) == sorted(str(n) for n in range(0, 100, 2))


def test_a_change_that_sqlite_refuses_fails_alone(journal: SqliteJournal) -> None:
    session_id = open_session(journal)
    impossible: Any = object()

    broken = Change(puts=[Put("note", impossible, {})])

    outcomes = together(
        partial(append, journal, session_id, str(n)) if n % 10 else partial(journal.commit, broken) for n in range(30)
    )

    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Exception)] == [0, 10, 20]


def test_a_damaged_file_is_reported_as_unavailable(path: Path) -> None:
    with closing(SqliteJournal(path)) as journal:
        open_session(journal)
    with closing(sqlite3.connect(path)) as stranger:
        stranger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = stranger.execute("SELECT rootpage FROM sqlite_master WHERE name = 'documents'").fetchone()
    with closing(SqliteJournal(path)) as journal:
        with path.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(b"\xff" * 4096)

        with pytest.raises(JournalUnavailableError):
            journal.commit(Change(puts=[Put("note", "n", {})]))


def test_what_is_due_at_once_is_so_by_any_clock(journal: SqliteJournal, path: Path) -> None:
    ask(journal, open_session(journal))

    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT due_at FROM inputs").fetchall() == [(0.0,)]


def test_a_file_of_the_first_version_is_taken_over(path: Path) -> None:
    with closing(sqlite3.connect(path)) as stranger:
        stranger.executescript(f"PRAGMA journal_mode = WAL; {FIRST}; PRAGMA user_version = 1")
        stranger.execute("INSERT INTO once VALUES ('kept', 0, '{}', 1)")
        stranger.commit()

    with closing(SqliteJournal(path)) as journal:
        session_id = open_session(journal)
        append(journal, session_id, "goes on")
        assert [journal.hit(Limit("k", 1)) == 0 for _ in range(2)] == [True, False]

    with closing(SqliteJournal(path)) as journal:
        assert texts(journal, session_id) == ["goes on"]
        assert journal.forget(before=datetime.now(UTC)) == 1


def test_a_refused_hit_does_not_wait_for_a_writer(path: Path, journal: SqliteJournal) -> None:
    one = Limit("k", 1)
    assert journal.hit(one) == 0
    committed = journal.transactions
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")

        assert journal.hit(one) > 0
        assert journal.take_hit(Limit("nobody's", 1)) is False
        with pytest.raises(JournalUnavailableError):
            journal.hit(Limit("another", 1))
    assert journal.transactions == committed


def test_a_clock_that_was_set_back_locks_no_key(path: Path, journal: SqliteJournal) -> None:
    wanted = Limit("k", 3)
    assert [journal.hit(wanted) for _ in range(3)] == [0, 0, 0]
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("UPDATE hits SET at = at + 3600")

    assert journal.take_hit(wanted) is False
    assert [journal.hit(wanted) == 0 for _ in range(4)] == [True, True, True, False]
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("UPDATE hits SET at = at + 2 WHERE n > 3")
    assert journal.take_hit(wanted) is True, "a little ahead is still believed"
    assert [journal.hit(wanted) == 0 for _ in range(2)] == [True, False]


def test_hits_that_no_longer_count_leave_the_file(path: Path, journal: SqliteJournal) -> None:
    for _ in range(20):
        together([partial(journal.hit, Limit("busy", 1000, 0.01)) for _ in range(50)])
        gevent.sleep(0.011)
    together([partial(journal.hit, Limit(f"seen once {n}", 10)) for n in range(100)])
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        (busy,) = stranger.execute("SELECT count(*) FROM hits WHERE key = 'busy'").fetchone()
        assert busy < 200
        stranger.execute("UPDATE hits SET at = at - 3700")

    journal.forget(before=datetime.now(UTC))

    with closing(sqlite3.connect(path)) as stranger:
        assert stranger.execute("SELECT count(*) FROM hits").fetchone() == (0,)


def test_a_journal_that_cannot_be_opened_is_named_with_the_reason(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)

    with pytest.raises(JournalUnavailableError) as refused:
        SqliteJournal(path)

    assert refused.value.detail == f"The journal {path} cannot be opened: file is not a database."


def test_only_its_owner_reads_the_file_and_what_lies_beside_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
            open_session(journal)
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("journal.db*") if path.is_file()}
    finally:
        os.umask(before)
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}
