"""A socket's frames after its welcome, until either side closes; between them it costs no greenlet."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from app.errors import BaseError, ValidationError, WebSocketError
from app.lifecycle import BridgeWorker
from app.sessions import frames
from app.sessions.commands import Commands
from app.sessions.connection import Connection
from app.telemetry import context
from app.web import problems
from app.web.problems import BUG
from app.web.socket_io import ConnectionGone, SocketIO

BAD_FRAMES_MAX, BAD_FRAMES_WINDOW_S = 10, 60.0
BAD_HELLO = 4400
VIOLATIONS = frozenset({1002, 1007, 1009})
"""Close codes that the socket itself chooses, before a frame gets here."""
PINGS = frozenset({'{"type":"ping"}', '{"type": "ping"}'})
"""As programs write it. However else it is written, it is a ping too, but read as any frame is."""
PONG = '{"type":"pong"}'

log = logging.getLogger(__name__)


class Conversation:
    """Takes one frame at a time, in a greenlet that ends when there is none; see ``web.socket_io.Handler``.

    :param ended: called when the socket is gone and what it has asked for is done.
    """

    __slots__ = ("_bad_frames", "_bridge", "_commands", "_connection", "_ended", "_give_back_place", "_socket")

    def __init__(
        self, bridge: BridgeWorker, socket: SocketIO, connection: Connection, ended: Callable[[], None]
    ) -> None:
        self._bridge = bridge
        self._socket = socket
        self._connection = connection
        self._ended = ended
        self._bad_frames: deque[float] | None = None
        self._commands: Commands | None = None
        self._give_back_place: Callable[[], None] | None = None

    def begin(self, welcome: dict[str, Any]) -> None:
        """Welcome the client and leave the socket to the loop.

        :raises ConnectionGone: the client is gone, and the connection left.
        """
        log.info("connection opened", extra={"resumed": welcome["resumed"]})
        try:
            self._socket.send(json.dumps(welcome))
            self._socket.attend(self)
        except BaseException:
            self._leave()
            raise
        self._give_back_place = self._bridge.keep_place()
        self._bridge.connections.follow(self._connection, failed=self._failed)

    # -- what the socket calls

    def quick_answer(self, text: str) -> str | None:
        if text not in PINGS:
            return None
        self._connection.received += 1
        return PONG

    def serve(self) -> None:
        with context.bind(request_id=self._request_id, session_id=self._connection.session_id):
            try:
                while (text := self._socket.next_frame()) is not None:
                    self._take(text)
                return
            except ConnectionGone as gone:
                report_violation(self._socket, gone, self._request_id)
            except Exception as exc:
                # The top of this greenlet.
                refuse(self._socket, BaseError(), BUG, self._request_id, cause=exc)
            try:
                self._socket.finish()
                self._leave()
            except Exception as exc:
                problems.report(exc, self._request_id, counted_as="websocket")
            finally:
                self._ended()
                if self._give_back_place is not None:
                    self._give_back_place()

    # -- how it is done

    @property
    def _request_id(self) -> str:
        return self._connection.request_id or ""

    def _take(self, text: str | bytes) -> None:
        connection = self._connection
        connection.received += 1
        sessions, session_id = self._bridge.sessions, connection.session_id
        try:
            frame = frames.read_frame(only_text(text))
            if isinstance(frame, frames.Ping):
                self._tell(PONG)
            elif isinstance(frame, frames.Message):
                sessions.post_message(session_id, frame, request_id=self._request_id)
            elif isinstance(frame, frames.Decide):
                # By its workflow: a rollback that was sent after an approval undoes what that published.
                self._beside(sessions.workflow_of(frame.repairId) or frame.repairId, frame)
            elif isinstance(frame, frames.Rollback):
                self._beside(frame.workflowId, frame)
            else:
                sessions.command(session_id, frame)
        except ValidationError as exc:
            self._answer(exc)
            self._count_bad_frame()
        except BaseError as exc:
            self._answer(exc)

    def _answer(self, error: BaseError) -> None:
        problems.report(error, self._request_id, counted_as="websocket")
        self._tell(problems.error_frame(error, self._request_id))

    def _tell(self, text: str) -> None:
        """Where the peer is gone nobody is told; its next frame may be there already, and the socket knows its end."""
        with contextlib.suppress(ConnectionGone):
            self._socket.send(text)

    def _beside(self, about: str, command: frames.Command) -> None:
        if self._commands is None:
            self._commands = Commands()
        self._commands.run(about, partial(self._command, command))

    def _command(self, command: frames.Command) -> None:
        """A command that may wait for n8n, in a greenlet of its own; nothing is raised."""
        try:
            self._bridge.sessions.command(self._connection.session_id, command)
        except BaseError as exc:
            self._answer(exc)
        except Exception as exc:
            problems.report(exc, self._request_id, counted_as="websocket", closed_with=BUG)
            self._socket.close(BUG, "internal")

    def _count_bad_frame(self) -> None:
        if self._bad_frames is None:
            self._bad_frames = deque(maxlen=BAD_FRAMES_MAX)
        now = time.monotonic()
        self._bad_frames.append(now)
        if len(self._bad_frames) == BAD_FRAMES_MAX and now - self._bad_frames[0] <= BAD_FRAMES_WINDOW_S:
            self._socket.close(BAD_HELLO, "too many bad frames")

    def _failed(self, exc: Exception) -> None:
        """Writing events failed by a bug: without a close the client would wait for them for ever."""
        problems.report(exc, self._request_id, counted_as="websocket")
        self._socket.close(BUG, "internal")

    def _leave(self) -> None:
        self._bridge.connections.exit(self._connection)
        if self._commands is not None:
            # What was asked for is done, whether or not the one who asked stays; a drain waits for it.
            self._commands.finish()
        account = {
            "closeCode": self._socket.close_code,
            "durationMs": int((time.monotonic() - self._connection.opened_at) * 1000),
            "framesIn": self._connection.received,
            "eventsOut": self._connection.sent,
        }
        log.info("connection closed", extra=account)


def report_violation(socket: SocketIO, gone: ConnectionGone, request_id: str) -> None:
    """Tell of an end that the peer has caused by breaking the protocol."""
    if socket.sent_code in VIOLATIONS:
        broken = WebSocketError(gone.reason or "The protocol was broken.", close_code=gone.close_code)
        problems.report(broken, request_id, counted_as="websocket", closed_with=gone.close_code)


def refuse(
    socket: SocketIO,
    error: BaseError,
    close_code: int,
    request_id: str,
    *,
    cause: Exception,
    frame: str | None = None,
) -> None:
    """Tell the peer of ``error`` and close; nothing is raised."""
    problems.report(cause, request_id, counted_as="websocket", closed_with=close_code)
    try:
        socket.send(frame or problems.error_frame(error, request_id))
    except ConnectionGone:
        return
    socket.close(close_code, error.code)


def only_text(frame: str | bytes) -> str:
    if isinstance(frame, bytes):
        raise ValidationError("Only text frames are taken.", errors=[{"path": "", "message": "is a binary frame"}])
    return frame
