"""What gunicorn itself refuses, or what escapes the application: problem documents like everybody else's."""

from __future__ import annotations

import json
import re
import traceback
from ssl import SSLError

from gunicorn import util
from gunicorn.http import errors as parse_errors

# What was wrong with a request that never reached the application: exception → status, code, title, detail.
Refusal = tuple[int, str, str, str]

BAD_REQUEST: Refusal = (400, "bad_request", "Bad request", "The request is not well-formed HTTP.")
INTERNAL: Refusal = (500, "internal", "Internal error", "Something went wrong here; the correlation id tells us what.")
REFUSALS: dict[type[Exception], Refusal] = {
    parse_errors.LimitRequestLine: (414, "uri_too_long", "URI too long", "The request line is too long."),
    parse_errors.LimitRequestHeaders: (431, "headers_too_large", "Headers too large", "The headers are too large."),
    parse_errors.UnsupportedTransferCoding: (501, "not_implemented", "Not implemented", "Unknown transfer coding."),
    parse_errors.ExpectationFailed: (417, "expectation_failed", "Expectation failed", "Unknown expectation."),
    parse_errors.ForbiddenProxyRequest: (403, "forbidden", "Forbidden", "Not allowed."),
    parse_errors.ConfigurationProblem: INTERNAL,
    parse_errors.InvalidResponseHeader: INTERNAL,
    parse_errors.InvalidResponseHeaderName: INTERNAL,
    parse_errors.ParseException: BAD_REQUEST,
    SSLError: BAD_REQUEST,
}
PROBLEM_HEADERS = """\
Content-Type: application/problem+json
Connection: close
Cache-Control: no-store
Content-Security-Policy: default-src 'none'; frame-ancestors 'none'
X-Content-Type-Options: nosniff
X-Frame-Options: DENY
Referrer-Policy: no-referrer
Permissions-Policy: accelerometer=(), browsing-topics=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), \
magnetometer=(), microphone=(), midi=(), payment=(), screen-wake-lock=(), usb=()
Cross-Origin-Opener-Policy: same-origin
Cross-Origin-Resource-Policy: same-origin
Vary: Origin
"""
REQUEST_ID = re.compile(rb"(?:\A|\n)x-request-id:[ \t]*([A-Za-z0-9._-]{8,64})[ \t]*\r\n", re.IGNORECASE)


def refused_request(exc: BaseException) -> tuple[str | None, str | None]:
    """The caller's request id and the method of a request that could not be parsed, where it came that far, else
    ``None``. gunicorn has let go of it; the parser's own variables, in the frames of its exception, have not."""
    texts: list[bytes] = []
    method: str | None = None
    for frame, _ in traceback.walk_tb(exc.__traceback__):
        if frame.f_globals.get("__name__") == "gunicorn.http.message":
            request = frame.f_locals.get("self")
            method = getattr(request, "method", None) or method
            texts += [f"{name}: {value}\r\n".encode("latin-1") for name, value in getattr(request, "headers", ())]
            held = [frame.f_locals.get(name) for name in ("buf", "data")]
            texts += [
                bytes(one).partition(b"\r\n\r\n")[0] + b"\r\n" for one in held if isinstance(one, bytes | bytearray)
            ]
    found = next(filter(None, map(REQUEST_ID.search, texts)), None)
    return found[1].decode() if found else None, method


def problem(refusal: Refusal, request_id: str, *, with_body: bool = True) -> bytes:
    """A whole HTTP response with a problem document, as bytes."""
    status, code, title, detail = refusal
    fields = {"type": f"urn:problem:{code}", "title": title, "status": status, "detail": detail}
    body = json.dumps({**fields, "code": code, "correlationId": request_id}).encode()
    head = f"HTTP/1.1 {status} {title}\nDate: {util.http_date()}\nX-Request-ID: {request_id}\n{PROBLEM_HEADERS}"
    head += f"Content-Length: {len(body)}\n\n"
    return head.replace("\n", "\r\n").encode("latin-1") + (body if with_body else b"")
