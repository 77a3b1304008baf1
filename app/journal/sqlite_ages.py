"""What time does to the SQLite journal: idle sessions fall asleep, and what is too old goes, in bounded steps."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from app.journal import Document, Hold, Session
from app.journal.sqlite_change import set_state
from app.journal.sqlite_schema import SEQ_BITS

AT = 'substr(frame, instr(frame, \'"at":"\') + 6, 24)'
"""When an event was journalled, as its frame says it."""


def sessions(
    connection: sqlite3.Connection,
    query: str,
    where: str,
    *,
    before: datetime | None,
    after: Session | None,
    limit: int,
) -> list[Any]:
    """Sessions in the order of their last use, of this machine's own texts ``query`` and ``where``."""
    values: list[Any] = []
    if before is not None:
        where += " AND last_active_at < ?"
        values.append(before.timestamp())
    if after is not None:
        since = after.last_active_at.timestamp()
        where += (
            " AND last_active_at >= ? AND (last_active_at > ? OR number > "
            "(SELECT number FROM sessions WHERE session_id = ?))"
        )
        values += [since, since, after.session_id]
    return connection.execute(
        f"{query} WHERE {where} ORDER BY last_active_at, number LIMIT ?", (*values, limit)
    ).fetchall()


def sleep(
    session_ids: Sequence[str],
    idle_before: float,
    unless: Sequence[Hold],
    at_most: int,
    connection: sqlite3.Connection,
) -> tuple[list[str], Iterable[str]]:
    """See ``Journal.sleep``."""
    slept: list[str] = []
    for session_id in session_ids:
        if len(slept) >= at_most:
            break
        query = (
            "SELECT number FROM sessions WHERE session_id = ? AND state = 'live' AND last_active_at < ? "
            "AND NOT EXISTS (SELECT 1 FROM inputs WHERE session = number)"
        )
        row = connection.execute(query, (session_id, idle_before)).fetchone()
        if row is None or any(_is_held(session_id, hold, connection) for hold in unless):
            continue
        set_state(connection, row[0], "live", "asleep")
        slept.append(session_id)
    return slept, ()


def _is_held(session_id: str, hold: Hold, connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM labels WHERE kind = ? AND label = ? LIMIT 1"
    return connection.execute(query, (hold.kind, hold.prefix + session_id)).fetchone() is not None


def stale(
    connection: sqlite3.Connection, query: str, kind: str, before: datetime, after: Document | None, limit: int
) -> list[Any]:
    """See ``Journal.find_stale``; ``query`` as in :func:`sessions`."""
    where, values = "kind = ? AND updated_at < ?", [kind, before.timestamp()]
    if after is not None:
        since = after.updated_at.timestamp()
        where += (
            " AND updated_at >= ? AND (updated_at > ? OR number > "
            "coalesce((SELECT number FROM documents WHERE kind = ? AND key = ?), 0))"
        )
        values += [since, since, kind, after.key]
    return connection.execute(f"{query} WHERE {where} ORDER BY updated_at, number LIMIT ?", (*values, limit)).fetchall()


def remove(session_id: str, limit: int, connection: sqlite3.Connection) -> tuple[bool, Iterable[str]]:
    """See ``Journal.remove``."""
    query = "SELECT number FROM sessions WHERE session_id = ? AND state = 'closed'"
    row = connection.execute(query, (session_id,)).fetchone()
    if row is None:
        known = connection.execute("SELECT 1 FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        return known is None, ()
    low, high = row[0] << SEQ_BITS, (row[0] + 1) << SEQ_BITS
    select = "SELECT position FROM events WHERE position > ? AND position < ? ORDER BY position LIMIT ?"
    deleted = connection.execute(f"DELETE FROM events WHERE position IN ({select})", (low, high, limit)).rowcount
    if deleted >= limit:
        # A reader that comes meanwhile is told where the log begins.
        first = connection.execute(select, (low, high, 1)).fetchone()
        update = "UPDATE sessions SET first_seq = coalesce(? - ?, last_seq + 1) WHERE number = ?"
        connection.execute(update, (first[0] if first else None, low, row[0]))
        return False, ()
    connection.execute("DELETE FROM sessions WHERE number = ?", row)
    # The name is never used again, so its epochs need not be remembered.
    connection.execute("DELETE FROM leases WHERE name = ?", (f"session:{session_id}",))
    return True, ()


def trim(
    session_id: str, before: float, keep_from: int | None, limit: int, connection: sqlite3.Connection
) -> tuple[int, Iterable[str]]:
    """See ``Journal.trim``."""
    query = "SELECT number, last_seq FROM sessions WHERE session_id = ? AND state <> 'closed'"
    row = connection.execute(query, (session_id,)).fetchone()
    if row is None:
        return 0, ()
    number, last_seq = row
    low = number << SEQ_BITS
    needed = (
        "SELECT min(CASE WHEN started_seq > 0 AND turn_id IS NOT NULL THEN min(seq, started_seq) ELSE seq END) "
        "FROM inputs WHERE session = ?"
    )
    (unanswered,) = connection.execute(needed, (number,)).fetchone()
    end = min(seq for seq in (unanswered, keep_from, last_seq + 1) if seq is not None)
    old = _iso(before)
    rows = connection.execute(
        f"SELECT position, {AT} FROM events WHERE position > ? AND position < ? ORDER BY position LIMIT ?",
        (low, (number + 1) << SEQ_BITS, limit + 1),
    ).fetchall()
    gone = 0
    while gone < min(len(rows), limit) and rows[gone][0] - low < end and rows[gone][1] < old:
        gone += 1
    if gone:
        connection.execute("DELETE FROM events WHERE position > ? AND position <= ?", (low, rows[gone - 1][0]))
    if gone < len(rows):
        first_seq, oldest_at = rows[gone][0] - low, _seconds(rows[gone][1])
    else:
        first_seq, oldest_at = last_seq + 1, None
    if oldest_at is not None and oldest_at < before and gone < limit:
        oldest_at = time.time()  # it is still needed
    update = "UPDATE sessions SET first_seq = max(first_seq, ?), oldest_at = ? WHERE number = ?"
    connection.execute(update, (first_seq, oldest_at, number))
    return gone, ()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z"


def _seconds(at: str) -> float:
    return datetime.strptime(at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
