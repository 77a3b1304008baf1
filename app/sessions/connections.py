"""Open sockets: each a reader of its session's journal, at most five to a session, all told when the worker goes."""

from __future__ import annotations

import logging
import random
import uuid
from collections import deque
from collections.abc import Callable

import gevent

from app.errors import BaseError, JournalUnavailableError, StaleDocumentError
from app.journal import Activity, Change, Delete, Journal, Put
from app.journal.records import OpenConnection, Worker
from app.sessions.connection import MAX_PER_SESSION, RESTART, Connection, Socket
from app.sessions.follower import Follower
from app.sessions.rounds import Rounds
from app.telemetry import metrics

DRAIN_SPREAD_S = 0.5
GOODBYE_LIMIT_S = 2.0
STOP_LIMIT_S, STOP_LOOK_S = 0.5, 0.02
PING_INTERVAL_S = 30.0

FORGET_WORKERS, FORGET_CONNECTIONS = 100, 500
UNFORGOTTEN_MAX = 10_000
log = logging.getLogger(__name__)


class Connections:
    """This worker's open sockets.

    :param ping_interval_s: 0: they are not pinged.
    """

    def __init__(self, journal: Journal, *, holder: str, ping_interval_s: float = PING_INTERVAL_S) -> None:
        self._journal = journal
        self._holder = holder
        self._open: set[Connection] = set()
        self._follower = Follower(journal)
        self._pings = Rounds[Connection](ping_interval_s, _ping) if ping_interval_s else None
        self._unforgotten: deque[tuple[str, str]] = deque(maxlen=UNFORGOTTEN_MAX)
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def enter(
        self,
        session_id: str,
        socket: Socket,
        *,
        after: int,
        note: Callable[[Put], object],
        before_restart: Callable[[], None] | None = None,
        request_id: str | None = None,
    ) -> Connection:
        """Make a socket a reader of ``session_id``, in the journal too, so that every worker can count it; the oldest
        of six is told to go, wherever it is.

        :param note: journals the record together with what makes the session live, so that none sleeps with a socket.
        :raises BaseError: what ``note`` raises; nothing was entered.
        """
        connection_id = uuid.uuid4().hex
        connection = Connection(
            connection_id, session_id, socket, after, request_id=request_id, before_restart=before_restart
        )
        record = OpenConnection(connection_id=connection.connection_id, session_id=session_id, holder=self._holder)
        try:
            note(record.put())
        except JournalUnavailableError:
            # It may have been written all the same.
            self._forget(connection.connection_id, session_id)
            raise
        self._open.add(connection)
        metrics.active_connections.set(len(self._open))
        try:
            self._replace_oldest(session_id)
        except BaseError:
            self.exit(connection)
            raise
        if self._draining:
            # Entered after everybody had been told: this one would be forgotten.
            connection.leave(RESTART, "restarting")
        return connection

    def follow(self, connection: Connection, *, failed: Callable[[Exception], None]) -> None:
        """From now on the loop attends the socket: have the session's events written to it as they are journalled, and
        its peer pinged, until :meth:`exit`. Does not wait.

        :param failed: told of a bug; without a close the client would wait for events for ever.
        """
        self._follower.follow(connection, failed)
        if self._pings is not None:
            self._pings.add(connection)

    def exit(self, connection: Connection) -> None:
        """The socket is gone; from now on its session is idle, if this was the last."""
        self._follower.leave(connection)
        if self._pings is not None:
            self._pings.discard(connection)
        self._open.discard(connection)
        metrics.active_connections.set(len(self._open))
        self._forget(connection.connection_id, connection.session_id)

    def _forget(self, connection_id: str, session_id: str) -> None:
        gone = Delete(OpenConnection.KIND, connection_id)
        try:
            self._journal.commit(Change(session_id=session_id, activity=Activity(), deletes=[gone]))
        except BaseError as exc:
            log.warning("forgetting a connection failed: %s", exc)
            # It would keep its session awake for as long as this worker lives.
            self._unforgotten.append((connection_id, session_id))

    def forget_again(self) -> None:
        """Remove what the journal did not take when its sockets went; each worker for its own."""
        for _ in range(len(self._unforgotten)):
            self._forget(*self._unforgotten.popleft())

    def begin(self) -> None:
        """Note that this worker may have connections from now on."""
        self._journal.commit(Change(puts=[Worker(holder=self._holder).put()]))

    def forget_lost(self) -> None:
        """Remove what workers that are gone have left. A chore: a bounded part of it at a time."""
        for worker in Worker.find(self._journal, limit=FORGET_WORKERS):
            if worker.holder == self._holder or self._journal.held(f"worker:{worker.holder}"):
                continue
            left = OpenConnection.find(self._journal, f"holder:{worker.holder}", limit=FORGET_CONNECTIONS)
            gone: list[Delete] = [Delete(OpenConnection.KIND, found.connection_id) for found in left]
            if len(left) < FORGET_CONNECTIONS:
                gone.append(Delete(Worker.KIND, worker.key))
            wake = [f"connection:{found.connection_id}" for found in left]  # it may have been paused only
            self._journal.commit(Change(deletes=gone, wake=wake))

    def drain(self) -> None:
        """Tell every socket where to come back; the goodbyes are spread a little. Idempotent, does not block."""
        if self._draining:
            return
        self._draining = True
        for connection in list(self._open):
            delay_s = random.uniform(0, DRAIN_SPREAD_S)  # noqa: S311 - spreads load, guards nothing
            gevent.spawn_later(delay_s, connection.leave, RESTART, "restarting")
        gevent.spawn_later(DRAIN_SPREAD_S + GOODBYE_LIMIT_S, self._give_up)

    def _give_up(self) -> None:
        """A reader that stands still would hold the worker up for as long as a write to it may take."""
        for connection in list(self._open):
            gevent.spawn(connection.socket.close, RESTART, "restarting")

    def stop(self) -> None:
        """The worker ends: close whatever is left without waiting for anybody, and give their records a moment to go;
        those that stay are removed by others, as a killed worker's."""
        for connection in list(self._open):
            connection.socket.close(RESTART, "restarting")
        with gevent.Timeout(STOP_LIMIT_S, False):
            while self._open:
                gevent.sleep(STOP_LOOK_S)

    def _replace_oldest(self, session_id: str) -> None:
        found = OpenConnection.find(self._journal, f"session:{session_id}")
        alive = {holder: self._journal.held(f"worker:{holder}") for holder in {c.holder for c in found}}
        gone = [c for c in found if not alive[c.holder] and c.holder != self._holder]
        over = [c for c in found if c not in gone][MAX_PER_SESSION:]
        if gone or over:
            wake = [f"connection:{c.connection_id}" for c in over]
            try:
                self._journal.commit(Change(deletes=[c.delete() for c in (*gone, *over)], wake=wake))
            except StaleDocumentError:
                # Somebody else was faster with one of them.
                self._replace_oldest(session_id)


def _ping(connection: Connection) -> None:
    connection.socket.beat()
