"""The log of gunicorn's master, which may not have threads, for it forks: each line is written soon, or dropped.

The master lives through reloads and must not keep old code, so it imports nothing by the name ``app``: it runs this
file, and those it needs beside it, under a name of its own that each reload makes anew (``gunicorn.conf.py``). Hence
this package's modules that it needs import each other by relative names, and nothing else of ``app``.
"""

from __future__ import annotations

import logging
import os
import select
import time
from contextlib import suppress
from typing import Any

from .lines import JsonLineFormatter
from .streams import redirect
from .writer import PIPE_BUF_BYTES, exclusive, real

__all__ = ["DirectHandler", "JsonLineFormatter", "begin", "config"]

LOCK_WAIT_S = 0.05
"""So long a line waits for a worker's, which takes microseconds unless its writer was held up in it."""
_LOOK_S = 0.002


class DirectHandler(logging.Handler):
    """Writes what fits without waiting for the reader, else drops and counts it.

    :param dropped_fd: of a file that keeps the count (8 bytes, little-endian) over reloads, for workers to read.
    :param lock_wait_s: for other processes' lines; after one in vain the next lines do not wait.
    """

    def __init__(
        self,
        fd: int = 1,
        *,
        lock_fd: int | None = None,
        dropped_fd: int | None = None,
        lock_wait_s: float = LOCK_WAIT_S,
    ) -> None:
        super().__init__()
        self._dropped_fd = dropped_fd
        self.dropped = 0 if dropped_fd is None else int.from_bytes(os.pread(dropped_fd, 8, 0), "little")
        self._fd, self._lock_fd = fd, lock_fd
        self.lock_wait_s, self._held_up = lock_wait_s, False
        self.setFormatter(JsonLineFormatter(limit_bytes=PIPE_BUF_BYTES))

    def emit(self, record: logging.LogRecord) -> None:
        data = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        deadline = time.monotonic() + (0.0 if self._held_up else self.lock_wait_s)
        while (written := self._write(data)) is None and time.monotonic() < deadline:
            real("time", "sleep")(_LOOK_S)
        self._held_up = written is None
        if not written:
            self.dropped += 1
            if self._dropped_fd is not None:
                with suppress(OSError):
                    os.pwrite(self._dropped_fd, self.dropped.to_bytes(8, "little"), 0)

    def _write(self, data: bytes) -> bool | None:
        """Whether there was room for it; ``None``: another process writes."""
        poll = real("select", "poll")()
        poll.register(self._fd, select.POLLOUT)
        with exclusive(self._lock_fd, wait=False) as mine:
            if not mine:
                return None
            try:
                if any(event & select.POLLOUT for _, event in poll.poll(0)):
                    os.write(self._fd, data)
                    return True
            except OSError:
                pass
            return False


def begin(lock_fd: int | None) -> None:
    """From now on whatever this process says is JSON lines; before gunicorn has set up its own loggers."""
    logging.getLogger().handlers[:] = [DirectHandler(lock_fd=lock_fd)]
    redirect()


def config(level: str, lock_fd: int | None, dropped_fd: int | None = None) -> dict[str, Any]:
    """gunicorn's ``logconfig_dict``: all loggers to one :class:`DirectHandler`."""
    quiet = {"handlers": ["json"], "propagate": False, "level": "INFO"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {},
        "handlers": {"json": {"()": lambda: DirectHandler(lock_fd=lock_fd, dropped_fd=dropped_fd)}},
        "root": {"handlers": ["json"], "level": level.upper()},
        "loggers": {"gunicorn.error": {**quiet, "level": level.upper()}, "gunicorn.access": quiet},
    }
