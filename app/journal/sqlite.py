"""The journal in one SQLite file, for one machine: WAL, ``synchronous=FULL``, group commit, indexed reads in the loop.

Writes go through :mod:`app.journal.writer`. Reads use a connection of the loop's own; each is an indexed lookup or a
bounded range, so it may run in the loop.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from app.errors import JournalUnavailableError
from app.journal import (
    PAGE_BYTES,
    Change,
    Claim,
    Committed,
    Document,
    Event,
    Hold,
    Input,
    Lease,
    Limit,
    Session,
    Watch,
    Watcher,
    sqlite_ages,
    sqlite_hits,
    tally,
)
from app.journal.encoded import Prepared, prepare
from app.journal.sqlite_change import apply, count_live
from app.journal.sqlite_schema import SEQ_BITS, connect
from app.journal.sqlite_schema import prepare as prepare_file
from app.journal.wakeups import Wakeups
from app.journal.writer import GroupCommitter

T = TypeVar("T")
FORGET_MAX = 500
QUICK_ROWS = 8
QUICK_CHARS = 16_384
"""Of JSON; a mebibyte takes SQLite 7 ms."""
DAY_S = 86_400.0
SESSION = "session_id, token_hash, state, created_at, last_active_at, first_seq, last_seq"
INPUT = "i.input_id, s.session_id, i.kind, i.seq, i.key, i.turn_id, i.started_seq, i.takeovers, i.cancelled"
# A clock that was set back must not make a dead worker's lease last: none ends later than its length from now.
HELD = "expires_at > ? AND expires_at <= ? + ttl + 5"
DOCUMENT = "kind, key, version, body, created_at, updated_at"


class SqliteJournal:
    """See :class:`app.journal.Journal`. Belongs to the thread and loop that opened it; one per worker process."""

    def __init__(self, path: Path, *, opened: bool = True, complete: Callable[[Change], Change] | None = None) -> None:
        """
        :param opened: ``False`` touches nothing before :meth:`open`. Raises as that does.
        :param complete: gives each change to commit what else belongs into it.
        """
        self.warnings: Sequence[str] = ()
        self._path = path
        self._complete = complete
        self._closed = True
        if opened:
            self.open()

    def open(self) -> None:
        """Make the file where it is missing, and begin.

        :raises ConfigError: ``JOURNAL_PATH`` cannot be used. :raises JournalUnavailableError: it cannot be opened now.
        """
        path = self._path
        try:
            prepare_file(path)
            self._reader = connect(path, read_only=True)
            self._wakeups = Wakeups(
                path.with_name(path.name + ".wake"), data_version=self._data_version, announced=self._announced
            )
        except sqlite3.Error as exc:
            raise JournalUnavailableError(f"The journal {path} cannot be opened: {exc}.") from exc
        self._writer = GroupCommitter(
            partial(connect, path),
            number=_next_announcement,
            on_commit=self._wakeups.committed,
            announce=self._wakeups.announce,
        )
        self._closed = False

    @property
    def transactions(self) -> int:
        """How many transactions this process has committed."""
        return self._writer.transactions

    # -- writes

    def commit(self, change: Change) -> Committed:
        if self._complete is not None:
            change = self._complete(change)
        prepared = prepare(change)
        committed = self._writer.run(partial(apply, prepared), quick=_is_quick(prepared))
        if not committed.duplicate:
            tally.count(change)
        return committed

    def claim(self, holder: str, *, ttl_s: float, but: Collection[str] = ()) -> Claim | None:
        marks = ", ".join("?" * len(but))

        def operation(connection: sqlite3.Connection) -> tuple[Claim | None, Iterable[str]]:
            now = time.time()
            row = connection.execute(
                f"SELECT {INPUT}, s.number FROM inputs i JOIN sessions s ON s.number = i.session "
                f"LEFT JOIN leases l ON l.name = 'session:' || s.session_id AND {HELD} "
                f"WHERE i.due_at <= ? AND l.name IS NULL AND s.session_id NOT IN ({marks}) "
                # The least recently served session; in it, what was begun and lost, then the oldest.
                "ORDER BY s.served_at, i.turn_id IS NULL, i.input_id LIMIT 1",
                (now, now, now, *but),
            ).fetchone()
            if row is None:
                return None, ()
            connection.execute("UPDATE sessions SET served_at = ? WHERE number = ?", (now, row[-1]))
            found = _input(row[:-1])
            return Claim(found, _take(connection, f"session:{found.session_id}", holder, now + ttl_s, ttl_s)), ()

        if self._read(lambda c: c.execute("SELECT 1 FROM inputs LIMIT 1").fetchone()) is None:
            return None
        return self._writer.run(operation)

    def acquire(self, name: str, holder: str, *, ttl_s: float) -> Lease | None:
        def operation(connection: sqlite3.Connection) -> tuple[Lease | None, Iterable[str]]:
            now = time.time()
            query = f"SELECT 1 FROM leases WHERE name = ? AND {HELD}"
            if connection.execute(query, (name, now, now)).fetchone() is not None:
                return None, ()
            return _take(connection, name, holder, now + ttl_s, ttl_s), ()

        return self._writer.run(operation, quick=True)

    def renew(self, leases: Iterable[Lease], *, ttl_s: float) -> set[Lease]:
        wanted = list(leases)

        def operation(connection: sqlite3.Connection) -> tuple[set[Lease], Iterable[str]]:
            expires_at, lost = time.time() + ttl_s, set()
            update = "UPDATE leases SET expires_at = ?, ttl = ? WHERE name = ? AND holder = ? AND epoch = ?"
            for lease in wanted:
                if not connection.execute(update, (expires_at, ttl_s, lease.name, lease.holder, lease.epoch)).rowcount:
                    lost.add(lease)
            return lost, ()

        return self._writer.run(operation) if wanted else set()

    def release(self, lease: Lease) -> None:
        def operation(connection: sqlite3.Connection) -> tuple[None, Iterable[str]]:
            # The row stays, with no holder: its epoch must never be given twice.
            update = "UPDATE leases SET holder = '', expires_at = 0 WHERE name = ? AND holder = ? AND epoch = ?"
            freed = connection.execute(update, (lease.name, lease.holder, lease.epoch)).rowcount
            return None, ("inputs",) if freed and lease.name.startswith("session:") else ()

        self._writer.run(operation, quick=True)

    def hit(self, limit: Limit) -> float:
        def operation(connection: sqlite3.Connection) -> tuple[float, Iterable[str]]:
            return sqlite_hits.add(connection, limit, time.time()), ()

        # What is refused costs the writer nothing, so that a flood of it holds nobody up.
        wait_s = self._read(lambda c: sqlite_hits.wait_s(c, limit, time.time()))
        return wait_s if wait_s > 0 else self._writer.run(operation, quick=True)

    def take_hit(self, limit: Limit) -> bool:
        def operation(connection: sqlite3.Connection) -> tuple[bool, Iterable[str]]:
            return sqlite_hits.take(connection, limit, time.time()), ()

        counts = self._read(lambda c: sqlite_hits.any_counts(c, limit, time.time()))
        return counts and self._writer.run(operation, quick=True)

    # -- reads

    def events(self, session_id: str, *, after: int = 0, limit: int = 200, types: Sequence[str] = ()) -> list[Event]:
        def read(connection: sqlite3.Connection) -> list[Event]:
            query = "SELECT number FROM sessions WHERE session_id = ?"
            row = connection.execute(query, (session_id,)).fetchone()
            if row is None:
                return []
            low, high = row[0] << SEQ_BITS, (row[0] + 1) << SEQ_BITS
            narrowed = f"AND type IN ({','.join('?' * len(types))}) " if types else ""
            rows = connection.execute(
                "SELECT position, type, frame FROM events WHERE position > ? AND position < ? "
                f"{narrowed}ORDER BY position LIMIT ?",
                (low + min(max(after, 0), high - low - 1), high, *types, limit),
            )
            found, size = [], 0
            for position, kind, frame in rows:
                found.append(Event(session_id, position - low, kind, frame))
                size += len(frame)
                if size > PAGE_BYTES:
                    break
            return found

        return self._read(read)

    def session(self, session_id: str) -> Session | None:
        query = f"SELECT {SESSION} FROM sessions WHERE session_id = ?"
        row = self._read(lambda c: c.execute(query, (session_id,)).fetchone())
        return _session(row) if row else None

    def sessions(self, *, limit: int = 100, state: str | None = None) -> list[Session]:
        states = (state,) if state else ("live", "asleep")
        query = (
            f"SELECT {SESSION} FROM sessions WHERE state IN ({','.join('?' * len(states))}) "
            "ORDER BY last_active_at DESC, number DESC LIMIT ?"
        )
        return [_session(row) for row in self._read(lambda c: c.execute(query, (*states, limit)).fetchall())]

    def idle_sessions(
        self, *, limit: int, before: datetime | None = None, after: Session | None = None
    ) -> list[Session]:
        def read(connection: sqlite3.Connection) -> list[Any]:
            return sqlite_ages.sessions(
                connection,
                f"SELECT {SESSION} FROM sessions",
                "state = 'live' AND NOT EXISTS (SELECT 1 FROM inputs WHERE session = number)",
                before=before,
                after=after,
                limit=limit,
            )

        return [_session(row) for row in self._read(read)]

    def sleep(
        self, session_ids: Sequence[str], *, idle_before: datetime, unless: Sequence[Hold] = (), at_most: int = 1000
    ) -> list[str]:
        return self._writer.run(
            partial(sqlite_ages.sleep, list(session_ids), idle_before.timestamp(), list(unless), at_most)
        )

    def live_sessions(self) -> int:
        return self._read(count_live)

    def pending(self, session_id: str) -> list[Input]:
        query = (
            f"SELECT {INPUT} FROM inputs i JOIN sessions s ON s.number = i.session "
            "WHERE s.session_id = ? ORDER BY i.input_id"
        )
        return [_input(row) for row in self._read(lambda c: c.execute(query, (session_id,)).fetchall())]

    def get(self, kind: str, key: str) -> Document | None:
        query = f"SELECT {DOCUMENT} FROM documents WHERE kind = ? AND key = ?"
        row = self._read(lambda c: c.execute(query, (kind, key)).fetchone())
        return _document(row) if row else None

    def find(self, kind: str, group: str = "", *, limit: int = 100, before: datetime | None = None) -> list[Document]:
        query, values = f"SELECT {DOCUMENT} FROM documents d WHERE kind = ?", [kind]
        if group:
            columns = ", ".join(f"d.{name}" for name in DOCUMENT.split(", "))
            query = (
                f"SELECT {columns} FROM labels l JOIN documents d ON d.number = l.document "
                "WHERE l.kind = ? AND l.label = ?"
            )
            values.append(group)
        bound: list[Any] = list(values)
        if before is not None:
            query += " AND d.created_at < ?"
            bound.append(before.timestamp())
        query += f" ORDER BY {'l.document' if group else 'd.number'} DESC LIMIT ?"
        rows = self._read(lambda c: c.execute(query, (*bound, limit)).fetchall())
        return [_document(row) for row in rows]

    def held(self, name: str) -> bool:
        query, now = f"SELECT 1 FROM leases WHERE name = ? AND {HELD}", time.time()
        return self._read(lambda c: c.execute(query, (name, now, now)).fetchone()) is not None

    # -- the rest

    def forget(self, *, before: datetime) -> int:
        def operation(connection: sqlite3.Connection) -> tuple[int, Iterable[str]]:
            query = "DELETE FROM once WHERE key IN (SELECT key FROM once WHERE at < ? ORDER BY at LIMIT ?)"
            forgotten = connection.execute(query, (before.timestamp(), FORGET_MAX)).rowcount
            # Workers' names are never used again, so their epochs may begin anew.
            connection.execute(
                "DELETE FROM leases WHERE name GLOB 'worker:*' AND expires_at < ?", (time.time() - DAY_S,)
            )
            sqlite_hits.forget(connection, time.time(), FORGET_MAX)
            return forgotten, ()

        return self._writer.run(operation)

    def find_stale(
        self, kind: str, *, before: datetime, limit: int = 100, after: Document | None = None
    ) -> list[Document]:
        def read(connection: sqlite3.Connection) -> list[Any]:
            return sqlite_ages.stale(connection, f"SELECT {DOCUMENT} FROM documents", kind, before, after, limit)

        return [_document(row) for row in self._read(read)]

    def closed_sessions(self, *, before: datetime, limit: int = 100, after: Session | None = None) -> list[Session]:
        def read(connection: sqlite3.Connection) -> list[Any]:
            query = f"SELECT {SESSION} FROM sessions"
            return sqlite_ages.sessions(connection, query, "state = 'closed'", before=before, after=after, limit=limit)

        return [_session(row) for row in self._read(read)]

    def remove(self, session_id: str, *, limit: int) -> bool:
        return self._writer.run(partial(sqlite_ages.remove, session_id, limit))

    def aged_sessions(self, *, before: datetime, limit: int = 100) -> list[str]:
        query = "SELECT session_id FROM sessions WHERE state <> 'closed' AND oldest_at < ? ORDER BY oldest_at LIMIT ?"
        rows = self._read(lambda c: c.execute(query, (before.timestamp(), limit)).fetchall())
        return [session_id for (session_id,) in rows]

    def trim(self, session_id: str, *, before: datetime, keep_from: int | None = None, limit: int) -> int:
        return self._writer.run(partial(sqlite_ages.trim, session_id, before.timestamp(), keep_from, limit))

    def watch(self, *topics: str) -> AbstractContextManager[Watch]:
        return self._wakeups.watch(*topics)

    def add_watcher(self, watcher: Watcher, *topics: str) -> None:
        self._wakeups.add_watcher(watcher, *topics)

    def remove_watcher(self, watcher: Watcher, *topics: str) -> None:
        self._wakeups.remove_watcher(watcher, *topics)

    def check(self) -> None:
        def operation(connection: sqlite3.Connection) -> tuple[None, Iterable[str]]:
            # A value that changes: a full disk takes anything less.
            connection.execute(
                "INSERT INTO counters VALUES ('checks', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )
            return None, ()

        self._writer.run(operation)
        self._read(count_live)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._writer.stop()
            self._wakeups.stop()
            self._reader.close()

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return read(self._reader)
        except sqlite3.Error as exc:
            raise JournalUnavailableError("The journal cannot be read now.") from exc

    def _data_version(self) -> int:
        (version,) = self._reader.execute("PRAGMA data_version").fetchone()
        return int(version)

    def _announced(self) -> int:
        row = self._reader.execute("SELECT value FROM counters WHERE name = 'announcements'").fetchone()
        return int(row[0]) if row else 0


def _is_quick(prepared: Prepared) -> bool:
    """Whether it touches a few small rows only, whatever is in the journal."""
    change, texts = prepared.change, (*prepared.tails, *prepared.bodies)
    several = len(texts) + len(change.deletes) > QUICK_ROWS or sum(map(len, texts)) > QUICK_CHARS
    return not (several or change.drop_deltas or change.close_session)


def _next_announcement(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute(
        "INSERT INTO counters VALUES ('announcements', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 "
        "RETURNING value"
    ).fetchone()
    return int(number)


def _take(connection: sqlite3.Connection, name: str, holder: str, expires_at: float, ttl_s: float) -> Lease:
    (epoch,) = connection.execute(
        "INSERT INTO leases VALUES (?, ?, 1, ?, ?) ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, "
        "epoch = epoch + 1, expires_at = excluded.expires_at, ttl = excluded.ttl RETURNING epoch",
        (name, holder, expires_at, ttl_s),
    ).fetchone()
    return Lease(name, holder, epoch)


def _time(value: float) -> datetime:
    return datetime.fromtimestamp(value, UTC)


def _session(row: Any) -> Session:
    session_id, token_hash, state, created_at, last_active_at, first_seq, last_seq = row
    return Session(session_id, token_hash, state, _time(created_at), _time(last_active_at), first_seq, last_seq)


def _input(row: Any) -> Input:
    input_id, session_id, kind, seq, key, turn_id, started_seq, takeovers, cancelled = row
    return Input(input_id, session_id, kind, seq, key, turn_id, started_seq, takeovers, bool(cancelled))


def _document(row: Any) -> Document:
    kind, key, version, body, created_at, updated_at = row
    return Document(kind, key, version, json.loads(body), _time(created_at), _time(updated_at))
