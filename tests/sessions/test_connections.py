"""Readers of a session's journal, with a socket that takes everything at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gevent
import pytest

from app.journal import Change, NewEvent, OpenSession
from app.journal.sqlite import SqliteJournal
from app.sessions.connections import READ_EVENTS, Connections


class Reader:
    """A socket whose peer reads as fast as it is written to, so that no write ever waits."""

    def __init__(self) -> None:
        self.close_code: int | None = None
        self.sent_code: int | None = None
        self.frames: list[str] = []

    def send(self, data: str) -> None:
        self.frames.append(data)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.close_code = self.sent_code = code


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        journal.commit(Change(session_id="s", open_session=OpenSession("", 10)))
        yield journal


def test_others_get_their_turn_during_a_long_replay(journal: SqliteJournal) -> None:
    event = NewEvent("notice", {"level": "info", "text": "x"})
    journal.commit(Change(session_id="s", events=[event] * READ_EVENTS * 20))
    connections, reader = Connections(journal, holder="w"), Reader()
    connection = connections.enter("s", reader, after=0)

    follower = gevent.spawn(connections.follow, connection)
    turns = 0
    with gevent.Timeout(10):
        while len(reader.frames) < READ_EVENTS * 20:
            gevent.sleep(0)
            turns += 1
    connection.leave(1000, "done")
    follower.join(5)

    assert turns >= 20
    assert reader.close_code == 1000
