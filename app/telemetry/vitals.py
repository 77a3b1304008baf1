"""How a machine's workers are: the ``Memory usage`` line, one an interval for all workers of this server together.

Each worker looks when a line is due; whoever locks the note of the last one writes it. So it needs no leader, a worker
that dies leaves no gap, and a reload neither repeats nor delays a line.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent

from app.telemetry import exposition, metric_files, metrics

FIRST_S = 1.0
LOOK_S = 5.0
"""At least so often dropped log lines are counted."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

log = logging.getLogger(__name__)


class Vitals:
    """One per worker.

    :param active_sessions: live sessions in the journal; ``None``: not known now.
    """

    def __init__(self, *, interval_s: float, active_sessions: Callable[[], int | None]) -> None:
        self._interval_s = interval_s
        self._active_sessions = active_sessions
        self._said_at = time.monotonic() + min(FIRST_S, interval_s) - interval_s  # without a folder: here
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._watch)

    def stop(self) -> None:
        """Count what was dropped last; the process ends."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            exposition.sync_dropped_lines()

    def _watch(self) -> None:
        while True:
            try:
                wait_s = self._look()
                exposition.sync_dropped_lines()
            except OSError as exc:
                log.warning("the vitals cannot be told: %s", exc)
                wait_s = LOOK_S
            except Exception:
                # The top of this greenlet: the next look may go well.
                log.exception("looking at the vitals failed by a bug")
                wait_s = LOOK_S
            gevent.sleep(min(max(wait_s, 0.01), LOOK_S))

    def _look(self) -> float:
        """Write the line if it is due; returns the seconds until the next one is."""
        folder, now = metric_files.folder(), time.monotonic()
        if folder is None:
            due, self._said_at = _step(self._said_at, now, self._interval_s)
        else:
            due = self._take(folder, now)
        if due:
            log.info("Memory usage", extra=self._vitals(folder))
        return self._said_at + self._interval_s - now

    def _take(self, folder: Path, now: float) -> bool:
        """Whether this worker is to write a line now. The note says when the last one was due, by the clock that all
        processes of a machine share."""
        fd = os.open(folder / "vitals", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            noted = os.pread(fd, 32, 0)
            due, self._said_at = _step(float(noted) if noted else self._said_at, now, self._interval_s)
            if due or not noted:
                os.pwrite(fd, f"{self._said_at:<32f}".encode(), 0)
            return due
        except BlockingIOError:
            self._said_at = now  # another worker is at it
            return False
        finally:
            os.close(fd)

    def _vitals(self, folder: Path | None) -> dict[str, Any]:
        gauges, sessions = exposition.sums(folder), self._active_sessions()
        rss_bytes = sum(map(_rss_bytes, metric_files.live_workers(folder) if folder else [os.getpid()]))
        return {
            # Without /proc there is no way to know it.
            **({"rssBytes": rss_bytes} if rss_bytes else {}),
            **({"activeSessions": sessions} if sessions is not None else {}),
            "activeConnections": int(gauges.get(f"{metrics.PREFIX}_active_connections", 0)),
            "activeTurns": int(gauges.get(f"{metrics.PREFIX}_active_turns", 0)),
        }


def _step(said_at: float, now: float, interval_s: float) -> tuple[bool, float]:
    """Whether a line is due, and when the last one was: in an even rhythm, unless one was missed."""
    if now - said_at < interval_s:
        return False, said_at
    return True, now if now - said_at > 2 * interval_s else said_at + interval_s


def _rss_bytes(pid: int) -> int:
    """0 where the process has ended, or nothing tells."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0
