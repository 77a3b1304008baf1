"""The TCP connection below a WebSocket: bytes in and out, waited for only by who asks to.

Until :meth:`Tcp.take_over` gunicorn owns it and closes it; from then on it is ours, and the loop watches it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey

READ_BYTES = 65_536
_READ, _WRITE = 1, 2
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
# gevent's own class would bring two watchers and a greenlet's waiting along.
_Socket = monkey.get_original("socket", "socket")


class Tcp:
    """:param client: gunicorn's gevent socket."""

    __slots__ = ("_client", "_readable", "_sock")

    def __init__(self, client: Any) -> None:
        self._client: Any = client
        self._sock: socket.socket = client._sock  # the raw one, which never blocks
        self._readable: Any = None

    def take_over(self) -> None:
        """Have gunicorn close nothing as the request ends."""
        self._sock = _Socket(fileno=self._client.detach())
        self._sock.setblocking(False)
        self._client = None
        self._readable = gevent.get_hub().loop.io(self._sock.fileno(), _READ)

    def watch(self, noticed: Callable[[], None]) -> None:
        """Have the loop call ``noticed`` while there is something to read."""
        self._readable.start(noticed)

    def unwatch(self) -> None:
        if self._readable is not None:
            self._readable.stop()

    def receive(self, limit_bytes: int = READ_BYTES) -> bytes | None:
        """What has come. Empty: the peer has ended, or is lost. ``None``: nothing now."""
        try:
            return self._sock.recv(limit_bytes)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def wait_readable(self, timeout_s: float | None) -> bool:
        """Wait in this greenlet; tells whether there is something to read."""
        return self._wait(_READ, timeout_s)

    def send(self, data: bytes) -> int:
        """Write what fits without waiting, nearly always all of it. :raises OSError: the connection is gone."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def send_all(self, data: bytes, timeout_s: float) -> None:
        """:raises TimeoutError: the peer has not read it in time. :raises OSError: the connection is gone."""
        left = memoryview(data)
        with gevent.Timeout(timeout_s, TimeoutError):
            while left:
                sent = self.send(left)  # type: ignore[arg-type]  # any buffer will do
                left = left[sent:]
                if left:
                    self._wait(_WRITE, None)

    def end_sending(self) -> None:
        """:raises OSError: the connection is gone."""
        self._sock.shutdown(socket.SHUT_WR)

    def drop_incoming(self, timeout_s: float) -> None:
        """Read what still comes, and forget it, until the peer ends."""
        with gevent.Timeout(timeout_s, False):
            while (data := self.receive()) != b"":
                if data is None:
                    self._wait(_READ, None)
                else:
                    gevent.sleep(0)

    def give_up(self) -> None:
        """Wake who waits on it, and let it go by a reset when it is closed."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Where it is ours. Idempotent; nobody may wait on it any more."""
        if self._readable is not None:
            self._readable.stop()
            self._readable.close()
            self._readable = None
            self._sock.close()

    @property
    def closed(self) -> bool:
        return self._readable is None

    def _wait(self, what: int, timeout_s: float | None) -> bool:
        """A watcher for each wait: where waiting is rare, none is kept for it."""
        hub = gevent.get_hub()
        watcher = hub.loop.io(self._sock.fileno(), what)
        try:
            with gevent.Timeout(timeout_s, False):
                hub.wait(watcher)
                return True
        finally:
            watcher.close()
        return False
