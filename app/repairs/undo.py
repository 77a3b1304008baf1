"""An undo: the workflow as it was in a snapshot, written and published, once it was decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.errors import ConflictError, WorkflowNotFoundError
from app.journal import Change, Journal, Lease, events
from app.journal.records import Case, Repair, Rollback, Snapshot
from app.n8n import Workflow, Workflows
from app.n8n.errors import N8nConflictError, N8nRefusedError
from app.n8n.secret_boundary import SecretLostError
from app.n8n.workflows import canonical_hash, editable
from app.repairs import policy, snapshots
from app.repairs.endings import Endings
from app.repairs.states import moved
from app.repairs.writes import BRIDGE, activate, version_with
from app.telemetry.redaction import redact_text

_EDITED = "It is not undone: somebody has edited the workflow since. Look at it, and undo it yourself."
_DEFAULTS: dict[str, str | int] = {
    "timezone": "DEFAULT",
    "saveDataErrorExecution": "DEFAULT",
    "saveDataSuccessExecution": "DEFAULT",
    "saveManualExecutions": "DEFAULT",
    "saveExecutionProgress": "DEFAULT",
    "executionTimeout": -1,
}


@dataclass(frozen=True, slots=True)
class Undo:
    journal: Journal
    workflows: Workflows
    endings: Endings

    def restore(self, workflow_id: str, lease: Lease) -> None:
        """Go on with the undo that was decided for this workflow; safe to call again, by whoever holds its ``lease``.

        :raises ConflictError: somebody has saved the workflow in this very moment; it is left as it is.
        :raises N8nError: n8n cannot do it now; it stays to be done.
        """
        rollback = Rollback.get(self.journal, workflow_id)
        if rollback is None:
            return
        snapshot = Snapshot.get(self.journal, rollback.snapshot_id)
        if snapshot is None:
            self._drop(rollback, "error", "The undo failed: its snapshot is not kept any more.", lease)
            return
        if rollback.by == BRIDGE and policy.autonomy_of(self.journal, workflow_id) in ("observe", "suggest"):
            self._drop(rollback, "warning", "The repair is not undone: its autonomy was lowered meanwhile.", lease)
            return
        try:
            self._write_snapshot(rollback, snapshot, lease)
        except (N8nRefusedError, N8nConflictError, WorkflowNotFoundError, SecretLostError) as exc:
            self._drop(rollback, "error", f"The undo failed: {redact_text(exc.detail)}", lease)
            raise

    def _drop(self, rollback: Rollback, level: Literal["warning", "error"], text: str, lease: Lease) -> None:
        """It will never be done: an intent that stayed would be in the way of every other undo."""
        told = events.notice(level, text)
        change = Change(session_id=rollback.session_id, events=[told], deletes=[rollback.delete()], fences=[lease])
        self.endings.tell(change)

    def _write_snapshot(self, rollback: Rollback, snapshot: Snapshot, lease: Lease) -> None:
        workflow_id = rollback.workflow_id
        current = self.workflows.get(workflow_id)
        is_there = canonical_hash(current) == snapshot.hash
        if rollback.only_version_id not in ("", current.get("versionId")) and not is_there:
            repair = self.published_over(snapshot)
            if repair is None or self.is_edited(repair, current):
                self._drop(rollback, "warning", _EDITED, lease)
                return
        if not is_there:
            name = f"rollback:{current.get('versionId')}"
            snapshots.store(
                self.journal, current, cause="rollback", for_write=name, fences=[lease], keep=snapshot.snapshot_id
            )
            base, body = str(current.get("versionId", "")), editable(snapshot.workflow)
            if self.workflows.connected:
                # n8n merges settings: one that came since goes only by its default, which n8n does not keep.
                come = (current.get("settings") or {}).keys() & _DEFAULTS.keys() - body["settings"].keys()
                body["settings"] = {**body["settings"], **{key: _DEFAULTS[key] for key in come}}
            try:
                written = self.workflows.put_draft(
                    workflow_id, body, base_version_id=base, fences=[lease], instead=body
                )
            except SecretLostError:
                raise
            except ConflictError:
                self._drop(rollback, "warning", _EDITED, lease)
                raise
            current = {**current, "versionId": written["versionId"]}
        if not is_there or self.workflows.has_foreign_draft(workflow_id):
            # Else a lost worker has published it, and a trial's draft that was put back has another version of it.
            activate(self.workflows, current, str(current.get("versionId", "")), lease)

        def rolled_back() -> Change:
            puts = []
            repair = self.published_over(snapshot)
            if repair is not None:
                puts.append(moved(repair, "rolled_back"))
                case = Case.get(self.journal, repair.case_key)
                if case is not None and case.state == "closed":
                    puts += self.endings.closing(repair, "rolled_back")
            event = events.rolled_back(workflow_id, snapshot.snapshot_id, by=rollback.by)
            gone = [rollback.delete()]
            return Change(session_id=rollback.session_id, events=[event], puts=puts, deletes=gone, fences=[lease])

        self.endings.insist(rolled_back)

    def published_over(self, snapshot: Snapshot) -> Repair | None:
        """The published repair that the snapshot was taken for."""
        found = Repair.find(self.journal, f"workflow:{snapshot.workflow_id}")
        return next((r for r in found if r.state == "published" and r.snapshot_id == snapshot.snapshot_id), None)

    def is_edited(self, repair: Repair, current: Workflow) -> bool:
        """Whether somebody has changed the workflow after this repair was published.

        :param current: as it is. A trial that was put back since has left another version of the same.
        """
        if current.get("versionId") == repair.published_version_id:
            return False
        return version_with(self.workflows, repair) is None
