"""A way to a TCP server that can be cut at the worst moment: after a request was carried out, before its answer."""

from __future__ import annotations

from typing import Any, Self

import gevent
from gevent import socket
from gevent.server import StreamServer


class CuttingProxy:
    """Use it as a context manager, in the loop of whoever connects.

    :ivar cuts: so many answers are swallowed from now on, each with its connection.
    :ivar only: cuts only answers to requests with these bytes in them.
    :ivar swallowed: how many were.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._server: Any = StreamServer(("127.0.0.1", 0), self._serve)
        self.cuts = self.swallowed = 0
        self.only = b""

    @property
    def port(self) -> int:
        port: int = self._server.server_port
        return port

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop()

    def _serve(self, client: Any, address: Any) -> None:
        server = socket.create_connection(self._target)
        asked = [b""]

        def requests() -> None:
            try:
                while data := client.recv(65_536):
                    asked[0] = data
                    server.sendall(data)
            except OSError:
                pass
            server.close()

        sender = gevent.spawn(requests)
        try:
            while data := server.recv(65_536):
                if self.cuts > 0 and self.only in asked[0]:
                    self.cuts -= 1
                    self.swallowed += 1
                    break
                client.sendall(data)
        except OSError:
            pass
        finally:
            sender.kill()
            client.close()
            server.close()
