"""Has ECS spare this task while turns run in it, so that a scale-in or a deployment takes another one, or waits.

A task's workers share one protection, and none may end another's. Each that has turns holds the lock of a file in the
server's folder, shared with the others, and gives it back when it has had none for a while. Who then gets the lock
alone knows that nobody has any, and releases. A lock ends with its process, so no count can go wrong when a worker is
killed: the one that follows it finds the note of a protection and nobody's lock. What nobody releases runs out.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress

import gevent
import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, TimeoutError

from app.telemetry import metric_files

EXPIRES_MINUTES = 10
RENEW_S = 240.0
QUIET_S = 30.0
"""Without a turn before it is released: turns often come one after the other."""
RETRY_S = 60.0
LOOK_S = 0.5
REQUEST_TIMEOUT_S = 2.0
LAST_REQUEST_TIMEOUT_S = 1.0
"""Of a worker that ends."""
MAX_ANSWER_BYTES = 64 * 1024
_NOTE_BYTES = 32
_ASKED = -1.0
"""Noted where it is not known whether there is one: it was asked for, or given back, and nothing was answered yet."""

log = logging.getLogger(__name__)


class TaskProtection:
    """One per worker. Nothing waits for it, and what fails in it is a warning.

    :param agent_uri: ``ECS_AGENT_URI``. :param busy: whether a turn runs in this worker.
    """

    def __init__(self, agent_uri: str, *, busy: Callable[[], bool]) -> None:
        self._url = f"{agent_uri}/task-protection/v1/state"
        self._busy = busy
        # Without it nobody knows of the others, so each protects for itself, and lets it run out.
        self._folder = metric_files.folder()
        self._fd: int | None = None
        self._quiet_at = self._retry_at = -math.inf
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._watch)

    def stop(self) -> None:
        """Give it back; the process ends. Bounded."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
            with suppress(OSError):
                self._give_back(LAST_REQUEST_TIMEOUT_S)

    def _watch(self) -> None:
        found = False
        while True:
            wait_s = LOOK_S
            try:
                if not found:
                    self._open()  # as if turns had ended long ago: a worker that was killed may have left a protection
                    found = True
                self._look(time.monotonic())
            except OSError as exc:
                log.warning("the task's protection is not known: %s", exc)
                wait_s = RETRY_S
            except Exception:
                # The top of this greenlet: the next look may go well.
                log.exception("protecting the task failed by a bug")
                wait_s = RETRY_S
            gevent.sleep(wait_s)

    def _look(self, now: float) -> None:
        if self._busy():
            self._quiet_at = now
            # Held also where the agent is not to be asked yet: there may be a protection that others would release.
            if self._hold() and now >= self._retry_at:
                self._protect(now)
        elif self._fd is not None and now - self._quiet_at >= QUIET_S:
            self._give_back(REQUEST_TIMEOUT_S)

    def _hold(self) -> bool:
        """Take the lock with the others; ``False``: somebody releases just now."""
        try:
            fcntl.flock(self._open(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _protect(self, now: float) -> None:
        assert self._fd is not None
        noted = _read(self._fd)
        if noted is not None and noted != _ASKED and 0 <= now - noted < RENEW_S:
            return
        if noted is None:
            _write(self._fd, _ASKED)  # whatever becomes of this request, or of this worker
        failed = self._put(True, REQUEST_TIMEOUT_S)
        if failed:
            self._retry_at = now + RETRY_S
            log.warning("the task could not be protected: %s", failed)
            return
        _write(self._fd, now)
        if noted is None or noted == _ASKED:
            log.info("task protected")

    def _give_back(self, timeout_s: float) -> None:
        """Let go of the lock, and of the protection where nobody else has turns."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            # The one lock goes before the other is asked for, so of several that do this one gets it.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _read(fd) is None or self._folder is None:
                return
            # Should its answer be lost it may be released all the same: the next turn is not to rely on the note.
            _write(fd, _ASKED)
            failed = self._put(False, timeout_s)
            if failed:
                log.warning("the task's protection was not released, and runs out by itself: %s", failed)
            else:
                _write(fd, None)
                log.info("task protection released")
        except BlockingIOError:
            pass  # another worker has turns
        finally:
            os.close(fd)

    def _open(self) -> int:
        if self._fd is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self._folder / "task-protection", flags, 0o600) if self._folder else os.memfd_create("")
        return self._fd

    def _put(self, enabled: bool, timeout_s: float) -> str:
        """Ask for it; gives why it failed, or nothing.

        Source: Amazon ECS developer guide, "Task scale-in protection endpoint".
        """
        asked = {"ProtectionEnabled": enabled, **({"ExpiresInMinutes": EXPIRES_MINUTES} if enabled else {})}
        limit = gevent.Timeout(timeout_s)
        limit.start()
        try:
            with urllib3.PoolManager(num_pools=1, retries=False) as pool:
                timeout = urllib3.Timeout(total=timeout_s)
                response = pool.request("PUT", self._url, json=asked, timeout=timeout, preload_content=False)
                answer = response.read(MAX_ANSWER_BYTES)
                response.close()
        except gevent.Timeout as exc:
            if exc is not limit:
                raise
            return "it took too long"
        except NewConnectionError:  # a kind of the next one
            return "nobody listens there"
        except TimeoutError:
            return "it took too long"
        except (HTTPError, OSError):
            return "the connection broke off"
        finally:
            limit.close()
        return _refusal(enabled, response.status, answer)


def _refusal(enabled: bool, status: int, answer: bytes) -> str:
    """Why it is not as it was asked for, by the agent's answer; nothing, where it is."""
    try:
        told = json.loads(answer)
        if told.get("protection", {}).get("ProtectionEnabled") is enabled:
            return ""
        code = str(told.get("error", {}).get("Code") or told.get("failure", {}).get("Reason"))
    except (ValueError, AttributeError):
        code = ""
    return f"it was answered with {code if re.fullmatch('[A-Za-z0-9_.]{1,64}', code) else status}"


def _read(fd: int) -> float | None:
    """When it was renewed last, by the clock that all processes of a machine share; ``None``: there is none."""
    try:
        return float(os.pread(fd, _NOTE_BYTES, 0))
    except ValueError:
        return None


def _write(fd: int, renewed_at: float | None) -> None:
    if renewed_at is None:
        os.ftruncate(fd, 0)
    else:
        os.pwrite(fd, f"{renewed_at:<{_NOTE_BYTES}.3f}".encode(), 0)
