"""What a run does to its server: workers are killed and paused, it is reloaded and started anew, answers are lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

from tests.consistency.backends import Backend
from tests.consistency.plan import Disturbance, Pause
from tests.consistency.recording import Recorder
from tests.heal.rig import HealN8n
from tests.support.server import BridgeServer


class Disturber:
    """Two threads: one for pauses, which last, and one for all else. They end with ``stop``."""

    def __init__(
        self,
        server: BridgeServer,
        n8n: HealN8n,
        backend: Backend,
        recorder: Recorder,
        *,
        disturbances: Sequence[Disturbance],
        pauses: Sequence[Pause],
        lease_s: float,
    ) -> None:
        self._server, self._n8n, self._backend, self._recorder = server, n8n, backend, recorder
        self._lease_s = lease_s
        self._ended = threading.Event()
        # Nobody looks for workers while there is no master.
        self._restarting = threading.Lock()
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._disturb, args=(disturbances,), daemon=True),
            threading.Thread(target=self._pause, args=(pauses,), daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a disturbance does not end"
        if self.errors:
            raise self.errors[0]

    def _disturb(self, disturbances: Sequence[Disturbance]) -> None:
        try:
            for one in disturbances:
                if self._ended.wait(one.after_s):
                    return
                self._do(one)
        except BaseException as exc:
            self.errors.append(exc)

    def _do(self, one: Disturbance) -> None:
        done = self._told(one.kind)
        match one.kind:
            case "kill":
                done(pid=self._signal(one.pick, signal.SIGKILL))
            case "hup":
                self._server.hup(wait=False)
                done()
            case "restart":
                with self._restarting:
                    self._server.stop()
                    self._server.start()
                done()
            case "backend" if self._backend.restart is not None:
                self._backend.restart()
                done()
            case "lose_answer":
                self._n8n.spoil("", one.step, "drop_after")
                done(step=one.step)

    def _told(self, what: str) -> Callable[..., None]:
        """Tells that it was done, when it was."""
        began = round(time.time(), 4)
        return lambda **fields: self._recorder.add("disturbed", what=what, began=began, **fields)

    def _pause(self, pauses: Sequence[Pause]) -> None:
        try:
            for one in pauses:
                if self._ended.wait(one.after_s):
                    return
                done = self._told("pause")
                pid = self._signal(one.pick, signal.SIGSTOP)
                self._ended.wait(self._lease_s + one.beyond_s)
                if pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
                done(pid=pid)
        except BaseException as exc:
            self.errors.append(exc)

    def _signal(self, pick: float, number: int) -> int:
        """Send it to one of the workers; gives its pid, 0 where there is none to hit."""
        with self._restarting:
            pids = self._server.worker_pids()
            if not pids:
                return 0
            pid = pids[int(pick * len(pids))]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            return pid
