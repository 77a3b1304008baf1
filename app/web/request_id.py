"""The request id: the caller's where it is well formed, else a new one; on every response and every log line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import getrandbits
from typing import TYPE_CHECKING, Any

from app.telemetry import context

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ENVIRON_KEY = "bridge.request_id"
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{8,64}")


def new_request_id() -> str:
    """Tells requests apart and guards nothing, so it is no system call: those let go of the interpreter's lock."""
    return f"{getrandbits(128):032x}"


def accept_request_id(given: str | None) -> str:
    """``given`` where it is well formed, else a new id of 32 hexadecimal digits."""
    return given if given and _WELL_FORMED.fullmatch(given) else new_request_id()


class RequestIdMiddleware:
    """The outermost WSGI layer: sets ``environ["bridge.request_id"]``, the log context and ``X-Request-ID``.

    An exception passes through: the worker answers it, with the id that the log context keeps.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request_id = accept_request_id(environ.get("HTTP_X_REQUEST_ID"))
        environ[ENVIRON_KEY] = request_id
        context.begin_request(request_id)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
            others = [(name, value) for name, value in headers if name.lower() != "x-request-id"]
            return start_response(status, [*others, ("X-Request-ID", request_id)], exc_info)

        return self._app(environ, start)
