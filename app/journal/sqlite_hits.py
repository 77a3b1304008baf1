"""The rate limits' counters in SQLite: one row per hit, numbered within its key; exact, and O(1) whatever the limit is.

One more hit fits unless the ``limit``-th newest still counts. So a hit costs two lookups and an insert, a limit may be
changed at any time, and a refused hit writes nothing.
"""

from __future__ import annotations

import sqlite3

from app.journal import Limit

CLOCK_SLACK_S = 5.0
"""A hit that lies further ahead than this was counted before the clock was set back; it must not lock its key."""
TIDY_EVERY, TIDY_MAX = 16, 64
KEPT_S = 3_600.0


def wait_s(connection: sqlite3.Connection, limit: Limit, now: float) -> float:
    """Seconds until one more hit fits; 0 where it does now."""
    return _look(connection, limit, now)[0]


def add(connection: sqlite3.Connection, limit: Limit, now: float) -> float:
    """Count a hit, or leave it and return the seconds until it fits."""
    wait, number, newest_at = _look(connection, limit, now)
    if wait > 0:
        return wait
    # Never before the newest: where the clock went back a little, hits still run out in their order.
    at = newest_at if now < newest_at <= now + CLOCK_SLACK_S else now
    connection.execute("INSERT INTO hits VALUES (?, ?, ?)", (limit.key, number + 1, at))
    if number % TIDY_EVERY == 0:
        connection.execute(
            "DELETE FROM hits WHERE key = ? AND n <= ? AND (at <= ? OR at > ?) "
            "AND n IN (SELECT n FROM hits WHERE key = ? ORDER BY n LIMIT ?)",
            (limit.key, number, now - limit.window_s, now + CLOCK_SLACK_S, limit.key, TIDY_MAX),
        )
    return 0.0


def take(connection: sqlite3.Connection, limit: Limit, now: float) -> bool:
    """Remove the newest hit, where it still counts."""
    if not any_counts(connection, limit, now):
        return False
    newest = "DELETE FROM hits WHERE key = ? AND n = (SELECT max(n) FROM hits WHERE key = ?)"
    connection.execute(newest, (limit.key, limit.key))
    return True


def any_counts(connection: sqlite3.Connection, limit: Limit, now: float) -> bool:
    """Whether a hit still counts; the newest one is the last that would."""
    row = connection.execute("SELECT at FROM hits WHERE key = ? ORDER BY n DESC LIMIT 1", (limit.key,)).fetchone()
    return row is not None and _left_s(row[0], limit, now) > 0


def forget(connection: sqlite3.Connection, now: float, at_most: int) -> None:
    """Remove hits that no window can reach, of keys that nobody uses any more; a bounded number."""
    old = "DELETE FROM hits WHERE (key, n) IN (SELECT key, n FROM hits WHERE at < ? ORDER BY at LIMIT ?)"
    connection.execute(old, (now - KEPT_S, at_most))
    ahead = "DELETE FROM hits WHERE (key, n) IN (SELECT key, n FROM hits WHERE at > ? ORDER BY at DESC LIMIT ?)"
    connection.execute(ahead, (now + KEPT_S, at_most))


def _look(connection: sqlite3.Connection, limit: Limit, now: float) -> tuple[float, int, float]:
    """Seconds to wait; the newest hit's number and time, zeros without one."""
    query = "SELECT n, at FROM hits WHERE key = ? ORDER BY n DESC LIMIT 1"
    number, newest_at = connection.execute(query, (limit.key,)).fetchone() or (0, 0.0)
    query = "SELECT at FROM hits WHERE key = ? AND n = ?"
    row = connection.execute(query, (limit.key, number - limit.limit + 1)).fetchone()
    return (_left_s(row[0], limit, now) if row else 0.0), number, newest_at


def _left_s(at: float, limit: Limit, now: float) -> float:
    """For how long a hit still counts; 0 where it does not, or lies in a future that the clock was set back from."""
    return max(0.0, at + limit.window_s - now) if at <= now + CLOCK_SLACK_S else 0.0
