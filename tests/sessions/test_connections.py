"""Readers of a session's journal, with a socket that takes everything at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from app.journal import Change, NewEvent, OpenSession
from app.journal.sqlite import SqliteJournal
from app.sessions.connections import Connections
from app.sessions.follower import READ_EVENTS
from app.web.socket_io import ConnectionGone


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

    def beat(self) -> None:
        """Nobody is silent for so long here."""


def wait_until(done: Callable[[], bool]) -> None:
    with gevent.Timeout(10):
        while not done():
            gevent.sleep(0.005)


def failed(exc: Exception) -> None:
    raise AssertionError from exc


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        journal.commit(Change(session_id="s", open_session=OpenSession("", 10)))
        yield journal


def test_others_get_their_turn_during_a_long_replay(journal: SqliteJournal) -> None:
    event = NewEvent("notice", {"level": "info", "text": "x"})
    journal.commit(Change(session_id="s", events=[event] * READ_EVENTS * 20))
    connections, reader = Connections(journal, holder="w"), Reader()
    connection = connections.enter("s", reader, after=0, note=lambda record: journal.commit(Change(puts=[record])))

    connections.follow(connection, failed=failed)
    turns = 0
    with gevent.Timeout(10):
        while len(reader.frames) < READ_EVENTS * 20:
            gevent.sleep(0)
            turns += 1
    connection.leave(1000, "done")

    assert turns >= 20
    wait_until(lambda: reader.close_code == 1000)


def test_a_reader_that_stands_still_is_closed_as_its_worker_goes(journal: SqliteJournal) -> None:
    class Stuck(Reader):
        """Its peer reads nothing: a write waits until the socket is closed."""

        def __init__(self) -> None:
            super().__init__()
            self.closed, self.writing = Event(), Event()

        def send(self, data: str) -> None:
            self.writing.set()
            self.closed.wait()
            raise ConnectionGone(1012)

        def close(self, code: int = 1000, reason: str = "") -> None:
            super().close(code, reason)
            self.closed.set()

    journal.commit(Change(session_id="s", events=[NewEvent("notice", {"level": "info", "text": "x"})]))
    connections, reader = Connections(journal, holder="w"), Stuck()
    connection = connections.enter("s", reader, after=0, note=lambda record: journal.commit(Change(puts=[record])))
    connections.follow(connection, failed=failed)
    assert reader.writing.wait(10)

    connections.drain()

    assert reader.closed.wait(15)
    assert reader.close_code == 1012
    wait_until(lambda: not connection.writing)
