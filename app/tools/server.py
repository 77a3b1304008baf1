"""The tools server: MCP over plain HTTP on a loopback port of its own, one for each worker, open to running turns only.

It is apart from the worker's listener so that an agent's calls work until the very end of a drain.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

import gevent
from gevent.lock import BoundedSemaphore
from gevent.pywsgi import WSGIServer

from app.agents import ToolsAccess
from app.errors import BaseError, ValidationError
from app.shapes import decode_json
from app.telemetry import context
from app.tools.mcp import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    ToolResult,
    ToolSpec,
    TurnTools,
    answer,
    error_answer,
)

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["ToolResult", "ToolSpec", "ToolsServer", "TurnTools"]

HOST = "127.0.0.1"
PATH = "/mcp"
MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_CONNECTIONS = 256
MAX_CALLS_PER_TURN = 4
TOKEN_BYTES = 32
END_CALLS_S = 2.0

_ENDED = ToolResult("This turn has ended.", ok=False)
_LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: HTTPStatus
    body: dict[str, Any] | None = None
    headers: tuple[tuple[str, str], ...] = ()


class _OpenTurn:
    """One turn's tools behind a bound, with every failure put into words for the agent."""

    def __init__(self, tools: TurnTools) -> None:
        self._tools = tools
        # Its calls come in greenlets of their connections; what they log is the turn's.
        self._call = context.carry(self._guarded)
        self._free = BoundedSemaphore(MAX_CALLS_PER_TURN)
        self._at_work: set[gevent.Greenlet] = set()
        self.closed = False

    def close(self) -> None:
        """End it, and the calls under way: as a lost worker would, so each is where another can go on."""
        self.closed = True
        calls = list(self._at_work)
        gevent.killall(calls, block=False)
        # Unlike killall's own limit this one raises nothing: a call that takes longer to end is no bug of the turn's.
        gevent.joinall(calls, timeout=END_CALLS_S)

    def specs(self) -> Sequence[ToolSpec]:
        return self._tools.specs()

    def call(self, name: str, arguments: Mapping[str, Any], tool_use_id: str) -> ToolResult:
        with self._free:
            if self.closed:  # while this call waited for its place
                return _ENDED
            # A greenlet of its own, so that the turn's end can end the call and not its connection.
            call = gevent.spawn(self._call, name, arguments, tool_use_id)
            self._at_work.add(call)
            try:
                call.join()
            finally:
                self._at_work.discard(call)
                if not call.dead:  # the server stops
                    call.kill(block=False)
            return call.value if isinstance(call.value, ToolResult) else _ENDED

    def _guarded(self, name: str, arguments: Mapping[str, Any], tool_use_id: str) -> ToolResult:
        """The call, told in one line. Neither its arguments nor its answer are logged."""
        began, fields = time.monotonic(), {"tool": name, "toolUseId": tool_use_id}
        try:
            result = self._tools.call(name, arguments, tool_use_id)
        except BaseError as exc:
            result, fields = ToolResult(_told(exc), ok=False), {**fields, "code": exc.code}
        except (Exception, gevent.Timeout):
            # A bug, or somebody else's timeout: the agent goes on without this call.
            log.exception("tool call failed", extra=fields)
            return ToolResult("internal error", ok=False)
        duration = int((time.monotonic() - began) * 1000)
        log.info("tool finished", extra={**fields, "ok": result.ok, "duration": duration})
        return result


class ToolsServer:
    """Lives as long as its worker. All methods are called from the worker's loop."""

    def __init__(self) -> None:
        self._turns: dict[bytes, _OpenTurn] = {}
        self._server: Any = None

    @property
    def port(self) -> int:
        """The port that was free at :meth:`start`; not before."""
        return int(self._server.server_port)

    def start(self) -> None:
        self._server = WSGIServer(
            (HOST, 0),
            self._application,
            spawn=MAX_CONNECTIONS,
            log=None,
            error_log=None,
            environ={"SERVER_NAME": HOST},  # or gevent asks the name service for one
        )
        self._server.start()

    def stop(self) -> None:
        """Close the port and every connection; calls under way are cut. Idempotent."""
        for turn in self._turns.values():
            turn.closed = True
        self._turns.clear()
        if self._server is not None:
            self._server.stop(timeout=0)

    def open(self, tools: TurnTools) -> ToolsAccess:
        """Serve ``tools`` to whoever has the token that is returned, until :meth:`close`."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._turns[token.encode()] = _OpenTurn(tools)
        return ToolsAccess(f"http://{HOST}:{self.port}{PATH}", token)

    def close(self, token: str) -> None:
        """End the token's life: its later calls are refused, those under way are ended, within seconds. Idempotent."""
        turn = self._turns.pop(token.encode(), None)
        if turn is not None:
            turn.close()

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            reply = self._reply(environ)
        except _Refused as refusal:
            reply = refusal.reply
        except Exception:  # the top of this greenlet; gevent would print it as it is
            log.exception("tools request failed")
            reply = _Reply(HTTPStatus.INTERNAL_SERVER_ERROR, error_answer(INTERNAL_ERROR, "internal error"))
        body = b"" if reply.body is None else json.dumps(reply.body).encode()
        headers = [("Content-Length", str(len(body))), *reply.headers]
        if body:
            headers.append(("Content-Type", "application/json"))
        start_response(f"{reply.status.value} {reply.status.phrase}", headers)
        return [body]

    def _reply(self, environ: WSGIEnvironment) -> _Reply:
        _check_request(environ)
        turn = self._turn_of(environ)
        try:
            # What no double can hold would stand in a workflow as something that is no JSON.
            message = decode_json(_read_body(environ), finite=True)
        except ValidationError as exc:
            return _Reply(HTTPStatus.BAD_REQUEST, error_answer(PARSE_ERROR, f"the body {exc.errors[0]['message']}"))
        body = answer(message, turn)
        return _Reply(HTTPStatus.ACCEPTED) if body is None else _Reply(HTTPStatus.OK, body)

    def _turn_of(self, environ: WSGIEnvironment) -> _OpenTurn:
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        presented = token.strip().encode("latin-1", "replace")
        # Every token is compared, and each in constant time, so how long it takes tells nothing.
        matching = [turn for known, turn in self._turns.items() if hmac.compare_digest(known, presented)]
        if scheme.lower() != "bearer" or not matching:
            _refuse(HTTPStatus.UNAUTHORIZED, "this token opens no turn", ("WWW-Authenticate", "Bearer"))
        return matching[0]


class _Refused(Exception):
    def __init__(self, reply: _Reply) -> None:
        super().__init__(reply.status.phrase)
        self.reply = reply


def _refuse(status: HTTPStatus, reason: str, *headers: tuple[str, str]) -> NoReturn:
    raise _Refused(_Reply(status, error_answer(INVALID_REQUEST, reason), headers))


def _check_request(environ: WSGIEnvironment) -> None:
    """Refuse what is not a POST to the path, and what a page in a browser may have sent (DNS rebinding)."""
    if not _LOOPBACK_HOST.fullmatch(environ.get("HTTP_HOST", "")) or "HTTP_ORIGIN" in environ:
        _refuse(HTTPStatus.FORBIDDEN, "only programs on this machine are answered")
    if environ["PATH_INFO"] != PATH:
        _refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
    if environ["REQUEST_METHOD"] != "POST":
        _refuse(HTTPStatus.METHOD_NOT_ALLOWED, "only POST is taken", ("Allow", "POST"))


def _read_body(environ: WSGIEnvironment) -> bytes:
    if int(environ.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES:
        _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large", ("Connection", "close"))
    try:
        body: bytes = environ["wsgi.input"].read(MAX_BODY_BYTES + 1)
    except OSError:  # the client is gone, or its chunks make no sense
        _refuse(HTTPStatus.BAD_REQUEST, "the body ended early", ("Connection", "close"))
    if len(body) > MAX_BODY_BYTES:
        _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large", ("Connection", "close"))
    return body


def _told(error: BaseError) -> str:
    """The failure in the agent's words; with each wrong field, so that it can put them right."""
    fields = error.errors if isinstance(error, ValidationError) else []
    return "\n".join([error.detail, *(f"{field['path']}: {field['message']}" for field in fields)])
