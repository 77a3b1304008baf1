"""Claims inputs by lease for this worker's turns, keeps the leases, and gives them back.

What is pending is what the journal says is unanswered; there is no queue here.
"""

from __future__ import annotations

import logging
import uuid

import gevent
from gevent.event import Event as GreenEvent

from app.errors import BaseError
from app.journal import Journal, Lease
from app.telemetry import metrics
from app.turns.running import LOOK_S, RunningTurn
from app.turns.supervision import KILL_S
from app.turns.turn import Turns

ROOM_S = 0.004
"""A worker waits so long for each turn that it runs, so that one with fewer takes the next."""
log = logging.getLogger(__name__)


class Runner:
    """One per worker. ``holder`` is the worker's name in leases; ``presence`` is the lease that says it is alive."""

    def __init__(self, turns: Turns, *, holder: str, concurrent_turns: int) -> None:
        self._turns = turns
        self._journal: Journal = turns.journal
        self._lease_s = turns.lease_s
        self._concurrent_turns = concurrent_turns
        self._holder = holder
        self._running: dict[str, RunningTurn] = {}
        self._presence: Lease | None = None
        self._draining = False
        self._greenlets: list[gevent.Greenlet] = []
        self._free = GreenEvent()

    @property
    def active_turns(self) -> int:
        return len(self._running)

    def start(self) -> None:
        self._presence = self._journal.acquire(f"worker:{self._holder}", self._holder, ttl_s=self._lease_s)
        self._greenlets = [gevent.spawn(self._claim_forever), gevent.spawn(self._renew_forever)]

    def drain(self) -> None:
        """Claim nothing more; running turns go on. Idempotent."""
        self._draining = True
        self._free.set()

    def stop(self) -> None:
        """End what still runs as ``interrupted``, parked for whoever goes on; bounded."""
        self.drain()
        for running in self._running.values():
            running.stop_for("drained")
        with gevent.Timeout(KILL_S + 2, False):
            while self._running:
                gevent.sleep(0.02)
        gevent.killall(self._greenlets, block=False)
        if self._presence is not None:
            self._release(self._presence)

    # -- claiming

    def _claim_forever(self) -> None:
        with self._journal.watch("inputs") as watch:
            while not self._draining:
                if len(self._running) >= self._concurrent_turns:
                    self._free.clear()
                    self._free.wait()
                    continue
                if self._running:
                    gevent.sleep(ROOM_S * len(self._running))
                # Where this process was paused their leases have run out: it must not take over from itself.
                own = {running.claim.input.session_id for running in self._running.values()}
                try:
                    claim = self._journal.claim(self._holder, ttl_s=self._lease_s, but=own)
                except BaseError as exc:
                    log.warning("claiming failed: %s", exc)
                    gevent.sleep(LOOK_S)
                    continue
                except Exception:
                    # The top of this greenlet: without it the worker would look alive and answer nothing.
                    log.exception("claiming failed by a bug")
                    gevent.sleep(LOOK_S)
                    continue
                if claim is None:
                    # Also by time: a delayed input becomes due, a lost worker's lease runs out, and nobody says so.
                    watch.wait(min(LOOK_S, self._lease_s / 2))
                    continue
                if self._draining:
                    # Told to go while it asked: whoever stays takes it at once, not when the lease runs out.
                    self._release(claim.lease)
                    return
                running = RunningTurn(claim, turn_id=uuid.uuid4().hex)
                self._running[running.turn_id] = running
                metrics.active_turns.set(len(self._running))
                gevent.spawn(self._serve, running)

    def _renew_forever(self) -> None:
        while True:
            gevent.sleep(self._lease_s / 3)
            held = {running.claim.lease: running for running in self._running.values()}
            leases = [*held, *([self._presence] if self._presence else [])]
            try:
                lost = self._journal.renew(leases, ttl_s=self._lease_s)
                if self._presence in lost:
                    name = f"worker:{self._holder}"
                    self._presence = self._journal.acquire(name, self._holder, ttl_s=self._lease_s)
            except BaseError as exc:
                log.warning("renewing leases failed: %s", exc)
                continue
            except Exception:
                # The top of this greenlet: without it every turn of this worker would be taken over.
                log.exception("renewing leases failed by a bug")
                continue
            for lease in lost:
                if lease in held:
                    held[lease].stop_for("lost")

    def _serve(self, running: RunningTurn) -> None:
        try:
            self._turns.serve(running)
        finally:
            self._release(running.claim.lease)
            del self._running[running.turn_id]
            metrics.active_turns.set(len(self._running))
            self._free.set()

    def _release(self, lease: Lease) -> None:
        try:
            self._journal.release(lease)
        except BaseError as exc:
            log.warning("releasing a lease failed: %s", exc)
