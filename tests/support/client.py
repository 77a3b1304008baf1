"""A client of the bridge as strangers write one: a WebSocket that remembers its frames, and HTTP beside it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from socket import SHUT_RDWR
from typing import Any, Self

import websocket

from tests.support.server import Answer, BridgeServer

LIMIT_S = 15.0
Frame = dict[str, Any]


class Refused(Exception):
    """The handshake got an HTTP answer instead of a socket."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"handshake got {status}: {body[:300]!r}")
        self.status, self.headers, self.body = status, headers, body


class Client:
    """One user of a bridge: a session, at most one open socket at a time, and HTTP with the session's token.

    A thread reads the socket, so nothing has to be asked for in time. Usable as a context manager.

    :ivar frames: all frames so far, of all sockets of this client, oldest first.
    :ivar welcome: the last ``welcome``.
    :ivar close_code: of the socket; ``None`` while it is open, 1006 where it ended without a close frame.
    :ivar close_reason: text of the close frame.
    """

    def __init__(self, server: BridgeServer, *, headers: Mapping[str, str] | None = None) -> None:
        self.server = server
        self.headers = dict(headers or {})
        self.frames: list[Frame] = []
        self.welcome: Frame = {}
        self.session_id: str | None = None
        self.token: str | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self._place = 0
        self._socket: websocket.WebSocket | None = None
        self._reader: threading.Thread | None = None
        self._news = threading.Condition()

    # -- socket

    def open(self, *, path: str = "/ws", headers: Mapping[str, str] | None = None) -> Self:
        """Shake hands, without a ``hello``.

        :raises Refused: the answer was not 101.
        """
        self.disconnect()
        sent = {**self.headers, **(headers or {})}
        socket = websocket.WebSocket(enable_multithread=True)
        try:
            socket.connect(
                f"ws://127.0.0.1:{self.server.port}{path}",
                header=[f"{name}: {value}" for name, value in sent.items() if name.lower() not in ("origin", "host")],
                suppress_origin="Origin" not in sent,
                origin=sent.get("Origin"),
                host=sent.get("Host"),
                timeout=LIMIT_S,
            )
        except websocket.WebSocketBadStatusException as exc:
            raise Refused(exc.status_code, dict(exc.resp_headers or {}), exc.resp_body or b"") from None
        socket.settimeout(None)
        self.close_code, self.close_reason = None, ""
        self._socket = socket
        self._reader = threading.Thread(target=self._read, args=(socket,), daemon=True)
        self._reader.start()
        return self

    def connect(self, *, headers: Mapping[str, str] | None = None, **hello: Any) -> Self:
        """Open a socket, say ``hello`` with these fields and take the ``welcome``.

        A client that has a session resumes it after its last event; name ``sessionId``, ``token`` or ``after`` to
        override that, ``None`` leaves a field out.

        :raises AssertionError: no ``welcome`` came. :raises Refused: the answer was not 101.
        """
        self.open(headers=headers)
        if self.session_id is not None:
            hello = {"sessionId": self.session_id, "token": self.token, "after": self.last_seq, **hello}
        self.send({"type": "hello", **{name: value for name, value in hello.items() if value is not None}})
        self.welcome = self.receive("welcome")
        self.session_id = self.welcome["sessionId"]
        self.token = self.welcome.get("token") or hello.get("token") or self.token
        return self

    def send(self, frame: Any) -> Self:
        """Send a frame: an object as JSON, text as it is, bytes as a binary frame."""
        assert self._socket is not None, "not connected"
        if isinstance(frame, bytes):
            self._socket.send_binary(frame)
        else:
            self._socket.send(frame if isinstance(frame, str) else json.dumps(frame))
        return self

    def say(self, text: str, *, client_message_id: str | None = None) -> Self:
        """Send a ``message``."""
        extra = {"clientMessageId": client_message_id} if client_message_id else {}
        return self.send({"type": "message", "text": text, **extra})

    def receive(self, kind: str, *, limit_s: float = LIMIT_S, **wanted: Any) -> Frame:
        """The next frame of this ``type`` after the last one that was received; those between stay in ``frames``.

        :param wanted: fields that it has, in itself or in its ``data``.
        :raises AssertionError: none within ``limit_s``, or the socket closed before.
        """
        return self.receive_if(lambda frame: frame.get("type") == kind and _has(frame, wanted), limit_s, kind)

    def receive_if(self, is_it: Callable[[Frame], bool], limit_s: float = LIMIT_S, what: str = "a frame") -> Frame:
        """As :meth:`receive`, by any condition."""
        deadline = time.monotonic() + limit_s
        with self._news:
            start = self._place
            while True:
                while self._place < len(self.frames):
                    frame = self.frames[self._place]
                    self._place += 1
                    if is_it(frame):
                        return frame
                left_s = deadline - time.monotonic()
                if self.close_code is not None or left_s <= 0:
                    ended = f"closed with {self.close_code} {self.close_reason!r}" if self.close_code else "still open"
                    seen = "\n  ".join(json.dumps(frame)[:300] for frame in self.frames[start:][-30:])
                    raise AssertionError(f"no {what} within {limit_s:g} s ({ended}); instead:\n  {seen}")
                self._news.wait(left_s)

    def build(self, text: str, *, limit_s: float = LIMIT_S) -> str:
        """Ask for a workflow and wait for the turn's end; gives the workflow's id."""
        workflow_id: str = self.say(text).receive("workflow_registered", limit_s=limit_s)["data"]["workflowId"]
        self.receive("turn_finished", limit_s=limit_s)
        return workflow_id

    def sync(self, *, limit_s: float = LIMIT_S) -> Self:
        """Wait until all that was sent before has been taken: what it caused at once is in ``frames`` then."""
        self.send({"type": "ping"}).receive("pong", limit_s=limit_s)
        return self

    def silent_for(self, seconds: float) -> bool:
        """Whether no further frame comes within ``seconds``."""
        with self._news:
            return not self._news.wait_for(lambda: self._place < len(self.frames), seconds)

    def wait_closed(self, *, limit_s: float = LIMIT_S) -> int:
        """Wait for the socket's end; gives its close code.

        :raises AssertionError: it is still open after ``limit_s``.
        """
        with self._news:
            assert self._news.wait_for(lambda: self.close_code is not None, limit_s), (
                f"still open after {limit_s:g} s; last frames: {self.frames[-5:]}"
            )
        assert self.close_code is not None
        return self.close_code

    def disconnect(self, *, code: int = 1000) -> None:
        """Close the socket, if one is open; the session lives on. Idempotent."""
        socket, self._socket = self._socket, None
        if socket is None:
            return
        with contextlib.suppress(OSError, websocket.WebSocketException):
            socket.send_close(code)
        if self._reader is not None:
            self._reader.join(LIMIT_S)
        with contextlib.suppress(OSError):
            socket.shutdown()

    def drop(self) -> None:
        """Cut the connection without a word."""
        socket, self._socket = self._socket, None
        if socket is not None:
            # Not close(): that would leave the reader in recv().
            with contextlib.suppress(OSError):
                socket.sock.shutdown(SHUT_RDWR)
            if self._reader is not None:
                self._reader.join(LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect()

    # -- what came

    @property
    def events(self) -> list[Frame]:
        """The events among ``frames``."""
        with self._news:
            return [frame for frame in self.frames if "seq" in frame]

    @property
    def last_seq(self) -> int:
        """Number of the last event seen; 0 without one."""
        return max((frame["seq"] for frame in self.events), default=0)

    def of(self, kind: str) -> list[Frame]:
        """The frames of this type so far."""
        with self._news:
            return [frame for frame in self.frames if frame.get("type") == kind]

    # -- HTTP

    def http(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = "",
        *,
        headers: Mapping[str, str] | None = None,
        limit_s: float = LIMIT_S,
    ) -> Answer:
        """One request; ``{sid}`` in ``path`` stands for the session's id.

        :param body: bytes as they are (as ``application/json``), anything else as JSON; ``None`` sends none.
        :param token: bearer credential; the session's by default, ``None`` sends none.
        """
        sent = {**self.headers, **(headers or {})}
        credential = self.token if token == "" else token
        if credential is not None:
            sent.setdefault("Authorization", f"Bearer {credential}")
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        path = path.replace("{sid}", self.session_id or "")
        return self.server.request(method, path, body=data, headers=sent, limit_s=limit_s)

    def fail(
        self, workflow_id: str, *, payload: Any = None, execution_id: str | None = None, secret: str | None = None
    ) -> Answer:
        """Post an error callback as n8n does.

        :param payload: a recorded one, whose ids are replaced; by default an HTTP node that got a 500.
        """
        return self.http(
            "POST", "/callbacks/n8n/error", failure(workflow_id, payload=payload, execution_id=execution_id), secret
        )

    # -- how it is done

    def _read(self, socket: websocket.WebSocket) -> None:
        code, reason = 1006, ""
        try:
            while True:
                opcode, data = socket.recv_data(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    self._add(json.loads(data))
                elif opcode == websocket.ABNF.OPCODE_CLOSE:
                    if len(data) >= 2:
                        code, reason = int.from_bytes(data[:2], "big"), data[2:].decode()
                    else:
                        code = 1005
                    break
        except (OSError, websocket.WebSocketException):
            pass
        finally:
            with self._news:
                self.close_code, self.close_reason = code, reason
                self._news.notify_all()
            with contextlib.suppress(OSError):
                socket.shutdown()

    def _add(self, frame: Frame) -> None:
        with self._news:
            self.frames.append(frame)
            self._news.notify_all()


def failure(workflow_id: str, *, payload: Any = None, execution_id: str | None = None) -> dict[str, Any]:
    """An error callback's body for this workflow, as n8n sends it; ``payload`` is copied, with its ids replaced."""
    body: dict[str, Any] = json.loads(json.dumps(payload if payload is not None else _HTTP_500))
    body["workflow"]["id"] = workflow_id
    if "execution" in body:
        body["execution"]["id"] = execution_id or f"e{uuid.uuid4().hex[:12]}"
    return body


def _has(frame: Frame, wanted: Mapping[str, Any]) -> bool:
    fields = {**(frame.get("data") or {}), **frame}
    return all(name in fields and fields[name] == value for name, value in wanted.items())


_HTTP_500: dict[str, Any] = {
    "execution": {
        "id": "1",
        "url": "http://127.0.0.1:5678/workflow/w/executions/1",
        "error": {
            "message": "The service was not able to process your request",
            "name": "NodeApiError",
            "httpCode": "500",
            "node": {
                "parameters": {"url": "http://127.0.0.1:9/a", "options": {}},
                "type": "n8n-nodes-base.httpRequest",
                "typeVersion": 4.3,
                "position": [208, 0],
                "id": "n1",
                "name": "HTTP Request",
            },
        },
        "lastNodeExecuted": "HTTP Request",
        "mode": "webhook",
    },
    "workflow": {"id": "w", "name": "A workflow"},
}
