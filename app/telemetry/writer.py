"""How lines reach stdout in a worker: by a thread with a bounded queue, so a reader that stops does not stop it."""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

QUEUE_LIMIT_LINES = 10_000
QUEUE_LIMIT_BYTES = 8 * 1024**2
FLUSH_LIMIT_S = 1.0
GATHER_S = 0.01
"""After a line the thread waits so long for more. To wake it takes a system call and Python's lock from the loop, and
under load there are two lines for each request."""
# What a pipe takes whole, or not at all; longer writes of several processes may mix.
PIPE_BUF_BYTES = 4096
_RETRY_S = 0.05


def real(module: str, name: str) -> Any:
    """A function of the standard library as it was before gevent replaced it: real threads must not meet its loop."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module, name) if monkey else getattr(importlib.import_module(module), name)


@contextmanager
def exclusive(lock_fd: int | None, *, wait: bool) -> Iterator[bool]:
    """Keep the other processes' lines out of this one. Yields whether it may be written.

    The lock is a record lock on a file that all processes inherited: it ends with its process, whatever happens.
    """
    if lock_fd is None:
        yield True
        return
    try:
        fcntl.lockf(lock_fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        yield wait
        return
    try:
        yield True
    finally:
        fcntl.lockf(lock_fd, fcntl.LOCK_UN)


class StdoutWriter:
    """A thread that writes lines to a file descriptor; ``submit`` never waits.

    It is a real thread, so that a full pipe stops it and not the worker's loop.

    :ivar dropped: lines lost so far, because the queue was full or the reader is gone.
    """

    def __init__(
        self,
        fd: int = 1,
        *,
        limit_lines: int = QUEUE_LIMIT_LINES,
        limit_bytes: int = QUEUE_LIMIT_BYTES,
        lock_fd: int | None = None,
        on_recovery: Callable[[int], None] = lambda lost: None,
    ) -> None:
        self.dropped = 0
        self._fd, self._lock_fd = fd, lock_fd
        self._limit_lines, self._limit_bytes = limit_lines, limit_bytes
        self._on_recovery = on_recovery
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._reported = 0
        # Reentrant: a signal handler may log while this very thread is in ``submit``.
        self._guard = real("threading", "RLock")()
        self._wake = real("_thread", "allocate_lock")()
        self._sleep = real("time", "sleep")
        self._writing = False
        real("_thread", "start_new_thread")(self._run, ())

    def submit(self, line: str) -> None:
        """Queue one line (without its end), or drop and count it."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._guard:
            if len(self._lines) >= self._limit_lines or self._bytes + len(data) > self._limit_bytes:
                self.dropped += 1
                return
            self._lines.append(data)
            self._bytes += len(data)
        self._rouse()

    def flush(self, limit_s: float = FLUSH_LIMIT_S) -> bool:
        """Wait, for real, until all is written or the time is up."""
        deadline = time.monotonic() + limit_s
        while self._lines or self._writing:
            if time.monotonic() > deadline:
                return False
            self._rouse()
            self._sleep(0.002)
        return True

    def _rouse(self) -> None:
        if self._wake.locked():
            with suppress(RuntimeError):  # a signal handler was faster
                self._wake.release()

    def _run(self) -> None:
        while True:
            self._wake.acquire(timeout=1.0)
            if self._lines:
                self._sleep(GATHER_S)
            while batch := self._take():
                with exclusive(self._lock_fd, wait=True):
                    written = self._write(batch)
                self._writing = False
                if written:  # to a reader that is gone, telling of lost lines would only lose one more, for ever
                    self._report()

    def _take(self) -> list[bytes]:
        """Whole lines that a pipe takes at once, or one long line."""
        batch: list[bytes] = []
        size = 0
        with self._guard:
            self._writing = bool(self._lines)  # first: ``flush`` looks without the guard
            while self._lines and (not batch or size + len(self._lines[0]) <= PIPE_BUF_BYTES):
                batch.append(self._lines.popleft())
                size += len(batch[-1])
            self._bytes -= size
        return batch

    def _write(self, batch: list[bytes]) -> bool:
        rest = memoryview(b"".join(batch))
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                self._sleep(_RETRY_S)
            except OSError:  # nobody reads any more, or ever did
                with self._guard:
                    self.dropped += len(batch)
                return False
        return True

    def _report(self) -> None:
        """Once there is room again, say how many lines are missing."""
        lost = self.dropped - self._reported
        if lost and len(self._lines) < self._limit_lines // 2:
            self._reported = self.dropped
            self._on_recovery(lost)


class LineHandler(logging.Handler):
    """Gives each record, as one line, to ``submit``, which must not wait."""

    def __init__(self, submit: Callable[[str], None]) -> None:
        super().__init__()
        self._submit = submit

    def createLock(self) -> None:
        """Without one: nothing here is shared but ``submit``'s queue, which has its own."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        self._submit(self.format(record))
