"""Request bodies, read with a bound: JSON for our own routes, and the ends of what is too large for a callback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gevent
from flask import request
from gunicorn.http.errors import ParseException

from app.errors import CallerError, TooLargeError, ValidationError

READ_BYTES = 65_536
CALLBACK_READ_MAX_BYTES = 16 * 1_048_576
PIECE_LIMIT_S = 10.0  # for READ_BYTES, or for what is left: slower senders are not waited for, in a drain least of all


class UnsupportedMediaTypeError(CallerError):
    """The body is not declared as JSON."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class RequestTimeoutError(CallerError):
    """The body did not come in time."""

    code, status, title = "request_timeout", 408, "Request timeout"

    def __init__(self) -> None:
        super().__init__("The body did not arrive in time.")


@dataclass(frozen=True, slots=True)
class Body:
    """A body; of one over the limit the first and the last bytes. ``size_bytes``: of all that was read."""

    data: bytes
    size_bytes: int
    whole: bool


def read_json_body(limit_bytes: int) -> bytes:
    """The request's JSON text.

    :raises UnsupportedMediaTypeError: another content type. :raises TooLargeError: over the limit.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaTypeError("Send JSON, as application/json.")
    body = read_body(limit_bytes, keep_ends_bytes=0)
    if not body.whole:
        raise TooLargeError(f"A body may have {limit_bytes} bytes.")
    return body.data


def read_body(limit_bytes: int, *, keep_ends_bytes: int) -> Body:
    """Read the request's body; of one over ``limit_bytes`` keep the first and last ``keep_ends_bytes``.

    At most ``CALLBACK_READ_MAX_BYTES`` are read. They are read although they are not wanted, because closing a
    connection under a sender that still sends takes the answer along; what comes after them is the worker's to cut.

    :raises RequestTimeoutError: it comes too slowly. :raises ValidationError: its chunks are not well-formed.
    """
    stream, declared = request.environ["wsgi.input"], request.environ.get("CONTENT_LENGTH")
    whole = int(declared) if declared else None  # nothing comes after it, so its end is not asked for
    head, tail, size = bytearray(), b"", 0
    while size != whole and size <= CALLBACK_READ_MAX_BYTES and (piece := _read(stream)):
        size += len(piece)
        if len(head) <= limit_bytes:
            head += piece
        else:
            tail = (tail + piece)[-keep_ends_bytes:] if keep_ends_bytes else b""
    if size <= limit_bytes:
        return Body(bytes(head), size, whole=True)
    rest = bytes(head[keep_ends_bytes:]) + tail
    return Body(bytes(head[:keep_ends_bytes]) + rest[-keep_ends_bytes:], size, whole=False)


def _read(stream: Any) -> bytes:
    try:
        with gevent.Timeout(PIECE_LIMIT_S, RequestTimeoutError):
            piece: bytes = stream.read(READ_BYTES)
    except ParseException as exc:
        raise _malformed("has chunks that are not well-formed") from exc
    except OSError as exc:  # gunicorn's word for chunks that stop; or the client is gone, and nobody hears this
        raise _malformed("ended early") from exc
    return piece


def _malformed(message: str) -> ValidationError:
    return ValidationError(f"The body {message}.", errors=[{"path": "", "message": message}])
