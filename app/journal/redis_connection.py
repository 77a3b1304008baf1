"""A connection to Redis that blocks only its greenlet, and where it leads: to the address of ``REDIS_URL``, or to the
node of a cluster that has the journal's slot."""

from __future__ import annotations

from typing import Any

import gevent
import redis
from gevent import socket as green_socket
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import ReadOnlyError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

LOST = (redis.ConnectionError, redis.TimeoutError, ReadOnlyError, OSError)
"""The server is away, did not answer in time, or is another one's replica now."""


class _Green(Connection):
    """Green whether or not the process was patched."""

    def _connect(self) -> Any:
        with gevent.Timeout(self.socket_connect_timeout, TimeoutError("no connection in time")):
            made = green_socket.create_connection((self.host, self.port), timeout=self.socket_connect_timeout)
        made.setsockopt(green_socket.IPPROTO_TCP, green_socket.TCP_NODELAY, 1)
        made.setsockopt(green_socket.SOL_SOCKET, green_socket.SO_KEEPALIVE, 1)
        made.settimeout(self.socket_timeout)
        return made


class _GreenTls(SSLConnection, _Green):
    """The same with TLS."""


class Endpoint:
    """Makes connections; redis-py repeats nothing on them by itself.

    :param timeout_s: for a connection, and for an answer.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._options: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        self._elsewhere: dict[str, Any] = {}

    def connect(self) -> Any:
        """:raises RedisError: or ``OSError``: not now."""
        pool = self._pool()
        made = pool.connection_class(**{**pool.connection_kwargs, **self._elsewhere})
        made.connect()
        return made

    def client(self) -> redis.Redis:
        """A client of the address itself, for a subscription."""
        return redis.Redis(connection_pool=self._pool())

    def follow(self, moved: str) -> None:
        """Lead to where a node of a cluster says that the journal's slot is: ``MOVED 3999 host:port``."""
        host, _, port = moved.split()[-1].rpartition(":")
        self._elsewhere = {**({"host": host} if host else {}), "port": int(port)}

    def go_home(self) -> None:
        """Lead to the address of the URL again: what it was told may be old."""
        self._elsewhere = {}

    def _pool(self) -> Any:
        pool: Any = redis.ConnectionPool.from_url(self._url, **self._options)
        pool.connection_class = _GreenTls if issubclass(pool.connection_class, SSLConnection) else _Green
        return pool
