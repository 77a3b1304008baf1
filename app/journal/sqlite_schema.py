"""The SQLite journal's file: its tables, how a connection to it is opened, and where it may not lie."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from app.errors import ConfigError

BUSY_TIMEOUT_S = 2.0
SEQ_BITS = 32
"""An event's row id is its session's number and its own: ``number << SEQ_BITS | seq``. One B-tree, in reading order."""

NETWORK_FILE_SYSTEMS = {
    *("afs", "ceph", "cifs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "lustre"),
    *("nfs", "nfs4", "smb3", "smbfs"),
}

FIRST = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    token_hash TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at REAL NOT NULL,
    last_active_at REAL NOT NULL,
    served_at REAL NOT NULL DEFAULT 0,
    first_seq INTEGER NOT NULL DEFAULT 1,
    last_seq INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX sessions_by_state ON sessions (state);
CREATE TABLE events (position INTEGER PRIMARY KEY, type TEXT NOT NULL, message_id TEXT, frame TEXT NOT NULL);
CREATE INDEX deltas ON events (message_id) WHERE message_id IS NOT NULL;
CREATE TABLE inputs (
    input_id INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    kind TEXT NOT NULL,
    seq INTEGER NOT NULL,
    key TEXT NOT NULL,
    due_at REAL NOT NULL,
    turn_id TEXT,
    started_seq INTEGER NOT NULL DEFAULT 0,
    takeovers INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX inputs_by_session ON inputs (session, input_id);
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    ttl REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    UNIQUE (kind, key)
);
CREATE TABLE labels (
    kind TEXT NOT NULL,
    label TEXT NOT NULL,
    document INTEGER NOT NULL,
    PRIMARY KEY (kind, label, document)
) WITHOUT ROWID;
CREATE INDEX labels_by_document ON labels (document);
CREATE TABLE once (key TEXT PRIMARY KEY, seq INTEGER NOT NULL, result TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX once_by_age ON once (at);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('live_sessions', 0);
"""

# A key's hits are numbered as they come, so whether one more fits is one row's time, whatever the limit is.
HITS = """
CREATE TABLE hits (key TEXT NOT NULL, n INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (key, n)) WITHOUT ROWID;
CREATE INDEX hits_by_age ON hits (at);
"""

# ``oldest_at``: no event that is kept is older. Indexes for the sweep of idle sessions and for what is too old.
AGES = """
DROP INDEX sessions_by_state;
CREATE INDEX sessions_by_activity ON sessions (state, last_active_at);
ALTER TABLE sessions ADD COLUMN oldest_at REAL;
UPDATE sessions SET oldest_at = created_at;
CREATE INDEX sessions_by_oldest ON sessions (oldest_at) WHERE state <> 'closed';
CREATE INDEX documents_by_age ON documents (kind, updated_at);
"""

STEPS = (FIRST, HITS, AGES)
"""What each version of the schema adds to the one before. A step that was released is never changed; a worker of the
version before may still be at work when it is taken."""
SCHEMA_VERSION = len(STEPS)


def prepare(path: Path) -> None:
    """Create the file and its tables where they are missing, and bring an older version's up to date.

    :raises ConfigError: the folder cannot be used, or a newer version of the bridge wrote the file.
    :raises sqlite3.Error: the file cannot be opened or is not a database.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"JOURNAL_PATH: its folder cannot be made ({exc.strerror}).") from exc
    kind = _file_system(path.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(f"JOURNAL_PATH: must be on a local disk; this one is {kind}. Use REDIS_URL instead.")
    # Chats are in it: nobody else's to read. What SQLite puts beside it gets the file's own mode. One that is there is
    # not opened: closing it again would take the locks from every connection that this process has to it.
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = connect(path)
    try:
        _use_wal(connection)
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < SCHEMA_VERSION:
            for step in STEPS[version:]:
                for statement in step.split(";\n"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"JOURNAL_PATH: the file has schema {version}, this version knows {SCHEMA_VERSION}; "
                "name another file or run the newer version."
            )
    finally:
        connection.close()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Two workers that come to a new file at once both read it, and neither could write it while the other does: SQLite
    refuses one of them without its busy timeout."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection as the journal needs it: durable commits, no implicit transactions."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
        # Readers of a WAL never wait for the writer; they would only for a recovery, and then not for long.
        connection.execute("PRAGMA busy_timeout = 200")
    return connection


def _file_system(folder: Path) -> str:
    """The type of the file system that ``folder`` lies on; empty where that cannot be told."""
    target, best, kind = str(folder.resolve()), "", ""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(" ")
        mount, separator = fields[4], fields.index("-")
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, fields[separator + 1]
    return kind
