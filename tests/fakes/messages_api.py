"""A scripted Messages API on a loopback port: streamed answers, tool calls, errors and broken streams, as told.

In a test: ``with MessagesApi([Reply("Hello")]) as api: … api.url … api.requests``. On its own, for a whole bridge:
``python -m tests.fakes.messages_api SCRIPT.json --port 4010``, where the script is a list of objects with the fields of
:class:`Reply`. A rule (a function of the request) may choose the replies instead of a list.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

HOST = "127.0.0.1"
PATH = "/v1/messages"
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer of the model, or one failure.

    :ivar text: said first, in pieces of ``piece`` characters.
    :ivar tools: then called: ``{"name": "mcp__n8n__get_workflow", "input": {…}}``.
    :ivar error: an HTTP status that is answered instead, with ``message`` and ``headers``.
    :ivar fault: what happens after ``fault_after`` pieces, or before the message's end: the connection is cut, the
        body ends too early, nothing more comes (until the server closes), an event is no JSON, or an error event comes.
    :ivar fault_delay_s: before that, so that what was sent is read and shown first.
    :ivar delay_s: before anything is answered; ``piece_delay_s``: before each piece.
    :ivar times: how often this entry of the script is used; 0: for ever.
    """

    text: str = ""
    piece: int = 12
    thinking: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    stop_reason: str | None = None
    error: int | None = None
    message: str = "scripted error"
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Literal["drop", "truncate", "stall", "malformed", "overloaded"] | None = None
    fault_after: int = 5
    fault_delay_s: float = 0.5
    delay_s: float = 0.0
    piece_delay_s: float = 0.0
    times: int = 1


def say(text: str, **more: Any) -> Reply:
    return Reply(text=text, **more)


def use(tool: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Reply:
    """Call one tool, by its name on the tools server."""
    return Reply(tools=[call(tool, arguments)], **more)


def call(tool: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"name": f"mcp__n8n__{tool}", "input": dict(arguments or {})}


@dataclass(frozen=True)
class Request:
    """One POST to the API as it came."""

    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def system(self) -> str:
        return _text_of(self.body.get("system", ""))

    @property
    def tools(self) -> list[str]:
        return [tool["name"] for tool in self.body.get("tools", ())]

    @property
    def messages(self) -> list[tuple[str, str]]:
        """``(role, text)`` of the messages that hold text."""
        found = [(message["role"], _text_of(message["content"])) for message in self.body["messages"]]
        return [(role, text) for role, text in found if text]

    @property
    def prompt(self) -> str:
        """The last thing that the person said."""
        return [text for role, text in self.messages if role == "user"][-1]

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """What the last tools came to, each with its ``text``; empty where it is the model's first step."""
        content = [message["content"] for message in self.body["messages"] if message["role"] == "user"][-1]
        blocks = content if isinstance(content, list) else []
        return [{**b, "text": _text_of(b.get("content", ""))} for b in blocks if b["type"] == "tool_result"]


Rule = Callable[[Request], Reply]


class MessagesApi:
    """The server; a context manager. ``requests`` are all that came, ``others`` every other request's line."""

    def __init__(self, script: Sequence[Reply] | Rule, *, port: int = 0) -> None:
        self._rule = script if callable(script) else _in_order(script)
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        self.others: list[str] = []
        self.unexpected: list[str] = []
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer((HOST, port), _Handler)
        self._server.daemon_threads = True
        self._server.api = self  # type: ignore[attr-defined]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_port}"

    def __enter__(self) -> MessagesApi:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def reply_to(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            try:
                return self._rule(request)
            except Exception as exc:
                self.unexpected.append(f"{type(exc).__name__}: {exc}")
                return Reply(error=400, message="the script has no reply to this")


def _in_order(script: Sequence[Reply]) -> Rule:
    def replies() -> Iterator[Reply]:
        for reply in script:
            yield reply
            used = 1
            while reply.times == 0 or used < reply.times:
                used += 1
                yield reply

    left = replies()

    def rule(_: Request) -> Reply:
        reply = next(left, None)
        if reply is None:
            raise LookupError("the script is over")
        return reply

    return rule


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _api(self) -> MessagesApi:
        api: MessagesApi = self.server.api  # type: ignore[attr-defined]
        return api

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.partition("?")[0] != PATH:
            self._other()
            return
        request = Request({key.lower(): value for key, value in self.headers.items()}, json.loads(body))
        reply = self._api.reply_to(request)
        self._api.closing.wait(reply.delay_s)
        if reply.error is not None:
            self._answer_error(reply)
        elif request.body.get("stream"):
            with suppress(OSError):  # the client is gone
                self._stream(reply, request)
        else:
            self._answer(200, _message(reply, request))

    def do_GET(self) -> None:
        self._other()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None: ...

    def _other(self) -> None:
        self._api.others.append(f"{self.command} {self.path}")
        self._answer(404, _error("not_found_error", "not here"))

    def _answer_error(self, reply: Reply) -> None:
        kind = ERROR_TYPES.get(reply.error or 0, "api_error")
        self._answer(reply.error or 500, _error(kind, reply.message), reply.headers)

    def _answer(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        data = b"" if self.command == "HEAD" else json.dumps(body).encode()
        with suppress(OSError):
            self.send_response(status)
            for name, value in {**_HEADERS, **(headers or {}), "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def _stream(self, reply: Reply, request: Request) -> None:
        self.send_response(200)
        for name, value in {**_HEADERS, "Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        self.send_header("request-id", f"req_{uuid.uuid4().hex[:20]}")
        self.end_headers()
        pieces = 0
        for event in _events(reply, request):
            if event["type"] in ("content_block_delta", "message_delta"):
                if reply.fault and (pieces >= reply.fault_after or event["type"] == "message_delta"):
                    self._api.closing.wait(reply.fault_delay_s)
                    return self._break(reply.fault)
                pieces += 1
                self._api.closing.wait(reply.piece_delay_s)
            self._send(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _break(self, fault: str) -> None:
        match fault:
            case "stall":
                self._api.closing.wait(3600)
            case "truncate":
                self.wfile.write(b"0\r\n\r\n")
                return
            case "malformed":
                self._send('event: content_block_delta\ndata: {"type": "content_block_delta", "index": oops\n\n')
                self.wfile.write(b"0\r\n\r\n")
                return
            case "overloaded":
                self._send(f"event: error\ndata: {json.dumps(_error('overloaded_error', 'Overloaded'))}\n\n")
                self.wfile.write(b"0\r\n\r\n")
                return
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


_HEADERS: Mapping[str, str] = {"anthropic-organization-id": "org_scripted"}


def _events(reply: Reply, request: Request) -> Iterator[dict[str, Any]]:
    """The stream of one message, event by event."""
    whole = _message(reply, request)
    empty = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield {"type": "message_start", "message": empty}
    for index, block in enumerate(whole["content"]):
        start, deltas = _block(block, reply.piece)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
        "usage": whole["usage"],
    }
    yield {"type": "message_stop"}


def _block(block: Mapping[str, Any], size: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block's start, and its deltas."""
    match block["type"]:
        case "text":
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": p} for p in _cut(block["text"], size)]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": p} for p in _cut(block["thinking"], size)]
            signature = {"type": "signature_delta", "signature": block["signature"]}
            return {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signature]
        case _:
            written = _cut(json.dumps(block["input"]), size)
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": p} for p in written]


def _message(reply: Reply, request: Request) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if reply.thinking:
        content.append({"type": "thinking", "thinking": reply.thinking, "signature": "c2lnbmF0dXJl"})
    if reply.text:
        content.append({"type": "text", "text": reply.text})
    content += [{"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", **tool} for tool in reply.tools]
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": request.body.get("model", ""),
        "content": content,
        "stop_reason": reply.stop_reason or ("tool_use" if reply.tools else "end_turn"),
        "stop_sequence": None,
        "usage": {
            "input_tokens": len(json.dumps(request.body)) // 4,
            "output_tokens": max(1, len(json.dumps(content)) // 4),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "service_tier": "standard",
        },
    }


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_scripted"}


def _cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block.get("type") == "text")


def main(argv: Sequence[str] | None = None) -> None:
    """Serve a script until the process is ended; the address is the one line on stdout."""
    parser = argparse.ArgumentParser(prog="messages_api", description="A scripted Messages API on loopback.")
    parser.add_argument("script", type=Path, help="a JSON list of replies")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(argv)
    script = [Reply(**entry) for entry in json.loads(options.script.read_text())]
    with MessagesApi(script, port=options.port) as api:
        sys.stdout.write(f"{api.url}\n")
        sys.stdout.flush()
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
