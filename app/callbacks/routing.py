"""From an error report to the session that built its workflow: one atomic change, once per callback."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from gevent.lock import BoundedSemaphore

from app.callbacks import triggers
from app.callbacks.report import ErrorReport
from app.errors import SessionNotFoundError
from app.journal import Activity, Change, Committed, Journal, Limit, NewEvent, NewInput, Once, Put, events
from app.journal.records import Case, DeadLetter, Registration, Repair, dead_letter_id, retry_stale
from app.n8n.connected import is_trial
from app.repairs import policy
from app.telemetry import context, metrics

Repairing = Literal["queued", "coalesced", "blocked", "observed", "echo"]


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a report went. ``duplicate``: it had gone there before."""

    session_id: str
    seq: int
    repair: Repairing
    duplicate: bool = False
    routed: bool = True


@dataclass(frozen=True, slots=True)
class Router:
    """:ivar settles_s: for how long after a publication runs of the old version are still met.
    :ivar max_live: ``MAX_SESSIONS``. A repair wakes its session where fewer are live; else it is worked on all the
        same, for a callback is never refused for want of a place.
    :ivar polled: n8n is asked for failures as well, so that one of a trigger may come twice; see ``triggers.py``.
    :ivar turnstiles: one lock for the reports of (about) one workflow. They all write its case, and among many at
    once each write would make all the others read and decide again."""

    journal: Journal
    settles_s: float = 0.0
    max_live: int = 0
    polled: bool = False
    turnstiles: tuple[BoundedSemaphore, ...] = field(
        default_factory=lambda: tuple(BoundedSemaphore() for _ in range(64))
    )

    def route(
        self,
        report: ErrorReport,
        *,
        source: Literal["callback", "poll", "replay"],
        request_id: str,
        once: str | None = None,
        replayed: DeadLetter | None = None,
        limit: Limit | None = None,
    ) -> Routed:
        """Append the report's ``workflow_error`` and begin, join or refuse its repair, all in one change.

        :param once: idempotency key; by default the callback's own.
        :param replayed: the dead letter that this settles; by default the callback's own, of an earlier try that was
            over the limit.
        :param limit: counts it in the same change, unless it is a duplicate.
        :raises SessionNotFoundError: no open session owns the workflow; nothing was written.
        :raises RateLimitError: over ``limit``; nothing was written.
        :raises BusyError: other workers' reports came in between every time.
        """
        key = once or (f"callback:{report.idempotency_key}" if report.idempotency_key else None)
        with self.turnstiles[hash(report.workflow_id) % len(self.turnstiles)]:
            routed: Routed = retry_stale(partial(self._route, report, source, request_id, key, replayed, limit))
        return routed

    def _route(
        self,
        report: ErrorReport,
        source: str,
        request_id: str,
        key: str | None,
        replayed: DeadLetter | None,
        limit: Limit | None,
    ) -> Routed:
        registration = Registration.get(self.journal, report.workflow_id)
        if registration is None:
            raise SessionNotFoundError("No session built this workflow.")
        context.note(session_id=registration.session_id)
        if replayed is None and limit is not None:
            replayed = self._held(report)
        told = triggers.take(self.journal, report, key, by_poll=source == "poll") if self.polled else None
        if told is not None and told.before:
            return self._told_before(registration.session_id, key, told.put, replayed)
        signature = policy.signature(report.workflow_id, report.node_name, report.error)
        case = self._case(report.workflow_id, signature, session_id=registration.session_id)
        if self._is_echo(report):
            return self._echo(report, registration.session_id, case, source, request_id, key, replayed, limit)
        taken = policy.take(
            case,
            autonomy=policy.effective_autonomy(self.journal, registration.autonomy),
            repair_id=uuid.uuid4().hex,
            now_s=time.time(),
            late=self._is_late(report, case),
        )
        begun = taken.verdict == "queued"
        repair_id = str(taken.case["repair_id"]) if begun else case.repair_id if case.state == "open" else None
        appended = [_told(report, signature, case.count + 1, source, request_id, repair_id)]
        if taken.reason:
            appended.append(events.repair_blocked(report.workflow_id, signature, taken.reason))
        puts = [case.put(**taken.case), *([told.put] if told is not None else [])]
        if begun and repair_id is not None:
            puts.append(_queued(report, registration, signature, repair_id, case.put(**taken.case), request_id))
        if replayed is not None:
            puts.append(replayed.put(state="replayed", session_id=registration.session_id))
        answer = {"routed": True, "sessionId": registration.session_id, "repair": taken.verdict}
        committed = self.journal.commit(
            Change(
                session_id=registration.session_id,
                events=appended,
                once=Once(key, answer) if key else None,
                limit=limit,
                puts=puts,
                activity=Activity(self.max_live) if begun else None,
                add=NewInput("repair", key=repair_id or "") if begun else None,
            )
        )
        if taken.verdict == "observed" and not committed.duplicate:
            metrics.repairs.labels("observed").inc()  # no repair is written that would tell
        return _routed(committed, registration.session_id, taken.verdict)

    def _is_late(self, report: ErrorReport, case: Case) -> bool:
        """Whether the failed run may have begun before the repair of its case was live: n8n reports in no order, and
        production follows a publication by some tenths of a second."""
        if case.outcome != "published":
            return False
        if time.time() - case.closed_at_s < self.settles_s:
            return True
        repair = Repair.get(self.journal, case.repair_id)
        proof, run = (repair.trial_run_id if repair else ""), report.execution_id or ""
        # n8n numbers its runs; this one is older than the one that proved the repair.
        return proof.isdecimal() and run.isdecimal() and int(run) <= int(proof)

    def _is_echo(self, report: ErrorReport) -> bool:
        """Whether n8n tells of a run that is a trial of ours: its verdict is known to whoever made it."""
        retry_of = (report.execution or {}).get("retryOf")
        return bool(retry_of) and is_trial(self.journal, report.execution_id, retry_of=str(retry_of))

    def _echo(
        self,
        report: ErrorReport,
        session_id: str,
        case: Case,
        source: str,
        request_id: str,
        key: str | None,
        replayed: DeadLetter | None,
        limit: Limit | None,
    ) -> Routed:
        """Told, and nothing else: neither counted nor repaired."""
        repair_id = case.repair_id if case.state == "open" else None
        told = _told(report, case.signature, max(1, case.count), source, request_id, repair_id)
        answer = {"routed": True, "sessionId": session_id, "repair": "echo"}
        puts = [replayed.put(state="replayed", session_id=session_id)] if replayed is not None else []
        once = Once(key, answer) if key else None
        change = Change(session_id=session_id, events=[told], once=once, limit=limit, puts=puts)
        committed = self.journal.commit(change)
        return _routed(committed, session_id, "echo")

    def _told_before(self, session_id: str, key: str | None, put: Put, replayed: DeadLetter | None) -> Routed:
        """A trigger's failure that came by its other way already."""
        puts = [put, *([replayed.put(state="replayed", session_id=session_id)] if replayed is not None else [])]
        answer = {"routed": True, "sessionId": session_id, "repair": "coalesced"}
        committed = self.journal.commit(Change(once=Once(key, answer) if key else None, puts=puts))
        return replace(_routed(committed, session_id, "coalesced"), duplicate=True)

    def _held(self, report: ErrorReport) -> DeadLetter | None:
        """The letter of an earlier try of this callback that was over the limit."""
        if not report.idempotency_key:
            return None
        letter = DeadLetter.get(self.journal, dead_letter_id(report.idempotency_key))
        return letter if letter is not None and letter.held else None

    def _case(self, workflow_id: str, signature: str, *, session_id: str) -> Case:
        case = Case.get(self.journal, f"{workflow_id}:{signature}") or Case(
            workflow_id=workflow_id, signature=signature
        )
        if case.state == "open":
            repair = Repair.get(self.journal, case.repair_id)
            if repair is None or repair.session_id != session_id:
                # The session that it waited in was ended, and nobody can decide it any more.
                return replace(case, state="closed", outcome="expired")
        return case


def _told(
    report: ErrorReport, signature: str, count: int, source: str, request_id: str, repair_id: str | None
) -> NewEvent:
    return events.workflow_error(
        workflow_id=report.workflow_id,
        workflow_name=report.workflow_name,
        execution=report.execution,
        trigger=report.trigger,
        error={**report.error, **({"node": report.node} if report.node else {})},
        signature=signature,
        repeat_count=count,
        source=source,
        request_id=request_id,
        repair_id=repair_id,
    )


def _routed(committed: Committed, session_id: str, repair: Repairing) -> Routed:
    if not committed.duplicate:
        return Routed(session_id, committed.seq, repair)
    known = committed.result
    return Routed(
        str(known.get("sessionId", "")),
        committed.seq,
        known.get("repair", "queued"),
        duplicate=True,
        routed=bool(known.get("routed")),
    )


def _queued(
    report: ErrorReport, registration: Registration, signature: str, repair_id: str, case: Put, request_id: str
) -> Put:
    return Repair(
        repair_id=repair_id,
        session_id=registration.session_id,
        workflow_id=report.workflow_id,
        workflow_name=report.workflow_name,
        signature=signature,
        attempt=case.body["attempts"],
        report={
            "execution": report.execution,
            "trigger": report.trigger,
            "error": report.error,
            "node": report.node,
            "nodeName": report.node_name,
        },
        request_id=request_id,
    ).put()
