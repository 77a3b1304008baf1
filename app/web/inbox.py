"""What a peer has sent: bytes in, messages and control frames out. A frame in one piece needs no state machine."""

from __future__ import annotations

from collections.abc import Iterator

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Event, Ping, Pong, TextMessage

from app.web import framing


class MessageTooLargeError(Exception):
    """The message that was being read has more bytes than are taken."""


class Inbox:
    """:param max_message_bytes: as bytes of UTF-8 over all fragments of a message."""

    __slots__ = ("_events", "_max_message_bytes", "_partial", "_protocol")

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._protocol: Connection | None = None
        self._events: Iterator[Event] | None = None
        self._partial: bytearray | None = None

    @property
    def protocol(self) -> Connection:
        """wsproto's, made with the first bytes that are not one whole frame. It stays then, for it does not tell when
        nothing half-read is in it."""
        if self._protocol is None:
            self._protocol = Connection(ConnectionType.SERVER)
        return self._protocol

    @property
    def between_frames(self) -> bool:
        """Whether nothing can be half-read."""
        return self._protocol is None

    def put(self, data: bytes) -> None:
        """:meth:`next` gave ``None`` before."""
        if self._protocol is None:
            event = _in_one_piece(data)
            if event is not None:
                self._events = iter((event,))
                return
        self.protocol.receive_data(data)
        self._events = self.protocol.events()

    def next(self) -> Event | None:
        """``None``: all that came was told."""
        event = next(self._events, None) if self._events is not None else None
        if event is None:
            self._events = None
        return event

    def whole(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        """The message that ``event`` ends, ``None``: more of it is to come. Pieces are kept as bytes: a million
        one-letter strings would weigh 60 MB.

        :raises MessageTooLargeError: what there was of it is forgotten.
        """
        data, before = event.data, self._partial or b""
        raw = data if isinstance(data, (bytes, bytearray)) or data.isascii() else data.encode()
        if len(before) + len(raw) > self._max_message_bytes:
            self._partial = None
            raise MessageTooLargeError
        if event.message_finished and not before:
            return data if isinstance(data, str) else bytes(data)
        if self._partial is None:
            self._partial = bytearray()
        self._partial += raw if isinstance(raw, (bytes, bytearray)) else raw.encode()
        if not event.message_finished:
            return None
        found, self._partial = self._partial, None
        return found.decode() if isinstance(event, TextMessage) else bytes(found)


def _in_one_piece(data: bytes) -> Event | None:
    text = framing.short_text(data) or framing.medium_text(data)
    if text is not None:
        return TextMessage(text)
    control = framing.short_control(data)
    if control is None or control[0] == framing.CLOSE:
        return None
    return (Ping if control[0] == framing.PING else Pong)(control[1])
