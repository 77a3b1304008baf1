"""The rate limits: settings turned into the journal's counters, whom each counts by, and what a refusal looks like.

Callbacks and messages are counted by the change that takes them (``Change.limit``), so a duplicate is no hit and a
refused one leaves nothing. ``/health``, handshakes and failed authentications are counted here, each as it comes.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from functools import lru_cache
from typing import Any

import gevent

from app.errors import AuthenticationError, BaseError, JournalUnavailableError, RateLimitError
from app.journal import Journal, Limit
from app.settings import Settings
from app.telemetry import metrics
from app.telemetry.metrics import LimitName
from app.web import auth

MINUTE_S = 60.0
STORE_WAIT_S = 1.0
STORE_AWAY_S = 1.0
REMEMBERED_MAX = 4_096
RETURNS_MAX = 1_000_000
CACHED_CHARS = 256
_PLACE = "bridge.handshake_counted"
_DETAILS: dict[LimitName, str] = {
    "ws": "Too many connections from this address; come back later.",
    "callbacks": "Too many callbacks; it is kept, and taken when the limit allows.",
    "messages": "Too many messages; this one was not taken, send it again later.",
    "health": "Too many requests from this address; come back later.",
    "auth": "Too many failed authentications from this address; come back later.",
}

log = logging.getLogger(__name__)


class _StoreSlowError(Exception):
    """The counters did not answer in time."""


class Remembered:
    """Refusals of this worker until the time that was told, so that a flood of them asks the journal nothing.

    Right only where no place can become free earlier. What does not fit any more is simply asked again.
    """

    def __init__(self, size: int = REMEMBERED_MAX) -> None:
        self._size = size
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def left_s(self, key: str) -> float:
        """For how long ``key`` is still refused; 0 where nothing is known."""
        until = self._until.get(key)
        if until is None:
            return 0.0
        left_s = until - time.monotonic()
        if left_s <= 0:
            del self._until[key]
            return 0.0
        return left_s

    def note(self, key: str, wait_s: float) -> None:
        self._until[key] = time.monotonic() + wait_s
        self._until.move_to_end(key)
        if len(self._until) > self._size:
            self._until.popitem(last=False)


class Limits:
    """One worker's view of all limits. A setting of 0 is off, and ``None`` here.

    :ivar callbacks: all authenticated callbacks together.
    """

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._journal = journal
        self._hops = settings.trusted_proxy_hops
        self._per_minute: dict[LimitName, int] = {
            "ws": settings.rate_limit_ws_per_minute,
            "callbacks": settings.rate_limit_callbacks_per_minute,
            "messages": settings.rate_limit_messages_per_minute,
            "health": settings.rate_limit_health_per_minute,
            "auth": settings.rate_limit_auth_failures_per_minute,
        }
        self._remembered = Remembered()
        self._away_until = 0.0
        self.callbacks = self._limit("callbacks", "all")

    def per_minute(self, name: LimitName) -> int:
        return self._per_minute[name]

    def messages(self, session_id: str) -> Limit | None:
        return self._limit("messages", session_id)

    def note_message_refused(self, session_id: str, retry_after_s: int) -> None:
        """Remember a refusal; a second less than was told, which the journal had rounded up."""
        self._remembered.note(f"messages:{session_id}", retry_after_s - 1)

    def message_refused(self, session_id: str) -> RateLimitError | None:
        """The refusal of a message that this worker knows to be over the rate, without a look at the journal."""
        left_s = self._remembered.left_s(f"messages:{session_id}")
        return RateLimitError(retry_after_s=math.ceil(left_s) + 1) if left_s > 0 else None

    def client(self, environ: dict[str, Any]) -> str:
        """What this request's client is counted by: its address, IPv6 by /64."""
        forwarded = str(environ.get("HTTP_X_FORWARDED_FOR") or "") if self._hops else ""
        if len(forwarded) > CACHED_CHARS:
            return _client(str(environ.get("REMOTE_ADDR") or ""), forwarded, self._hops)
        return _cached_client(str(environ.get("REMOTE_ADDR") or ""), forwarded, self._hops)

    def check(self, name: LimitName, client: str) -> None:
        """Count a hit of ``client``. Where the counters cannot be asked it passes, and that is counted.

        :raises RateLimitError: over the limit; it was not counted.
        """
        limit = self._limit(name, client)
        if limit is None:
            return
        # A handshake's place can become free at any time, by a give-back or a drain's return at another worker, so
        # its refusals are never remembered; telling one anew costs two indexed reads.
        wait_s = self._remembered.left_s(limit.key) if name != "ws" else 0.0
        if wait_s <= 0:
            wait_s = self._hit(name, limit)
            if wait_s > 0 and name != "ws":
                self._remembered.note(limit.key, wait_s)
        if wait_s > 0:
            metrics.rate_limited.labels(name).inc()
            raise refusal(name, wait_s)

    def remembered_s(self, name: LimitName, client: str) -> float:
        """For how long this worker knows ``client`` to be over the limit; where it is, this counts as a refusal."""
        left_s = self._remembered.left_s(f"{name}:{client}")
        if left_s > 0:
            metrics.rate_limited.labels(name).inc()
        return left_s

    # -- handshakes

    def take_return(self, environ: dict[str, Any]) -> bool:
        """Whether a drain has left this handshake's address a return; it is used up by this."""
        returns = self._returns(self.client(environ))
        if returns is None:
            return False
        try:
            with gevent.Timeout(STORE_WAIT_S, _StoreSlowError):
                return self._journal.take_hit(returns)
        except (JournalUnavailableError, _StoreSlowError):
            return False  # and the count that follows fails too, and passes

    def counted(self, environ: dict[str, Any]) -> None:
        """Note that this handshake has taken a place."""
        environ[_PLACE] = True

    def give_back(self, environ: dict[str, Any]) -> None:
        """A handshake that turned out to resume a session, with a valid token, gives its place back, once."""
        limit = self._limit("ws", self.client(environ))
        if limit is not None and environ.pop(_PLACE, False):
            self._try(lambda: self._journal.take_hit(limit))

    def leave_return(self, environ: dict[str, Any]) -> None:
        """A socket is about to be closed by a drain: its address may come back once, within a minute."""
        returns = self._returns(self.client(environ))
        if returns is not None:
            self._try(lambda: self._journal.hit(returns))

    # -- failed authentications

    def failed_authentication(self, error: AuthenticationError, environ: dict[str, Any]) -> BaseError:
        """What to answer instead of a 401: ``error`` itself, or the refusal once there were too many."""
        try:
            self.check("auth", self.client(environ))
        except RateLimitError as exc:
            exc.close_code = error.close_code
            return exc
        return error

    # -- how it is done

    def _limit(self, name: LimitName, counted_by: str) -> Limit | None:
        per_minute = self._per_minute[name]
        return Limit(f"{name}:{counted_by}", per_minute, MINUTE_S) if per_minute else None

    def _returns(self, client: str) -> Limit | None:
        return Limit(f"return:{client}", RETURNS_MAX, MINUTE_S) if self._per_minute["ws"] else None

    def _hit(self, name: LimitName, limit: Limit) -> float:
        # Asked again after a second: requests must not each wait for a store that is away.
        if time.monotonic() >= self._away_until:
            try:
                with gevent.Timeout(STORE_WAIT_S, _StoreSlowError):
                    return self._journal.hit(limit)
            except (JournalUnavailableError, _StoreSlowError):
                self._away_until = time.monotonic() + STORE_AWAY_S
                log.warning("a rate limit's counters are away, requests pass", extra={"limit": name})
        metrics.limiter_failures.labels(name).inc()
        return 0.0

    def _try(self, step: Any) -> None:
        """Do what changes the count of handshakes; without it the address has a place less, and that is counted."""
        try:
            with gevent.Timeout(STORE_WAIT_S, _StoreSlowError):
                step()
        except (JournalUnavailableError, _StoreSlowError):
            metrics.limiter_failures.labels("ws").inc()


def refusal(name: LimitName, wait_s: float) -> RateLimitError:
    """The error for a limit, with a ``Retry-After`` that is long enough."""
    return RateLimitError(_DETAILS[name], retry_after_s=max(1, math.ceil(wait_s)))


def refused_by_change(name: LimitName, error: RateLimitError) -> RateLimitError:
    """Count the refusal of a change that carried this limit, and put it in words."""
    metrics.rate_limited.labels(name).inc()
    error.detail = _DETAILS[name]
    return error


def _client(peer: str, forwarded: str, hops: int) -> str:
    address = auth.client_address({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}, hops)
    return auth.limit_key(address)


_cached_client = lru_cache(maxsize=REMEMBERED_MAX)(_client)
