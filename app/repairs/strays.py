"""Drafts that came to n8n when their writer was not there any more: recognised, and taken back."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.errors import ConflictError, WorkflowNotFoundError
from app.journal import Change, Journal, Lease
from app.journal.records import DraftWrite, Repair, RepairState, Rollback, Snapshot
from app.n8n import Workflow, Workflows
from app.n8n.errors import N8nConflictError, N8nRefusedError
from app.n8n.workflows import canonical_hash, contents_hash, editable

LATE_S = 300.0
"""So long a draft is looked for after it was sent: Node's own limit for a request; n8n has none for its work."""
_UNFINISHED: tuple[RepairState, ...] = ("trying", "publishing", "restoring")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Strays:
    journal: Journal
    workflows: Workflows

    def look(self, write: DraftWrite, lease: Lease) -> None:
        """See whether a write that its worker has not seen through has come, and undo it; by whoever holds the
        workflow's ``lease``, so that worker does not write any more.

        :raises N8nError: n8n cannot say now; it is looked for again.
        """
        noted = DraftWrite.get(self.journal, write.key)
        if noted is None:
            return  # it was read before the lease was had: its writer has seen it through since
        write = noted
        repairs = Repair.find(self.journal, f"workflow:{write.workflow_id}")
        if any(repair.state in _UNFINISHED for repair in repairs) or Rollback.get(self.journal, write.workflow_id):
            # Whoever goes on with that finds what has come, and may want it.
            return
        with suppress(ConflictError, WorkflowNotFoundError, N8nConflictError, N8nRefusedError):
            current = self.workflows.get(write.workflow_id)
            wanted = {current.get("activeVersionId"), *(repair.published_version_id for repair in repairs)}
            if _is_of(write, current) and current["versionId"] not in wanted:
                self._take_back(write, current, lease)
                current = self.workflows.get(write.workflow_id)
            # Also where a worker was lost between the two.
            self._keep_base([repair for repair in repairs if repair.state == "waiting"], current, lease)
        # A chat's was written beyond its lease, so it has come already. Taking it back may have written the note anew.
        last = DraftWrite.get(self.journal, write.key)
        if last is not None and (not last.hash or time.time() - last.sent_at_s > LATE_S):
            self.journal.commit(Change(deletes=[last.delete()], fences=[lease]))

    def _take_back(self, write: DraftWrite, current: Workflow, lease: Lease) -> None:
        workflow_id, body = write.workflow_id, write.instead
        if write.hash and current.get("activeVersionId"):
            # Whatever was published since it was sent: with no repair under way the draft is to be what runs.
            running = self.workflows.get(workflow_id, version="active")
            body = {**editable(current), "nodes": running["nodes"], "connections": running["connections"]}
        base = str(current["versionId"])
        written = self.workflows.put_draft(workflow_id, body, base_version_id=base, fences=[lease], instead=body)
        if written["versionId"] != base:  # else it is like that already
            log.warning("a draft of a worker that is gone was taken back", extra={"workflowId": workflow_id})

    def _keep_base(self, waiting: Sequence[Repair], current: Workflow, lease: Lease) -> None:
        """What a person may approve was made on contents that are there again, under another version."""
        version_id = str(current["versionId"])
        for repair in waiting:
            snapshot = Snapshot.get(self.journal, repair.snapshot_id) if repair.snapshot_id else None
            same = snapshot is not None and snapshot.hash == canonical_hash(current)
            if same and repair.base_version_id != version_id:
                self.journal.commit(Change(puts=[repair.put(base_version_id=version_id)], fences=[lease]))


def _is_of(write: DraftWrite, current: Workflow) -> bool:
    """Whether it is this write that n8n has: by its version, else by what is in it."""
    return write.version_id == current["versionId"] or write.hash == contents_hash(current)
