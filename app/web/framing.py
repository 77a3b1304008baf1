"""WebSocket frames in one piece, read and written without a state machine; for whatever else there is, wsproto."""

from __future__ import annotations

import struct

SHORT_BYTES = 125
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
_MASKED = 0x80
_CONTROL = (CLOSE, PING, PONG)
_MEDIUM = _MASKED | 126
_MEDIUM_HEAD = 8


def text_frame(data: str) -> bytes:
    """A server's message in one frame."""
    payload = data.encode()
    size = len(payload)
    if size <= SHORT_BYTES:
        return bytes((TEXT, size)) + payload
    return struct.pack("!BBH" if size < 65_536 else "!BBQ", TEXT, 126 if size < 65_536 else 127, size) + payload


def control_frame(opcode: int, payload: bytes = b"") -> bytes:
    """A server's ping or pong. :param payload: at most 125 bytes."""
    return bytes((opcode, len(payload))) + payload


def short_text(data: bytes) -> str | None:
    """The text of ``data``, where that is exactly one client's frame with a short text, as nearly all of them are;
    ``None``: it is something else, for wsproto (which takes 34 µs for what takes 2 here)."""
    size = len(data) - 6
    if not 0 < size <= SHORT_BYTES or data[0] != TEXT or data[1] != _MASKED | size:
        return None
    return _text(data[2:6], data[6:])


def medium_text(data: bytes) -> str | None:
    """As :func:`short_text`, for one of 126 to 65 535 bytes: what a person writes, a ``hello`` with its token."""
    size = len(data) - _MEDIUM_HEAD
    if not SHORT_BYTES < size < 65_536 or data[0] != TEXT or data[1] != _MEDIUM:
        return None
    if int.from_bytes(data[2:4]) != size:
        return None
    return _text(data[4:8], data[8:])


def short_control(data: bytes) -> tuple[int, bytes] | None:
    """Opcode and payload of ``data``, where that is exactly one client's control frame: a ping, a pong, a close."""
    size = len(data) - 6
    if not 0 <= size <= SHORT_BYTES or data[0] not in _CONTROL or data[1] != _MASKED | size:
        return None
    return data[0], _unmasked(data[2:6], data[6:])


def _text(mask: bytes, payload: bytes) -> str | None:
    try:
        return _unmasked(mask, payload).decode()
    except UnicodeError:
        return None


def _unmasked(mask: bytes, payload: bytes) -> bytes:
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)
