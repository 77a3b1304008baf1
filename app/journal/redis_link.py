"""Calls of the journal's functions, and what each may come to: an answer, or ``JournalUnavailableError`` soon."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import redis
from redis.exceptions import AuthenticationError, MovedError, ReadOnlyError, RedisError, ResponseError

from app.errors import ConfigError, JournalUnavailableError
from app.journal import redis_library
from app.journal.redis_connection import LOST, Endpoint
from app.journal.redis_lane import Command, Lane
from app.telemetry.sampling import Sampler

TIMEOUT_S = 0.3
QUEUE_MAX = 10_000
TOLD_MAX_CHARS = 200
CORRECTIONS_MAX = 3
"""So often a call is made again because it was answered that it must go elsewhere or needs the functions loaded."""

Arg = str | bytes | int | float

log = logging.getLogger(__name__)


class RedisLink:
    """Calls the journal's functions under one prefix, on two connections: reads may be large, and hold up no write.

    :ivar sender: who this is in announcements.
    :ivar tag: what all keys begin with; a hash tag, so that in a cluster they have one slot.
    """

    def __init__(self, url: str, prefix: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.sender = uuid.uuid4().hex[:12]
        self.tag = f"{{{prefix}}}"
        self._endpoint = Endpoint(url, timeout_s=timeout_s)
        self._lanes: list[Lane] = []
        self._count = 0
        self._closed = True
        self._away = False
        self._sampler = Sampler()

    @property
    def groups(self) -> int:
        """How many groups of writes were sent."""
        return self._lanes[0].groups if self._lanes else 0

    def open(self) -> dict[str, str]:
        """Connect and see to the functions; returns what the server says of itself (``INFO``).

        :raises ConfigError: it is not a server that the journal can use. :raises JournalUnavailableError: not now.
        """
        try:
            connection = self._endpoint.connect()
            try:
                connection.send_command("INFO")
                info = _info(connection.read_response())
            finally:
                connection.disconnect()
        except AuthenticationError as exc:
            raise ConfigError("REDIS_URL must hold a user and a password that the server takes") from exc
        except (*LOST, RedisError) as exc:
            raise JournalUnavailableError("Redis cannot be reached now.") from exc
        if int(info.get("redis_version", "7").partition(".")[0]) < 7:
            raise ConfigError("REDIS_URL must name a Redis of version 7 or newer, or a Valkey")
        self._closed = False
        self._lanes = [Lane(self._endpoint.connect, on_lost=self._endpoint.go_home) for _ in range(2)]
        try:
            self.read("announced")
            redis_library.tidy(self._lanes[0].call)
        except (*LOST, RedisError) as exc:
            self.close()
            raise JournalUnavailableError("Redis does not take the journal's functions now.") from exc
        except JournalUnavailableError:
            self.close()
            raise
        return info

    def write(self, operation: str, *args: Arg) -> tuple[list[str], list[bytes]]:
        """Have a function write; returns the topics to wake and its reply.

        :raises JournalUnavailableError: it was not acknowledged; it may have happened where its answer was lost twice.
        """
        self._count += 1
        change_id = f"{self.sender}-{self._count}"
        command = ("FCALL", redis_library.NAME, 1, self.tag, operation, change_id, self.sender, *args)
        topics, reply = self._call(0, command)
        return [topic.decode("utf-8", "surrogatepass") for topic in topics], reply

    def read(self, operation: str, *args: Arg) -> Any:
        """What a function reads, at one moment."""
        return self._call(1, ("FCALL_RO", f"{redis_library.NAME}_read", 1, self.tag, operation, *args))

    def subscribe(self, channel: str) -> Any:
        """A subscription on a connection of its own; close it. :raises RedisError: or ``OSError``: not now."""
        client: redis.Redis = self._endpoint.client()
        subscription: Any = client.pubsub()  # type: ignore[no-untyped-call]  # redis gives it no types
        try:
            subscription.subscribe(channel)
        except BaseException:
            subscription.close()
            client.connection_pool.disconnect()
            raise
        return subscription

    def close(self) -> None:
        """Let what was accepted end, then disconnect. Idempotent."""
        self._closed = True
        for lane in self._lanes:
            lane.stop()

    def _call(self, lane_number: int, command: Command) -> Any:
        if self._closed or sum(lane.waiting for lane in self._lanes) >= QUEUE_MAX:
            raise JournalUnavailableError("The journal is closed." if self._closed else "The journal cannot keep up.")
        lane = self._lanes[lane_number]
        try:
            answer = self._corrected(lane, command)
        except ResponseError as exc:
            # Out of memory, a disk that is full, a replica that nobody made the first: told by the first word. A bug of
            # our functions is told by its line.
            told = str(exc)
            self._complain(
                "journal: Redis refused: %s",
                told[:TOLD_MAX_CHARS] if "user_function" in told else told.partition(" ")[0],
            )
            raise JournalUnavailableError("Redis cannot take this now.") from exc
        except redis.ConnectionError as exc:
            if not self._away:
                self._away = True
                self._complain("journal: Redis is away: %s", str(exc))
            raise JournalUnavailableError("Redis did not answer in time.") from exc
        if self._away:
            self._away = False
            log.debug("journal: Redis is back")
        return answer

    def _corrected(self, lane: Lane, command: Command) -> Any:
        for _ in range(CORRECTIONS_MAX):
            try:
                return lane.call(command)
            except ResponseError as exc:
                if redis_library.is_missing(exc):
                    # Another server has taken over, somebody has flushed them, or this is the first worker of all.
                    lane.call(redis_library.LOAD)
                elif isinstance(exc, MovedError):
                    self._endpoint.follow(str(exc))
                    self._reset()
                elif isinstance(exc, ReadOnlyError):
                    self._endpoint.go_home()  # the address may lead elsewhere by now
                    self._reset()
                else:
                    raise
        return lane.call(command)

    def _complain(self, sentence: str, word: str) -> None:
        # A server that is full refuses each write, and a slow one is away and back all the time.
        suppressed = self._sampler.take(sentence + word)
        if suppressed is not None:
            log.warning(sentence, word, extra={"suppressed": suppressed} if suppressed else None)

    def _reset(self) -> None:
        for lane in self._lanes:
            lane.reset()


def _info(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}
