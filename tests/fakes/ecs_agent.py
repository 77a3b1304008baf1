"""The part of an ECS agent that a task asks to be spared: records what it was asked, and answers as told."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

PATH = "/api/0f3a5b/task-protection/v1/state"
HELD_S = 20.0
REFUSAL = {"error": {"Code": "AccessDeniedException", "Message": "User: arn:aws:sts::1:x is not authorized"}}


class EcsAgent:
    """A context manager.

    :ivar asked: the requests' bodies, in their order, those that were refused, too.
    :ivar refuse: while it is set, nothing is done. :ivar hang: while it is set, nothing is answered.
    :ivar cut: while it is set, it is done, and the connection ends without an answer.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.refuse = self.hang = self.cut = False
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}{PATH.removesuffix('/task-protection/v1/state')}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def states(self) -> list[bool]:
        return [asked["ProtectionEnabled"] for asked in list(self.asked)]


def _handler_for(agent: EcsAgent) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            assert self.path == PATH
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            agent.asked.append(asked)
            if agent.hang:
                agent.released.wait(HELD_S)
            if agent.cut:
                return
            told = {"protection": {"ProtectionEnabled": asked["ProtectionEnabled"], "TaskArn": "arn:aws:ecs:x"}}
            body = json.dumps(REFUSAL if agent.refuse else told).encode()
            with suppress(OSError):  # who asked is gone
                self.send_response(400 if agent.refuse else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: it is a fake."""

    return Handler
