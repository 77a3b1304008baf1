"""A socket's slow commands: each in a greenlet beside the reader, those about the same thing in their order."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from app.errors import BusyError
from app.telemetry import context

MAX_AT_WORK = 8
FINISH_S = 60.0


class Commands:
    """The commands of one socket that are at work or wait for one before them."""

    def __init__(self) -> None:
        self._last: dict[str, gevent.Greenlet] = {}
        self._at_work: set[gevent.Greenlet] = set()

    def run(self, about: str, command: Callable[[], None]) -> None:
        """Do ``command``, which raises nothing, after those about the same thing that came before it.

        :raises BusyError: too many are at work.
        """
        if len(self._at_work) >= MAX_AT_WORK:
            raise BusyError(f"{MAX_AT_WORK} commands of this connection are at work.", retry_after_s=1)
        greenlet = gevent.spawn(context.carry(_after), self._last.get(about), command)
        self._last[about] = greenlet
        self._at_work.add(greenlet)
        greenlet.link(lambda done: self._forget(about, done))

    def finish(self) -> None:
        """Wait for what is at work; bounded."""
        gevent.joinall(list(self._at_work), timeout=FINISH_S)

    def _forget(self, about: str, done: gevent.Greenlet) -> None:
        self._at_work.discard(done)
        if self._last.get(about) is done:
            del self._last[about]


def _after(former: gevent.Greenlet | None, command: Callable[[], None]) -> None:
    if former is not None:
        former.join()
    command()
