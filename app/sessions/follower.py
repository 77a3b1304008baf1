"""What writes a session's events to its sockets: a greenlet for each that has something to be told, while it has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import gevent

from app.errors import BaseError
from app.journal import PAGE_BYTES, Event, Journal
from app.journal.records import OpenConnection
from app.sessions.connection import DONE, MAX_PER_SESSION, REPLACED, RESTART, UNSURE, Connection, shutdown_frame
from app.sessions.rounds import Rounds
from app.telemetry import context, metrics
from app.web.socket_io import ConnectionGone

READ_EVENTS = 100
LOOK_S = 30.0
JOURNAL_AWAY_S = 0.5
BREATH_S = 1e-6  # not 0: then the loop looks at its sockets only after fifty such pauses


class Follower:
    """Writes to this worker's connections what is journalled. Nothing queues here: a slow reader is simply behind in
    the journal, and its greenlet waits for it.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._looks: Rounds[Connection] = Rounds(LOOK_S, Connection.wake)
        self._later: set[Connection] = set()  # the journal could not say what there is for them

    def follow(self, connection: Connection, failed: Callable[[Exception], None]) -> None:
        """Have the session's events written to it from its cursor on, until it is left; does not wait.

        :param failed: told of a bug.
        """
        connection.failed = failed
        connection.write = self._begin
        self._journal.add_watcher(connection, *connection.topics)
        self._looks.add(connection)
        connection.wake()

    def leave(self, connection: Connection) -> None:
        """Idempotent."""
        connection.write = connection.failed = None
        self._journal.remove_watcher(connection, *connection.topics)
        self._looks.discard(connection)
        self._later.discard(connection)

    def _begin(self, connection: Connection) -> None:
        gevent.spawn(self._run, connection)

    def _run(self, connection: Connection) -> None:
        with context.bind(request_id=connection.request_id, session_id=connection.session_id):
            try:
                self._write_all(connection)
            except ConnectionGone:
                return
            except Exception as exc:
                # The top of this greenlet.
                if connection.failed is not None:
                    connection.failed(exc)
            finally:
                connection.writing = False

    def _write_all(self, connection: Connection) -> None:
        """Until nothing is left; what is appended after the last look has set ``news`` already.

        :raises ConnectionGone: from the socket, when it has ended.
        """
        while connection.news and connection.socket.close_code is None:
            if connection.leaving is not None:
                self._goodbye(connection, *connection.leaving)
                return
            news, connection.news = connection.news, 0
            try:
                found = self._journal.events(connection.session_id, after=connection.cursor, limit=READ_EVENTS)
                if not found and news & UNSURE and self._is_replaced(connection):
                    connection.leave(*self._why_gone(connection.session_id))
                    continue
            except BaseError:
                # The journal is away; the socket stays, and goes on where it is.
                connection.news |= news
                self._try_later(connection)
                return
            self._write(connection, found)
            if found and (news & UNSURE or self._is_full(found)):
                connection.news |= news
                # A reader that keeps up never makes a write wait, and nobody else would run during a long replay.
                gevent.sleep(BREATH_S)

    def _try_later(self, connection: Connection) -> None:
        if not self._later:
            gevent.spawn_later(JOURNAL_AWAY_S, self._try_again)
        self._later.add(connection)

    def _try_again(self) -> None:
        again, self._later = self._later, set()
        for connection in again:
            connection.wake()

    @staticmethod
    def _is_full(page: list[Event]) -> bool:
        """Whether there may be more behind it."""
        return len(page) >= READ_EVENTS or sum(len(event.frame) for event in page) > PAGE_BYTES

    def _write(self, connection: Connection, found: list[Event]) -> None:
        for event in found:
            connection.socket.send(event.frame)
            connection.cursor = event.seq
            connection.sent += 1
            if event.type == "workflow_error":
                self._observe_delivery(connection, event)
            if event.type == "session_closed":
                connection.leave(DONE, "session ended")
                return

    def _observe_delivery(self, connection: Connection, event: Event) -> None:
        """How long an error took to this socket, if it happened while the socket was open: what is told again on resume
        says nothing about us."""
        now, body = datetime.now(UTC), event.body
        at = datetime.fromisoformat(body["at"])
        if at < connection.began_at or body["data"].get("source") != "callback":
            return
        try:
            session = self._journal.session(event.session_id)
        except BaseError:
            session = None
        # An event's time has milliseconds. Its session was last active when it was appended, to the microsecond.
        if session is not None and timedelta() <= session.last_active_at - at < timedelta(milliseconds=1):
            at = session.last_active_at
        metrics.callback_delivery.observe(max(0.0, (now - at).total_seconds()))

    def _goodbye(self, connection: Connection, code: int, reason: str) -> None:
        if code == RESTART:
            # Durable before the client is told to come back; who closes together is counted in one transaction.
            if connection.before_restart is not None:
                connection.before_restart()
            connection.socket.send(shutdown_frame(connection.session_id, connection.cursor))
        connection.socket.close(code, reason)

    def _why_gone(self, session_id: str) -> tuple[int, str]:
        """Why others have removed a connection of ours: a sixth came, or this worker was silent for too long."""
        try:
            others = len(OpenConnection.find(self._journal, f"session:{session_id}", limit=MAX_PER_SESSION))
        except BaseError:
            others = 0
        return (REPLACED, "replaced by a newer connection") if others >= MAX_PER_SESSION else (RESTART, "restarting")

    def _is_replaced(self, connection: Connection) -> bool:
        return self._journal.get(OpenConnection.KIND, connection.connection_id) is None
