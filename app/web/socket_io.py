"""One WebSocket's bytes: whole frames out, one message at a time in, and an end that the peer gets to see.

Takes the place of ``simple_websocket.Server`` in flask-sock's routes and keeps its handshake and wsproto's framing.
The library's own reading and writing is left out: it cuts frames short, interleaves senders, never yields to others
and buffers without end.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Iterator
from time import monotonic
from typing import Any

import flask_sock
import gevent
from gevent.event import Event as Wakeup
from gevent.lock import Semaphore
from simple_websocket import ConnectionClosed, Server
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import RemoteProtocolError

from app.errors import CallerError
from app.telemetry import metrics

READ_BYTES = 65_536
EVENTS_PER_SLICE = 32  # about 0.5 ms of work between two looks at the other connections
CLOSE_WAIT_S = 1.0
LOST = 1006
DEAD = 1008

# All that the handshake looks at. Extensions are not among them, so compression is never agreed on: a small deflated
# frame could otherwise unpack to hundreds of megabytes.
_HANDSHAKE = ("HTTP_HOST", "HTTP_UPGRADE", "HTTP_CONNECTION", "HTTP_SEC_WEBSOCKET_KEY", "HTTP_SEC_WEBSOCKET_VERSION")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_SHORT_BYTES = 125
_WHOLE_TEXT = 0x81
_MASKED = 0x80
_CONTROL = (0x88, 0x89, 0x8A)
_PROTOCOL_ERRORS = {1002: "Protocol error", 1007: "Text is not UTF-8"}


class ConnectionGone(ConnectionClosed):  # type: ignore[misc]  # the library has no types
    """The connection has ended, or is ending.

    :ivar close_code: ours where we closed first, else the peer's (1005: a close without a code; 1006: no close at
        all); 1008 where the peer counts as dead.
    """

    def __init__(self, close_code: int, reason: str = "") -> None:
        super().__init__(close_code, reason)
        self.close_code = close_code


class _Woken(Exception):
    """Thrown into a reader that waits, so that it sees the close."""


class _NoThread:
    """Stands where the library would start its reader: the handler reads for itself."""

    name = ""

    def __init__(self, target: Any) -> None:
        """``target`` is not kept; it would tie the socket into a cycle."""

    def start(self) -> None:
        """Nothing runs."""


def text_frame(data: str) -> bytes:
    """A server's message in one frame."""
    payload = data.encode()
    size = len(payload)
    if size <= _SHORT_BYTES:
        return bytes((_WHOLE_TEXT, size)) + payload
    return struct.pack("!BBH" if size < 65_536 else "!BBQ", _WHOLE_TEXT, 126 if size < 65_536 else 127, size) + payload


def short_text(data: bytes) -> str | None:
    """The text of ``data``, where that is exactly one client's frame with a short text, as nearly all of them are;
    ``None``: it is something else, for wsproto (which takes 34 µs for what takes 2 here)."""
    size = len(data) - 6
    if not 0 < size <= _SHORT_BYTES or data[0] != _WHOLE_TEXT or data[1] != _MASKED | size:
        return None
    mask = (data[2:6] * (size // 4 + 1))[:size]
    payload = (int.from_bytes(data[6:]) ^ int.from_bytes(mask)).to_bytes(size)
    try:
        return payload.decode()
    except UnicodeError:
        return None


def is_short_control(data: bytes) -> bool:
    """Whether ``data`` is exactly one client's control frame: a ping, a pong, a close."""
    size = len(data) - 6
    return 0 <= size <= _SHORT_BYTES and data[0] in _CONTROL and data[1] == _MASKED | size


class SocketIO(Server):  # type: ignore[misc]  # the library has no types
    """A server-side WebSocket on gunicorn's gevent worker; gunicorn owns the TCP socket and closes it.

    One greenlet, the one that made it, calls :meth:`receive_frame`; any may call :meth:`send` and :meth:`close`.

    :ivar close_code: what :class:`ConnectionGone` carries, ``None`` while open.
    :ivar sent_code: the code we closed with, ``None`` where the peer was first or nothing could be sent.
    """

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
        :param ping_interval_s: silence for two of these is a dead peer (1008); 0 never pings.
        :param send_timeout_s: for a whole frame; a peer that takes longer to read it is dead.
        :raises CallerError: this is no WebSocket handshake; nothing was sent.
        """
        self.close_code: int | None = None
        self.close_text = ""
        self.sent_code: int | None = None
        self._max_message_bytes = max_message_bytes
        self._ping_interval_s = ping_interval_s or math.inf
        self._send_timeout_s = send_timeout_s
        self._owner = gevent.getcurrent()
        self._reader: Any = None  # the greenlet that waits for bytes, while it waits
        self._lock = Semaphore(1)
        self._queued: dict[type[Event], bytes] = {}  # control frames; at most a ping, a pong and a close
        self._partial = bytearray()
        # Nothing half-read is in wsproto. Once something was, it stays there, for it does not tell when that is over.
        self._between_frames = True
        self._taken = 0
        self._unanswered = False
        self._finished = False
        slim = {key: environ[key] for key in (*_HANDSHAKE, "gunicorn.socket") if key in environ}
        super().__init__(slim, thread_class=_NoThread, event_class=Wakeup)
        self.environ = environ
        self.connected = self.close_code is None
        self._protocol: Connection = self.ws.handshake.connection
        del self.ws  # the handshake's own HTTP parser: 3 KiB that nobody needs again
        self._events: Iterator[Event] = iter(())
        self._next_ping = monotonic() + self._ping_interval_s

    def handshake(self) -> None:
        try:
            super().handshake()
        except OSError:
            # The client left while it was being let in. The library wants ``connected`` now.
            self.connected = True
            self._lose(LOST)
        except (RemoteProtocolError, UnicodeError) as exc:
            raise CallerError("This is not a WebSocket handshake of version 13.") from exc

    def receive_frame(self) -> str | bytes:
        """Wait for the next message: text or binary.

        Nothing is read while the caller works on one, so a peer that sends faster is held back by TCP.

        :raises ConnectionGone: it was closed by either side, lost, or the peer is dead.
        """
        while self.close_code is None:
            if self._taken >= EVENTS_PER_SLICE:
                self._taken = 0
                gevent.sleep(0)
                continue
            event = next(self._events, None)
            if event is None:
                self._read()
                continue
            self._taken += 1
            if isinstance(event, (TextMessage, BytesMessage)):
                message = self._join(event)
                if message is not None:
                    metrics.frames_in.inc()
                    return message
            elif isinstance(event, Ping):
                self._control(event.response(), self._send_timeout_s)
            elif isinstance(event, CloseConnection):
                self._closed_by_peer(event)
        self._finish()
        raise ConnectionGone(self.close_code, self.close_text)

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """:meth:`receive_frame`, or ``None`` after ``timeout`` seconds."""
        with gevent.Timeout(timeout, False):
            return self.receive_frame()
        return None

    def send(self, data: str | bytes) -> None:
        """Write one message whole; senders take turns.

        :raises ConnectionGone: it could not be written: closed, lost, or not read within ``send_timeout_s``.
        """
        # A message in one frame is the same whatever was sent before, so wsproto has nothing to add to it.
        frame = text_frame(data) if isinstance(data, str) else self._protocol.send(BytesMessage(data))
        with self._lock:
            if self.close_code is None and self._write(frame, self._send_timeout_s):
                self._flush(self._send_timeout_s)
                metrics.frames_out.inc()
                return
        raise ConnectionGone(self.close_code or LOST, self.close_text)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; the first call counts, from whichever greenlet. Wakes a waiting :meth:`receive_frame`.

        Never waits for the peer to agree. The handler's own greenlet stays up to a second to see the frame off.

        :param reason: for people; cut at 123 bytes of UTF-8.
        """
        if self.close_code is None:
            self.sent_code = code
            self._end(code, reason)
            self._control(CloseConnection(code, reason), CLOSE_WAIT_S)
            if self._reader is not None:
                gevent.get_hub().loop.run_callback(self._wake)
        if gevent.getcurrent() is self._owner:
            self._finish()

    def _read(self) -> None:
        """Take what the peer has sent, one piece; ping it, or give it up, when it is silent."""
        # A peer that always has data ready would never make recv() wait, and nobody else would run.
        gevent.sleep(0)
        if self.close_code is not None:
            return
        data: bytes | None = None
        self._reader = gevent.getcurrent()
        # After a long absence the time is up already, yet what came meanwhile is taken first: recv() tries once.
        wait_s = max(0.0, self._next_ping - monotonic())
        try:
            with gevent.Timeout(wait_s if wait_s < math.inf else None, False):
                data = self.sock.recv(READ_BYTES)
        except _Woken:
            return
        except OSError:
            data = b""
        finally:
            self._reader = None
        if data is None:
            self._ping()
        elif data:
            self._unanswered = False
            text = short_text(data) if self._between_frames else None
            if text is not None:
                self._events = iter((TextMessage(text),))
                return
            self._between_frames = self._between_frames and is_short_control(data)
            self._protocol.receive_data(data)
            self._events = self._protocol.events()
        else:
            self._lose(LOST)

    def _ping(self) -> None:
        if self._unanswered:
            self.close(DEAD, "No answer to a ping")
            return
        self._unanswered = True
        self._next_ping = monotonic() + self._ping_interval_s
        self._control(Ping(), self._send_timeout_s)

    def _join(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        """The message, once it is whole. Pieces are kept as bytes: a million one-letter strings would weigh 60 MB."""
        data = event.data
        raw = data if isinstance(data, (bytes, bytearray)) or data.isascii() else data.encode()
        if len(self._partial) + len(raw) > self._max_message_bytes:
            self._partial.clear()
            metrics.frames_in.inc()
            self.close(1009, f"A message may have {self._max_message_bytes} bytes")
            return None
        if event.message_finished and not self._partial:
            return data if isinstance(data, str) else bytes(data)
        self._partial += raw if isinstance(raw, (bytes, bytearray)) else raw.encode()
        if not event.message_finished:
            return None
        whole, self._partial = self._partial, bytearray()
        return whole.decode() if isinstance(event, TextMessage) else bytes(whole)

    def _closed_by_peer(self, event: CloseConnection) -> None:
        if self._protocol.state is not ConnectionState.REMOTE_CLOSING:
            # wsproto's way to say that it cannot go on with what the peer sent; its text is about its own code.
            self.close(int(event.code), _PROTOCOL_ERRORS.get(int(event.code), "Protocol error"))
            return
        self._end(int(event.code), event.reason or "")
        self._control(event.response(), CLOSE_WAIT_S)

    def _control(self, event: Event, timeout_s: float) -> None:
        """Send a control frame, or leave it to the sender who is at it: a slow one must not hold up the reader."""
        self._queued[type(event)] = self._protocol.send(event)
        if self._lock.acquire(blocking=False):
            try:
                self._flush(timeout_s)
            finally:
                self._lock.release()

    def _flush(self, timeout_s: float) -> None:
        """Write the queued control frames. The lock is held, and given back without a pause after the last look."""
        while self._queued and self._write(self._queued.pop(next(iter(self._queued))), timeout_s):
            pass

    def _write(self, frame: bytes, timeout_s: float) -> bool:
        """Write all of ``frame``, or give the connection up: after half a frame nothing sensible can follow."""
        code = LOST
        try:
            try:
                sent = self.sock.send(frame, 0, 0.0)  # nearly always all of it, without a timer
            except BlockingIOError:
                sent = 0
            if sent < len(frame):
                code = DEAD
                with gevent.Timeout(timeout_s, TimeoutError):
                    self.sock.sendall(memoryview(frame)[sent:])
        except OSError as exc:
            self._lose(DEAD if isinstance(exc, TimeoutError) else LOST)
            return False
        except BaseException:  # a caller's own timeout, a kill
            self._lose(code)
            raise
        return True

    def _end(self, code: int, reason: str = "") -> None:
        if self.close_code is None:
            self.close_code, self.close_text, self.connected = code, reason, False

    def _lose(self, code: int) -> None:
        """No goodbye is possible: wake who waits on the TCP connection, and let it go by a reset when it is closed."""
        self._end(code)
        self._finished = True
        self._queued.clear()
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _wake(self) -> None:
        if self._reader is not None:
            self._reader.throw(_Woken)

    def _finish(self) -> None:
        """See the close frame off. Closing with unread data makes TCP reset the connection, and the peer may then
        never see the frame: so our half is closed first, and what still comes is read and dropped for a second."""
        if self._finished:
            return
        self._finished = True
        if not self._lock.acquire(timeout=CLOSE_WAIT_S):
            self._lose(LOST)  # a sender is stuck in the middle of a frame
            return
        try:
            self._flush(CLOSE_WAIT_S)
            self.sock.shutdown(socket.SHUT_WR)
            if self.sent_code is not None:
                with gevent.Timeout(CLOSE_WAIT_S, False):
                    while self.sock.recv(READ_BYTES):
                        gevent.sleep(0)
        except OSError:
            pass
        finally:
            self._lock.release()


def install() -> None:
    """Make flask-sock hand :class:`SocketIO` to its routes; its options are ``app.config["SOCK_SERVER_OPTIONS"]``."""
    flask_sock.Server = SocketIO
