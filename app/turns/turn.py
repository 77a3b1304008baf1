"""One turn, from its claimed input to its end, however it ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import gevent

from app.agents import Agent, Finished, TurnRequest
from app.errors import BaseError, JournalUnavailableError, LeaseLostError, SessionNotFoundError, StaleDocumentError
from app.journal import Change, Claim, Journal, Lease, NewEvent, Postpone, Put, StartInput, events
from app.repairs.attempt import AWAY_S, Attempts, Opening
from app.telemetry import context
from app.tools.catalog import Catalog
from app.tools.server import ToolsServer
from app.turns.output import TurnOutput
from app.turns.prompts import CHAT_SYSTEM, REPAIR_SYSTEM, repair_prompt
from app.turns.running import LOOK_S, RunningTurn
from app.turns.supervision import Supervisor
from app.turns.takeover import LostTurn, end_lost_turn, void_deltas
from app.turns.turn_end import TurnEnds, tell_end

log = logging.getLogger(__name__)


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
            self._settle(claim, opening, lost)
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
            supervisor = Supervisor(self.journal, self.agent, look_s=self.lease_s, timeout_s=self.timeout_s)
            finished = supervisor.run(running, request, output, first)
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
        ends = TurnEnds(self.journal, self.attempts, self.timeout_s)
        ends.finish(running, output, finished, opening, n8n_was_away=tools.n8n_was_away)

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
            tell_end(running, "failed", error)
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

    def _settle(self, claim: Claim, opening: Opening, lost: LostTurn) -> None:
        """Answer a repair's input without an agent, or put it off."""
        input_id, again_s = claim.input.input_id, opening.postpone_s
        # Its lost turn is ended by this change: whoever claims it later must not find that turn again.
        parks = bool(lost.turn_id) and again_s is not None
        change = Change(
            session_id=claim.input.session_id,
            events=[*lost.events, *opening.events],
            drop_deltas=_voided(lost.events),
            fences=[claim.lease],
            start=StartInput(input_id, None, lost.takeovers) if parks else None,
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
        change = Change(
            session_id=claim.input.session_id,
            events=appended,
            drop_deltas=_voided(appended),
            fences=[claim.lease],
            puts=puts,
            start=start,
            answer=claim.input.input_id if answer else None,
        )
        self.journal.commit(change)


def _voided(appended: Sequence[NewEvent]) -> list[str]:
    """The messages whose deltas these events make void."""
    return [event.data["messageId"] for event in appended if event.type == "assistant_reset"]
