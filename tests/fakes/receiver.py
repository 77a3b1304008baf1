"""A receiver of notifications on a loopback port, that records what it gets and answers as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.ports import free_port

HOST = "127.0.0.1"
HELD_S = 20.0


@dataclass(frozen=True, slots=True)
class Post:
    """One request as it came; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def type(self) -> str:
        return str(self.body["type"])


class Receiver:
    """A context manager. ``answers`` are used up one for each request, ``(status, headers)``; then it is 204.

    :ivar posts: all that came, whatever was answered.
    :ivar hang: while it is set, a request gets no answer before ``released`` is set.
    """

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.hang = False
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = free_port()
        self.come_back()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def come_back(self) -> None:
        self._server = ThreadingHTTPServer((HOST, self.port), _handler_for(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def go_down(self) -> None:
        """Nobody listens any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.go_down()

    def about(self, workflow_id: str, type_: str = "") -> list[Post]:
        with self._lock:
            return [p for p in self.posts if p.body["workflowId"] == workflow_id and type_ in ("", p.type)]

    def take(self, post: Post) -> tuple[int, dict[str, str]]:
        with self._lock:
            self.posts.append(post)
            answer = self.answers.pop(0) if self.answers else (204, {})
        if self.hang:
            self.released.wait(HELD_S)
        return answer


def _handler_for(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, more = receiver.take(Post(self.command, self.path, headers, raw))
            with suppress(OSError):  # who asked is gone
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_POST = do_GET = do_HEAD = _take

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: it is a fake."""

    return Handler
