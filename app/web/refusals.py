"""A flood on ``/health``: who is known to be over the limit is answered before Flask begins.

The first refusal of an address is Flask's own answer. What follows until the time it told differs by three values, so
it is made from that answer's headers, at a small part of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from app.web.limits import Limits, refusal
from app.web.problems import problem_response
from app.web.request_id import ENVIRON_KEY

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATH = "/health"
STATUS = "429 TOO MANY REQUESTS"
_OWN = {"content-length", "retry-after", "x-request-id"}
Headers = list[tuple[str, str]]


class RefusedHealth:
    """A WSGI layer inside the request id's. A page's request, with an ``Origin``, goes on: its answer depends on it."""

    def __init__(self, app: WSGIApplication, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        # By what the headers depend on: whether this connection, and what a proxy speaks for, is https.
        self._headers: dict[tuple[bool, bool], Headers] = {}
        self._head, self._tail = problem_response(refusal("health", 1), "REQUEST-ID").get_data().split(b"REQUEST-ID")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != PATH or "HTTP_ORIGIN" in environ:
            return self._app(environ, start_response)
        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            return self._app(environ, start_response)
        forwarded = environ.get("HTTP_X_FORWARDED_PROTO", "").partition(",")[0].strip().lower()
        scheme = environ["wsgi.url_scheme"] == "https", forwarded == "https"
        headers = self._headers.get(scheme)
        if headers is None:
            return self._app(environ, self._learning(scheme, start_response))
        left_s = self._limits.remembered_s("health", self._limits.client(environ))
        if left_s <= 0:
            return self._app(environ, start_response)
        body = self._head + environ[ENVIRON_KEY].encode() + self._tail
        own = [("Content-Length", str(len(body))), ("Retry-After", str(max(1, math.ceil(left_s))))]
        start_response(STATUS, [*headers, *own])
        return [body] if method == "GET" else []

    def _learning(self, scheme: tuple[bool, bool], start_response: StartResponse) -> StartResponse:
        def start(status: str, headers: Headers, exc_info: Any = None, /) -> Any:
            if status.startswith("429"):
                self._headers[scheme] = [(name, value) for name, value in headers if name.lower() not in _OWN]
            return start_response(status, headers, exc_info)

        return start
