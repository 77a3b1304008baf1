"""The service that the canary asks: a small HTTP server on this machine that stumbles when it is told to."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

LOOPBACK = ("127.0.0.1", "localhost")


class Service:
    """Answers 200, or 503 to as many of the next calls as :meth:`stumble` says.

    :param host: the name or address under which n8n reaches this machine.
    :ivar statuses: what it has answered, oldest first.
    """

    def __init__(self, host: str) -> None:
        self.statuses: list[int] = []
        self._stumbles = 0
        self._lock = threading.Lock()
        # Elsewhere than on loopback n8n comes in by an interface that only the machine's owner knows.
        bound = "127.0.0.1" if host in LOOPBACK else "0.0.0.0"  # noqa: S104 - said above
        self._server = ThreadingHTTPServer((bound, 0), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://{host}:{self._server.server_address[1]}/price"

    def stumble(self, times: int) -> None:
        with self._lock:
            self._stumbles = times

    def answer(self) -> int:
        with self._lock:
            status = 503 if self._stumbles else 200
            self._stumbles = max(0, self._stumbles - 1)
            self.statuses.append(status)
        return status

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_for(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            status = service.answer()
            body = b'{"price": 42}' if status == 200 else b'{"message": "The drill lets this call fail."}'
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet: the timeline tells."""

    return Handler
