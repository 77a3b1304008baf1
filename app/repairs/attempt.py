"""One attempt at a repair, around the agent's turn: what is known before it, and what is left when it is over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from app.errors import WorkflowNotFoundError
from app.journal import Input, Journal, NewEvent, Put, events
from app.journal.records import Case, Repair
from app.n8n import Workflow, Workflows
from app.n8n.workflows import find_node
from app.repairs import policy
from app.telemetry import context

GO_ON_S = 86_400.0
"""So long a repair waits for an n8n that is away."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How a repair input is answered: by the agent (``facts`` given), or by ``events`` and ``puts`` alone.

    ``done``: the repair needs no turn any more; its worker was lost after the proposal was durable. ``trial``: its
    worker was lost while a proposal was tried; that is gone on with first.
    """

    repair_id: str
    events: list[NewEvent] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)
    request_id: str | None = None
    facts: dict[str, Any] | None = None
    done: bool = False
    trial: bool = False


@dataclass(frozen=True, slots=True)
class Attempts:
    journal: Journal
    workflows: Workflows

    def open(self, claimed: Input, *, turn_id: str) -> Opening:
        """What to do for a claimed repair input.

        :raises N8nError: the workflow cannot be read now.
        """
        repair = Repair.get(self.journal, claimed.key)
        if repair is not None:
            # Before anything is asked of n8n: its log is to tell for which request that was.
            run = repair.report.get("execution") or {}
            context.note(request_id=repair.request_id, workflow_id=repair.workflow_id, execution_id=run.get("id"))
        if repair is None or repair.state not in ("queued", "running", "trying"):
            return Opening(claimed.key, done=True)
        if repair.state == "trying":
            if self.workflows.connected:
                # n8n first: while it is away no turn is begun, and nothing is told again and again.
                self._workflow(repair)
            return Opening(repair.repair_id, request_id=repair.request_id, facts=_facts(repair), trial=True)
        report = repair.report
        workflow = self._workflow(repair)
        name = report.get("nodeName")
        told = report.get("node") or None
        node = (find_node(workflow, name=name, id=(told or {}).get("id")) if workflow else None) or told
        triage = policy.triage(report["error"], node=node, node_name=name)
        if triage.for_agent and workflow is not None:
            return Opening(
                repair.repair_id,
                [
                    events.repair_started(
                        repair.workflow_id,
                        repair.signature,
                        repair.attempt,
                        repair_id=repair.repair_id,
                        turn_id=turn_id,
                    ),
                    events.repair_diagnosed(
                        repair.workflow_id, triage.kind, triage.summary, repair_id=repair.repair_id, turn_id=turn_id
                    ),
                ],
                [repair.put(state="running", diagnosis=triage.kind, error_seq=claimed.seq)],
                repair.request_id,
                _facts(repair),
            )
        diagnosed = events.repair_diagnosed(repair.workflow_id, triage.kind, triage.summary, repair_id=repair.repair_id)
        if not triage.for_agent:
            puts = [repair.put(state="not_a_bug", diagnosis=triage.kind, reason=triage.summary, error_seq=claimed.seq)]
            return Opening(repair.repair_id, [diagnosed], [*puts, *self._close(repair, "not_a_bug", triage.kind)])
        reason = "The workflow itself is not known here, so nothing can be proposed. Build or import it in the chat."
        failed = events.repair_failed(repair.workflow_id, reason, repair_id=repair.repair_id)
        puts = [repair.put(state="failed", diagnosis=triage.kind, reason=reason, error_seq=claimed.seq)]
        return Opening(repair.repair_id, [diagnosed, failed], [*puts, *self._close(repair, "failed", triage.kind)])

    def is_open(self, repair_id: str) -> bool:
        """Whether the repair has neither an accepted proposal nor an end yet, and is young enough to go on with."""
        repair = Repair.get(self.journal, repair_id)
        if repair is None or repair.state not in ("running", "trying") or repair.stored_at is None:
            return False
        return (datetime.now(UTC) - repair.stored_at).total_seconds() < GO_ON_S

    def conclude(self, repair_id: str, *, reason: str, turn_id: str) -> tuple[list[NewEvent], list[Put]]:
        """What to append and write when the turn is over. Nothing, where a proposal was accepted in it."""
        repair = Repair.get(self.journal, repair_id)
        if repair is None or repair.state not in ("queued", "running", "trying"):
            return [], []
        found = [events.repair_failed(repair.workflow_id, reason, repair_id=repair_id, turn_id=turn_id)]
        # A trial that is broken off leaves a draft; the chores put it back, however long n8n is away.
        puts = [repair.put(state="restoring" if repair.state == "trying" else "failed", reason=reason)]
        case = Case.get(self.journal, repair.case_key)
        if case is not None and case.repair_id == repair_id and case.attempts >= policy.MAX_ATTEMPTS:
            blocked = f"{policy.MAX_ATTEMPTS} attempts to repair it failed."
            found.append(events.repair_blocked(repair.workflow_id, repair.signature, blocked, repair_id=repair_id))
            puts.append(case.put(**{**policy.closing("failed", now_s=time.time()), "state": "blocked"}))
            return found, puts
        return found, [*puts, *self._close(repair, "failed", repair.diagnosis)]

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
