"""Errors as callers see them: problem+json over HTTP, an ``error`` frame on a socket; and how loud each is logged."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from typing import Any

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
    ValidationError,
)

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
KEPT_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")


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
    frame = {"type": "error", "code": error.code, "message": error.detail, "correlationId": correlation_id}
    if error.retry_after_s is not None:
        return json.dumps({**frame, "retryAfter": max(1, error.retry_after_s)})
    return json.dumps(frame)


def log_level(error: BaseException) -> int:
    """How loudly ``error`` is logged: the caller's doing is ``info``, a neighbour's failure a ``warning``."""
    if isinstance(error, (CallerError, BusyError, LeaseLostError, StaleDocumentError)):
        return logging.INFO
    if isinstance(error, DependencyError):
        return logging.WARNING
    return logging.CRITICAL if isinstance(error, ConfigError) else logging.ERROR


def log_error(error: BaseException, correlation_id: str) -> None:
    """One line at :func:`log_level`; with the traceback where it is a bug."""
    fields = {"code": getattr(error, "code", "internal"), "requestId": correlation_id}
    if isinstance(error, BaseError):
        log.log(log_level(error), "answered %(code)s", fields, extra=fields)
    else:
        log.error("unexpected error", exc_info=error, extra=fields)


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
    request_id = correlation_id(flask.request.environ)
    log_error(error, request_id)
    return problem_response(error, request_id)


def _flasks(error: HTTPException) -> flask.Response | HTTPException:
    status = error.code or 500
    if status < 400 or error.response is not None:
        return error  # a redirect, or a view's abort(response): an answer that is finished
    code, title, detail = HTTP_PROBLEMS.get(status) or HTTP_PROBLEMS[400 if status < 500 else 500]
    response = _problem(status, code, title, detail, correlation_id(flask.request.environ), {})
    headers = dict(error.get_headers(flask.request.environ))
    for name in KEPT_HEADERS:
        if name in headers:
            response.headers[name] = headers[name]
    return response


def _bug(error: Exception) -> flask.Response:
    request_id = correlation_id(flask.request.environ)
    log_error(error, request_id)
    return _problem(500, *HTTP_PROBLEMS[500], request_id, {})


def _problem(
    status: int, code: str, title: str, detail: str, request_id: str, members: dict[str, Any]
) -> flask.Response:
    standard = {
        "type": f"urn:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "correlationId": request_id,
    }
    body = {**standard, **members, **standard}  # the standard ones come first, and win
    response = flask.Response(json.dumps(body), status=status, mimetype="application/problem+json")
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
