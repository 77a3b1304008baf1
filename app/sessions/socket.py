"""The WebSocket ``/ws``: hello, then frames in and the session's events out, until either side closes."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from flask import Blueprint, request
from flask_sock import Sock

from app.errors import (
    AuthenticationError,
    BaseError,
    BusyError,
    DrainingError,
    ForbiddenOriginError,
    ValidationError,
    WebSocketError,
)
from app.journal import Put
from app.lifecycle import BridgeWorker
from app.sessions import frames
from app.sessions.commands import Commands
from app.sessions.connections import Connection, shutdown_frame
from app.sessions.service import new_session_id
from app.telemetry import context
from app.web import auth, problems
from app.web.problems import BUG
from app.web.socket_io import ConnectionGone, SocketIO

BAD_FRAMES_MAX, BAD_FRAMES_WINDOW_S = 10, 60.0
DRAIN_LOOK_S = 0.5
BAD_HELLO, NO_HELLO = 4400, 4408
VIOLATIONS = frozenset({1002, 1007, 1009})
"""Close codes that the socket itself chooses, before a frame gets here."""

log = logging.getLogger(__name__)


def socket_blueprint(bridge: BridgeWorker, *, count_handshake: Callable[[], None]) -> Blueprint:
    """The blueprint of ``/ws``. Whatever may refuse does so before the upgrade, or is a frame after it.

    :param count_handshake: counts the request, or raises ``RateLimitError``.
    """
    blueprint = Blueprint("socket", __name__)
    sock = Sock()
    serving: set[_Served] = set()

    @blueprint.before_request
    def gate() -> None:
        if not auth.origin_allowed(request.environ, bridge.settings):
            raise ForbiddenOriginError("This page may not connect here.")
        if bridge.draining:
            raise DrainingError("This worker is restarting.", retry_after_s=1)
        # Those that have not said hello yet count as well.
        if len(serving) >= bridge.settings.max_connections:
            raise BusyError("Too many connections.")
        if not bridge.limits.take_return(request.environ):
            count_handshake()
            bridge.limits.counted(request.environ)

    @sock.route("/ws", bp=blueprint)  # type: ignore[untyped-decorator]  # flask-sock has no types
    def ws(socket: SocketIO) -> None:
        with context.bind(request_id=request.environ["bridge.request_id"]):
            served = _Served(bridge, socket, request.environ)
            serving.add(served)
            try:
                served.run()
            finally:
                serving.discard(served)

    return blueprint


class _Served:
    """One socket from its handshake to its end."""

    def __init__(self, bridge: BridgeWorker, socket: SocketIO, environ: dict[str, Any]) -> None:
        self._bridge = bridge
        self._socket = socket
        self._environ = environ
        self._request_id: str = environ["bridge.request_id"]
        self._bad_frames: deque[float] = deque(maxlen=BAD_FRAMES_MAX)
        self._commands = Commands()

    def run(self) -> None:
        """Serve until the socket has ended; nothing is raised."""
        try:
            self._converse(self._hello())
        except ConnectionGone as gone:
            if self._socket.sent_code in VIOLATIONS:
                broken = WebSocketError(gone.reason or "The protocol was broken.", close_code=gone.close_code)
                problems.report(broken, self._request_id, counted_as="websocket", closed_with=gone.close_code)
        except AuthenticationError as exc:
            error = self._bridge.limits.failed_authentication(exc, self._environ)
            self._refuse(error, problems.close_code(error, default=BAD_HELLO), cause=error)
        except DrainingError as exc:
            self._bridge.limits.leave_return(self._environ)
            self._refuse(exc, problems.close_code(exc), cause=exc, frame=shutdown_frame(None, 0))
        except BaseError as exc:
            self._refuse(exc, problems.close_code(exc, default=BAD_HELLO), cause=exc)
        except Exception as exc:
            # What leaves here, Flask would answer as an HTTP page in the middle of the socket's stream.
            self._refuse(BaseError(), BUG, cause=exc)

    def _hello(self) -> frames.Hello:
        text, deadline = None, time.monotonic() + self._bridge.settings.ws_hello_timeout_seconds
        while text is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise WebSocketError("No hello came in time.", close_code=NO_HELLO, code="no_hello")
            text = self._socket.receive(timeout=min(left_s, DRAIN_LOOK_S))
            if text is None and self._bridge.draining:
                # It is not among the connections yet, which are told; silent, it would hold the worker up.
                raise DrainingError("This worker is restarting.", retry_after_s=1)
        try:
            return frames.read_hello(_text(text))
        except ValidationError as exc:
            exc.close_code = BAD_HELLO
            raise

    def _enter(self, hello: frames.Hello) -> tuple[Connection, dict[str, Any]]:
        bridge, settings = self._bridge, self._bridge.settings
        token, after = None, 0
        if hello.sessionId is None:
            auth.check_access(hello.accessToken, self._environ, settings, anonymous_ok=True)
            token, session_id = auth.new_token(), new_session_id()
            opening = partial(bridge.sessions.open, token_hash=auth.hash_token(token), session_id=session_id)

            def note(record: Put) -> None:
                opening(connection=record)
        else:
            session = bridge.sessions.get(hello.sessionId)
            session_id = session.session_id
            credential = hello.token if hello.token is not None else hello.accessToken
            auth.check_session(credential, session, self._environ, settings)
            if credential is not None:
                bridge.limits.give_back(self._environ)
            # A client may be ahead of a journal that was restored from a backup; it must not wait for the past.
            after = min(hello.after, session.last_seq)

            def note(record: Put) -> None:
                bridge.sessions.wake(session_id, connection=record)

        connection = bridge.connections.enter(
            session_id,
            self._socket,
            after=after,
            note=note,
            before_restart=partial(bridge.limits.leave_return, self._environ),
        )
        try:
            return connection, self._welcome(session_id, token)
        except BaseException:
            bridge.connections.exit(connection)
            raise

    def _welcome(self, session_id: str, token: str | None) -> dict[str, Any]:
        """:param token: of a new session."""
        bridge, settings = self._bridge, self._bridge.settings
        session = bridge.sessions.get(session_id)
        return {
            "type": "welcome",
            "sessionId": session_id,
            **({"token": token} if token else {}),
            "firstSeq": session.first_seq,
            "lastSeq": session.last_seq,
            "resumed": token is None,
            "agent": bridge.agent_name,
            "requestId": self._request_id,
            "limits": {
                "messagesPerMinute": settings.rate_limit_messages_per_minute,
                "maxMessageBytes": settings.max_message_bytes,
                "pingIntervalSeconds": settings.ws_ping_interval_seconds,
            },
            "workflows": [found.public() for found in bridge.sessions.registrations(session_id)],
            "pendingRepairs": bridge.sessions.pending_repairs(session_id),
        }

    def _converse(self, hello: frames.Hello) -> None:
        connection, welcome = self._enter(hello)
        with context.bind(session_id=connection.session_id):
            log.info("connection opened", extra={"resumed": welcome["resumed"]})
            try:
                self._socket.send(json.dumps(welcome))
                writer = gevent.spawn(context.carry(_follow), self._bridge, connection)
                try:
                    while True:
                        self._take(connection, self._socket.receive_frame())
                finally:
                    writer.kill(block=False)
            finally:
                self._bridge.connections.exit(connection)
                # What was asked for is done, whether or not the one who asked stays; a drain waits for it.
                self._commands.finish()
                log.info("connection closed", extra=self._account(connection))

    def _take(self, connection: Connection, text: str | bytes) -> None:
        connection.received += 1
        sessions, session_id = self._bridge.sessions, connection.session_id
        try:
            frame = frames.read_frame(_text(text))
            if isinstance(frame, frames.Ping):
                self._socket.send('{"type":"pong"}')
            elif isinstance(frame, frames.Message):
                sessions.post_message(session_id, frame, request_id=self._request_id)
            elif isinstance(frame, frames.Decide):
                # By its workflow: a rollback that was sent after an approval undoes what that published.
                about = sessions.workflow_of(frame.repairId) or frame.repairId
                self._commands.run(about, partial(self._command, session_id, frame))
            elif isinstance(frame, frames.Rollback):
                self._commands.run(frame.workflowId, partial(self._command, session_id, frame))
            else:
                sessions.command(session_id, frame)
        except ValidationError as exc:
            self._answer(exc)
            self._count_bad_frame()
        except BaseError as exc:
            self._answer(exc)

    def _answer(self, error: BaseError) -> None:
        problems.report(error, self._request_id, counted_as="websocket")
        self._socket.send(problems.error_frame(error, self._request_id))

    def _command(self, session_id: str, command: frames.Command) -> None:
        """A command that may wait for n8n, in a greenlet of its own; nothing is raised."""
        try:
            try:
                self._bridge.sessions.command(session_id, command)
            except BaseError as exc:
                self._answer(exc)
        except ConnectionGone:
            return
        except Exception as exc:
            problems.report(exc, self._request_id, counted_as="websocket", closed_with=BUG)
            self._socket.close(BUG, "internal")

    def _count_bad_frame(self) -> None:
        now = time.monotonic()
        self._bad_frames.append(now)
        if len(self._bad_frames) == BAD_FRAMES_MAX and now - self._bad_frames[0] <= BAD_FRAMES_WINDOW_S:
            self._socket.close(BAD_HELLO, "too many bad frames")

    def _refuse(self, error: BaseError, close_code: int, *, cause: Exception, frame: str | None = None) -> None:
        problems.report(cause, self._request_id, counted_as="websocket", closed_with=close_code)
        try:
            self._socket.send(frame or problems.error_frame(error, self._request_id))
        except ConnectionGone:
            return
        self._socket.close(close_code, error.code)

    def _account(self, connection: Connection) -> dict[str, Any]:
        return {
            "closeCode": self._socket.close_code,
            "durationMs": int((time.monotonic() - connection.opened_at) * 1000),
            "framesIn": connection.received,
            "eventsOut": connection.sent,
        }


def _follow(bridge: BridgeWorker, connection: Connection) -> None:
    try:
        bridge.connections.follow(connection)
    except ConnectionGone:
        return
    except Exception as exc:
        # The top of this greenlet: without a close the client would wait for events for ever.
        problems.report(exc, context.request_id() or "", counted_as="websocket")
        connection.socket.close(BUG, "internal")


def _text(frame: str | bytes) -> str:
    if isinstance(frame, bytes):
        raise ValidationError("Only text frames are taken.", errors=[{"path": "", "message": "is a binary frame"}])
    return frame
