"""Workflows as they were before a write: taken first, kept 20 deep, restored exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from app.journal import Change, Delete, Journal, Lease, Put
from app.journal.records import Snapshot
from app.n8n import Workflow
from app.n8n.workflows import canonical_hash

KEEP = 20


def take(
    journal: Journal,
    workflow: Workflow,
    *,
    cause: Literal["repair", "chat", "rollback"],
    for_write: str,
    keep: str = "",
) -> tuple[str, list[Put], list[Delete]]:
    """The snapshot to store before ``workflow`` is overwritten, and the old ones that it pushes out.

    :param for_write: names the write that comes next; the same write takes the same snapshot, once.
    :param keep: id of one that is not pushed out: it is about to be restored.
    :returns: its id, and what to commit.
    """
    workflow_id = str(workflow["id"])
    snapshot_id = "s" + hashlib.sha256(f"{workflow_id}\0{for_write}".encode()).hexdigest()[:20]
    if Snapshot.get(journal, snapshot_id) is not None:
        return snapshot_id, [], []
    snapshot = Snapshot(
        snapshot_id=snapshot_id,
        workflow_id=workflow_id,
        version_id=str(workflow.get("versionId", "")),
        hash=canonical_hash(workflow),
        cause=cause,
        workflow=workflow,
    )
    older = Snapshot.find(journal, f"workflow:{workflow_id}", limit=KEEP + 10)[KEEP - 1 :]
    return snapshot_id, [snapshot.put()], [old.delete() for old in older if old.snapshot_id != keep]


def store(
    journal: Journal,
    workflow: Workflow,
    *,
    cause: Literal["repair", "rollback"],
    for_write: str,
    fences: Sequence[Lease],
    keep: str = "",
) -> str:
    """:func:`take` it, and commit; returns the snapshot's id."""
    snapshot_id, puts, deletes = take(journal, workflow, cause=cause, for_write=for_write, keep=keep)
    if puts:
        journal.commit(Change(puts=puts, deletes=deletes, fences=fences))
    return snapshot_id


def newest_to_restore(journal: Journal, workflow_id: str) -> Snapshot | None:
    """What "undo" means: the state before the newest change that was not itself an undo."""
    for snapshot in Snapshot.find(journal, f"workflow:{workflow_id}", limit=KEEP):
        if snapshot.cause != "rollback":
            return snapshot
    return None
