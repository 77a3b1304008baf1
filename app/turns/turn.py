"""One turn, from its claimed input to its end, however it ends.

Two greenlets: one iterates the agent and appends, the other watches for a reason to stop it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import gevent
from gevent.event import Event as GreenEvent

from app.agents import Agent, AgentEvent, Finished, TurnRequest
from app.errors import BaseError, JournalUnavailableError, LeaseLostError, SessionNotFoundError, StaleDocumentError
from app.journal import Change, Claim, Input, Journal, Lease, NewEvent, Postpone, Put, StartInput, Watch, events
from app.journal.records import retry_stale
from app.repairs.attempt import Attempts, Opening
from app.telemetry import context, metrics
from app.telemetry.redaction import redact_text
from app.tools.catalog import Catalog
from app.tools.server import ToolsServer
from app.turns.output import TurnOutput
from app.turns.prompts import CHAT_SYSTEM, REPAIR_SYSTEM, repair_prompt
from app.turns.takeover import end_lost_turn, void_deltas

LOOK_S = 1.0
AWAY_S = 5.0
KILL_S = 3.0
JOURNAL_BACK_S = 20.0
"""So long a turn's end waits for a journal that is away; then whoever claims its input next ends it."""

StopReason = Literal["cancelled", "timeout", "drained", "lost", "n8n_away", "journal_away"]
_INTERRUPTED: dict[StopReason | None, str | None] = {
    "drained": None,
    "n8n_away": "n8n is away; this goes on when it is back.",
    "journal_away": "The journal was away.",
}
"""What ends a turn and not its input, and what is told of it."""
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class RunningTurn:
    """A turn of this worker. ``stop``: why it must end, once somebody has said so; ``wake`` tells its watcher.

    :ivar begun: its ``turn_started`` is in the journal. :ivar takeovers: turns for its input that were lost before.
    :ivar bug: the ``exc_info`` of what failed the agent and should not have.
    """

    claim: Claim
    turn_id: str
    begun: bool = False
    takeovers: int = 0
    started_at: float = field(default_factory=time.monotonic)
    stop: StopReason | None = None
    wake: GreenEvent = field(default_factory=GreenEvent)
    bug: Any = None

    def stop_for(self, reason: StopReason) -> None:
        self.stop = self.stop or reason
        self.wake.set()

    @property
    def duration_ms(self) -> int:
        return int((time.monotonic() - self.started_at) * 1000)


@dataclass(frozen=True, slots=True)
class Turns:
    """What a worker needs to answer an input.

    :ivar leases: by session, those of the turns that run here now.
    """

    journal: Journal
    agent: Agent
    tools: ToolsServer
    catalog: Catalog
    attempts: Attempts
    lease_s: float
    timeout_s: float
    leases: dict[str, Lease] = field(default_factory=dict)

    def serve(self, running: RunningTurn) -> None:
        """Answer the claimed input. Nothing is raised: what keeps it from being answered leaves it for the next one."""
        claim = running.claim
        # For the rest of this greenlet, which is the turn's: what is told of its failure is to have its ids, too.
        context.note(session_id=claim.input.session_id, turn_id=running.turn_id)
        try:
            self._answer(running)
        except LeaseLostError:
            log.warning("turn was taken over by another worker")
        except (StaleDocumentError, SessionNotFoundError):
            log.info("input was answered, or its session ended, meanwhile")
        except BaseError as exc:
            # The journal or n8n is away: the input stays unanswered.
            log.warning("turn could not go on: %s", exc)
            self._postpone(running)
        except Exception:
            running.bug = sys.exc_info()
            if running.begun:
                # Taken over by whoever claims its input next, and failed if that goes on.
                log.warning("turn was broken off by a bug", exc_info=running.bug)
            else:
                self._give_up(running)
            gevent.sleep(LOOK_S)

    def _answer(self, running: RunningTurn) -> None:
        claim, turn_id = running.claim, running.turn_id
        opening = self.attempts.open(claim, turn_id=turn_id) if claim.input.kind == "repair" else None
        lost = end_lost_turn(self.journal, self.attempts, claim, done=opening is not None and opening.done)
        if lost.over:
            self._commit(claim, lost.events, puts=lost.puts, answer=True)
            lost.tell()
            return
        if opening is not None and opening.facts is None:
            self._settle(claim, opening, lost.events)
            lost.tell()
            return
        found = self.journal.events(claim.input.session_id, after=claim.input.seq - 1, limit=1)
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
        lost.tell()
        context.note(request_id=request_id)
        self._run(running, str(body["data"].get("text", "")), opening)

    def _run(self, running: RunningTurn, text: str, opening: Opening | None) -> None:
        claim, turn_id = running.claim, running.turn_id
        session_id = claim.input.session_id
        output = TurnOutput(
            self.journal, session_id=session_id, turn_id=turn_id, lease=claim.lease, repair_id=claim.input.key
        )
        tools = self.catalog.tools_for(claim, turn_id=turn_id)
        access = self.tools.open(tools)
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
        log.info("turn started", extra={"kind": claim.input.kind})
        self.leases[session_id] = claim.lease
        try:
            first = tools.resume_trial if opening is not None and opening.trial else None
            finished = self._supervise(running, request, output, first)
        except JournalUnavailableError as exc:
            # No worker was lost: ended here, however often that happens, it does not count as a takeover.
            log.warning("turn is broken off, the journal is away: %s", exc)
            running.stop_for("journal_away")
            finished = Finished("failed")
        finally:
            self.tools.close(access.token)
            self.leases.pop(session_id, None)
        if running.stop == "lost":
            raise LeaseLostError("The lease ran out.")
        self._finish(running, output, finished, opening, n8n_was_away=tools.n8n_was_away)

    def _supervise(
        self, running: RunningTurn, request: TurnRequest, output: TurnOutput, first: Callable[[], bool] | None
    ) -> Finished:
        """Iterate the agent in a greenlet of its own until it ends or there is a reason to stop it."""
        worker = gevent.spawn(context.carry(_iterate), self.agent, request, output, first)
        worker.link(lambda _: running.wake.set())
        deadline = running.started_at + self.timeout_s
        with self.journal.watch(f"turn:{running.turn_id}") as watch:
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
        if worker.exception is not None:
            running.bug = worker.exc_info
            return Finished("failed", error="internal error")
        result: Finished | BaseError = worker.value
        if isinstance(result, Finished):
            return result
        if isinstance(result, LeaseLostError | StaleDocumentError | JournalUnavailableError | SessionNotFoundError):
            # Not the agent's failure: whoever has the journal goes on with the input.
            raise result
        return Finished("failed", error=result.detail)

    def _watch_cancel(self, running: RunningTurn, watch: Watch) -> None:
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
            watch.wait(self.lease_s)

    def _input_of(self, running: RunningTurn) -> Input | None:
        pending = self.journal.pending(running.claim.input.session_id)
        return next((found for found in pending if found.turn_id == running.turn_id), None)

    def _finish(
        self,
        running: RunningTurn,
        output: TurnOutput,
        finished: Finished,
        opening: Opening | None,
        *,
        n8n_was_away: bool,
    ) -> None:
        claim, turn_id, input_id = running.claim, running.turn_id, running.claim.input.input_id

        def finish() -> tuple[str, str | None]:
            # All of it anew at each try: while the journal is away a person may cancel.
            outcome, error = self._outcome(running, finished, opening, n8n_was_away=n8n_was_away)
            end = events.turn_finished(
                outcome,
                turn_id=turn_id,
                duration_ms=running.duration_ms,
                cost_usd=finished.cost_usd,
                error=error,
                repair_id=opening.repair_id if opening else None,
            )
            if opening is not None and (cost_usd := finished.cost_usd) is not None:
                self.attempts.note_cost(opening.repair_id, turn_id=turn_id, cost_usd=cost_usd, lease=claim.lease)
            if outcome == "interrupted":
                puts: list[Put] = []
                later: Postpone | None = None
                if opening is not None and running.stop == "n8n_away":
                    puts, later_s = self.attempts.put_off(opening.repair_id)
                    later = Postpone(input_id, later_s)
                elif running.stop == "journal_away":
                    # Nothing else limits how often it is run again, and each time its agent is asked, and paid.
                    later = Postpone(input_id, AWAY_S)
                output.finish([end], puts=puts, park=StartInput(input_id, None, running.takeovers), postpone=later)
                return outcome, error
            more: tuple[list[NewEvent], list[Put]] = ([], [])
            if opening is not None:
                reason = "It was cancelled." if outcome == "cancelled" else error or "The agent proposed no change."
                more = self.attempts.conclude(
                    opening.repair_id, reason=reason, turn_id=turn_id, completed=outcome == "completed"
                )
            output.finish([*more[0], end], puts=more[1], answer=input_id)
            return outcome, error

        outcome, error = self._insist(running, finish)
        self._tell_end(running, outcome, error)

    def _outcome(
        self, running: RunningTurn, finished: Finished, opening: Opening | None, *, n8n_was_away: bool
    ) -> tuple[str, str | None]:
        """How the turn ends, and what is told of it."""
        away = opening is not None and running.stop is None and n8n_was_away
        if away and opening is not None and self.attempts.is_open(opening.repair_id):
            # Not the agent's failure: with n8n back the same attempt goes on.
            running.stop_for("n8n_away")
        if running.stop in _INTERRUPTED:
            # Parking would forget a cancel that came while the turn was being stopped.
            mine = self._input_of(running)
            cancelled = mine is not None and mine.cancelled
            return ("cancelled", None) if cancelled else ("interrupted", _INTERRUPTED[running.stop])
        if running.stop == "cancelled":
            return "cancelled", None
        if running.stop == "timeout":
            return finished.outcome, f"It took longer than {self.timeout_s:g} s."
        return finished.outcome, redact_text(finished.error) if finished.error else None

    def _insist(self, running: RunningTurn, finish: Callable[[], T]) -> T:
        """Make a turn's last change anew while other errors of its case are counted in between, and while the journal
        is away: without it the turn would be taken for lost, and its agent asked once more.

        :raises StaleDocumentError: its input was answered, or its session ended, meanwhile.
        :raises JournalUnavailableError: it was away for longer than ``JOURNAL_BACK_S``.
        """

        def write() -> T | StaleDocumentError:
            try:
                return finish()
            except StaleDocumentError as exc:
                if self._input_of(running) is not None:
                    raise
                return exc

        deadline, again = time.monotonic() + JOURNAL_BACK_S, False
        while True:
            try:
                if again and self._input_of(running) is None:
                    # What went without an answer was done all the same, or another worker has ended the turn.
                    raise StaleDocumentError
                made: T | StaleDocumentError = retry_stale(write)
                if isinstance(made, StaleDocumentError):
                    raise made
                return made
            except JournalUnavailableError:
                if time.monotonic() >= deadline:
                    raise
                gevent.sleep(LOOK_S)
                again = True

    @staticmethod
    def _tell_end(running: RunningTurn, outcome: str, error: str | None) -> None:
        """The one line of a turn's end, after it is durable; at ``error`` where it failed for good."""
        fields = {"kind": running.claim.input.kind, "outcome": outcome, "duration": running.duration_ms}
        if outcome == "failed":
            log.error("turn finished", extra={**fields, "reason": error}, exc_info=running.bug)
        else:
            log.info("turn finished", extra=fields)

    def _give_up(self, running: RunningTurn) -> None:
        """Fail an input whose turn a bug of ours kept from starting: it would be met again, for ever."""
        claim, kind, error = running.claim, running.claim.input.kind, "internal error"
        turn_id, repair_id = claim.input.turn_id or running.turn_id, claim.input.key or None
        begun = [] if claim.input.turn_id else [events.turn_started(kind, turn_id=turn_id, repair_id=repair_id)]
        try:
            more: tuple[list[NewEvent], list[Put]] = ([], [])
            if repair_id is not None:
                more = self.attempts.conclude(repair_id, reason=error, turn_id=turn_id)
            end = events.turn_finished(
                "failed", turn_id=turn_id, duration_ms=running.duration_ms, error=error, repair_id=repair_id
            )
            ended = [*void_deltas(self.journal, claim), *begun, *more[0], end]
            self._commit(claim, ended, puts=more[1], answer=True)
            self._tell_end(running, "failed", error)
        except Exception as exc:
            # It is met again; the bug that is the reason is told all the same.
            log.warning("turn could not be given up: %s", exc, exc_info=running.bug)

    def _postpone(self, running: RunningTurn) -> None:
        """Let others of the session go first, and n8n or the journal come back."""
        claim = running.claim
        try:
            later = Postpone(claim.input.input_id, AWAY_S)
            self.journal.commit(Change(session_id=claim.input.session_id, postpone=later, fences=[claim.lease]))
        except BaseError as exc:
            log.warning("an input could not be postponed: %s", exc)
            gevent.sleep(LOOK_S)

    def _settle(self, claim: Claim, opening: Opening, before: Sequence[NewEvent]) -> None:
        """Answer a repair's input without an agent, or put it off."""
        input_id, again_s = claim.input.input_id, opening.postpone_s
        change = Change(
            session_id=claim.input.session_id,
            events=[*before, *opening.events],
            fences=[claim.lease],
            puts=opening.puts,
            deletes=opening.deletes,
            answer=input_id if again_s is None else None,
            postpone=Postpone(input_id, again_s) if again_s is not None else None,
        )
        self.journal.commit(change)

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
        self.journal.commit(change)


def _iterate(
    agent: Agent, request: TurnRequest, output: TurnOutput, first: Callable[[], bool] | None
) -> Finished | BaseError:
    """Run the agent to its end, unless ``first`` leaves it nothing to do. What is raised on purpose is returned: gevent
    would log it as uncaught."""
    stream: Iterator[AgentEvent] = iter(())
    began: float | None = None
    try:
        if first is not None and first():
            return Finished()
        began = time.monotonic()
        stream = agent.run(request)
        for event in stream:
            if isinstance(event, Finished):
                return event
            output.put(event)
        return Finished("failed", error="The agent ended without an answer.")
    except BaseError as exc:
        return exc
    finally:
        # Not left to the garbage collector, which a traceback that is kept somewhere would hold up.
        close = getattr(stream, "close", None)
        if close is not None:
            close()
        if began is not None:
            metrics.claude_execution.observe(time.monotonic() - began)
