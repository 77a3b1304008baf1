"""HTTP to one n8n: a request and its answer, within bounds of time and size, tried again where that is safe."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    SSLError,
    TimeoutError,
)

from app.n8n.errors import (
    N8nBusyError,
    N8nDownError,
    N8nFailedError,
    N8nKeyError,
    N8nTimeoutError,
    N8nTooLargeError,
    N8nTooOldError,
    from_answer,
)
from app.telemetry import context

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_TRIES = 3
CONNECT_TIMEOUT_S = 3.0
MAX_PAUSE_S = 2.0

_CHUNK_BYTES = 64 * 1024
_Body = bytes | Iterator[bytes] | None

Confirm = Callable[[], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bare:
    """An answer as it came, whatever its status; ``headers`` are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body; ``None`` where it is no JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Request:
    """:ivar repeat: sending it twice does no more than sending it once.
    :ivar confirm: called right before what makes it whole is sent, at each try; what it raises is raised, and nothing
        was asked for.
    """

    method: str
    path: str
    repeat: bool
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    read_s: float | None = None
    confirm: Confirm | None = None

    @property
    def what(self) -> str:
        return f"{self.method} {self.path}"


class Transport:
    """Safe to share between greenlets and threads. See :class:`app.n8n.client.N8nClient` for what it is given."""

    def __init__(self, base_url: str, api_key: str, *, timeout_s: float) -> None:
        if not api_key.isascii() or not api_key.isprintable() or not api_key:
            raise N8nKeyError
        self._base = base_url.rstrip("/")
        self._path = urllib3.util.parse_url(self._base).path or ""
        self._key = {"X-N8N-API-KEY": api_key}
        self._timeout_s = timeout_s
        self._pool = urllib3.connection_from_url(self._base, maxsize=8, block=False)

    def close(self) -> None:
        """Let go of idle connections."""
        self._pool.close()

    def call(self, request: Request) -> dict[str, Any]:
        """The decoded answer to a request of the API. :raises N8nError: see ``errors.py``."""
        deadline = time.monotonic() + MAX_TRIES * (request.read_s or self._timeout_s)
        for number in range(1, MAX_TRIES + 1):
            try:
                return self._once(request)
            except (N8nDownError, N8nFailedError, N8nBusyError) as exc:
                spread = random.uniform(0.5, 1.0)  # noqa: S311 - so that not all come back at once; guards nothing
                pause_s = exc.retry_after_s or spread * min(MAX_PAUSE_S, 0.2 * 2**number)
                late = time.monotonic() + pause_s >= deadline
                if not request.repeat or exc.permanent or number == MAX_TRIES or late:
                    raise
                log.warning("%(what)s failed, trying again", {"what": request.what}, extra={"code": exc.code})
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    def ask(self, method: str, path: str, *, key: bool = False, body: Any = None) -> Bare:
        """One request as it is, made once, for whoever wants to know what n8n is rather than have it do something.

        :param path: after n8n's address, ``/api/v1`` included where that is meant. :param key: show the API key.
        :raises N8nDownError: no answer. :raises N8nTooLargeError: more than is read.
        """
        headers = {"Accept": "*/*", **(self._key if key else {})}
        if body is not None:
            headers["Content-Type"] = "application/json"
        sent = None if body is None else json.dumps(body, allow_nan=False).encode()
        status, answer, came = self._exchange(Request(method, path, repeat=False), self._path + path, headers, sent)
        return Bare(status, came, answer)

    def _once(self, request: Request) -> dict[str, Any]:
        url = f"{self._path}/api/v1{request.path}"
        if request.query:
            url += "?" + urlencode({key: _text(value) for key, value in request.query.items()})
        headers = {"Accept": "application/json", **self._key}
        if request_id := context.request_id():
            headers["X-Request-ID"] = request_id
        body: _Body = None
        if request.body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(request.body, allow_nan=False).encode()
            if request.confirm is not None:
                headers["Content-Length"] = str(len(body))
                body = _once_confirmed(body, request.confirm)
        status, answer, answer_headers = self._exchange(request, url, headers, body)
        if not 200 <= status < 300:
            raise from_answer(status, answer, what=request.what, retry_after=answer_headers.get("Retry-After"))
        if not answer:
            return {}
        try:
            decoded = json.loads(answer)
        except (ValueError, RecursionError) as exc:
            raise N8nTooOldError(request.what) from exc
        if not isinstance(decoded, dict):
            raise N8nTooOldError(request.what)
        return decoded

    def _exchange(
        self, request: Request, url: str, headers: dict[str, str], body: _Body
    ) -> tuple[int, bytes, Mapping[str, str]]:
        if request.repeat:
            return self._send(self._pool, request, url, headers, body)
        # n8n closes a connection that is idle for 5 s. One that it closes just now would leave us in doubt over a
        # write that may not be repeated, so that gets a connection of its own.
        with urllib3.connection_from_url(self._base, maxsize=1) as pool:
            return self._send(pool, request, url, headers, body)

    def _send(
        self, pool: urllib3.HTTPConnectionPool, request: Request, url: str, headers: dict[str, str], body: _Body
    ) -> tuple[int, bytes, Mapping[str, str]]:
        read_s = request.read_s or self._timeout_s
        deadline = time.monotonic() + read_s
        timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, self._timeout_s), read=read_s)
        try:
            response = pool.urlopen(
                request.method,
                url,
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except NewConnectionError as exc:
            raise N8nDownError(maybe_done=False) from exc
        except ConnectTimeoutError as exc:
            raise N8nTimeoutError(maybe_done=False) from exc
        except SSLError as exc:
            detail = "n8n's TLS certificate is not trusted here: correct it, or N8N_API_URL."
            raise N8nDownError(detail, maybe_done=False, permanent=True) from exc
        except HTTPError as exc:
            raise _broken_off(exc) from exc
        try:
            answer = _read(response, deadline)
        except HTTPError as exc:
            response.close()
            raise _broken_off(exc) from exc
        except BaseException:
            # What is left of the answer may not reach the connection's next user.
            response.close()
            raise
        response.release_conn()
        return response.status, answer, response.headers


def _once_confirmed(body: bytes, confirm: Confirm) -> Iterator[bytes]:
    """``body``, asked for when the head is sent already; n8n does nothing before it has all of it."""
    confirm()
    yield body


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """The whole body, within the limits of size and time."""
    declared = response.headers.get("Content-Length", "")
    if declared.isdigit() and int(declared) > MAX_ANSWER_BYTES:
        raise N8nTooLargeError(MAX_ANSWER_BYTES)
    answer = bytearray()
    while chunk := response.read1(_CHUNK_BYTES):
        answer += chunk
        if len(answer) > MAX_ANSWER_BYTES:
            raise N8nTooLargeError(MAX_ANSWER_BYTES)
        if time.monotonic() > deadline:
            raise N8nTimeoutError("n8n answers too slowly: see what keeps it busy.", maybe_done=True)
    return bytes(answer)


def _broken_off(exc: HTTPError) -> N8nDownError:
    kind = N8nTimeoutError if isinstance(exc, TimeoutError) else N8nDownError
    return kind(maybe_done=True)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
