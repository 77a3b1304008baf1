"""One process of the Claude CLI: started in a group of its own, read without a pause, gone when it is to be gone.

Its stdout is drained at once whatever the reader does, for a CLI that meets a full pipe loses the rest of its answer.
Everything here waits by gevent, whether or not the process is monkey-patched.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import gevent
from gevent.os import make_nonblocking, nb_read
from gevent.queue import Empty, Queue
from gevent.subprocess import PIPE, Popen, TimeoutExpired

from app.errors import ClaudeExecutionError

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_UNREAD_BYTES = 16 * 1024 * 1024
STDERR_TAIL_BYTES = 4096
PIPE_BYTES = 1024 * 1024
READ_BYTES = 64 * 1024
# Together the 2 s that an agent has to stop.
STOP_STEPS: tuple[tuple[signal.Signals, float], ...] = (
    (signal.SIGINT, 1.0),
    (signal.SIGTERM, 0.5),
    (signal.SIGKILL, 0.4),
)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class SilentError(Exception):
    """Nothing came in time."""


class TooLargeError(Exception):
    """A line, or what nobody has read yet, is larger than its cap."""


class Child:
    """A running CLI. Whoever made it calls :meth:`stop`, which may be called at any time and more than once.

    :raises ClaudeExecutionError: it cannot be started.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: IO[bytes]) -> None:
        if threading.get_native_id() != os.getpid() and sys.platform == "linux":
            # The kernel ends a child with the thread that made it, not with the process.
            raise RuntimeError("a child is started by the main thread only")
        # By a greenlet of its own: whoever is killed while it waits for the start must not leave a process behind.
        starting = gevent.spawn(_start, argv, env, cwd, stdin)
        try:
            starting.join()
        except BaseException:
            starting.link(_abandon)
            raise
        if isinstance(starting.value, BaseException):
            raise ClaudeExecutionError(
                "The Claude program cannot be started: check CLAUDE_BIN and the memory that is left."
            ) from starting.value
        self._process: Any = starting.value
        self.pid: int = self._process.pid
        self._lines: Any = Queue()
        self._unread = 0
        self._too_large = False
        self._stderr = b""
        self._stopping: gevent.Greenlet | None = None
        self._readers = [gevent.spawn(self._drain_stdout), gevent.spawn(self._drain_stderr)]

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; ``None`` while it runs."""
        code: int | None = self._process.poll()
        return code

    @property
    def stderr(self) -> str:
        """The end of what it said on stderr; not redacted."""
        return self._stderr.decode("utf-8", "replace")

    def next_line(self, timeout_s: float) -> bytes | None:
        """The next line of stdout without its end; ``None`` after the last.

        :raises SilentError: none came within ``timeout_s``.
        :raises TooLargeError: over a cap; all further lines are lost.
        """
        if self._too_large:
            raise TooLargeError
        try:
            line: bytes | None = self._lines.get(timeout=timeout_s)
        except Empty:
            raise SilentError from None
        if self._too_large:
            raise TooLargeError
        self._unread -= len(line or b"")
        return line

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended, by itself, within the time; what it left in its group is ended too."""
        try:
            self._process.wait(timeout=timeout_s)
        except TimeoutExpired:
            return False
        gevent.joinall(self._readers, timeout=timeout_s)
        return True

    def stop(self) -> None:
        """End the process and its group, within 2 s, and wait for that."""
        if self._stopping is None:
            # By a greenlet of its own: the caller may be killed while it waits, the child is stopped all the same.
            self._stopping = gevent.spawn(self._stop)
        if gevent.getcurrent() is not gevent.get_hub():
            self._stopping.join()

    def _stop(self) -> None:
        for number, wait_s in STOP_STEPS:
            # SIGKILL goes to the group in any case: the process may be gone and its own children not.
            if self.returncode is None or number == signal.SIGKILL:
                _signal_group(self.pid, number)
            try:
                self._process.wait(timeout=wait_s)
            except TimeoutExpired:
                continue
        gevent.killall(self._readers, block=False)
        gevent.joinall(self._readers, timeout=0.1)
        for pipe in (self._process.stdout, self._process.stderr):
            pipe.close()

    # -- reading

    def _drain_stdout(self) -> None:
        fd = self._process.stdout.fileno()
        _widen(fd)
        parts: list[bytes] = []
        held = 0
        for chunk in _chunks(fd):
            if self._too_large:
                continue  # read on, or the CLI waits for us
            *lines, rest = chunk.split(b"\n")
            if lines:
                lines[0] = b"".join([*parts, lines[0]])
                parts, held = [], 0
            parts.append(rest)
            held += len(rest)
            self._unread += sum(map(len, lines))
            if (
                held > MAX_LINE_BYTES
                or self._unread > MAX_UNREAD_BYTES
                or max(map(len, lines), default=0) > MAX_LINE_BYTES
            ):
                self._too_large, parts = True, []
                self._lines.put(b"")  # wakes the reader
                continue
            for line in lines:
                self._lines.put(line)
        if parts and any(parts):
            self._lines.put(b"".join(parts))
        self._lines.put(None)

    def _drain_stderr(self) -> None:
        for chunk in _chunks(self._process.stderr.fileno()):
            self._stderr = (self._stderr + chunk)[-STDERR_TAIL_BYTES:]


def _start(argv: Sequence[str], env: Mapping[str, str], cwd: Path, stdin: IO[bytes]) -> Any:
    """The process, or why there is none."""
    try:
        return Popen(
            list(argv),
            stdin=stdin,
            stdout=PIPE,
            stderr=PIPE,
            cwd=str(cwd),
            env=dict(env),
            process_group=0,
            preexec_fn=_before_exec(os.getpid()),
        )
    except (OSError, ValueError) as exc:
        return exc


def _abandon(started: gevent.Greenlet) -> None:
    if isinstance(started.value, Popen):
        _signal_group(started.value.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # nobody is left (the second is macOS's way to say so)
        return


def _chunks(fd: int) -> Any:
    make_nonblocking(fd)
    while True:
        try:
            chunk = nb_read(fd, READ_BYTES)
        except OSError:
            return
        if not chunk:
            return
        yield chunk
        gevent.sleep(0)  # a read that finds data does not let others run


def _widen(fd: int) -> None:
    """A larger pipe, as a margin for a loop that stands still for a moment; without the right to it, none."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (OSError, AttributeError):
        return


def _before_exec(parent: int) -> Callable[[], None]:
    """What the new process does before it becomes the CLI."""

    def prepare() -> None:
        # A worker ignores SIGINT, and what is ignored stays so: a CLI that is still starting could not be interrupted.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if sys.platform == "linux":
            # A CLI whose reader is gone finishes its turn, tools and all: it must not outlive its worker.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return prepare
