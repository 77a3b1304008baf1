"""What a worker that was killed leaves behind, and who removes it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.journal import Change, OpenSession
from app.journal.records import OpenConnection, Worker
from app.journal.sqlite import SqliteJournal
from app.sessions.connections import Connections
from app.sessions.service import put_to_sleep


class DeafSocket:
    close_code = None
    sent_code = None

    def send(self, data: str) -> None: ...
    def close(self, code: int = 1000, reason: str = "") -> None: ...


def test_connections_of_a_lost_worker_are_removed_and_those_of_a_live_one_stay(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.commit(Change(session_id="s", open_session=OpenSession("hash", 10)))
    socket: Any = DeafSocket()
    workers = {name: Connections(journal, holder=name) for name in ("lost", "alive", "asking")}
    for name, connections in workers.items():
        lease = journal.acquire(f"worker:{name}", name, ttl_s=60)
        assert lease is not None
        connections.begin()
        connections.enter("s", socket, after=0, note=lambda record: journal.commit(Change(puts=[record])))
        if name == "lost":
            lost = lease
    journal.release(lost)

    workers["asking"].forget_lost()

    assert {found.holder for found in OpenConnection.find(journal)} == {"alive", "asking"}
    assert {found.holder for found in Worker.find(journal)} == {"alive", "asking"}
    journal.close()


def test_a_socket_that_goes_while_the_journal_is_locked_does_not_keep_its_session_awake(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    journal.commit(Change(session_id="s", open_session=OpenSession("hash", 10)))
    socket: Any = DeafSocket()
    connections = Connections(journal, holder="w")
    connection = connections.enter("s", socket, after=0, note=lambda record: journal.commit(Change(puts=[record])))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        connections.exit(connection)
        assert OpenConnection.find(journal)

    connections.forget_again()

    assert not OpenConnection.find(journal)
    assert put_to_sleep(journal, idle_before=datetime.now(UTC) + timedelta(days=1)) == 1
    journal.close()


def test_a_clock_that_is_set_back_does_not_prolong_a_lease(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    first = journal.acquire("session:s", "dead", ttl_s=1)
    assert first is not None
    # As it looks after the clock was set back by an hour.
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE leases SET expires_at = ?", (time.time() + 3600,))

    assert not journal.held("session:s")
    second = journal.acquire("session:s", "next", ttl_s=1)
    assert second is not None
    assert second.epoch > first.epoch
    journal.close()
