"""What becomes of an error: problem+json over HTTP, a frame and a close code on a socket, a log line, a count."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from typing import Any, Literal

import flask
from werkzeug.exceptions import HTTPException

from app.errors import (
    AuthenticationError,
    BaseError,
    BusyError,
    CallerError,
    ConfigError,
    DependencyError,
    LeaseLostError,
    StaleDocumentError,
    TooLargeError,
    ValidationError,
    WebSocketError,
)
from app.telemetry import metrics
from app.telemetry.redaction import redact_text
from app.telemetry.sampling import Sampler

log = logging.getLogger("app.web")

# Flask's own refusals, in our words: the framework's texts name its classes and headers.
HTTP_PROBLEMS: dict[int, tuple[str, str, str]] = {
    400: ("bad_request", "Bad request", "The request cannot be understood."),
    401: ("unauthorized", "Not allowed", "A credential is needed."),
    403: ("forbidden", "Forbidden", "This is not allowed."),
    404: ("not_found", "Not found", "There is nothing at this address."),
    405: ("method_not_allowed", "Method not allowed", "This address does not take this method."),
    406: ("not_acceptable", "Not acceptable", "There is no such representation of this."),
    408: ("request_timeout", "Request timeout", "The request did not arrive in time."),
    409: ("conflict", "Conflict", "This is not possible now."),
    411: ("length_required", "Length required", "The request must state its length."),
    413: ("too_large", "Too large", "The body is too large."),
    414: ("uri_too_long", "Address too long", "The address is too long."),
    415: ("unsupported_media_type", "Unsupported media type", "The body must be application/json."),
    422: ("unprocessable", "Unprocessable", "The body cannot be processed."),
    426: ("upgrade_required", "Upgrade required", "This address wants another protocol."),
    429: ("rate_limited", "Too many requests", "Too many requests; come back later."),
    431: ("headers_too_large", "Headers too large", "The headers are too large."),
    500: ("internal", "Internal error", "Something went wrong here. It has been logged."),
    501: ("not_implemented", "Not implemented", "This is not supported."),
    502: ("dependency_failed", "A service this needs failed", "A service this needs failed."),
    503: ("busy", "Busy", "Come back later."),
    504: ("dependency_failed", "A service this needs failed", "A service this needs did not answer in time."),
}
BUG = 1011
MAX_CAUSE_CHARS = 300
Counted = Literal["websocket", "callback"]
# Of the WSGI environment: what a failure of this request counts as, set by its view; and the code it was answered with.
COUNTED_AS_KEY, CODE_KEY = "bridge.counted_as", "bridge.error_code"
KEPT_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")

_frames = Sampler()


def correlation_id(environ: dict[str, Any]) -> str:
    """The request's id (``X-Request-ID``), as the outermost middleware has set it."""
    known = environ.get("bridge.request_id")
    if not known:
        known = environ["bridge.request_id"] = uuid.uuid4().hex
    return str(known)


def problem_response(error: BaseError, correlation_id: str) -> flask.Response:
    """``error`` as ``application/problem+json`` (RFC 9457).

    Members: ``type``, ``title``, ``status``, ``detail``, ``code``, ``correlationId``; ``errors`` for a
    :class:`ValidationError`; and ``error.fields``, which cannot replace any of these.
    """
    members: dict[str, Any] = dict(error.fields)
    if isinstance(error, ValidationError):
        members["errors"] = error.errors
    response = _problem(error.status, error.code, error.title, error.detail, correlation_id, members)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, error.retry_after_s))
    return response


def error_frame(error: BaseError, correlation_id: str) -> str:
    """``error`` as a socket's ``error`` frame: ``type``, ``code``, ``message``, ``correlationId``, ``retryAfter?``."""
    frame = {"type": "error", "code": error.code, "message": redact_text(error.detail), "correlationId": correlation_id}
    if error.retry_after_s is not None:
        return json.dumps({**frame, "retryAfter": max(1, error.retry_after_s)})
    return json.dumps(frame)


def close_code(error: BaseError, *, default: int = BUG) -> int:
    """The WebSocket close code for an error that ends a socket."""
    return error.close_code or default


def log_level(error: BaseException) -> int:
    """How loudly ``error`` is logged: the caller's doing is ``info``, a neighbour's failure a ``warning``."""
    if isinstance(error, (CallerError, BusyError, LeaseLostError, StaleDocumentError)):
        return logging.INFO
    if isinstance(error, DependencyError):
        return logging.WARNING
    return logging.CRITICAL if isinstance(error, ConfigError) else logging.ERROR


def report(
    error: BaseException, correlation_id: str, *, counted_as: Counted | None = None, closed_with: int | None = None
) -> None:
    """What is told of an error that ends a request, or that a frame is answered with: a log line and a count.

    One line at :func:`log_level`, with the traceback where it is a bug. A callback that fails here has finally failed,
    which is an ``error``. What is the caller's doing has a line in the access log already, and on a socket, where there
    is none, one a minute of each kind.

    :param counted_as: the ``type`` of ``n8n_builder_errors_total``; ``None``: not counted there.
    :param closed_with: the close code, where it ends a socket.
    """
    level = log_level(error)
    if isinstance(error, BaseError):
        error.correlation_id = correlation_id
    if counted_as is not None and _is_failure(error, level):
        metrics.errors.labels(counted_as).inc()
    if counted_as == "callback" and getattr(error, "status", 500) >= 500:
        level = logging.ERROR
    fields: dict[str, Any] = {"code": getattr(error, "code", "internal"), "requestId": correlation_id}
    if closed_with is not None:
        fields["closeCode"] = closed_with
    if not isinstance(error, BaseError):
        log.error("unexpected error", exc_info=error, extra=fields)
        return
    if level == logging.INFO:
        suppressed = _frames.take(error.code) if counted_as == "websocket" else None
        if suppressed is None:
            return
        fields["suppressed"] = suppressed
    if isinstance(error, DependencyError) and error.__cause__ is not None:
        fields["cause"] = repr(error.__cause__)[:MAX_CAUSE_CHARS]
    log.log(level, "answered %(code)s", fields, extra=fields)


def _is_failure(error: BaseException, level: int) -> bool:
    """Whether something went wrong: not a caller who may not, comes too often, or names what is not there."""
    return level > logging.INFO or isinstance(error, (ValidationError, TooLargeError, WebSocketError))


def register(app: flask.Flask) -> None:
    """Answer every error of ``app`` as a problem: ours, Flask's own refusals, and bugs (500, logged once)."""
    app.register_error_handler(BaseError, _own)
    app.register_error_handler(HTTPException, _flasks)
    app.register_error_handler(Exception, _bug)


def register_failed_authentication(
    app: flask.Flask, judge: Callable[[AuthenticationError, dict[str, Any]], BaseError]
) -> None:
    """Have ``judge`` say, for each failed authentication of ``app``, what is answered: the 401, or a 429 in its place.

    The one place for all routes, and after the credential was looked at: a valid one passes however many failed.
    """

    def answer(error: AuthenticationError) -> flask.Response:
        return _own(judge(error, flask.request.environ))

    app.register_error_handler(AuthenticationError, answer)


def _own(error: BaseError) -> flask.Response:
    return problem_response(error, _reported(error, error.code))


def _reported(error: Exception, code: str) -> str:
    """Tell of ``error``, as what its view has said that it counts as; gives the request's id."""
    environ = flask.request.environ
    environ[CODE_KEY] = code  # for the access line
    request_id = correlation_id(environ)
    report(error, request_id, counted_as=environ.get(COUNTED_AS_KEY))
    return request_id


def _flasks(error: HTTPException) -> flask.Response | HTTPException:
    status = error.code or 500
    if status < 400 or error.response is not None:
        return error  # a redirect, or a view's abort(response): an answer that is finished
    code, title, detail = HTTP_PROBLEMS.get(status) or HTTP_PROBLEMS[400 if status < 500 else 500]
    flask.request.environ[CODE_KEY] = code
    response = _problem(status, code, title, detail, correlation_id(flask.request.environ), {})
    headers = dict(error.get_headers(flask.request.environ))
    for name in KEPT_HEADERS:
        if name in headers:
            response.headers[name] = headers[name]
    return response


def _bug(error: Exception) -> flask.Response:
    return _problem(500, *HTTP_PROBLEMS[500], _reported(error, "internal"), {})


def _problem(
    status: int, code: str, title: str, detail: str, request_id: str, members: dict[str, Any]
) -> flask.Response:
    standard = {
        "type": f"urn:problem:{code}",
        "title": title,
        "status": status,
        "detail": redact_text(detail),
        "code": code,
        "correlationId": request_id,
    }
    body = {**standard, **members, **standard}  # the standard ones come first, and win
    response = flask.Response(json.dumps(body), status=status, mimetype="application/problem+json")
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
