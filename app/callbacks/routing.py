"""From an error report to the session that built its workflow: one atomic change, once per callback."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import getrandbits
from typing import Literal

from gevent.lock import BoundedSemaphore

from app.callbacks import triggers
from app.callbacks.report import ErrorReport
from app.errors import SessionNotFoundError
from app.journal import Activity, Change, Committed, Journal, Limit, NewEvent, NewInput, Once, Put, events
from app.journal.records import (
    DECISIONS,
    Case,
    ChildFailure,
    DeadLetter,
    Registration,
    Repair,
    Rollback,
    dead_letter_id,
    retry_stale,
)
from app.n8n.intents import is_trial
from app.repairs import policy
from app.repairs.trial import is_called_by_trial
from app.repairs.writes import BRIDGE
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
class _Incoming:
    """A report with what its routing needs; see :meth:`Router.route`."""

    report: ErrorReport
    source: Literal["callback", "poll", "replay"]
    request_id: str
    key: str | None
    replayed: DeadLetter | None
    limit: Limit | None


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
        incoming = _Incoming(report, source, request_id, key, replayed, limit)
        with self.turnstiles[hash(report.workflow_id) % len(self.turnstiles)]:
            routed: Routed = retry_stale(partial(self._route, incoming))
        return routed

    def _route(self, incoming: _Incoming) -> Routed:
        report = incoming.report
        registration = Registration.get(self.journal, report.workflow_id)
        if registration is None:
            raise SessionNotFoundError("No session built this workflow.")
        context.note(session_id=registration.session_id)
        if incoming.replayed is None and incoming.limit is not None:
            incoming = replace(incoming, replayed=self._held(report))
        trigger = self._trigger_note(incoming)
        if trigger is not None and trigger.before:
            return self._told_before(incoming, registration.session_id, trigger.put)
        signature = policy.signature(report.workflow_id, report.node_name, report.error)
        case = self._case(report.workflow_id, signature, session_id=registration.session_id)
        if self._is_echo(report):
            # Told, and nothing else: neither counted nor repaired.
            repair_id = case.repair_id if case.state == "open" else None
            told = _told(incoming, signature, max(1, case.count), repair_id)
            return self._commit(incoming, registration, "echo", [told], [])
        taken = policy.take(
            case,
            autonomy=policy.effective_autonomy(self.journal, registration.autonomy),
            repair_id=f"{getrandbits(128):032x}",  # a name, no secret; used where a repair begins
            now_s=time.time(),
            late=self._is_late(report, case),
        )
        if taken.verdict == "queued" and self._is_of_child(report):
            # What failed is the sub-workflow, and its own report is there.
            taken = policy.Taken("coalesced", {"count": case.count + 1})
        begun = taken.verdict == "queued"
        repair_id = str(taken.case["repair_id"]) if begun else case.repair_id if case.state == "open" else None
        appended = [_told(incoming, signature, case.count + 1, repair_id)]
        if taken.reason:
            appended.append(events.repair_blocked(report.workflow_id, signature, taken.reason))
        puts = [case.put(**taken.case), *([trigger.put] if trigger is not None else [])]
        if begun and repair_id is not None:
            puts.append(_queued(incoming, registration, signature, repair_id, case.put(**taken.case)))
        undo = self._undo(case, registration) if taken.undo else []
        routed = self._commit(
            incoming,
            registration,
            taken.verdict,
            appended,
            [*puts, *undo],
            begun=NewInput("repair", key=repair_id or "") if begun else None,
            wake=[DECISIONS] if undo else [],
        )
        if taken.verdict == "observed" and not routed.duplicate:
            metrics.repairs.labels("observed").inc()  # no repair is written that would tell
        return routed

    def _commit(
        self,
        incoming: _Incoming,
        registration: Registration,
        verdict: Repairing,
        appended: Sequence[NewEvent],
        puts: Sequence[Put],
        *,
        begun: NewInput | None = None,
        wake: Sequence[str] = (),
    ) -> Routed:
        report, session_id = incoming.report, registration.session_id
        settled = incoming.replayed
        answer = {"routed": True, "sessionId": session_id, "repair": verdict}
        more = [settled.put(state="replayed", session_id=session_id)] if settled is not None else []
        if report.parent_id and verdict != "echo":
            child = ChildFailure(
                parent_run_id=report.parent_id, workflow_id=report.workflow_id, workflow_name=report.workflow_name
            )
            # Whichever of several children was the last to fail.
            more.append(replace(child.put(), expect=None))
        committed = self.journal.commit(
            Change(
                session_id=session_id,
                events=appended,
                once=Once(incoming.key, answer) if incoming.key else None,
                limit=incoming.limit,
                puts=[*puts, *more],
                activity=Activity(self.max_live) if begun else None,
                add=begun,
                wake=wake,
            )
        )
        return _routed(committed, session_id, verdict)

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
        """Whether n8n tells of a run that is a trial of ours, or that one has called: its verdict is known to whoever
        made it."""
        retry_of = (report.execution or {}).get("retryOf")
        if retry_of:
            return is_trial(self.journal, report.execution_id, retry_of=str(retry_of))
        return bool(report.parent_id) and is_called_by_trial(self.journal, str(report.parent_id), report.workflow_id)

    def _is_of_child(self, report: ErrorReport) -> bool:
        return bool(report.execution_id) and ChildFailure.get(self.journal, str(report.execution_id)) is not None

    def _undo(self, case: Case, registration: Registration) -> list[Put]:
        """The intent to undo the repair that did not help, unless a person undoes something there right now."""
        repair = Repair.get(self.journal, case.repair_id)
        if repair is None or repair.state != "published" or not repair.published_version_id:
            return []  # not what was published for this case
        if not repair.snapshot_id or Rollback.get(self.journal, case.workflow_id) is not None:
            return []
        rollback = Rollback(
            workflow_id=case.workflow_id,
            session_id=registration.session_id,
            snapshot_id=repair.snapshot_id,
            by=BRIDGE,
            only_version_id=repair.published_version_id,
        )
        return [rollback.put()]

    def _trigger_note(self, incoming: _Incoming) -> triggers.Told | None:
        if not self.polled:
            return None
        return triggers.take(self.journal, incoming.report, incoming.key, by_poll=incoming.source == "poll")

    def _told_before(self, incoming: _Incoming, session_id: str, put: Put) -> Routed:
        """A trigger's failure that came by its other way already."""
        settled = incoming.replayed
        more = [settled.put(state="replayed", session_id=session_id)] if settled is not None else []
        answer = {"routed": True, "sessionId": session_id, "repair": "coalesced"}
        once = Once(incoming.key, answer) if incoming.key else None
        committed = self.journal.commit(Change(once=once, puts=[put, *more]))
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


def _told(incoming: _Incoming, signature: str, count: int, repair_id: str | None) -> NewEvent:
    report = incoming.report
    return events.workflow_error(
        workflow_id=report.workflow_id,
        workflow_name=report.workflow_name,
        execution=report.execution,
        trigger=report.trigger,
        error={**report.error, **({"node": report.node} if report.node else {})},
        signature=signature,
        repeat_count=count,
        source=incoming.source,
        request_id=incoming.request_id,
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


def _queued(incoming: _Incoming, registration: Registration, signature: str, repair_id: str, case: Put) -> Put:
    report = incoming.report
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
        times={"queued": round(time.time(), 3)},
        request_id=incoming.request_id,
    ).put()
