"""What never was a log record becomes one: printed text, exceptions that nobody caught, bytes that libraries write."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from .writer import real

MAX_NATIVE_LINE_BYTES = 16 * 1024


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


def redirect() -> None:
    """Make log lines of what is printed, warned of, and raised without being caught."""
    sys.stdout, sys.stderr = LogStream("stdout", logging.INFO), LogStream("stderr", logging.ERROR)
    logging.captureWarnings(True)
    # The text of a warning has the source line below it; one line says it all.
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}"
    log = logging.getLogger("app.uncaught")

    def report(kind: Any, value: Any, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            log.error("uncaught exception", exc_info=(kind, kind() if value is None else value, trace))

    sys.excepthook = report
    sys.unraisablehook = lambda args: report(args.exc_type, args.exc_value, args.exc_traceback)
    threading.excepthook = lambda args: report(args.exc_type, args.exc_value, args.exc_traceback)
    hub = sys.modules.get("gevent.hub")
    if hub is not None:
        # What the loop prints about a greenlet that failed.
        hub.Hub.print_exception = lambda self, where, kind, value, trace: report(kind, value, trace)


class NativeOutput:
    """What is written to descriptors 1 and 2 past Python, by a C library for instance, line by line.

    A real thread reads it, so the loop may stand still; and a writer never waits: what does not fit is lost. Of a
    process that dies by what it wrote about, the words may be lost too; the master tells that it died.

    :param take: gets each line; called in that thread, or by :meth:`drain`.
    :ivar log_fd: where stdout went before.
    """

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = b""
        self._guard = real("threading", "RLock")()
        self.log_fd = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        self._reading, writing = os.pipe()
        os.set_blocking(writing, False)
        for fd in (1, 2):
            os.dup2(writing, fd, inheritable=True)
        os.close(writing)
        self._read = real("os", "read")
        real("_thread", "start_new_thread")(self._run, ())

    def drain(self) -> None:
        """Take what is there now; before the process ends."""
        poll = real("select", "poll")()
        poll.register(self._reading)
        while any(event for _, event in poll.poll(0)):
            if not self._once():
                return

    def _run(self) -> None:
        select = real("select", "poll")()
        select.register(self._reading)
        while True:
            select.poll()
            self._once()

    def _once(self) -> bool:
        with self._guard:
            os.set_blocking(self._reading, False)
            try:
                data = self._read(self._reading, 65_536)
            except BlockingIOError:
                return False
            *lines, rest = (self._rest + data).split(b"\n")
            if len(rest) > MAX_NATIVE_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            self._rest = rest
            for line in lines:
                text = line.decode("utf-8", "replace").strip()
                if text:
                    with suppress(Exception):  # this thread must go on whatever the line is
                        self._take(text)
        return bool(data)
