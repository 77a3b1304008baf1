"""One :class:`Change` applied to SQLite. The writer undoes what an operation wrote before it was refused."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable

from app.errors import (
    LeaseLostError,
    RateLimitError,
    SessionNotFoundError,
    StaleDocumentError,
    TooManyPendingError,
    TooManySessionsError,
)
from app.journal import Activity, Change, Committed, NewInput, Put, sqlite_hits
from app.journal.encoded import Prepared, delta_of
from app.journal.sqlite_schema import SEQ_BITS

Row = tuple[int, str, int]
"""A session's number, state and last event number."""


def apply(prepared: Prepared, connection: sqlite3.Connection) -> tuple[Committed, Iterable[str]]:
    """Check and write. Returns what became of it and the topics to wake.

    :raises BaseError: as ``Journal.commit`` says; nothing was written then.
    """
    # Whole microseconds, as a datetime has them: a time that was read is the time that is compared with.
    change, now = prepared.change, round(time.time(), 6)
    execute = connection.execute
    if change.once is not None:
        known = execute("SELECT seq, result FROM once WHERE key = ?", (change.once.key,)).fetchone()
        if known is not None:
            return Committed((known[0],) if known[0] else (), True, json.loads(known[1])), ()
    _check_fences(change, connection)
    _check_versions(change, connection)
    session = _check_session(change, connection, now)
    if change.limit is not None:
        wait_s = sqlite_hits.add(connection, change.limit, now)
        if wait_s > 0:
            raise RateLimitError("Too many; come back later.", retry_after_s=max(1, math.ceil(wait_s)))
    _check_inputs(change, session, connection)

    seqs: tuple[int, ...] = ()
    topics = set(change.wake)
    if session is not None:
        number, _, last_seq = session
        if change.drop_deltas:
            _drop_deltas(change, number, connection)
        if change.events:
            seqs = tuple(range(last_seq + 1, last_seq + 1 + len(change.events)))
            _append(prepared, number, seqs, now, connection)
            topics.add(f"session:{change.session_id}")
        topics.update(_write_inputs(change, number, seqs, now, connection))
        if change.close_session:
            set_state(connection, number, session[1], "closed")
            stopped = execute("DELETE FROM inputs WHERE session = ? RETURNING turn_id", (number,)).fetchall()
            topics.update(f"turn:{turn_id}" for (turn_id,) in stopped if turn_id)
            topics.add(f"session:{change.session_id}")
    for put, body in zip(change.puts, prepared.bodies, strict=True):
        _put(put, body, now, connection)
    for delete in change.deletes:
        _delete(delete.kind, delete.key, connection)
    if change.once is not None:
        row = (change.once.key, seqs[0] if seqs else 0, prepared.result, now)
        execute("INSERT INTO once VALUES (?, ?, ?, ?)", row)
    return Committed(seqs, False, change.once.result if change.once else {}), topics


def set_state(connection: sqlite3.Connection, number: int, old: str, new: str) -> None:
    """Move a session between ``live``, ``asleep`` and ``closed``, and keep the count of live ones."""
    connection.execute("UPDATE sessions SET state = ? WHERE number = ?", (new, number))
    step = (new == "live") - (old == "live")
    if step:
        connection.execute("UPDATE counters SET value = value + ? WHERE name = 'live_sessions'", (step,))


def count_live(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM counters WHERE name = 'live_sessions'").fetchone()
    return int(row[0])


def _check_fences(change: Change, connection: sqlite3.Connection) -> None:
    for lease in change.fences:
        row = connection.execute("SELECT holder, epoch FROM leases WHERE name = ?", (lease.name,)).fetchone()
        if row != (lease.holder, lease.epoch):
            raise LeaseLostError(f"The lease {lease.name} has moved on.")


def _check_versions(change: Change, connection: sqlite3.Connection) -> None:
    expected = [(e.kind, e.key, e.version) for e in change.expects]
    expected += [(put.kind, put.key, put.expect) for put in change.puts if put.expect is not None]
    expected += [(gone.kind, gone.key, gone.expect) for gone in change.deletes if gone.expect is not None]
    for kind, key, version in expected:
        row = connection.execute("SELECT version FROM documents WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        if (row[0] if row else 0) != version:
            raise StaleDocumentError(f"The {kind} {key} changed meanwhile.")


def _check_session(change: Change, connection: sqlite3.Connection, now: float) -> Row | None:
    if change.session_id is None:
        return None
    opening = change.open_session
    query = "SELECT number, state, last_seq FROM sessions WHERE session_id = ?"
    row: Row | None = connection.execute(query, (change.session_id,)).fetchone()
    if opening is None:
        waking = change.activity is not None and change.activity.must_wake
        needs_session = change.events or change.add or change.start or change.close_session or waking
        if needs_session and (row is None or row[1] == "closed"):
            raise SessionNotFoundError("No open session has this id.")
        if row is not None and change.activity is not None:
            return _use(row, change.activity, connection, now)
        return row
    if row is not None:
        raise StaleDocumentError("A session with this id exists.")
    if count_live(connection) >= opening.max_live:
        raise TooManySessionsError(f"{opening.max_live} sessions are live.")
    cursor = connection.execute(
        "INSERT INTO sessions (session_id, token_hash, state, created_at, last_active_at) VALUES (?, ?, '', ?, ?)",
        (change.session_id, opening.token_hash, now, now),
    )
    number = cursor.lastrowid or 0
    set_state(connection, number, "", "live")
    return number, "live", 0


def _use(row: Row, activity: Activity, connection: sqlite3.Connection, now: float) -> Row:
    number, state, last_seq = row
    if state == "asleep":
        if count_live(connection) < activity.max_live:
            set_state(connection, number, state, "live")
            state = "live"
        elif activity.must_wake:
            raise TooManySessionsError(f"{activity.max_live} sessions are live.")
    if state != "closed":
        connection.execute("UPDATE sessions SET last_active_at = ? WHERE number = ?", (now, number))
    return number, state, last_seq


def _check_inputs(change: Change, session: Row | None, connection: sqlite3.Connection) -> None:
    if session is None:
        return
    number = session[0]
    if change.add is not None and change.max_pending is not None:
        query = "SELECT count(*) FROM inputs WHERE session = ? AND kind = ?"
        (pending,) = connection.execute(query, (number, change.add.kind)).fetchone()
        if change.answer is not None:
            answered = connection.execute(f"{query} AND input_id = ?", (number, change.add.kind, change.answer))
            pending -= answered.fetchone()[0]
        if pending >= change.max_pending:
            raise TooManyPendingError(f"{pending} messages wait for an answer already.")
    if change.cancel_turn is not None:
        query = "SELECT 1 FROM inputs WHERE session = ? AND turn_id = ?"
        if connection.execute(query, (number, change.cancel_turn)).fetchone() is None:
            raise StaleDocumentError("This turn is not running.")
    for input_id in {change.answer, change.start.input_id if change.start else None} - {None}:
        query = "SELECT 1 FROM inputs WHERE session = ? AND input_id = ?"
        if connection.execute(query, (number, input_id)).fetchone() is None:
            raise StaleDocumentError("This input is answered already.")


def _append(prepared: Prepared, number: int, seqs: tuple[int, ...], now: float, connection: sqlite3.Connection) -> None:
    seconds, milliseconds = divmod(int(now * 1000), 1000)
    at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"
    rows = []
    for event, tail, seq in zip(prepared.change.events, prepared.tails, seqs, strict=True):
        frame = f'{{"type":"{event.type}","seq":{seq},"at":"{at}",{tail}'
        rows.append((number << SEQ_BITS | seq, event.type, delta_of(event), frame))
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
    update = "UPDATE sessions SET last_seq = ?, last_active_at = ?, oldest_at = coalesce(oldest_at, ?) WHERE number = ?"
    connection.execute(update, (seqs[-1], now, now, number))


def _drop_deltas(change: Change, number: int, connection: sqlite3.Connection) -> None:
    low, high = number << SEQ_BITS, (number + 1) << SEQ_BITS
    query = "DELETE FROM events WHERE message_id = ? AND position > ? AND position < ?"
    connection.executemany(query, [(message_id, low, high) for message_id in change.drop_deltas])


def _write_inputs(
    change: Change, number: int, seqs: tuple[int, ...], now: float, connection: sqlite3.Connection
) -> set[str]:
    topics = set()
    if change.add is not None:
        _add_input(change.add, number, seqs, now, connection)
        topics.add("inputs")
    if change.start is not None:
        started = (seq for event, seq in zip(change.events, seqs, strict=True) if event.type == "turn_started")
        connection.execute(
            "UPDATE inputs SET turn_id = ?, started_seq = ?, takeovers = ?, cancelled = 0 WHERE input_id = ?",
            (change.start.turn_id, next(started, 0), change.start.takeovers, change.start.input_id),
        )
        if change.start.turn_id is None:
            topics.add("inputs")
    if change.answer is not None:
        connection.execute("DELETE FROM inputs WHERE input_id = ?", (change.answer,))
        topics.add("inputs")
    if change.postpone is not None:
        update = "UPDATE inputs SET due_at = ? WHERE session = ? AND input_id = ?"
        connection.execute(update, (now + change.postpone.delay_s, number, change.postpone.input_id))
    if change.cancel_turn is not None:
        update = "UPDATE inputs SET cancelled = 1 WHERE session = ? AND turn_id = ?"
        connection.execute(update, (number, change.cancel_turn))
        topics.add(f"turn:{change.cancel_turn}")
    return topics


def _add_input(add: NewInput, number: int, seqs: tuple[int, ...], now: float, connection: sqlite3.Connection) -> None:
    seq = add.seq if add.seq is not None else seqs[add.event or 0]
    # What is due at once is so whatever the clock says later: it may be set back.
    due_at = now + add.delay_s if add.delay_s else 0.0
    connection.execute(
        "INSERT INTO inputs (session, kind, seq, key, due_at) VALUES (?, ?, ?, ?, ?)",
        (number, add.kind, seq, add.key, due_at),
    )


def _put(put: Put, body: str, now: float, connection: sqlite3.Connection) -> None:
    (document,) = connection.execute(
        "INSERT INTO documents (kind, key, version, body, created_at, updated_at) VALUES (?, ?, 1, ?, ?, ?) "
        "ON CONFLICT (kind, key) DO UPDATE SET version = version + 1, body = excluded.body, "
        "updated_at = excluded.updated_at RETURNING number",
        (put.kind, put.key, body, now, now),
    ).fetchone()
    labels = connection.execute("SELECT label FROM labels WHERE document = ?", (document,)).fetchall()
    if {label for (label,) in labels} != set(put.groups):
        connection.execute("DELETE FROM labels WHERE document = ?", (document,))
        rows = [(put.kind, label, document) for label in dict.fromkeys(put.groups)]
        connection.executemany("INSERT INTO labels VALUES (?, ?, ?)", rows)


def _delete(kind: str, key: str, connection: sqlite3.Connection) -> None:
    row = connection.execute("SELECT number FROM documents WHERE kind = ? AND key = ?", (kind, key)).fetchone()
    if row is not None:
        connection.execute("DELETE FROM labels WHERE document = ?", row)
        connection.execute("DELETE FROM documents WHERE number = ?", row)
