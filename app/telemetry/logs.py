"""The logs: one JSON object per line on stdout, written so that a reader that stops never stops the server.

A worker hands its lines to :class:`StdoutWriter`, a thread with a bounded queue. gunicorn's master may not have threads
(it forks), so its :class:`DirectHandler` writes by itself, and only what fits without waiting. The master must not
import ``app``, or a HUP would keep old code: it runs this file on its own. Hence nothing of ``app`` is imported here,
and the ids of a line (``requestId`` …) come through a callable.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import logging
import os
import select
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

LINE_LIMIT_BYTES = 64 * 1024
QUEUE_LIMIT_LINES = 10_000
QUEUE_LIMIT_BYTES = 8 * 1024**2
FLUSH_LIMIT_S = 1.0
# What a pipe takes whole, or not at all; longer writes of several processes may mix.
PIPE_BUF_BYTES = 4096
_RETRY_S = 0.05

Context = Callable[[], Mapping[str, str]]


def _real(module: str, name: str) -> Any:
    """A function of the standard library as it was before gevent replaced it: real threads must not meet its loop."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module, name) if monkey else getattr(sys.modules[module], name)


class JsonLineFormatter(JsonFormatter):
    """A record as one line: ``timestamp``, ``level``, ``message``, ``logger``, the ids that are known, and its extras.

    :param context: gives the ids of the work in hand; an extra of the same name wins.
    :param limit_bytes: longer lines lose their extras and the end of ``message`` and ``exception``.
    """

    def __init__(self, *, context: Context | None = None, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        super().__init__()
        self._context = context or dict
        self._limit_bytes = limit_bytes

    def format(self, record: logging.LogRecord) -> str:
        try:
            line = super().format(record)
        except Exception as exc:  # a line that cannot be written is still reported
            line = json.dumps({**self._base(record, str(record.msg)), "formatError": repr(exc)})
        return line if len(line) < self._limit_bytes else self._shortened(line)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data.update(self._base(record, record.getMessage()))
        log_data.update(self._context())
        super().add_fields(log_data, record, message_dict)
        for old, new in (("exc_info", "exception"), ("stack_info", "stack")):
            if old in log_data:
                log_data[new] = log_data.pop(old)

    @staticmethod
    def _base(record: logging.LogRecord, message: str) -> dict[str, Any]:
        at = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
        return {
            "timestamp": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": message,
            "logger": record.name,
        }

    def _shortened(self, line: str) -> str:
        whole = json.loads(line)
        short = {name: value for name, value in whole.items() if isinstance(value, str) and len(value) <= 128}
        keep = self._limit_bytes
        while True:
            keep //= 2
            cut = {name: str(whole[name])[:keep] for name in ("message", "exception") if name in whole}
            line = json.dumps({**dict(list(short.items())[:16]), **cut, "cut": True})
            if len(line) < self._limit_bytes:
                return line


@contextmanager
def _exclusive(lock_fd: int | None, *, wait: bool) -> Any:
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
        self._guard = _real("threading", "RLock")()
        self._wake = _real("_thread", "allocate_lock")()
        self._sleep = _real("time", "sleep")
        self._writing = False
        _real("_thread", "start_new_thread")(self._run, ())

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
        with suppress(RuntimeError):  # not locked: roused already
            self._wake.release()

    def _run(self) -> None:
        while True:
            self._wake.acquire(timeout=1.0)
            while batch := self._take():
                with _exclusive(self._lock_fd, wait=True):
                    self._write(batch)
                self._writing = False
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

    def _write(self, batch: list[bytes]) -> None:
        rest = memoryview(b"".join(batch))
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                self._sleep(_RETRY_S)
            except OSError:  # nobody reads any more, or ever did
                with self._guard:
                    self.dropped += len(batch)
                return

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

    def emit(self, record: logging.LogRecord) -> None:
        self._submit(self.format(record))


class DirectHandler(logging.Handler):
    """For gunicorn's master: writes at once what fits without waiting, else drops and counts it.

    :param dropped_fd: of a file that keeps the count (8 bytes, little-endian) over reloads, for workers to read.
    """

    def __init__(self, fd: int = 1, *, lock_fd: int | None = None, dropped_fd: int | None = None) -> None:
        super().__init__()
        self._dropped_fd = dropped_fd
        self.dropped = 0 if dropped_fd is None else int.from_bytes(os.pread(dropped_fd, 8, 0), "little")
        self._fd, self._lock_fd = fd, lock_fd
        self.setFormatter(JsonLineFormatter(limit_bytes=PIPE_BUF_BYTES))

    def emit(self, record: logging.LogRecord) -> None:
        data = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        poll = _real("select", "poll")()
        poll.register(self._fd, select.POLLOUT)
        with _exclusive(self._lock_fd, wait=False) as mine:
            ready = mine and any(event & select.POLLOUT for _, event in poll.poll(0))
            try:
                if ready:
                    os.write(self._fd, data)
                    return
            except OSError:
                pass
            self.dropped += 1
            if self._dropped_fd is not None:
                with suppress(OSError):
                    os.pwrite(self._dropped_fd, self.dropped.to_bytes(8, "little"), 0)


class LogStream:
    """Stands for ``sys.stdout`` and ``sys.stderr``: what libraries print comes out as log lines too."""

    encoding = "utf-8"

    def __init__(self, name: str, level: int) -> None:
        self._logger, self._level = logging.getLogger(name), level
        self._rest = ""
        self._busy = False

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if not self._busy:  # a handler that itself prints must not go round in circles
            self._busy = True
            try:
                for line in filter(str.strip, lines):
                    self._logger.log(self._level, "%s", line)
            finally:
                self._busy = False
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is kept back but a line that has not ended."""

    def isatty(self) -> bool:
        return False


def config_for_master(level: str, lock_fd: int | None, dropped_fd: int | None = None) -> dict[str, Any]:
    """gunicorn's ``logconfig_dict``: all loggers to one :class:`DirectHandler`; and what is printed, too."""
    sys.stdout, sys.stderr = LogStream("stdout", logging.INFO), LogStream("stderr", logging.ERROR)
    quiet = {"handlers": ["json"], "propagate": False, "level": "INFO"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {},
        "handlers": {"json": {"()": lambda: DirectHandler(lock_fd=lock_fd, dropped_fd=dropped_fd)}},
        "root": {"handlers": ["json"], "level": level.upper()},
        "loggers": {"gunicorn.error": {**quiet, "level": level.upper()}, "gunicorn.access": quiet},
    }


_writer: StdoutWriter | None = None


def configure(*, level: str = "info", context: Context | None = None, lock_fd: int | None = None) -> StdoutWriter:
    """Set up logging in a worker (or any other process of the bridge), once.

    :param level: least level, lower case. :param context: the ids of a line. :param lock_fd: see ``_exclusive``.
    """
    global _writer  # the process's one stdout has one writer
    if _writer is None:
        _writer = StdoutWriter(lock_fd=lock_fd, on_recovery=_say_dropped)
        atexit.register(_writer.flush)
    handler = LineHandler(_writer.submit)
    handler.setFormatter(JsonLineFormatter(context=context))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("gunicorn.error", "gunicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
    sys.stdout, sys.stderr = LogStream("stdout", logging.INFO), LogStream("stderr", logging.ERROR)
    _catch_the_uncaught()
    return _writer


def dropped_lines() -> int:
    """Lines that this process has dropped so far."""
    return _writer.dropped if _writer else 0


def flush() -> None:
    """Write out what is queued, within a second; before a process ends."""
    if _writer:
        _writer.flush()


def _say_dropped(lost: int) -> None:
    # Straight to the queue: this is the writer's thread, which must not take the loop's logging locks.
    record = logging.LogRecord(__name__, logging.WARNING, "", 0, "log lines dropped", None, None)
    record.lines = lost
    if _writer:
        _writer.submit(JsonLineFormatter().format(record))


def _catch_the_uncaught() -> None:
    logging.captureWarnings(True)
    # The text of a warning has the source line below it; one line says it all.
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}"
    log = logging.getLogger("app.uncaught")

    def report(kind: Any, value: Any, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            log.error("uncaught exception", exc_info=(kind, kind() if value is None else value, trace))

    sys.excepthook = report
    threading.excepthook = lambda args: report(args.exc_type, args.exc_value, args.exc_traceback)
    hub = sys.modules.get("gevent.hub")
    if hub is not None:
        # What the loop prints about a greenlet that failed.
        hub.Hub.print_exception = lambda self, where, kind, value, trace: report(kind, value, trace)
