"""From an error report to the session that built its workflow: one atomic change, once per callback."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from gevent.lock import BoundedSemaphore

from app.callbacks.report import ErrorReport
from app.errors import SessionNotFoundError
from app.journal import Change, Journal, NewInput, Once, Put, events
from app.journal.records import Case, DeadLetter, Registration, Repair, retry_stale
from app.repairs import policy

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
    """:ivar turnstiles: one lock for the reports of (about) one workflow. They all write its case, and among many at
    once each write would make all the others read and decide again."""

    journal: Journal
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
    ) -> Routed:
        """Append the report's ``workflow_error`` and begin, join or refuse its repair, all in one change.

        :param once: idempotency key; by default the callback's own.
        :param replayed: the dead letter that this settles.
        :raises SessionNotFoundError: no open session owns the workflow; nothing was written.
        :raises BusyError: other workers' reports came in between every time.
        """
        key = once or (f"callback:{report.idempotency_key}" if report.idempotency_key else None)
        with self.turnstiles[hash(report.workflow_id) % len(self.turnstiles)]:
            routed: Routed = retry_stale(partial(self._route, report, source, request_id, key, replayed))
        return routed

    def _route(
        self, report: ErrorReport, source: str, request_id: str, key: str | None, replayed: DeadLetter | None
    ) -> Routed:
        registration = Registration.get(self.journal, report.workflow_id)
        if registration is None:
            raise SessionNotFoundError("No session built this workflow.")
        signature = policy.signature(report.workflow_id, report.node_name, report.error)
        case = self._case(report.workflow_id, signature, session_id=registration.session_id)
        taken = policy.take(
            case,
            autonomy=policy.effective_autonomy(self.journal, registration.autonomy),
            repair_id=uuid.uuid4().hex,
            now_s=time.time(),
        )
        begun = taken.verdict == "queued"
        repair_id = str(taken.case["repair_id"]) if begun else case.repair_id if case.state == "open" else None
        appended = [
            events.workflow_error(
                workflow_id=report.workflow_id,
                workflow_name=report.workflow_name,
                execution=report.execution,
                trigger=report.trigger,
                error={**report.error, **({"node": report.node} if report.node else {})},
                signature=signature,
                repeat_count=case.count + 1,
                source=source,
                request_id=request_id,
                repair_id=repair_id,
            )
        ]
        if taken.reason:
            appended.append(events.repair_blocked(report.workflow_id, signature, taken.reason))
        puts = [case.put(**taken.case)]
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
                puts=puts,
                add=NewInput("repair", key=repair_id or "") if begun else None,
            )
        )
        if committed.duplicate:
            known = committed.result
            session_id, repair = str(known.get("sessionId", "")), known.get("repair", "queued")
            return Routed(session_id, committed.seq, repair, duplicate=True, routed=bool(known.get("routed")))
        return Routed(registration.session_id, committed.seq, taken.verdict)

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
