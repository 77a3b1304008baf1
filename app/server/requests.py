"""How a worker reads requests' heads and writes responses' ones, in place of gunicorn's own classes."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import gevent
import gunicorn.http.parser
import gunicorn.http.wsgi
from gunicorn import util

if TYPE_CHECKING:
    from .worker import DrainWorker


def date_line() -> str:
    """The ``Date`` header; written once a second, for it costs as much as all others together."""
    return _date_line(int(time.time()))


@lru_cache(maxsize=1)
def _date_line(second: int) -> str:
    return f"Date: {util.http_date(second)}\r\n"


def response_class(worker: DrainWorker) -> type[Any]:
    class Response(gunicorn.http.wsgi.Response):  # type: ignore[misc]  # gunicorn has no types
        """Names no software, and ends its connection where the worker drains as its headers are written.

        What those promised holds: a client that was told "keep-alive" may be sending its next request already.
        """

        headers_sent: bool
        sent: int

        def default_headers(self) -> list[str]:
            if not worker.alive:
                self.force_close()
            lines = [f"HTTP/{self.req.version[0]}.{self.req.version[1]} {self.status}\r\n", date_line()]
            lines.append(f"Connection: {self._connection()}\r\n")
            return [*lines, "Transfer-Encoding: chunked\r\n"] if self.chunked else lines

        def _connection(self) -> str:
            return "upgrade" if self.upgrade else "close" if self.should_close() else "keep-alive"

        def write(self, data: bytes) -> None:
            if self.headers_sent or self.chunked or self._omits_body or self.response_length != len(data):
                super().write(data)
                return
            # Nearly all responses are one piece: its head goes with it, in one packet.
            lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
            self.headers_sent = True
            self.sent += len(data)
            util.write(self.sock, "".join(lines).encode("latin-1") + data)

    return Response


class HeadTimeout(gevent.Timeout):  # type: ignore[misc]  # gevent has no types
    """Bounds the wait for a request, and then, from its first bytes on, the rest of its head.

    :ivar begun: something of the request is there. :ivar rest: runs once more than one piece is needed.
    """

    begun = False
    rest: gevent.Timeout | None = None

    def __exit__(self, *exc: Any) -> Any:
        if self.rest is not None:
            self.rest.close()
        return super().__exit__(*exc)


def unreader_class(worker: DrainWorker) -> type[Any]:
    class Unreader(gunicorn.http.parser.SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
        """Tells the head's timeout how far the request is. Most come in one piece and need no second timer."""

        def read(self, *args: Any, **options: Any) -> Any:
            data = super().read(*args, **options)
            head = worker.heads.get(gevent.getcurrent())
            if head is not None:
                head.begun = True
            return data

        def chunk(self, *args: Any, **options: Any) -> Any:
            head = worker.heads.get(gevent.getcurrent())
            if head is None:
                gevent.sleep(0)  # a body that always has more for us must not keep the others, and timeouts, waiting
            elif head.begun and head.rest is None:
                head.rest = gevent.Timeout.start_new(worker.head_timeout_s, head)
            return super().chunk(*args, **options)

    return Unreader
