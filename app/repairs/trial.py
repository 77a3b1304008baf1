"""From a proposal to its verdict: fence, diff, trial, and what the workflow's autonomy makes of it.

The verdict is the answer of the agent's ``propose_repair``. Each step that lasts is one commit under the turn's lease,
so a worker that was overtaken changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from app.errors import ConflictError, ValidationError
from app.journal import Change, Journal, Lease, NewEvent, events
from app.journal.records import Case, Registration, Repair
from app.n8n import Trial, Workflows
from app.n8n.diff import describe, diff
from app.n8n.workflows import editable, validate
from app.repairs import fence, policy

MAX_PROPOSALS = 3
MAX_SUMMARY = 1_000


class FenceError(ConflictError):
    """The proposal goes beyond what a repair may change. ``rules``: one sentence each."""

    code, title = "fence", "A repair may not change that"

    def __init__(self, rules: list[str]) -> None:
        super().__init__(" ".join(rules) + " Propose less, or leave it to the person.")
        self.rules = rules


@dataclass(frozen=True, slots=True)
class Proposer:
    """Judges proposals for one journal and one home of workflows."""

    journal: Journal
    workflows: Workflows

    def propose(self, repair_id: str, proposal: Mapping[str, Any], summary: str, *, turn_id: str, lease: Lease) -> str:
        """Judge one proposal; returns the verdict as text for the agent.

        :raises ConflictError: the repair is not running any more, is not allowed, or its proposals are used up.
        :raises FenceError: it changes what a repair may not. :raises ValidationError: n8n would refuse it.
        :raises LeaseLostError: another worker has the turn.
        """
        repair = Repair.get(self.journal, repair_id)
        if repair is None or repair.state != "running":
            raise ConflictError("This repair is not open for proposals any more.")
        if repair.proposals >= MAX_PROPOSALS:
            raise ConflictError(f"All {MAX_PROPOSALS} proposals of this attempt are used up. Stop here.")
        autonomy = self._autonomy(repair.workflow_id)
        if autonomy == "observe":
            raise ConflictError("This workflow is only observed now; nothing may be proposed for it.")
        base = self.workflows.get(repair.workflow_id)
        wanted = {**editable(base), **{key: value for key, value in proposal.items() if key in _WRITABLE}}
        problems = validate(wanted, needs_trigger=not is_partial(base))
        if problems:
            errors = [{"path": problem.path, "message": problem.message} for problem in problems]
            lines = "; ".join(f"{e['path'] or 'workflow'}: {e['message']}" for e in errors[:5])
            raise ValidationError(f"n8n would refuse this workflow: {lines}", errors=errors)
        changes = [dict(entry) for entry in diff(base, wanted)]
        if not changes:
            raise ValidationError("The proposal changes nothing.")
        rules = fence.breaches(base, wanted)
        # A refused proposal is counted too, or an agent could try for ever.
        counted = repair.put(proposals=repair.proposals + 1)
        if rules:
            self.journal.commit(Change(puts=[counted], fences=[lease]))
            raise FenceError(rules)
        base_version_id = str(base.get("versionId", ""))
        proposed: dict[str, Any] = {
            "state": "waiting",
            "proposals": repair.proposals + 1,
            "proposal": wanted,
            "summary": summary[:MAX_SUMMARY],
            "diff": changes,
            "base_version_id": base_version_id,
        }
        event = events.repair_proposed(repair_id, repair.workflow_id, changes, summary[:MAX_SUMMARY], turn_id=turn_id)
        if autonomy == "suggest":
            return self._suggest(repair, event, proposed, turn_id, lease)
        trial = self.workflows.try_draft(
            repair.workflow_id, version_id=base_version_id, execution_id=_execution_id(repair)
        )
        return self._wait(repair, event, proposed, trial, turn_id, lease)

    def _autonomy(self, workflow_id: str) -> str:
        registration = Registration.get(self.journal, workflow_id)
        return policy.effective_autonomy(self.journal, registration.autonomy) if registration else "observe"

    def _suggest(self, repair: Repair, event: NewEvent, proposed: dict[str, Any], turn_id: str, lease: Lease) -> str:
        reason = 'Only suggested: the workflow\'s autonomy is "suggest".'
        case = Case.get(self.journal, repair.case_key)
        puts = [repair.put(**{**proposed, "state": "unverified", "reason": reason})]
        if case is not None:
            puts.append(case.put(**policy.closing("unverified", now_s=datetime.now(UTC).timestamp())))
        change = Change(
            session_id=repair.session_id,
            events=[event, events.repair_unverified(repair.repair_id, reason, turn_id=turn_id)],
            puts=puts,
            fences=[lease],
        )
        self.journal.commit(change)
        return f"Shown to the person as a suggestion; nothing was written.\n{describe(proposed['diff'])}"

    def _wait(
        self, repair: Repair, event: NewEvent, proposed: dict[str, Any], trial: Trial, turn_id: str, lease: Lease
    ) -> str:
        expires_at = datetime.now(UTC) + timedelta(seconds=policy.APPROVAL_S)
        reason = f"It could not be tried ({trial.reason}); a person decides."
        change = Change(
            session_id=repair.session_id,
            events=[
                event,
                events.repair_unverified(repair.repair_id, trial.reason, turn_id=turn_id),
                events.repair_waiting(repair.repair_id, reason, expires_at, turn_id=turn_id),
            ],
            puts=[repair.put(**{**proposed, "reason": trial.reason, "expires_at_s": expires_at.timestamp()})],
            fences=[lease],
        )
        self.journal.commit(change)
        return f"Not verified: {trial.reason}. The person was asked to approve it.\n{describe(proposed['diff'])}"


_WRITABLE = ("name", "nodes", "connections", "settings")


def is_partial(workflow: Mapping[str, Any]) -> bool:
    """Whether only the failing node of this workflow is known, from a callback."""
    return bool((workflow.get("meta") or {}).get("partial"))


def _execution_id(repair: Repair) -> str | None:
    return (repair.report.get("execution") or {}).get("id")
