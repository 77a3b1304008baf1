"""One attempt at a repair, around the agent's turn: what is known before it, and what is left when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from app.errors import N8nError, WorkflowNotFoundError
from app.journal import Change, Claim, Delete, Journal, Lease, NewEvent, Put, events
from app.journal.records import Case, ChildFailure, Repair, retry_stale
from app.n8n import Workflow, Workflows
from app.n8n.workflows import find_node
from app.repairs import policy
from app.repairs.asking import ask
from app.repairs.outage import Outages, Step
from app.repairs.pace import Pace
from app.repairs.states import moved
from app.telemetry import context
from app.telemetry.redaction import redact_text

GO_ON_S = 86_400.0
"""So long a repair waits for an n8n that is away."""
AWAY_S, MAX_AWAY_S = 5.0, 600.0
"""Until a turn that n8n has broken off goes on: twice as long each time."""
TELL_AWAY_S = 60.0
"""So old is a repair before a person is told that it waits for n8n; where only they can help, at once."""
MAX_AWAY = 5
"""An n8n that answers some requests and fails others could have an agent begun for ever."""
LOOK_AGAIN_S = 3_600.0
"""A repair that is delayed for longer is looked at in between: the pace may have been changed."""
_CALLERS = ("executeWorkflow", "toolWorkflow")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """How a repair input is answered: by the agent (``facts`` given), or by ``events``, ``puts``, ``deletes`` alone.

    ``done``: the repair needs no turn any more; its worker was lost after the proposal was durable. ``trial``: its
    worker was lost while a proposal was tried; that is gone on with first. ``postpone_s``: it is not answered yet.
    """

    repair_id: str
    events: list[NewEvent] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)
    deletes: list[Delete] = field(default_factory=list)
    request_id: str | None = None
    facts: dict[str, Any] | None = None
    done: bool = False
    trial: bool = False
    postpone_s: float | None = None


@dataclass(frozen=True, slots=True)
class Attempts:
    journal: Journal
    workflows: Workflows
    outages: Outages
    pace: Pace = Pace()  # noqa: RUF009 - frozen, so it may be shared

    def open(self, claim: Claim, *, turn_id: str) -> Opening:
        """What to do for a claimed repair input.

        :raises N8nError: the workflow cannot be read now, and whoever needs to know has been told, or need not yet.
        """
        claimed = claim.input
        repair = Repair.get(self.journal, claimed.key)
        try:
            return self._opened(repair, claim, turn_id=turn_id)
        except N8nError as exc:
            if repair is None or repair.away_told or not (exc.permanent or _age_s(repair) >= TELL_AWAY_S):
                raise
            log.warning("a repair waits for n8n: %s", exc)
            text = f"A repair waits until n8n can be asked again: {redact_text(exc.detail)}"
            told = events.notice("warning", text, repair_id=repair.repair_id)
            return Opening(repair.repair_id, [told], [repair.put(away_told=True)], postpone_s=AWAY_S)

    def _opened(self, repair: Repair | None, claim: Claim, *, turn_id: str) -> Opening:
        claimed = claim.input
        if repair is not None:
            # Before anything is asked of n8n: its log is to tell for which request that was.
            run = repair.report.get("execution") or {}
            context.note(request_id=repair.request_id, workflow_id=repair.workflow_id, execution_id=run.get("id"))
        if repair is None or repair.state not in ("queued", "retrying", "running", "trying"):
            return Opening(claimed.key, done=True)
        if repair.state == "retrying":
            return _without_agent(repair, self.outages.go_on(repair, fences=[claim.lease]))
        if repair.state == "trying":
            if self.workflows.connected:
                # n8n first: while it is away no turn is begun, and nothing is told again and again.
                self._workflow(repair)
            return Opening(repair.repair_id, request_id=repair.request_id, facts=_facts(repair), trial=True)
        return self._triaged(repair, error_seq=claimed.seq, turn_id=turn_id)

    def _triaged(self, repair: Repair, *, error_seq: int, turn_id: str) -> Opening:
        if policy.autonomy_of(self.journal, repair.workflow_id) == "observe":
            # Nothing could come of it but its bill.
            reason = "Nothing is looked for: the workflow is only observed now."
            failed = events.repair_failed(repair.workflow_id, reason, repair_id=repair.repair_id)
            put = moved(repair, "failed", reason=reason, error_seq=error_seq)
            return Opening(repair.repair_id, [failed], [put, *self._close(repair, "failed", repair.diagnosis)])
        report = repair.report
        workflow = self._workflow(repair)
        name = report.get("nodeName")
        told = report.get("node") or None
        node = (find_node(workflow, name=name, id=(told or {}).get("id")) if workflow else None) or told
        relative = self._of_its_child(repair, node)
        if relative is not None:
            return relative
        triage = policy.triage(report["error"], node=node, node_name=name)
        if repair.state == "running" and repair.diagnosis:
            # Its worker was lost. What was found at its beginning holds, whatever has been edited since.
            triage = replace(triage, kind=repair.diagnosis)
        diagnosed = events.repair_diagnosed(repair.workflow_id, triage.kind, triage.summary, repair_id=repair.repair_id)
        if not triage.for_agent:
            if triage.kind == "remote_outage" and not self.outages.cannot_repeat(repair, workflow):
                return _without_agent(repair, self.outages.begin(repair, triage.summary, error_seq=error_seq))
            put = moved(repair, "not_a_bug", diagnosis=triage.kind, reason=triage.summary, error_seq=error_seq)
            return Opening(repair.repair_id, [diagnosed], [put, *self._close(repair, "not_a_bug", triage.kind)])
        if workflow is None:
            reason = (
                "The workflow itself is not known here, so nothing can be proposed. Build or import it in the chat."
            )
            failed = events.repair_failed(repair.workflow_id, reason, repair_id=repair.repair_id)
            put = moved(repair, "failed", diagnosis=triage.kind, reason=reason, error_seq=error_seq)
            return Opening(repair.repair_id, [diagnosed, failed], [put, *self._close(repair, "failed", triage.kind)])
        if repair.state == "queued":
            wait_s, why = self.pace.wait_s(self.journal, repair)
            if wait_s:
                return _delayed(repair, wait_s, why)
        started = events.repair_started(
            repair.workflow_id, repair.signature, repair.attempt, repair_id=repair.repair_id, turn_id=turn_id
        )
        return Opening(
            repair.repair_id,
            [started, replace(diagnosed, turn_id=turn_id)],
            [moved(repair, "running", diagnosis=triage.kind, error_seq=error_seq)],
            request_id=repair.request_id,
            facts=_facts(repair),
        )

    def is_open(self, repair_id: str) -> bool:
        """Whether the repair has neither an accepted proposal nor an end yet, and may be gone on with later: a trial
        for as long as it is young enough, an agent's turn some times."""
        repair = Repair.get(self.journal, repair_id)
        if repair is None or repair.state not in ("running", "trying") or repair.stored_at is None:
            return False
        if repair.state == "running" and repair.away >= MAX_AWAY:
            return False
        return (datetime.now(UTC) - repair.stored_at).total_seconds() < GO_ON_S

    def put_off(self, repair_id: str) -> tuple[list[Put], float]:
        """What to write where n8n has broken off a turn, and in how many seconds it may go on."""
        repair = Repair.get(self.journal, repair_id)
        if repair is None:
            return [], AWAY_S
        return [repair.put(away=repair.away + 1)], min(AWAY_S * 2.0 ** min(repair.away, 16), MAX_AWAY_S)

    def conclude(
        self, repair_id: str, *, reason: str, turn_id: str, completed: bool = False
    ) -> tuple[list[NewEvent], list[Put]]:
        """What to append and write when the turn is over. Nothing, where a proposal was accepted in it.

        :param completed: the agent has ended by itself, so what it wanted beyond the fence may be asked for.
        """
        repair = Repair.get(self.journal, repair_id)
        if repair is None or repair.state not in ("queued", "retrying", "running", "trying"):
            return [], []
        if completed and repair.state == "running" and repair.beyond:
            return self._ask_beyond_fence(repair, repair.beyond, turn_id)
        found = [events.repair_failed(repair.workflow_id, reason, repair_id=repair_id, turn_id=turn_id)]
        # A trial that is broken off leaves a draft; the chores put it back, however long n8n is away.
        puts = [moved(repair, "restoring" if repair.state == "trying" else "failed", reason=reason)]
        case = Case.get(self.journal, repair.case_key)
        if case is not None and case.repair_id == repair_id and case.attempts >= policy.MAX_ATTEMPTS:
            blocked = f"{policy.MAX_ATTEMPTS} attempts to repair it failed."
            found.append(events.repair_blocked(repair.workflow_id, repair.signature, blocked, repair_id=repair_id))
            puts.append(case.put(**{**policy.closing("failed", now_s=time.time()), "state": "blocked"}))
            return found, puts
        return found, [*puts, *self._close(repair, "failed", repair.diagnosis)]

    def note_cost(self, repair_id: str, *, turn_id: str, cost_usd: float, lease: Lease) -> None:
        """Add what a turn has cost to its repair; the same turn once.

        :raises LeaseLostError: another worker has the turn.
        """

        def write() -> None:
            repair = Repair.get(self.journal, repair_id)
            if repair is not None:
                put = repair.put(costs={**repair.costs, turn_id: cost_usd})
                self.journal.commit(Change(puts=[put], fences=[lease]))

        retry_stale(write)

    # -- how it is done

    def _of_its_child(self, repair: Repair, node: Mapping[str, Any] | None) -> Opening | None:
        """The failing node only called a sub-workflow: that is what is to be repaired, once its own report is there.

        n8n reports both, in any order; ``None``: this is a failure of the workflow's own.
        """
        run_id = (repair.report.get("execution") or {}).get("id")
        if not run_id or repair.state != "queued" or not _may_call(node, repair.report["error"]):
            return None
        child = ChildFailure.get(self.journal, run_id)
        if child is None:
            left_s = policy.SUBWORKFLOW_WAIT_S - _age_s(repair)
            return Opening(repair.repair_id, postpone_s=left_s) if left_s > 0 else None
        case = Case.get(self.journal, repair.case_key)
        puts = []
        if case is not None and case.repair_id == repair.repair_id:
            # As if it had been known when the error was taken; what its last repair came to stays, and counts.
            attempts = max(0, case.attempts - 1)
            puts.append(case.put(state="closed", repair_id="", attempts=attempts))
        text = f'"{child.workflow_name}", which this workflow calls, failed; that is what is looked at.'
        return Opening(repair.repair_id, [events.notice("info", text)], puts, [repair.delete()])

    def _ask_beyond_fence(
        self, repair: Repair, beyond: Mapping[str, Any], turn_id: str
    ) -> tuple[list[NewEvent], list[Put]]:
        """What the agent could not do by itself is shown to a person, with what is unusual about it."""
        changes = {**beyond, "beyond": None, "trial_run_id": ""}
        proposed = events.repair_proposed(
            repair.repair_id, repair.workflow_id, beyond["diff"], beyond["summary"], turn_id=turn_id
        )
        reason = f"It goes beyond what a repair may change by itself, and was not tried. {' '.join(beyond['asked'])}"
        judged = events.repair_unverified(repair.repair_id, reason, turn_id=turn_id)
        if policy.autonomy_of(self.journal, repair.workflow_id) in ("observe", "suggest"):
            put = moved(repair, "unverified", **changes, reason=reason)
            return [proposed, judged], [put, *self._close(repair, "unverified", repair.diagnosis)]
        appended, put = ask(repair, judged, reason, turn_id=turn_id, told=[proposed], changes=changes)
        return appended, [put]

    def _workflow(self, repair: Repair) -> Workflow | None:
        try:
            return self.workflows.get(repair.workflow_id)
        except WorkflowNotFoundError:
            node: Mapping[str, Any] | None = repair.report.get("node")
            if not node or not node.get("name") or not node.get("type"):
                return None
        try:
            return self.workflows.seed(repair.workflow_id, repair.workflow_name, node)
        except WorkflowNotFoundError:
            return None

    def _close(self, repair: Repair, outcome: str, diagnosis: str) -> list[Put]:
        case = Case.get(self.journal, repair.case_key)
        if case is None or case.repair_id != repair.repair_id:
            return []
        return [case.put(**policy.closing(outcome, now_s=time.time()), diagnosis=diagnosis)]


def _age_s(repair: Repair) -> float:
    return (datetime.now(UTC) - repair.stored_at).total_seconds() if repair.stored_at else 0.0


def _without_agent(repair: Repair, step: Step) -> Opening:
    return Opening(repair.repair_id, step.events, step.puts, postpone_s=step.again_s)


def _delayed(repair: Repair, wait_s: float, why: str) -> Opening:
    look_s = min(wait_s, LOOK_AGAIN_S)
    if repair.delayed:
        return Opening(repair.repair_id, postpone_s=look_s)
    until = datetime.fromtimestamp(time.time() + wait_s, UTC)
    told = events.notice("warning", f"{why}: this one waits until {events.iso(until)}.", repair_id=repair.repair_id)
    return Opening(repair.repair_id, [told], [repair.put(delayed=True)], postpone_s=look_s)


def _may_call(node: Mapping[str, Any] | None, error: Mapping[str, Any]) -> bool:
    """Whether the failing node calls a sub-workflow. n8n gives such an error neither its node nor a name."""
    if node is None:
        return not error.get("name")
    return str(node.get("type", "")).rpartition(".")[2] in _CALLERS


def _facts(repair: Repair) -> dict[str, Any]:
    """What an agent is told; see ``TurnRequest.facts``."""
    report = repair.report
    node = report.get("node")
    return {
        "workflowId": repair.workflow_id,
        "workflowName": repair.workflow_name,
        "repairId": repair.repair_id,
        "error": {**report["error"], **({"node": node} if node else {})},
        "node": report.get("nodeName"),
    }
