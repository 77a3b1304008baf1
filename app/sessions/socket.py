"""The WebSocket ``/ws``: the handshake, hello and welcome; then a conversation, which outlives the request."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Blueprint, g, request
from flask_sock import Sock
from werkzeug.exceptions import MethodNotAllowed

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
from app.sessions.connection import Connection, shutdown_frame
from app.sessions.conversation import BAD_HELLO, Conversation, only_text, refuse, report_violation
from app.sessions.service import new_session_id
from app.telemetry import context
from app.web import auth, problems
from app.web.problems import BUG
from app.web.socket_io import ConnectionGone, SocketIO

DRAIN_LOOK_S = 0.5
NO_HELLO = 4408
CLIENT_KEYS = ("REMOTE_ADDR", "HTTP_X_FORWARDED_FOR")
"""Of the WSGI environment, what tells a client's address; the rest goes with the request."""


def socket_blueprint(bridge: BridgeWorker, *, count_handshake: Callable[[], None]) -> Blueprint:
    """The blueprint of ``/ws``. Whatever may refuse does so before the upgrade, or is a frame after it.

    :param count_handshake: counts the request, or raises ``RateLimitError``.
    """
    blueprint = Blueprint("socket", __name__)
    sock = Sock()
    places: set[object] = set()  # of sockets that are open, or are being let in

    @blueprint.before_request
    def gate() -> None:
        if not auth.origin_allowed(request.environ, bridge.settings):
            raise ForbiddenOriginError("This page may not connect here.")
        if request.method != "GET":  # each route for it takes HEAD, too
            raise MethodNotAllowed(["GET"])
        if bridge.draining:
            raise DrainingError("This worker is restarting.", retry_after_s=1)
        if len(places) >= bridge.settings.max_connections:
            raise BusyError("Too many connections.")
        # Before anything waits: of a crowd that comes back at once, each counts for the next.
        g.socket_place = object()
        places.add(g.socket_place)
        if not bridge.limits.take_return(request.environ):
            count_handshake()
            bridge.limits.counted(request.environ)

    @blueprint.teardown_request
    def leave(_error: BaseException | None) -> None:
        places.discard(g.pop("socket_place", None))

    @sock.route("/ws", bp=blueprint)  # type: ignore[untyped-decorator]  # flask-sock has no types
    def ws(socket: SocketIO) -> None:
        with context.bind(request_id=request.environ["bridge.request_id"]):
            if _Arrival(bridge, socket, request.environ).begin(partial(places.discard, g.socket_place)):
                del g.socket_place  # its place outlives the request

    return blueprint


class _Arrival:
    """One socket from its handshake to its welcome, or its refusal; in the request's greenlet."""

    def __init__(self, bridge: BridgeWorker, socket: SocketIO, environ: dict[str, Any]) -> None:
        self._bridge = bridge
        self._socket = socket
        self._environ = environ
        self._request_id: str = environ["bridge.request_id"]

    def begin(self, ended: Callable[[], None]) -> bool:
        """Let it in; nothing is raised. Tells whether the socket goes on without this request.

        :param ended: called when it is over, where it goes on.
        """
        try:
            connection, welcome = self._enter(self._hello())
            with context.bind(session_id=connection.session_id):
                Conversation(self._bridge, self._socket, connection, ended).begin(welcome)
            return True
        except ConnectionGone as gone:
            report_violation(self._socket, gone, self._request_id)
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
        return False

    def _refuse(self, error: BaseError, close_code: int, *, cause: Exception, frame: str | None = None) -> None:
        refuse(self._socket, error, close_code, self._request_id, cause=cause, frame=frame)

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
            return frames.read_hello(only_text(text))
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
            before_restart=partial(bridge.limits.leave_return, self._client()),
            request_id=self._request_id,
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

    def _client(self) -> dict[str, Any]:
        return {key: self._environ[key] for key in CLIENT_KEYS if key in self._environ}
