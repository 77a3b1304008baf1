"""Flask-Limiter over the journal's counters, for the routes whose limit is declared: ``/health`` and the handshake.

It evaluates the declarations; these are done beside it, in ``web/limits.py``, because it cannot do them right:

- callbacks and messages: it counts before the view, so a duplicate would be a hit, and a hit and what it admits would
  be two writes; they are counted by the change itself;
- failed authentications: its ``deduct_when`` counts after the answer was made, so it can no longer become a 429, and it
  tests and counts in two steps, between which others pass;
- a handshake's give-back and a drain's returns: it has no way to take a hit back;
- ``Retry-After``: it cuts to whole seconds and asks its store once more; here the refusal itself carries the time;
- a store that fails: its fallback counts for each process alone; here the request passes and that is counted.

Its hooks look at every request of an application (some 20 µs each, limit or not), so it is set up in an application of
its own, and only the routes that have a limit ask it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from flask import Flask, request
from flask_limiter import Limiter
from limits.storage import MovingWindowSupport, Storage

from app.errors import JournalUnavailableError
from app.telemetry.metrics import LimitName
from app.web.limits import Limits

_KEY_PREFIX = "LIMITER/"


class JournalStorage(Storage, MovingWindowSupport):
    """The library's view of the journal: a moving window and nothing else.

    Its keys end with the limit's numbers, so each change of a setting would begin anew; they are left out here.
    """

    STORAGE_SCHEME = ["journal"]  # noqa: RUF012 - the library's spelling

    def __init__(self, uri: str | None = None, *, limits: Limits, **options: Any) -> None:
        super().__init__(uri, **options)
        self._limits = limits

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        return JournalUnavailableError

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit. :raises RateLimitError: over the limit; it passes through the library as it is."""
        client, scope, *_ = key.removeprefix(_KEY_PREFIX).rsplit("/", 4)
        self._limits.check(cast(LimitName, scope), client)
        return True

    # The library's abstract methods that a check never calls: one that is called after all is a mistake of ours.

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        raise NotImplementedError("headers are off, and a refusal carries its time")

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError("the journal has moving windows only")

    def get(self, key: str) -> int:
        raise NotImplementedError("the journal has moving windows only")

    def get_expiry(self, key: str) -> float:
        raise NotImplementedError("the journal has moving windows only")

    def check(self) -> bool:
        return True  # asked by the fallback alone, which is off

    def reset(self) -> int | None:
        raise NotImplementedError("hits run out by themselves")

    def clear(self, key: str) -> None:
        raise NotImplementedError("hits run out by themselves")


class DeclaredLimits:
    """Makes the checks that blueprints run before their views."""

    def __init__(self, app: Flask, limits: Limits) -> None:
        app.extensions["declared_limits"] = self  # what it declares refers to the limiter only weakly
        self._limits = limits
        self._limiter = Limiter(
            lambda: limits.client(request.environ),
            strategy="moving-window",
            storage_uri="journal://",
            storage_options={"limits": limits},  # type: ignore[dict-item]  # it takes anything
            headers_enabled=False,
        )
        self._limiter.init_app(Flask("limits"))

    def check(self, name: LimitName) -> Callable[[], None]:
        """A function that counts the current request, or raises ``RateLimitError``; where the limit is off it does
        nothing."""
        per_minute = self._limits.per_minute(name)

        def checked() -> None:
            """The library runs its check around this."""

        if not per_minute:
            return checked
        checked.__qualname__ = f"checked_{name}"  # what the library knows a declaration by
        return self._limiter.shared_limit(f"{per_minute}/minute", scope=name)(checked)
