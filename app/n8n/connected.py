"""Workflows in a real n8n: writes that happen once, are read back, and leave production alone until published."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from app.errors import BaseError, ConflictError, N8nError, WorkflowNotFoundError
from app.journal import Journal, Lease
from app.n8n import Trial, Workflow
from app.n8n.client import N8nClient
from app.n8n.draft_writes import DraftWrites
from app.n8n.errors import ExecutionNotFoundError, N8nTooOldError
from app.n8n.executions import summarize
from app.n8n.fenced import Fencing
from app.n8n.intents import Intent, Intents, maybe_done
from app.n8n.saving import changed, completed, holds, marked, node_ids
from app.n8n.secret_boundary import SecretBoundary
from app.n8n.trials import LOST_WAIT_S, VERDICT_WAIT_S, Trials
from app.n8n.workflows import contents_hash, editable

PUBLISH_WAIT_S = 5.0

# Who owns it, copies of what else is there, and what runs have left in it; none of it is of use to an agent or in a
# snapshot.
_LEFT_OUT = ("shared", "activeVersion", "parentFolder", "sourceWorkflowId", "pinData", "staticData")


class DraftNotKeptError(N8nError):
    """n8n took a draft and has something else afterwards, in the version ``version_id``."""

    def __init__(self, version_id: str) -> None:
        super().__init__(
            "n8n took the workflow and saved another; look at its nodes' credentials and settings.", permanent=True
        )
        self.version_id = version_id


class ConnectedWorkflows:
    """See :class:`app.n8n.Workflows`. n8n knows no locks: who writes holds the workflow's lease, as ``fences``.

    What is handed out has placeholders for the secrets in it, and what is written gets them back: see ``secrets.py``.

    :param error_workflow_id: the workflow that reports failures to the bridge, if there is one; it is set on every
        workflow written here that names none.
    :param lease_s: for how long the leases of those who write are taken or renewed.
    :param lost_wait_s, verdict_wait_s: see :class:`app.n8n.trials.Trials`.
    """

    connected = True

    def __init__(
        self,
        client: N8nClient,
        journal: Journal,
        *,
        error_workflow_id: Callable[[], str | None] = lambda: None,
        lease_s: float = 1.0,
        lost_wait_s: float = LOST_WAIT_S,
        publish_wait_s: float = PUBLISH_WAIT_S,
        verdict_wait_s: float = VERDICT_WAIT_S,
    ) -> None:
        self._client = client
        self._fencing = Fencing(journal, lease_s)
        self._secrets = SecretBoundary(client, journal)
        self._intents = Intents(journal)
        self._writes = DraftWrites(journal, self._shown)
        self._trials = Trials(
            client,
            self._intents,
            self._fencing,
            self._secrets,
            lost_wait_s=lost_wait_s,
            verdict_wait_s=verdict_wait_s,
        )
        self._error_workflow_id = error_workflow_id
        self._lost_wait_s = lost_wait_s
        self._publish_wait_s = publish_wait_s

    # -- reading

    def get(self, workflow_id: str, *, version: Literal["draft", "active"] = "draft") -> Workflow:
        """Without pinned data and ownership. Settings and name have no versions; those of now are in both."""
        workflow = self._client.get_workflow(workflow_id)
        if version == "draft":
            return self._shown(workflow)
        active = self._active(workflow)
        if active is None:
            raise WorkflowNotFoundError("No version of this workflow is running: it is not published.")
        contents = {"nodes": active["nodes"], "connections": active["connections"]}
        return self._shown({**workflow, **contents, "versionId": workflow["activeVersionId"]})

    def seed(self, workflow_id: str, name: str, node: Mapping[str, Any]) -> Workflow:
        """n8n knows more than the callback told."""
        return self.get(workflow_id)

    def has_foreign_draft(self, workflow_id: str) -> bool:
        """Whether the saved draft of an active workflow is another than what runs: somebody is at work on it.

        A draft that was put back as it was has a new version, and is no such draft.
        """
        workflow = self._client.get_workflow(workflow_id)
        active = self._active(workflow)
        return active is not None and contents_hash(active) != contents_hash(workflow)

    # -- writing

    def create(self, body: Mapping[str, Any], *, intent: str, fences: Sequence[Lease] = ()) -> Workflow:
        """See the protocol. The nodes get ids that follow from ``intent``: by them the workflow is found again.

        :raises N8nError: where it has ``maybe_done`` the workflow may exist; the same call finds it.
        :raises ValidationError: it has a placeholder: there is nothing yet that it could stand for.
        """
        body = self._secrets.filled(body)
        wanted = {key: value for key, value in editable(body).items() if key != "staticData"}
        wanted["nodes"] = marked(wanted["nodes"], intent)
        wanted["settings"] = {"executionOrder": "v1", **wanted["settings"]}
        error_workflow_id = self._error_workflow_id()
        if error_workflow_id:
            wanted["settings"]["errorWorkflow"] = error_workflow_id
        known, begun = self._intents.begin(f"create:{intent}", fences)
        if known.result_id:
            return self.get(known.result_id)
        created = None if begun else self._find_created(wanted)
        if created is None:
            created = self._create(wanted, known, fences)
        self._intents.conclude(known, str(created["id"]))
        if error_workflow_id and created["settings"].get("errorWorkflow") != error_workflow_id:
            raise N8nError("n8n did not keep the workflow's error workflow; set it in the workflow's settings.")
        return self._shown(created)

    def put_draft(
        self,
        workflow_id: str,
        body: Mapping[str, Any],
        *,
        base_version_id: str,
        fences: Sequence[Lease] = (),
        instead: Mapping[str, Any] | None = None,
    ) -> Workflow:
        """See the protocol; returns what n8n has afterwards. Settings are merged into those it has, and its error
        workflow stays. What it runs on between runs (static data) is left alone.

        :raises WorkflowNotFoundError: n8n has no such workflow.
        :raises DraftNotKeptError: n8n took it and has something else afterwards.
        :raises SecretLostError: n8n has no value any more for one of its placeholders; nothing was written.
        """
        present = self._client.get_workflow(workflow_id)
        wanted = self._wanted(present, self._secrets.filled(body, present))
        if holds(present, wanted):
            return self._shown(present)
        if present["versionId"] != base_version_id:
            raise ConflictError("The workflow was changed meanwhile.")
        confirmed = self._fencing.confirm(fences)
        write = self._writes.begin(present, wanted, instead=instead, fences=fences)
        answer = self._client.put_workflow(workflow_id, changed(wanted, present), confirm=confirmed)
        self._writes.end(write, present, str(answer["versionId"]), fences=fences)
        saved = self._client.get_workflow(workflow_id)
        if present["activeVersionId"] != saved["activeVersionId"] == answer["versionId"]:
            raise N8nTooOldError("a draft that n8n published at once")
        if not holds(saved, wanted):
            if saved["versionId"] != answer["versionId"]:
                raise ConflictError("The workflow was changed meanwhile.")
            raise DraftNotKeptError(str(saved["versionId"]))
        return self._shown(saved)

    def publish(self, workflow_id: str, *, version_id: str, fences: Sequence[Lease] = ()) -> Workflow:
        """See the protocol; an inactive workflow becomes active. n8n says so before production has followed.

        :raises WorkflowNotFoundError: it has no such version. :raises N8nRefusedError: it cannot be activated.
        """
        workflow = self._client.get_workflow(workflow_id)
        if workflow["activeVersionId"] != version_id:
            self._client.publish(workflow_id, version_id, confirm=self._fencing.check(fences))
            deadline = time.monotonic() + self._publish_wait_s
            while (workflow := self._client.get_workflow(workflow_id))["activeVersionId"] != version_id:
                if time.monotonic() >= deadline:
                    raise N8nError("n8n took the publication and runs another version; look at the workflow in n8n.")
                time.sleep(0.1)
        return self._shown(workflow)

    def unpublish(self, workflow_id: str, *, fences: Sequence[Lease] = ()) -> Workflow:
        return self._shown(self._client.unpublish(workflow_id, confirm=self._fencing.check(fences)))

    def execution(self, workflow_id: str, execution_id: str) -> dict[str, Any]:
        run = self._client.get_execution(execution_id, include_data=True)
        if run.get("workflowId") != workflow_id:
            raise ExecutionNotFoundError("This workflow has no such run.")
        return summarize(run, hide=self._secrets.hides(run))

    def credentials(self) -> list[dict[str, str]]:
        return [{"id": c.id, "name": c.name, "type": c.type} for c in self._client.list_credentials() or []]

    # -- trying

    def try_draft(
        self, workflow_id: str, *, version_id: str, execution_id: str | None, fences: Sequence[Lease] = ()
    ) -> Trial:
        return self._trials.try_draft(workflow_id, version_id=version_id, execution_id=execution_id, fences=fences)

    def run_again(self, workflow_id: str, *, execution_id: str, number: int, fences: Sequence[Lease] = ()) -> Trial:
        return self._trials.run_again(workflow_id, execution_id=execution_id, number=number, fences=fences)

    def _shown(self, workflow: Workflow) -> Workflow:
        return self._secrets.shown({key: value for key, value in workflow.items() if key not in _LEFT_OUT})

    # -- how writes are made

    def _wanted(self, present: Workflow, body: Mapping[str, Any]) -> Workflow:
        """``body`` as it is sent: the keys that n8n takes, completed by what it has already."""
        wanted = {key: value for key, value in editable(body).items() if key != "staticData"}
        wanted["nodes"] = completed(wanted["nodes"], present)
        settings = {**(present.get("settings") or {}), **wanted["settings"]}
        kept = (present.get("settings") or {}).get("errorWorkflow") or self._error_workflow_id()
        if kept and kept != present["id"]:
            settings["errorWorkflow"] = kept
        wanted["settings"] = settings
        return wanted

    def _create(self, wanted: Workflow, known: Intent, fences: Sequence[Lease]) -> Workflow:
        confirmed = self._fencing.check(fences)
        try:
            return self._client.create_workflow(wanted, confirm=confirmed)
        except BaseError as exc:
            if not maybe_done(exc):
                self._intents.forget(known, fences)
                raise
            created = self._find_created(wanted)
            if created is None:
                raise
            return created

    def _find_created(self, wanted: Workflow) -> Workflow | None:
        """The workflow with exactly the node ids that were sent, or ``None``. A person may have renamed it since."""
        ids = node_ids(wanted)
        deadline = time.monotonic() + self._lost_wait_s
        while ids:
            for workflow in self._client.iter_workflows():
                if node_ids(workflow) & ids:
                    return self._client.get_workflow(str(workflow["id"]))
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.2)
        return None

    def _active(self, workflow: Workflow) -> Mapping[str, Any] | None:
        """What runs: ``nodes`` and ``connections``."""
        version_id = workflow["activeVersionId"]
        if not version_id:
            return None
        if version_id == workflow["versionId"]:
            return workflow
        active = workflow.get("activeVersion")
        if isinstance(active, dict) and active.get("versionId") == version_id and "connections" in active:
            return active
        return self._client.version(str(workflow["id"]), version_id)
