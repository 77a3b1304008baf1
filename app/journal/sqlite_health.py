"""How the journal's file is, looked at beside whoever uses it: whole, how large, and how much room its disk has."""

from __future__ import annotations

import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from app.errors import JournalUnavailableError
from app.journal.sqlite_schema import connect

STEPS_BETWEEN_LOOKS = 10_000


@dataclass(frozen=True, slots=True)
class Health:
    """:ivar wrong: what SQLite finds wrong with the file, empty where nothing. :ivar whole: it was all looked at."""

    wrong: str
    whole: bool
    size_bytes: int
    free_bytes: int


def look(path: Path, *, limit_s: float) -> Health:
    """Read the file through, for at most ``limit_s``; it can be written meanwhile.

    :raises JournalUnavailableError: it cannot be read.
    """
    deadline = time.monotonic() + limit_s
    try:
        connection = connect(path, read_only=True)
        try:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
            wrong, whole = _quick_check(connection)
        finally:
            connection.close()
        sizes = [file.stat().st_size for file in (path, path.with_name(path.name + "-wal")) if file.exists()]
        return Health(wrong, whole, sum(sizes), shutil.disk_usage(path.parent).free)
    except (sqlite3.Error, OSError) as exc:
        raise JournalUnavailableError("The journal's file cannot be read.") from exc


def _quick_check(connection: sqlite3.Connection) -> tuple[str, bool]:
    try:
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorname == "SQLITE_INTERRUPT":
            return "", False
        raise
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorname.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return "it is not a database any more", True
        raise
    return ("" if said == "ok" else str(said)), True
