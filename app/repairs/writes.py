"""Single steps on a workflow that a repair and an undo have in common; each recognises that it was done."""

from __future__ import annotations

from app.errors import ConflictError
from app.journal import Lease
from app.journal.records import Repair
from app.n8n import Workflow, Workflows

BRIDGE = "bridge"
"""By whom something was decided that no person has."""


def activate(workflows: Workflows, workflow: Workflow, version_id: str, lease: Lease) -> None:
    """Make a version the one that runs, where the workflow runs at all: a repair switches nothing on."""
    if workflow.get("active"):
        workflows.publish(str(workflow["id"]), version_id=version_id, fences=[lease])


def version_with(workflows: Workflows, repair: Repair) -> str | None:
    """The draft's version, where the draft is what the repair proposes. Nothing is written."""
    try:
        # On the base of no version: found where it is, else refused.
        found = workflows.put_draft(repair.workflow_id, repair.proposal or {}, base_version_id="")
    except ConflictError:
        return None
    return str(found["versionId"])
