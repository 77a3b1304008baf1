"""Claims inputs by lease, runs the agent for each, and ends every turn, however it ends.

What is pending is what the journal says is unanswered; there is no queue here. A turn has two greenlets: one iterates
the agent and appends, the other watches for a reason to stop it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import gevent
from gevent.event import Event as GreenEvent

from app.agents import Agent, Finished, TurnRequest
from app.errors import BaseError, JournalUnavailableError, LeaseLostError, StaleDocumentError
from app.journal import Change, Claim, Input, Journal, Lease, NewEvent, Put, StartInput, Watch, events
from app.repairs.attempt import Attempts, Opening
from app.telemetry import context
from app.telemetry.redaction import redact_text
from app.tools.catalog import Catalog
from app.tools.server import ToolsServer
from app.turns.output import TurnOutput
from app.turns.prompts import CHAT_SYSTEM, REPAIR_SYSTEM, repair_prompt

MAX_TAKEOVERS = 2
LOOK_S = 1.0
KILL_S = 3.0

StopReason = Literal["cancelled", "timeout", "drained", "lost"]
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    """A turn of this worker. ``stop``: why it must end, once somebody has said so; ``wake`` tells its watcher.

    :ivar begun: its ``turn_started`` is in the journal. :ivar takeovers: turns for its input that were lost before.
    """

    claim: Claim
    turn_id: str
    begun: bool = False
    takeovers: int = 0
    started_at: float = field(default_factory=time.monotonic)
    stop: StopReason | None = None
    wake: GreenEvent = field(default_factory=GreenEvent)

    def stop_for(self, reason: StopReason) -> None:
        self.stop = self.stop or reason
        self.wake.set()

    @property
    def duration_ms(self) -> int:
        return int((time.monotonic() - self.started_at) * 1000)


@dataclass(frozen=True, slots=True)
class _LostTurn:
    """What ends a turn that its worker did not end. ``over``: its input needs no other turn."""

    takeovers: int
    events: list[NewEvent] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)
    over: bool = False


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    concurrent_turns: int
    lease_s: float
    turn_timeout_s: float


class Runner:
    """One per worker. ``holder`` is the worker's name in leases; ``presence`` is the lease that says it is alive."""

    def __init__(
        self,
        *,
        journal: Journal,
        agent: Agent,
        tools: ToolsServer,
        catalog: Catalog,
        attempts: Attempts,
        limits: RunnerLimits,
        holder: str,
    ) -> None:
        self._journal = journal
        self._agent = agent
        self._tools = tools
        self._catalog = catalog
        self._attempts = attempts
        self._limits = limits
        self._holder = holder
        self._running: dict[str, _Running] = {}
        self._presence: Lease | None = None
        self._draining = False
        self._greenlets: list[gevent.Greenlet] = []
        self._free = GreenEvent()
        self._renewed_at = 0.0

    @property
    def active_turns(self) -> int:
        return len(self._running)

    def start(self) -> None:
        self._presence = self._journal.acquire(f"worker:{self._holder}", self._holder, ttl_s=self._limits.lease_s)
        self._renewed_at = time.monotonic()
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
                if len(self._running) >= self._limits.concurrent_turns:
                    self._free.clear()
                    self._free.wait()
                    continue
                if self._running and time.monotonic() - self._renewed_at > self._limits.lease_s:
                    # This process was paused: it must not take over from itself before it has renewed its leases.
                    watch.wait(self._limits.lease_s / 10)
                    continue
                try:
                    claim = self._journal.claim(self._holder, ttl_s=self._limits.lease_s)
                except BaseError as exc:
                    log.warning("claiming failed: %s", exc)
                    gevent.sleep(LOOK_S)
                    continue
                if claim is None:
                    # Also by time: a delayed input becomes due, a lost worker's lease runs out, and nobody says so.
                    watch.wait(min(LOOK_S, self._limits.lease_s / 2))
                    continue
                if self._draining:
                    # Told to go while it asked: whoever stays takes it at once, not when the lease runs out.
                    self._release(claim.lease)
                    return
                running = _Running(claim, turn_id=uuid.uuid4().hex)
                self._running[running.turn_id] = running
                gevent.spawn(self._serve, running)

    def _renew_forever(self) -> None:
        while True:
            gevent.sleep(self._limits.lease_s / 3)
            held = {running.claim.lease: running for running in self._running.values()}
            leases = [*held, *([self._presence] if self._presence else [])]
            try:
                lost = self._journal.renew(leases, ttl_s=self._limits.lease_s)
                self._renewed_at = time.monotonic()
                if self._presence in lost:
                    name = f"worker:{self._holder}"
                    self._presence = self._journal.acquire(name, self._holder, ttl_s=self._limits.lease_s)
            except BaseError as exc:
                log.warning("renewing leases failed: %s", exc)
                continue
            for lease in lost:
                if lease in held:
                    held[lease].stop_for("lost")

    # -- one turn

    def _serve(self, running: _Running) -> None:
        claim = running.claim
        try:
            with context.bind(session_id=claim.input.session_id, turn_id=running.turn_id):
                self._answer(running)
        except LeaseLostError:
            log.warning("turn was taken over by another worker")
        except StaleDocumentError:
            log.info("input was answered meanwhile")
        except BaseError as exc:
            # The journal or n8n is away: the input stays unanswered, and the lease runs out or is given back below.
            log.warning("turn could not go on: %s", exc)
            gevent.sleep(LOOK_S)
        except Exception:
            log.exception("turn failed by a bug")
            if not running.begun:
                self._give_up(running)
            gevent.sleep(LOOK_S)
        finally:
            self._release(claim.lease)
            del self._running[running.turn_id]
            self._free.set()

    def _release(self, lease: Lease) -> None:
        try:
            self._journal.release(lease)
        except BaseError as exc:
            log.warning("releasing a lease failed: %s", exc)

    def _answer(self, running: _Running) -> None:
        claim, turn_id = running.claim, running.turn_id
        opening = self._attempts.open(claim.input, turn_id=turn_id) if claim.input.kind == "repair" else None
        lost = self._lost_turn(claim, done=opening is not None and opening.done)
        if lost.over:
            self._commit(claim, lost.events, puts=lost.puts, answer=True)
            return
        if opening is not None and opening.facts is None:
            self._commit(claim, [*lost.events, *opening.events], puts=opening.puts, answer=True)
            return
        found = self._journal.events(claim.input.session_id, after=claim.input.seq - 1, limit=1)
        body = found[0].body if found else {"data": {}}
        request_id = (opening.request_id if opening else None) or body.get("requestId")
        repair_id = opening.repair_id if opening else None
        begun = events.turn_started(claim.input.kind, turn_id=turn_id, request_id=request_id, repair_id=repair_id)
        self._commit(
            claim,
            [*lost.events, begun, *(opening.events if opening else ())],
            puts=opening.puts if opening else (),
            start=StartInput(claim.input.input_id, turn_id, lost.takeovers),
        )
        running.begun, running.takeovers = True, lost.takeovers
        with context.bind(request_id=request_id):
            self._run(running, str(body["data"].get("text", "")), opening)

    def _run(self, running: _Running, text: str, opening: Opening | None) -> None:
        claim, turn_id = running.claim, running.turn_id
        session_id = claim.input.session_id
        output = TurnOutput(self._journal, session_id=session_id, turn_id=turn_id, lease=claim.lease)
        access = self._tools.open(self._catalog.tools_for(claim, turn_id=turn_id))
        facts = opening.facts if opening else None
        request = TurnRequest(
            session_id=session_id,
            turn_id=turn_id,
            kind=claim.input.kind,
            prompt=repair_prompt(facts) if facts else text,
            system_prompt=REPAIR_SYSTEM if facts else CHAT_SYSTEM,
            tools=access,
            facts=facts or {},
        )
        log.info("turn started")
        try:
            finished = self._supervise(running, request, output)
        finally:
            self._tools.close(access.token)
        if running.stop == "lost":
            raise LeaseLostError("The lease ran out.")
        self._finish(running, output, finished, opening)

    def _supervise(self, running: _Running, request: TurnRequest, output: TurnOutput) -> Finished:
        """Iterate the agent in a greenlet of its own until it ends or there is a reason to stop it."""
        worker = gevent.spawn(context.carry(_iterate), self._agent, request, output)
        worker.link(lambda _: running.wake.set())
        deadline = running.started_at + self._limits.turn_timeout_s
        with self._journal.watch(f"turn:{running.turn_id}") as watch:
            watcher = gevent.spawn(self._watch_cancel, running, watch)
            try:
                while not worker.dead and running.stop is None:
                    if not running.wake.wait(max(0.0, deadline - time.monotonic())):
                        running.stop_for("timeout")
                    running.wake.clear()
            finally:
                watcher.kill(block=False)
                # Closing the iterator is how an agent learns that it is to stop; it has 2 s for it.
                worker.kill(block=True, timeout=KILL_S)
        if running.stop is not None:
            return Finished("failed")
        if isinstance(worker.exception, BaseError):
            if isinstance(worker.exception, LeaseLostError | StaleDocumentError | JournalUnavailableError):
                # Not the agent's failure: whoever has the journal goes on with the input.
                raise worker.exception
            return Finished("failed", error=worker.exception.detail)
        if worker.exception is not None:
            log.error("agent failed by a bug", exc_info=worker.exc_info)
            return Finished("failed", error="internal error")
        result: Finished = worker.value
        return result

    def _watch_cancel(self, running: _Running, watch: Watch) -> None:
        # Looks before it waits: the turn was there for all to cancel before anybody listened here.
        while running.stop is None:
            try:
                mine = self._input_of(running)
            except BaseError:
                mine = running.claim.input
            if mine is None or mine.cancelled:
                # Gone: the session was closed under the turn.
                running.stop_for("cancelled" if mine else "lost")
                return
            watch.wait(self._limits.lease_s)

    def _input_of(self, running: _Running) -> Input | None:
        pending = self._journal.pending(running.claim.input.session_id)
        return next((found for found in pending if found.turn_id == running.turn_id), None)

    def _finish(self, running: _Running, output: TurnOutput, finished: Finished, opening: Opening | None) -> None:
        claim, turn_id = running.claim, running.turn_id
        error = redact_text(finished.error) if finished.error else None
        outcome: str = finished.outcome
        if running.stop == "cancelled":
            outcome, error = "cancelled", None
        elif running.stop == "timeout":
            error = f"It took longer than {self._limits.turn_timeout_s:g} s."
        elif running.stop == "drained":
            # Parking would forget a cancel that came while the turn was being stopped.
            mine = self._input_of(running)
            outcome, error = ("cancelled" if mine and mine.cancelled else "interrupted"), None
        end = events.turn_finished(
            outcome,
            turn_id=turn_id,
            duration_ms=running.duration_ms,
            cost_usd=finished.cost_usd,
            error=error,
            repair_id=opening.repair_id if opening else None,
        )
        if outcome == "interrupted":
            output.finish([end], park=StartInput(claim.input.input_id, None, running.takeovers))
        else:
            more: tuple[list[NewEvent], list[Put]] = ([], [])
            if opening is not None:
                reason = "It was cancelled." if outcome == "cancelled" else error or "The agent proposed no change."
                more = self._attempts.conclude(opening.repair_id, reason=reason, turn_id=turn_id)
            output.finish([*more[0], end], puts=more[1], answer=claim.input.input_id)
        fields = {"outcome": outcome, "duration": running.duration_ms}
        log.log(logging.ERROR if outcome == "failed" else logging.INFO, "turn finished", extra=fields)

    def _give_up(self, running: _Running) -> None:
        """Fail an input whose turn a bug of ours kept from starting: it would be met again, for ever."""
        claim, kind, error = running.claim, running.claim.input.kind, "internal error"
        turn_id, repair_id = claim.input.turn_id or running.turn_id, claim.input.key or None
        begun = [] if claim.input.turn_id else [events.turn_started(kind, turn_id=turn_id, repair_id=repair_id)]
        try:
            more: tuple[list[NewEvent], list[Put]] = ([], [])
            if repair_id is not None:
                more = self._attempts.conclude(repair_id, reason=error, turn_id=turn_id)
            end = events.turn_finished(
                "failed", turn_id=turn_id, duration_ms=running.duration_ms, error=error, repair_id=repair_id
            )
            ended = [*self._void_deltas(claim), *begun, *more[0], end]
            self._commit(claim, ended, puts=more[1], answer=True)
        except BaseError as exc:
            log.warning("turn could not be given up: %s", exc)
        except Exception:
            log.exception("turn could not be given up")

    # -- a turn that its worker did not end

    def _lost_turn(self, claim: Claim, *, done: bool) -> _LostTurn:
        """How to end the turn that was begun before for this input, if there was one.

        :param done: what it was to do is done; only its end is missing.
        """
        lost = claim.input
        if lost.turn_id is None:
            return _LostTurn(lost.takeovers, over=done)
        takeovers = lost.takeovers + 1
        error = None
        if done:
            outcome = "completed"
        elif lost.cancelled:
            outcome = "cancelled"
        elif takeovers > MAX_TAKEOVERS:
            outcome, error = "failed", f"Its worker was lost {takeovers} times."
            log.error("turn finished", extra={"outcome": outcome})
        else:
            outcome = "interrupted"
        end = events.turn_finished(
            outcome, turn_id=lost.turn_id, duration_ms=0, error=error, repair_id=lost.key or None
        )
        more: tuple[list[NewEvent], list[Put]] = ([], [])
        if lost.kind == "repair" and outcome in ("cancelled", "failed"):
            more = self._attempts.conclude(lost.key, reason=error or "It was cancelled.", turn_id=lost.turn_id)
        ended = [*self._void_deltas(claim), *more[0], end]
        return _LostTurn(takeovers, ended, more[1], over=outcome != "interrupted")

    def _void_deltas(self, claim: Claim) -> list[NewEvent]:
        lost, turn_id = claim.input, claim.input.turn_id or ""
        shown: dict[str, None] = {}
        after = max(0, lost.started_seq - 1)
        while found := self._journal.events(lost.session_id, after=after, types=("assistant_delta",)):
            after = found[-1].seq
            shown.update({e.data["messageId"]: None for e in found if e.body.get("turnId") == turn_id})
        return [events.assistant_reset(message_id, turn_id=turn_id) for message_id in shown]

    def _commit(
        self,
        claim: Claim,
        appended: Sequence[NewEvent],
        *,
        puts: Sequence[Put] = (),
        start: StartInput | None = None,
        answer: bool = False,
    ) -> None:
        voided = [event.data["messageId"] for event in appended if event.type == "assistant_reset"]
        change = Change(
            session_id=claim.input.session_id,
            events=appended,
            drop_deltas=voided,
            fences=[claim.lease],
            puts=puts,
            start=start,
            answer=claim.input.input_id if answer else None,
        )
        self._journal.commit(change)


def _iterate(agent: Agent, request: TurnRequest, output: TurnOutput) -> Finished:
    stream = agent.run(request)
    try:
        for event in stream:
            if isinstance(event, Finished):
                return event
            output.put(event)
        return Finished("failed", error="The agent ended without an answer.")
    finally:
        # Not left to the garbage collector, which a traceback that is kept somewhere would hold up.
        close = getattr(stream, "close", None)
        if close is not None:
            close()
