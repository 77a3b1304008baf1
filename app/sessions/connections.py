"""Open sockets: each a reader of its session's journal, at most five to a session, all told when the worker goes."""

from __future__ import annotations

import json
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import gevent

from app.errors import BaseError, JournalUnavailableError, StaleDocumentError
from app.journal import PAGE_BYTES, Activity, Change, Delete, Event, Journal, Put, Watch
from app.journal.records import OpenConnection, Worker
from app.telemetry import metrics

MAX_PER_SESSION = 5
READ_EVENTS = 100
LOOK_S = 30.0
JOURNAL_AWAY_S = 0.5
BREATH_S = 1e-6  # not 0: then the loop looks at its sockets only after fifty such pauses
RECONNECT = {"afterMs": 500, "jitterMs": 3000}
DRAIN_SPREAD_S = 0.5
GOODBYE_LIMIT_S = 2.0

FORGET_WORKERS, FORGET_CONNECTIONS = 100, 500
UNFORGOTTEN_MAX = 10_000
DONE, RESTART, REPLACED = 1000, 1012, 4409
log = logging.getLogger(__name__)


class Socket(Protocol):
    """What a connection needs of a WebSocket; see ``web.socket_io.SocketIO``."""

    close_code: int | None
    sent_code: int | None

    def send(self, data: str) -> None: ...
    def close(self, code: int = 1000, reason: str = "") -> None: ...


@dataclass(eq=False, slots=True)
class Connection:
    """One socket after its ``hello``. Its greenlet :meth:`follow` is the only one that sends events.

    :ivar cursor: number of the last event that was written to the socket.
    :ivar before_restart: called before a drain closes the socket.
    """

    connection_id: str
    session_id: str
    socket: Socket
    cursor: int
    opened_at: float = field(default_factory=time.monotonic)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    sent: int = 0
    received: int = 0
    watch: Watch | None = None
    leaving: tuple[int, str] | None = None
    before_restart: Callable[[], None] | None = None

    def leave(self, code: int, reason: str) -> None:
        """Have the socket closed with ``code`` by its own greenlet, after what it is writing."""
        self.leaving = self.leaving or (code, reason)
        if self.watch is not None:
            self.watch.wake()


def shutdown_frame(session_id: str | None, last_seq: int) -> str:
    """What is said before a close with 1012; a socket that has said no ``hello`` has no session to come back to."""
    reconnect = {**RECONNECT, "sessionId": session_id, "lastSeq": last_seq}
    return json.dumps({"type": "server_shutdown", "reconnect": reconnect})


class Connections:
    """This worker's open sockets."""

    def __init__(self, journal: Journal, *, holder: str) -> None:
        self._journal = journal
        self._holder = holder
        self._open: set[Connection] = set()
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
    ) -> Connection:
        """Make a socket a reader of ``session_id``, in the journal too, so that every worker can count it; the oldest
        of six is told to go, wherever it is.

        :param note: journals the record together with what makes the session live, so that none sleeps with a socket.
        :raises BaseError: what ``note`` raises; nothing was entered.
        """
        connection = Connection(uuid.uuid4().hex, session_id, socket, after, before_restart=before_restart)
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

    def exit(self, connection: Connection) -> None:
        """The socket is gone; from now on its session is idle, if this was the last."""
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

    def follow(self, connection: Connection) -> None:
        """Write the session's events to the socket as they are journalled, until it closes. Nothing queues here: a
        slow reader is simply behind in the journal.

        :raises ConnectionGone: from the socket, when it has ended.
        """
        own_topic = f"connection:{connection.connection_id}"
        with self._journal.watch(f"session:{connection.session_id}", own_topic) as watch:
            connection.watch = watch
            unsure = True  # whether others have removed it meanwhile
            while connection.socket.close_code is None:
                if connection.leaving is not None:
                    self._goodbye(connection, *connection.leaving)
                    return
                try:
                    found = self._journal.events(connection.session_id, after=connection.cursor, limit=READ_EVENTS)
                    if not found and unsure:
                        unsure = False
                        if self._is_replaced(connection):
                            connection.leave(*self._why_gone(connection.session_id))
                            continue
                except BaseError:
                    # The journal is away; the socket stays, and goes on where it is.
                    watch.wait(JOURNAL_AWAY_S)
                    continue
                self._write(connection, found)
                if found and (unsure or self._is_full(found)):
                    # A reader that keeps up never makes a write wait, and nobody else would run during a long replay.
                    gevent.sleep(BREATH_S)
                    continue
                # What was appended after the look has woken the watch already.
                woken = watch.wait(LOOK_S)
                unsure = not woken or bool(watch.woken_by & {own_topic, ""})

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
