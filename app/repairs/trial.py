"""From a proposal to its verdict: fence, diff, trial, and what the workflow's autonomy makes of it.

The verdict is the answer of the agent's ``propose_repair``. Each step that lasts is journalled under the turn's lease
before the next one begins, so a worker that was overtaken changes nothing, and whoever takes over goes on from there:
``trying`` in a repair's state is the intent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NoReturn

from app.errors import ConflictError, ValidationError, WorkflowNotFoundError
from app.journal import Change, Journal, Lease, NewEvent, events
from app.journal.records import Case, Repair
from app.n8n import Trial, Workflow, Workflows
from app.n8n.connected import DraftNotKeptError
from app.n8n.diff import describe, diff
from app.n8n.errors import N8nRefusedError
from app.n8n.intents import has_unnamed_trial, is_trial_run
from app.n8n.javascript import new_code_problems
from app.n8n.workflows import editable, find_node, validate
from app.repairs import fence, policy, proof, snapshots
from app.repairs.asking import ask
from app.repairs.publication import Publication
from app.repairs.states import moved

MAX_PROPOSALS = 3
MAX_SUMMARY = 1_000
_WRITABLE = ("name", "nodes", "connections", "settings")


class FenceError(ConflictError):
    """The proposal goes beyond what a repair may change. ``rules``: one sentence each."""

    code, title = "fence", "A repair may not change that"

    def __init__(self, rules: list[str], *, advice: str = "") -> None:
        super().__init__(" ".join([*rules, "Propose less, or leave it to the person.", advice]).strip())
        self.rules = rules


@dataclass(frozen=True, slots=True)
class Proposer:
    """Judges proposals for one journal and one home of workflows."""

    journal: Journal
    workflows: Workflows
    publication: Publication

    def propose(self, repair_id: str, proposal: Mapping[str, Any], summary: str, *, turn_id: str, lease: Lease) -> str:
        """Judge one proposal; returns the verdict as text for the agent.

        :raises ConflictError: the repair is not running any more, is not allowed, or its proposals are used up.
        :raises FenceError: it changes what a repair may not. :raises ValidationError: n8n would refuse it.
        :raises LeaseLostError: another worker has the turn. :raises N8nError: n8n cannot be asked now.
        """
        repair = Repair.get(self.journal, repair_id)
        if repair is not None and repair.state == "trying":
            # n8n was away in the middle of the trial: first the verdict on what was proposed.
            return self.go_on(repair_id, turn_id=turn_id, lease=lease)
        if repair is None or repair.state != "running":
            raise ConflictError("This repair is not open for proposals any more.")
        if repair.proposals >= MAX_PROPOSALS:
            raise ConflictError(f"All {MAX_PROPOSALS} proposals of this attempt are used up. Stop here.")
        autonomy = policy.autonomy_of(self.journal, repair.workflow_id)
        if autonomy == "observe":
            raise ConflictError("This workflow is only observed now; nothing may be proposed for it.")
        base = self.workflows.get(repair.workflow_id)
        given = {key: value for key, value in proposal.items() if key in _WRITABLE}
        wanted = {**editable(base), **given}
        if isinstance(wanted["settings"], dict):  # else the validation says so
            # n8n merges settings: what a proposal leaves out stays, and is not shown as gone.
            wanted["settings"] = {**(base.get("settings") or {}), **wanted["settings"]}
        problems = validate(wanted, needs_trigger=not is_partial(base)) or new_code_problems(base, wanted)
        if problems:
            errors = [{"path": problem.path, "message": problem.message} for problem in problems]
            lines = "; ".join(f"{e['path'] or 'workflow'}: {e['message']}" for e in errors[:5])
            raise ValidationError(f"n8n would refuse this workflow: {lines}", errors=errors)
        changes = [dict(entry) for entry in diff(base, wanted)]
        if not changes and proposal.get("id", base["id"]) == base["id"]:
            raise ValidationError("The proposal changes nothing.")
        meant = {**wanted, "id": proposal.get("id", base["id"])}
        made = {
            "proposal": wanted,
            "summary": summary[:MAX_SUMMARY],
            "diff": changes,
            "base_version_id": str(base.get("versionId", "")),
        }
        # A refused proposal is counted too, or an agent could try for ever.
        proposed: dict[str, Any] = {"proposals": repair.proposals + 1}
        if breaches := fence.breaches(base, meant):
            self._refuse(repair, breaches, made, proposed, lease)
        proposed |= {**made, "trial_version_id": ""}
        event = events.repair_proposed(repair_id, repair.workflow_id, changes, summary[:MAX_SUMMARY], turn_id=turn_id)
        if autonomy == "suggest":
            return self._suggest(repair, [event], proposed, 'the workflow\'s autonomy is "suggest"', turn_id, lease)
        if self.workflows.has_foreign_draft(repair.workflow_id):
            return self._suggest(repair, [event], proposed, "somebody has an unpublished draft in n8n", turn_id, lease)
        untried = "no n8n connected" if not self.workflows.connected else _cannot_try(repair, base, wanted, changes)
        if untried:
            return self._wait(repair, [event], proposed, Trial("unverified", untried), turn_id, lease)
        change = Change(
            session_id=repair.session_id,
            events=[event],
            puts=[moved(repair, "trying", **proposed)],
            fences=[lease],
        )
        self.journal.commit(change)
        return self.go_on(repair_id, turn_id=turn_id, lease=lease)

    def _refuse(
        self,
        repair: Repair,
        breaches: Sequence[fence.Breach],
        made: Mapping[str, Any],
        proposed: dict[str, Any],
        lease: Lease,
    ) -> NoReturn:
        """What a person may allow is kept, to be asked for should the agent find nothing better."""
        rules, advice = [breach.rule for breach in breaches], ""
        if self.workflows.has_foreign_draft(repair.workflow_id):
            # A person who allowed it would publish that draft with it, and has not been shown it.
            advice = "Somebody has an unpublished draft in n8n, so nobody is asked for it."
        elif not any(breach.never for breach in breaches):
            proposed["beyond"] = {**made, "asked": rules}
            advice = "If you end without a better proposal, the person is asked for this one."
        self.journal.commit(Change(puts=[repair.put(**proposed)], fences=[lease]))
        raise FenceError(rules, advice=advice)

    def go_on(self, repair_id: str, *, turn_id: str, lease: Lease) -> str:
        """Try the proposal of a repair that is ``trying`` and act on the verdict; safe to call again after a crash.

        :returns: the verdict for the agent. The repair is ``running`` again where the trial failed.
        """
        repair = _fresh(self.journal, repair_id)
        with self.publication.leases.on_workflow(repair.workflow_id) as held:
            fences = [lease, held]
            # Asked anew before each write: the brake is for what runs, too.
            if self._is_stopped(repair):
                return self._withdraw(repair, turn_id, fences)
            try:
                repair = self._draft(repair, fences)
            except (ConflictError, ValidationError, WorkflowNotFoundError) as exc:
                repair = _fresh(self.journal, repair_id)
                return self._suggest(repair, [], {}, f"it could not be saved as a draft: {exc.detail}", turn_id, lease)
            except (N8nRefusedError, DraftNotKeptError) as exc:
                repair = _fresh(self.journal, repair_id)
                if isinstance(exc, DraftNotKeptError):
                    self.publication.put_back(replace(repair, trial_version_id=exc.version_id), fences)
                return self._failed(repair, {}, Trial("failed", exc.detail), turn_id, fences)
            if self._is_stopped(repair):
                return self._withdraw(repair, turn_id, fences)
            trial = self._try(repair, fences)
            if self._is_stopped(repair):
                return self._withdraw(repair, turn_id, fences)
            if trial.outcome == "verified" and policy.autonomy_of(self.journal, repair.workflow_id) == "auto":
                return self._publish(repair, trial, turn_id, fences, held)
            base_version_id = self.publication.put_back(repair, fences)
            changes = {"base_version_id": base_version_id, "trial_run_id": trial.execution_id or ""}
            if trial.outcome == "failed":
                return self._failed(repair, changes, trial, turn_id, fences)
            return self._wait(repair, [], changes, trial, turn_id, lease)

    def _is_stopped(self, repair: Repair) -> bool:
        return policy.autonomy_of(self.journal, repair.workflow_id) in ("observe", "suggest")

    def _withdraw(self, repair: Repair, turn_id: str, fences: list[Lease]) -> str:
        """End a trial that is not allowed any more."""
        base_version_id = self.publication.put_back(repair, fences)
        changes = {"base_version_id": base_version_id, "trial_version_id": ""}
        return self._suggest(repair, [], changes, "its autonomy was lowered meanwhile", turn_id, fences[0])

    # -- the trial

    def _draft(self, repair: Repair, fences: list[Lease]) -> Repair:
        """Snapshot, then the proposal as a draft; what was done before is recognised."""
        if repair.trial_version_id or repair.proposal is None:
            return repair
        current = self.workflows.get(repair.workflow_id)
        name = f"{repair.repair_id}:{repair.proposals}"
        snapshot_id = snapshots.store(self.journal, current, cause="repair", for_write=name, fences=fences)
        if repair.snapshot_id != snapshot_id:
            self.journal.commit(Change(puts=[repair.put(snapshot_id=snapshot_id)], fences=fences))
            repair = _fresh(self.journal, repair.repair_id)
        draft = self.workflows.put_draft(
            repair.workflow_id,
            repair.proposal or {},
            base_version_id=repair.base_version_id,
            fences=fences,
            instead=editable(current),
        )
        self.journal.commit(Change(puts=[repair.put(trial_version_id=str(draft["versionId"]))], fences=fences))
        return _fresh(self.journal, repair.repair_id)

    def _try(self, repair: Repair, fences: list[Lease]) -> Trial:
        return self.workflows.try_draft(
            repair.workflow_id,
            version_id=repair.trial_version_id,
            execution_id=(repair.report.get("execution") or {}).get("id"),
            fences=fences,
        )

    # -- what follows from it

    def _publish(self, repair: Repair, trial: Trial, turn_id: str, fences: list[Lease], held: Lease) -> str:
        execution_id = trial.execution_id or ""
        change = Change(
            session_id=repair.session_id,
            events=[events.repair_verified(repair.repair_id, execution_id, turn_id=turn_id)],
            puts=[moved(repair, "publishing", decided_by="bridge", trial_run_id=execution_id)],
            fences=fences,
        )
        self.journal.commit(change)
        self.publication.publish(repair.repair_id, held)
        ended = _fresh(self.journal, repair.repair_id)
        if ended.state != "published":
            return f"Verified by the run {execution_id}, and not published: {ended.reason} You are done."
        return f"Verified by the run {execution_id} and published. The repair is done."

    def _failed(self, repair: Repair, changes: dict[str, Any], trial: Trial, turn_id: str, fences: list[Lease]) -> str:
        event = events.repair_unverified(repair.repair_id, f"The trial failed: {trial.reason}", turn_id=turn_id)
        beyond = repair.beyond
        if beyond is not None and beyond["base_version_id"] == repair.base_version_id:
            # The draft that was put back is what that proposal was made on, under another version.
            beyond = {**beyond, "base_version_id": changes.get("base_version_id", repair.base_version_id)}
        more = {"trial_version_id": "", "reason": trial.reason, "beyond": beyond}
        put = moved(repair, "running", **{**changes, **more})
        self.journal.commit(Change(session_id=repair.session_id, events=[event], puts=[put], fences=fences))
        left = MAX_PROPOSALS - repair.proposals
        return (
            f"The trial failed, and the workflow is as it was. Its run ended with: {trial.reason}\n"
            f"You may propose {left} more time(s)."
        )

    def _suggest(
        self, repair: Repair, told: list[NewEvent], changes: dict[str, Any], why: str, turn_id: str, lease: Lease
    ) -> str:
        reason = f"Only suggested: {why}."
        case = Case.get(self.journal, repair.case_key)
        puts = [moved(repair, "unverified", **{**changes, "reason": reason})]
        if case is not None:
            puts.append(case.put(**policy.closing("unverified", now_s=datetime.now(UTC).timestamp())))
        change = Change(
            session_id=repair.session_id,
            events=[*told, events.repair_unverified(repair.repair_id, reason, turn_id=turn_id)],
            puts=puts,
            fences=[lease],
        )
        self.journal.commit(change)
        entries: Any = changes.get("diff", repair.diff)
        return f"{reason} It is shown to the person; nothing was written.\n{describe(entries)}"

    def _wait(
        self,
        repair: Repair,
        told: list[NewEvent],
        changes: dict[str, Any],
        trial: Trial,
        turn_id: str,
        lease: Lease,
    ) -> str:
        verified = trial.outcome == "verified"
        reason = (
            "It was verified; the workflow's autonomy asks a person to publish it."
            if verified
            else f"It could not be tried ({trial.reason}); a person decides."
        )
        judged = (
            events.repair_verified(repair.repair_id, trial.execution_id or "", turn_id=turn_id)
            if verified
            else events.repair_unverified(repair.repair_id, trial.reason, turn_id=turn_id)
        )
        appended, put = ask(repair, judged, reason, turn_id=turn_id, told=told, changes=changes)
        self.journal.commit(Change(session_id=repair.session_id, events=appended, puts=[put], fences=[lease]))
        entries: Any = changes.get("diff", repair.diff)
        verdict = "Verified" if verified else f"Not verified: {trial.reason}"
        return f"{verdict}. The person was asked to approve it; you are done.\n{describe(entries)}"


def _cannot_try(repair: Repair, base: Workflow, wanted: Workflow, changes: Sequence[Mapping[str, Any]]) -> str:
    """Why running the failed run again would prove nothing, or may not be done; empty: it may be tried."""
    node_name = repair.report.get("nodeName")
    return (
        proof.cannot_prove(changes, wanted, node_name)
        or proof.may_not_repeat(find_node(base, name=node_name))
        or proof.may_not_try(base, wanted, node_name)
    )


def is_called_by_trial(journal: Journal, parent_run_id: str, workflow_id: str) -> bool:
    """Whether the run ``parent_run_id``, which has called ``workflow_id`` as a sub-workflow, is a trial of ours.

    One whose run n8n has not named yet is told by its workflow, which names the one that it calls.
    """
    if is_trial_run(journal, parent_run_id):
        return True
    for repair in Repair.find(journal, "trying"):
        failed_run_id = str((repair.report.get("execution") or {}).get("id") or "")
        calls = json.dumps(workflow_id) in json.dumps(repair.proposal)
        if calls and has_unnamed_trial(journal, failed_run_id):
            return True
    return False


def is_partial(workflow: Mapping[str, Any]) -> bool:
    """Whether only the failing node of this workflow is known, from a callback."""
    return bool((workflow.get("meta") or {}).get("partial"))


def _fresh(journal: Journal, repair_id: str) -> Repair:
    repair = Repair.get(journal, repair_id)
    if repair is None:
        raise ConflictError("This repair is gone.")
    return repair
