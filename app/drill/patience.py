"""How long the drill waits: until its time is over, or a person stops it; and one drill at a time."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from app.errors import BaseError

T = TypeVar("T")
LOOK_S = 0.1
_FOLDER = Path(__file__).parent


class DrillError(BaseError):
    """The story did not go on as it should; ``detail`` says what was seen instead and what to do."""

    code, title = "drill_failed", "The drill failed"


class Patience:
    """A drill's time. A signal only marks it as stopped: each step ends, then all is removed that it has made."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.stopped = False
        self._deadline = time.monotonic() + limit_s

    def check(self) -> None:
        """:raises DrillError: a person has stopped the drill."""
        if self.stopped:
            raise DrillError("It was stopped.")

    def wait(self, look: Callable[[], T | None], *, instead: Callable[[], str], limit_s: float | None = None) -> T:
        """Look until there is something; gives it.

        :param instead: what to say where nothing comes: what was seen, and what to do.
        :param limit_s: less than what is left of the drill's time.
        :raises DrillError: nothing in time, or stopped.
        """
        began = time.monotonic()
        deadline = min(self._deadline, began + limit_s) if limit_s else self._deadline
        while True:
            self.check()
            found = look()
            if found is not None:
                return found
            if time.monotonic() >= deadline:
                waited_s = time.monotonic() - began
                raise DrillError(f"nothing within {waited_s:.0f} s. {instead()}")
            time.sleep(LOOK_S)

    @contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM as the wish to stop; what has begun is removed first, however often they come."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stopped = True

        former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


@contextmanager
def only_one() -> Iterator[None]:
    """Hold this project's place for a drill; whatever an earlier one has left is nobody's any more.

    :raises DrillError: another drill has it.
    """
    # A lock on a folder that is there anyway: it leaves no file, and ends with the process.
    place = os.open(_FOLDER, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DrillError("Another drill is running here; wait for its end.") from None
        yield
    finally:
        os.close(place)
