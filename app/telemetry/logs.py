"""The logs of a worker: one JSON object per line on stdout, from whatever says something in this process."""

from __future__ import annotations

import atexit
import logging

from .lines import Context, JsonLineFormatter
from .streams import NativeOutput, redirect
from .writer import LineHandler, StdoutWriter

_writer: StdoutWriter | None = None
_native: NativeOutput | None = None


def configure(*, level: str = "info", context: Context | None = None, lock_fd: int | None = None) -> StdoutWriter:
    """Set up logging in a worker, once.

    :param level: least level, lower case. :param context: the ids of a line. :param lock_fd: see ``exclusive``.
    """
    global _writer, _native  # the process's one stdout has one writer
    # Who asks is not looked up on the stack, nor thread and process: no line tells them (Python's logging HOWTO,
    # "Optimization"; 8 of the 15 µs of a record).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if _writer is None:
        _native = NativeOutput(_say_native)
        _writer = StdoutWriter(_native.log_fd, lock_fd=lock_fd, on_recovery=_say_dropped)
        atexit.register(flush)
    handler = LineHandler(_writer.submit)
    handler.setFormatter(JsonLineFormatter(context=context))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("gunicorn.error", "gunicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
    redirect()
    return _writer


def dropped_lines() -> int:
    """Lines that this process has dropped so far."""
    return _writer.dropped if _writer else 0


def flush() -> None:
    """Write out what is queued, within a second; before a process ends."""
    if _native:
        _native.drain()
    if _writer:
        _writer.flush()


def _say_dropped(lost: int) -> None:
    _say(__name__, logging.WARNING, "log lines dropped", lines=lost)


def _say_native(text: str) -> None:
    _say("stderr", logging.WARNING, text)


def _say(name: str, level: int, message: str, **extra: object) -> None:
    # Straight to the queue: this is a real thread, which must not take the loop's logging locks.
    record = logging.LogRecord(name, level, "", 0, "%s", (message,), None)
    record.__dict__.update(extra)
    if _writer:
        _writer.submit(JsonLineFormatter().format(record))
