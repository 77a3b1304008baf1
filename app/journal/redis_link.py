"""The connections to Redis, and what a call over them may come to: an answer, or ``JournalUnavailableError`` soon.

A call whose answer was lost is repeated once. That is safe because every write carries an id under which the functions
remember for a minute what they answered: the repetition finds that, and does nothing. redis-py itself repeats nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import redis
from gevent import socket as green_socket
from gevent.event import Event as GreenEvent
from gevent.lock import BoundedSemaphore
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from app.errors import ConfigError, JournalUnavailableError
from app.journal import redis_library

TIMEOUT_S = 0.3
CONNECTIONS_MAX = 16
QUEUE_MAX, QUEUE_TIMEOUT_S = 10_000, 5.0
CLOSE_TIMEOUT_S = 5.0
TRIES = 2

Arg = str | bytes | int | float
_LOST = (redis.ConnectionError, redis.TimeoutError, ReadOnlyError, OSError)
"""The server is away, did not answer in time, or is another one's replica now."""

log = logging.getLogger(__name__)


class _Green(Connection):
    """A connection that blocks only its greenlet, whether or not the process was patched."""

    def _connect(self) -> Any:
        with gevent.Timeout(self.socket_connect_timeout, TimeoutError("no connection in time")):
            made = green_socket.create_connection((self.host, self.port), timeout=self.socket_connect_timeout)
        made.setsockopt(green_socket.IPPROTO_TCP, green_socket.TCP_NODELAY, 1)
        made.setsockopt(green_socket.SOL_SOCKET, green_socket.SO_KEEPALIVE, 1)
        made.settimeout(self.socket_timeout)
        return made


class _GreenTls(SSLConnection, _Green):
    """The same with TLS."""


class RedisLink:
    """Calls the journal's functions under one prefix.

    :ivar sender: who this is in announcements.
    """

    def __init__(self, url: str, prefix: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.sender = uuid.uuid4().hex[:12]
        self.tag = f"{{{prefix}}}"
        self._url = url
        self._timeout_s = timeout_s
        self._client: Any = None
        self._count = 0
        self._slots = BoundedSemaphore(CONNECTIONS_MAX)
        self._closed = True
        self._calls = self._running = 0
        self._idle = GreenEvent()
        self._away = False

    def open(self) -> dict[str, Any]:
        """Connect and load the functions; returns what the server says of itself (``INFO``).

        :raises ConfigError: it is not a server that the journal can use. :raises JournalUnavailableError: not now.
        """
        try:
            self._client = self._single()
            info: dict[str, Any] = self._client.info()
            if info.get("cluster_enabled"):
                self._client.close()
                self._client = self._cluster()
            redis_library.load(self._client)
        except AuthenticationError as exc:
            raise ConfigError("REDIS_URL must hold a user and a password that the server takes") from exc
        except _LOST as exc:
            raise JournalUnavailableError("Redis cannot be reached now.") from exc
        except ResponseError as exc:
            if "unknown command" in str(exc).lower():
                raise ConfigError("REDIS_URL must name a Redis 7 or Valkey server, which knows functions") from exc
            raise JournalUnavailableError("Redis does not take the journal's functions now.") from exc
        except RedisError as exc:
            raise JournalUnavailableError("Redis cannot be used now.") from exc
        self._closed = False
        return info

    def write(self, operation: str, *args: Arg) -> tuple[list[str], list[bytes]]:
        """Have a function write; returns the topics to wake and its reply.

        :raises JournalUnavailableError: it was not acknowledged; it may have happened where the answer was lost twice.
        """
        self._count += 1
        change_id = f"{self.sender}-{self._count}"
        topics, reply = self._call("FCALL", redis_library.NAME, (operation, change_id, self.sender, *args))
        return [_text(topic) for topic in topics], reply

    def read(self, operation: str, *args: Arg) -> Any:
        """What a function reads, at one moment."""
        return self._call("FCALL_RO", f"{redis_library.NAME}_read", (operation, *args))

    def subscribe(self, channel: str) -> Any:
        """A subscription on a connection of its own; close it. :raises RedisError: not now."""
        client: Any = self._single()
        try:
            subscription = client.pubsub(ignore_subscribe_messages=False)
            subscription.subscribe(channel)
        except BaseException:
            client.close()
            raise
        return subscription

    def close(self) -> None:
        """Let what was accepted end, then disconnect. Idempotent."""
        self._closed = True
        self._idle.clear()
        if self._calls:
            self._idle.wait(CLOSE_TIMEOUT_S)
        if self._client is not None:
            self._client.close()
            if not isinstance(self._client, RedisCluster):
                self._client.connection_pool.disconnect()

    # -- one call

    def _call(self, command: str, function: str, args: Sequence[Arg]) -> Any:
        if self._closed or self._calls >= QUEUE_MAX:
            raise JournalUnavailableError("The journal is closed." if self._closed else "The journal cannot keep up.")
        self._calls += 1
        try:
            if not self._slots.acquire(timeout=QUEUE_TIMEOUT_S):
                raise JournalUnavailableError("The journal cannot keep up.")
            try:
                return self._try(lambda: self._client.execute_command(command, function, 1, self.tag, *args))
            finally:
                self._slots.release()
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    def _try(self, call: Callable[[], Any]) -> Any:
        # While it is away one caller at a time finds out whether it still is; nobody queues up behind a timeout.
        if self._away and self._running:
            raise JournalUnavailableError("Redis is away.")
        self._running += 1
        try:
            answer = self._repeat(call)
        except _LOST as exc:
            if not self._away:
                self._away = True
                log.warning("journal: Redis is away: %s", type(exc).__name__)
            raise JournalUnavailableError("Redis did not answer in time.") from exc
        except RedisError as exc:
            # Out of memory, a disk that is full, a replica that is not there yet: told by the first word.
            log.warning("journal: Redis refused: %s", str(exc).partition(" ")[0])
            raise JournalUnavailableError("Redis cannot take this now.") from exc
        finally:
            self._running -= 1
        if self._away:
            self._away = False
            log.info("journal: Redis is back")
        return answer

    def _repeat(self, call: Callable[[], Any]) -> Any:
        for left in reversed(range(TRIES)):
            try:
                return call()
            except _LOST as exc:
                if isinstance(exc, ReadOnlyError):
                    self._client.connection_pool.disconnect()  # the address may lead elsewhere by now
                if not left:
                    raise
            except ResponseError as exc:
                if not left or not redis_library.is_missing(exc):
                    raise
                redis_library.load(self._client)
        raise AssertionError("unreachable")

    # -- clients

    def _single(self) -> redis.Redis:
        pool: Any = redis.ConnectionPool.from_url(self._url, **self._options())
        pool.connection_class = _GreenTls if issubclass(pool.connection_class, SSLConnection) else _Green
        return redis.Redis(connection_pool=pool)

    def _cluster(self) -> RedisCluster:
        return RedisCluster.from_url(self._url, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")
