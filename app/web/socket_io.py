"""One WebSocket: whole messages out, one at a time in, and an end that the peer gets to see.

Takes the place of ``simple_websocket.Server`` in flask-sock's routes and keeps its handshake and wsproto's framing.
The library's own reading and writing is left out: it cuts frames short, interleaves senders, never yields to others
and buffers without end.

A handler may read in its own greenlet, or hand the socket over to the loop (:meth:`SocketIO.attend`): then there is a
greenlet only while there is something to do.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import Any, Protocol

import flask_sock
import gevent
from simple_websocket import ConnectionClosed
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from app.telemetry import metrics
from app.web import framing
from app.web.handshake import shake_hands
from app.web.inbox import Inbox, MessageTooLargeError
from app.web.sender import CLOSE_WAIT_S, DEAD, LOST, Sender
from app.web.tcp import Tcp

NOTICED_BYTES = 4096  # read in the loop: more than a short frame
EVENTS_PER_SLICE = 32  # about 0.5 ms of work between two looks at the other connections
HEAR_OUT_S = 5.0

_PROTOCOL_ERRORS = {1002: "Protocol error", 1007: "Text is not UTF-8"}
_PING = framing.control_frame(framing.PING)


class ConnectionGone(ConnectionClosed):  # type: ignore[misc]  # the library has no types
    """The connection has ended, or is ending.

    :ivar close_code: ours where we closed first, else the peer's (1005: a close without a code; 1006: no close at
        all); 1008 where the peer counts as dead.
    """

    def __init__(self, close_code: int, reason: str = "") -> None:
        super().__init__(close_code, reason)
        self.close_code = close_code


class Handler(Protocol):
    """Who works on what comes on a socket that the loop attends."""

    def serve(self) -> None:
        """In a greenlet: take messages (:meth:`SocketIO.next_frame`) until there is none, or the socket has ended,
        which is then :meth:`SocketIO.finish`-ed. Raises nothing."""

    def quick_answer(self, text: str) -> str | None:
        """In the loop, where nothing may wait: what to answer at once to a short text. ``None``: it wants a greenlet,
        and comes again by :meth:`serve`."""


class _Woken(Exception):
    """Thrown into a reader that waits, so that it sees the close."""


class SocketIO:
    """A server-side WebSocket on gunicorn's gevent worker.

    One greenlet, the one that made it, calls :meth:`receive_frame`; any may call :meth:`send` and :meth:`close`.

    :ivar close_code: what :class:`ConnectionGone` carries, ``None`` while open.
    :ivar sent_code: the code we closed with, ``None`` where the peer was first or nothing could be sent.
    """

    __slots__ = (
        "_at_work",
        "_finished",
        "_handler",
        "_heard_until",
        "_inbox",
        "_max_message_bytes",
        "_next_ping",
        "_noticed",
        "_owner",
        "_ping_interval_s",
        "_reader",
        "_sender",
        "_taken",
        "_tcp",
        "_unanswered",
        "close_code",
        "close_text",
        "sent_code",
    )

    mode = "gunicorn"
    """For flask-sock: the request ends without an answer."""

    def __init__(
        self,
        environ: dict[str, Any],
        *,
        max_message_bytes: int = 1_048_576,
        ping_interval_s: float = 30.0,
        send_timeout_s: float = 20.0,
    ) -> None:
        """Answer the handshake with 101.

        :param max_message_bytes: largest message taken, as bytes of UTF-8 over all its fragments; more: close 1009.
        :param ping_interval_s: silence for two of these is a dead peer (1008); 0 never pings. Where the loop attends
            the socket, whoever calls :meth:`beat` sees to that.
        :param send_timeout_s: for a whole frame; a peer that takes longer to read it is dead.
        :raises CallerError: this is no WebSocket handshake; nothing was sent.
        """
        self.close_code: int | None = None
        self.close_text = ""
        self.sent_code: int | None = None
        self._max_message_bytes = max_message_bytes
        self._inbox = Inbox(max_message_bytes)
        self._ping_interval_s = ping_interval_s or math.inf
        self._owner: Any = gevent.getcurrent()
        self._reader: Any = None  # the greenlet that waits for bytes, while it waits
        self._handler: Handler | None = None
        self._at_work = False  # the handler's greenlet runs
        self._noticed: bytes | None = None  # read in the loop, for that greenlet
        self._taken = 0
        self._unanswered = False
        self._finished = False
        self._heard_until = 0.0  # the peer is gone, and what it sent before is worked off
        there = shake_hands(environ)
        self._tcp = Tcp(environ["gunicorn.socket"])
        self._sender = Sender(self._tcp, send_timeout_s, self._cannot_write)
        self._next_ping = monotonic() + self._ping_interval_s
        if not there:
            self._lose(LOST)

    # -- in

    def receive_frame(self) -> str | bytes:
        """Wait for the next message: text or binary.

        Nothing is read while the caller works on one, so a peer that sends faster is held back by TCP.

        :raises ConnectionGone: it was closed by either side, lost, or the peer is dead.
        """
        while True:
            message = self.next_frame()
            if message is not None:
                return message
            self._wait()

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """:meth:`receive_frame`, or ``None`` after ``timeout`` seconds."""
        with gevent.Timeout(timeout, False):
            return self.receive_frame()
        return None

    def next_frame(self) -> str | bytes | None:
        """The next message that is there already, ``None``: nothing more has come.

        A peer that says something and leaves at once is heard out: what it sent counts although no answer reaches it.

        :raises ConnectionGone: as :meth:`receive_frame`.
        """
        while not self._over:
            if self._taken >= EVENTS_PER_SLICE:
                self._taken = 0
                gevent.sleep(0)
                continue
            event = self._inbox.next()
            if event is None:
                if not self._read():
                    return None
                continue
            self._taken += 1
            if isinstance(event, (TextMessage, BytesMessage)):
                message = self._whole(event)
                if message is not None:
                    metrics.frames_in.inc()
                    return message
            elif isinstance(event, Ping):
                self._pong(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                self._closed_by_peer(event)
        self.finish()
        raise ConnectionGone(self.close_code or LOST, self.close_text)

    @property
    def _over(self) -> bool:
        return self.close_code is not None and monotonic() >= self._heard_until

    def _wait(self) -> None:
        """Wait in this greenlet for bytes; ping the peer, or give it up, when it is silent."""
        self._reader = gevent.getcurrent()
        wait_s = max(0.0, self._next_ping - monotonic())
        try:
            if not self._tcp.wait_readable(wait_s if wait_s < math.inf else None):
                self._next_ping = monotonic() + self._ping_interval_s
                self.beat()
        except _Woken:
            return
        finally:
            self._reader = None

    def _read(self) -> bool:
        """Take what the peer has sent, one piece; ``False``: nothing is there."""
        data, self._noticed = self._noticed, None
        if data is None:
            # A peer that always has data ready would never make us wait, and nobody else would run.
            gevent.sleep(0)
            if self._over:
                return True
            data = self._tcp.receive()
            if data is None:
                return False
        if not data:
            self._heard_until = 0.0
            self._lose(LOST)
            return True
        self._unanswered = False
        self._inbox.put(data)
        return True

    def _whole(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        try:
            return self._inbox.whole(event)
        except MessageTooLargeError:
            metrics.frames_in.inc()
            self.close(1009, f"A message may have {self._max_message_bytes} bytes")
            return None

    def _pong(self, payload: bytes) -> None:
        self._sender.control(framing.PONG, framing.control_frame(framing.PONG, payload))

    def _closed_by_peer(self, event: CloseConnection) -> None:
        protocol = self._inbox.protocol
        if protocol.state is not ConnectionState.REMOTE_CLOSING:
            # wsproto's way to say that it cannot go on with what the peer sent; its text is about its own code.
            self.close(int(event.code), _PROTOCOL_ERRORS.get(int(event.code), "Protocol error"))
            return
        self._heard_until = 0.0
        self._end(int(event.code), event.reason or "")
        self._sender.control(framing.CLOSE, protocol.send(event.response()), timeout_s=CLOSE_WAIT_S)

    # -- attended by the loop

    def attend(self, handler: Handler) -> None:
        """Take the TCP connection from gunicorn, whose request may end, and have ``handler`` work on what comes.

        :raises OSError: the connection is gone.
        """
        self._tcp.take_over()
        self._handler = handler
        self._work()  # what was read with the last message, and a close until now

    def beat(self) -> None:
        """Once in each ping interval: ping the peer, or give it up where it has not said a thing since the last. In
        whichever greenlet, or in the loop; never waits."""
        if self._handler is not None and not self._at_work and self.close_code is None:
            self._notice()  # after a long absence, what came meanwhile counts
        if self._at_work or self.close_code is not None:
            return  # what it has to say is not read while it is worked for
        if self._unanswered:
            self.close(DEAD, "No answer to a ping")
            return
        self._unanswered = True
        self._sender.control(framing.PING, _PING)

    def _notice(self) -> None:
        """In the loop: there is something to read. A short text that can be answered at once is; the rest is for the
        handler's greenlet."""
        data = self._tcp.receive(NOTICED_BYTES)
        if data is None:
            return
        if not data or not self._answered(data):
            self._noticed = data
            self._work()

    def _answered(self, data: bytes) -> bool:
        assert self._handler is not None
        self._unanswered = False
        if not self._inbox.between_frames:
            return False
        text = framing.short_text(data)
        if text is None:
            return self._is_answered_control(data)
        if self._sender.busy:
            return False  # a slow reader; whoever answers it waits
        answer = self._handler.quick_answer(text)
        if answer is None:
            return False
        metrics.frames_in.inc()
        metrics.frames_out.inc()
        self._sender.post(framing.text_frame(answer))
        return True

    def _is_answered_control(self, data: bytes) -> bool:
        found = framing.short_control(data)
        if found is None or found[0] == framing.CLOSE:
            return False
        if found[0] == framing.PING:
            self._pong(found[1])
        return True

    def _work(self) -> None:
        """Start the handler's greenlet where none runs. Nothing is read meanwhile but by it."""
        if not self._at_work:
            self._at_work = True
            self._tcp.unwatch()
            gevent.spawn(self._at_work_until_idle)

    def _at_work_until_idle(self) -> None:
        assert self._handler is not None
        self._handler.serve()
        while self.close_code is not None and not self._tcp.closed:
            self._handler.serve()
        self._at_work = False
        if self.close_code is None:
            self._tcp.watch(self._notice)
        else:
            self._handler = None  # nothing more comes, and it has us

    # -- out

    def send(self, data: str | bytes) -> None:
        """Write one message whole; senders take turns.

        :raises ConnectionGone: it could not be written: closed, lost, or not read within ``send_timeout_s``.
        """
        # A message in one frame is the same whatever was sent before, so wsproto has nothing to add to it.
        frame = framing.text_frame(data) if isinstance(data, str) else self._inbox.protocol.send(BytesMessage(data))
        if not self._sender.send(frame):
            raise ConnectionGone(self.close_code or LOST, self.close_text)
        metrics.frames_out.inc()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; the first call counts, from whichever greenlet. Wakes a waiting :meth:`receive_frame`.

        Never waits for the peer to agree. The handler's own greenlet stays up to a second to see the frame off.

        :param reason: for people; cut at 123 bytes of UTF-8.
        """
        owner = gevent.getcurrent() is self._owner
        if owner and self._handler is not None:
            # flask-sock's, at the end of a view that has handed the socket over.
            self._owner = None
            return
        self._heard_until = 0.0
        if self.close_code is None:
            self.sent_code = code
            self._end(code, reason)
            goodbye = self._inbox.protocol.send(CloseConnection(code, reason))
            self._sender.control(framing.CLOSE, goodbye, timeout_s=CLOSE_WAIT_S)
            if self._reader is not None:
                gevent.get_hub().loop.run_callback(self._wake)
            if self._sender.busy:
                gevent.spawn_later(CLOSE_WAIT_S, self._cut_off)
        if owner:
            self.finish()

    def finish(self) -> None:
        """After the end: see the close frame off, and let the TCP connection go where it is ours. Idempotent."""
        if not self._finished:
            self._finished = True
            if not self._sender.finish(drop_incoming=self.sent_code is not None):
                self._lose(LOST)
        self._sender.leave()
        self._tcp.close()

    def _cut_off(self) -> None:
        """A second after the close a sender is still at it, and the handler may be who waits for it."""
        if self._sender.busy and not self._finished:
            self._lose(LOST)

    # -- the end

    def _end(self, code: int, reason: str = "") -> None:
        if self.close_code is None:
            self.close_code, self.close_text = code, reason
            self._sender.open = False
            if self._handler is not None:
                self._work()

    def _cannot_write(self, code: int) -> None:
        """Where the peer has left, what came before that is read all the same."""
        if code == LOST and self.close_code is None:
            self._heard_until = monotonic() + HEAR_OUT_S
        self._lose(code)

    def _lose(self, code: int) -> None:
        """No goodbye is possible."""
        self._finished = True
        self._end(code)
        self._sender.give_up()

    def _wake(self) -> None:
        if self._reader is not None:
            self._reader.throw(_Woken)


def install() -> None:
    """Make flask-sock hand :class:`SocketIO` to its routes; its options are ``app.config["SOCK_SERVER_OPTIONS"]``."""
    flask_sock.Server = SocketIO
