"""The master: workers counted by what they are at, reloads that are tried out first, and no signal that has to wait."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gevent import monkey
from gunicorn import util
from gunicorn.arbiter import Arbiter

from .children import SETTINGS_LIMIT_S, last_line, run_child
from .kept import Kept
from .service_manager import tell_ready
from .stages import DRAINING, RETRY_START_S, SERVING, STOP_SIGNALS, has_served

RELOAD_CHECK_LIMIT_S = 30.0
RELOAD_LOOK_S = 0.1
LOAD = "from gunicorn.app.wsgiapp import WSGIApplication as App; App('').load(); print('loaded')"


class WorkersStarted(Exception):
    """A reload has come to where gunicorn would wait for the old workers' end."""


class Master(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's master, with workers counted by what they are at.

    gunicorn takes a worker that drains for one that serves, ends the old ones of a reload before new ones answer, and
    then waits for their end and does nothing else. Here a worker that drains is followed by another at once, whoever
    told it to; old workers go when new ones have come up, so they stay while these cannot; no signal has to wait.
    Its code is that of the start: a reload brings new workers, not a new master.
    """

    generation = 0  # older workers (``age`` counts up) are those of before the last reload
    _reloading = False
    kept: Kept

    @classmethod
    def take_over(cls, server: Any, *, kept: Kept) -> None:
        """Make gunicorn's own master, which runs already, one of these.

        :param kept: what outlives reloads; ``settings``, ``served_fd`` and ``notify_socket`` of it are looked at.
        """
        server.__class__, server.kept = cls, kept

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """One at a time, so that those behind it can be seen while it is handled."""
        changing = any(worker.age <= self.generation and not worker.leaving for worker in self.WORKERS.values())
        try:
            found = self.SIG_QUEUE.get(timeout=RELOAD_LOOK_S if changing or self.kept.notify_socket else timeout)
        except queue.Empty:
            return []
        return [] if found == self.WAKEUP_REQUEST else [found]

    def handle_hup(self) -> None:
        """Settings and code are tried out first; where they fail the old workers stay."""

        def wanted() -> bool:
            return not asked_to_stop(self.SIG_QUEUE)

        reason = self._reason_against_reload(wanted)
        if not reason:
            os.chdir(self._conf.parent)  # gunicorn asks for its folder, and that of the last release may be gone
            super().handle_hup()
        elif wanted():
            self.log.error("reload refused, the old workers stay: %s", reason)

    def handle_int(self) -> None:
        """As TERM; a second one, while it stops, is gunicorn's quick shutdown."""
        self.handle_term()

    def reload(self) -> None:
        self.generation, self._reloading = self.worker_age, True
        try:
            super().reload()
        except WorkersStarted:
            self.log.debug("new workers start, %d old ones stay until then", len(self.WORKERS) - self.num_workers)
        finally:
            self._reloading = False

    def manage_workers(self) -> None:
        if self._reloading:
            raise WorkersStarted
        new = [w for w in self.WORKERS.values() if w.age > self.generation and not w.leaving and w.state != DRAINING]
        for _ in range(self.num_workers - len(new)):
            self.spawn_worker()
        if sum(worker.state == SERVING for worker in new) >= self.num_workers:
            if self.kept.notify_socket:
                tell_ready(self.kept.notify_socket, self.log)
                self.kept.notify_socket = ""
            old = [worker for worker in self.WORKERS.values() if worker.age <= self.generation]
            surplus = sorted(new, key=lambda worker: worker.age)[: len(new) - self.num_workers]
            for worker in (*old, *surplus):
                if not worker.leaving:
                    worker.leaving = True
                    self.kill_worker(worker.pid, signal.SIGTERM)

    def spawn_worker(self) -> Any:
        # Until it has handlers of its own (init_signals) a worker would lose signals in the queue that it has from us.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            return super().spawn_worker()
        except SystemExit as exc:  # in the worker, at its end
            if exc.code in (self.WORKER_BOOT_ERROR, self.APP_LOAD_ERROR) and has_served(self.kept.served_fd):
                # It has not come to where that is seen to, and the whole server would end.
                monkey.get_original("time", "sleep")(RETRY_START_S)
                exc.code = 1
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    @property
    def _conf(self) -> Path:
        """``gunicorn.conf.py``, where its path leads now: a link may lead to another release than at the start."""
        return Path(self.cfg.config).resolve()

    def _reason_against_reload(self, wanted: Callable[[], bool]) -> str:
        look = partial(run_child, sys.executable, wanted=wanted, folder=self._conf.parent)
        code, out, err = look("-m", "app.settings", limit_s=SETTINGS_LIMIT_S)
        if code:
            return last_line(err)
        bind = json.loads(out)["bind"]
        if bind != self.kept.settings["bind"]:
            # Where it cannot listen, gunicorn would end; and it asks after it has closed the address that it has.
            host, port = util.parse_address(bind)
            try:
                socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
            except OSError as exc:
                return f"BIND: cannot listen on {bind}: {os.strerror(exc.errno) if exc.errno else exc}"
        argv = ["-c", LOAD, "--check-config", "-c", str(self._conf), self.app.app_uri]
        code, out, err = look(*argv, limit_s=RELOAD_CHECK_LIMIT_S)
        if code == 0 and last_line(out) != "loaded":
            return "the application ended while it was loaded"
        return last_line(err) if code else ""


def asked_to_stop(signals: Any) -> bool:
    """Whether a TERM, INT or QUIT waits in the master's queue, which is left as it was."""
    waiting = []
    try:
        while True:
            waiting.append(signals.get_nowait())
    except queue.Empty:
        for number in waiting:
            signals.put_nowait(number)
    return not STOP_SIGNALS.isdisjoint(waiting)
