"""The canary in a real n8n: made and published by n8n's API, run by its webhook, judged by its runs.

It is not built in the chat: a model builds a workflow as it thinks best, perhaps one that cannot be broken like this,
and the drill would be about the model's taste. What is to be shown is how the bridge heals.
"""

from __future__ import annotations

import hashlib
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from app.drill import canary
from app.drill.bridge import DrillSession
from app.drill.patience import DrillError, Patience
from app.drill.service import Service
from app.drill.timeline import Timeline
from app.errors import WorkflowNotFoundError
from app.n8n import Workflow
from app.n8n.client import Execution, N8nClient
from app.n8n.errors import N8nConflictError
from app.n8n.workflows import find_node

PRODUCTION_S = 15.0
"""n8n runs what was published some tenths of a second later."""
RUN_S = 60.0
CALL_S = 30.0
REMOVALS = 3
FOREIGN_S = 3_600.0
"""A canary that was made elsewhere may be in use for so long."""
_ENDED = ("success", "error", "crashed", "canceled")
MARK = "self-healing-bridge drill"


class N8nCanary:
    """See :class:`app.drill.canary.Canary`.

    :param made: as :func:`create` made it.
    """

    can_prove = True

    def __init__(
        self,
        made: Workflow,
        *,
        client: N8nClient,
        webhooks_url: str,
        service: Service,
        session: DrillSession,
        timeline: Timeline,
        patience: Patience,
    ) -> None:
        self.workflow_id = str(made["id"])
        self._made, self._client, self._service, self._session = made, client, service, session
        self._timeline, self._patience = timeline, patience
        trigger = find_node(made, canary.TRIGGER) or {}
        self._url = f"{webhooks_url}/webhook/{trigger['parameters']['path']}"

    def build(self) -> None:
        client, timeline = self._client, self._timeline
        timeline.awaited = "the canary to be adopted and published"
        self._session.call("POST", "/workflows", {"workflowId": self.workflow_id, "autonomy": "auto"})
        steps = " → ".join(node["name"] for node in self._made["nodes"])
        timeline.add("built", f'"{self._made["name"]}" ({self.workflow_id}): {steps}')
        client.publish(self.workflow_id, str(client.get_workflow(self.workflow_id)["versionId"]))
        run = self._run()
        if run["status"] != "success":
            raise DrillError(self._unreached(run))
        timeline.add("published", f"its webhook answers (run {run['id']})")

    def break_down(self) -> None:
        self._timeline.awaited = "the canary to fail"
        # Once for the failure and once for the trial: only a workflow that tries again is proven.
        self._service.stumble(2)
        run = self._run()
        if run["status"] != "error":
            raise DrillError(f"Its run {run['id']} ended as {run['status']}, though the service had answered 503.")
        self._timeline.add("broke", f"the service answered 503, and the canary failed (run {run['id']})")

    def show_healed(self) -> str:
        self._timeline.awaited = "the repaired canary to run"
        self._service.stumble(0)
        published = self._client.get_workflow(self.workflow_id)["activeVersionId"]

        def live() -> Execution | None:
            run = self._run()
            return run if run.get("workflowVersionId") == published else None

        self._patience.wait(live, instead=lambda: "n8n still runs the version before the repair.", limit_s=PRODUCTION_S)
        self._service.stumble(1)
        known = len(self._service.statuses)
        run = self._run()
        answers = ", ".join(map(str, self._service.statuses[known:]))
        if run["status"] != "success":
            raise DrillError(f"Run {run['id']} ended as {run['status']}; the service had answered {answers}.")
        self._timeline.add("works again", f"the service stumbles as before ({answers}), the canary does not")
        return "Healed: the canary failed, was repaired, proven and published, and does not fail any more."

    def _run(self) -> Execution:
        """Call the webhook; gives the run as it ended."""
        former = self._newest()
        after = int(former["id"]) if former else 0
        wrong = f"Its webhook {self._url} is not there: N8N_API_URL must be where n8n's webhooks are, too."
        self._patience.wait(self._call, instead=lambda: wrong, limit_s=PRODUCTION_S)

        def ended() -> Execution | None:
            run = self._newest()
            return run if run is not None and int(run["id"]) > after else None

        found = self._patience.wait(ended, instead=lambda: "n8n keeps no run of its webhook.", limit_s=RUN_S)
        return self._client.get_execution(str(found["id"]))

    def _call(self) -> bool | None:
        """Whether the webhook took the call; ``None``: it is not there (yet)."""
        try:
            answer = urllib3.request("GET", self._url, timeout=CALL_S, retries=False)
        except HTTPError as exc:
            raise DrillError(f"n8n does not answer at {self._url}.") from exc
        return None if answer.status == 404 else True

    def _newest(self) -> Execution | None:
        """The newest run by the webhook that has ended."""
        runs = self._client.list_executions(workflow_id=self.workflow_id, limit=20).executions
        return next((run for run in runs if run.get("mode") == "webhook" and run.get("status") in _ENDED), None)

    def _unreached(self, run: Execution) -> str:
        if self._service.statuses:
            return f"Its first run {run['id']} ended as {run['status']}; look at it in n8n."
        return (
            f"n8n does not reach the drill's service at {self._service.url} (run {run['id']}): name the address under "
            "which n8n reaches this machine with --host."
        )


def create(client: N8nClient, service: Service, error_workflow_id: str) -> Workflow:
    """The canary, not yet published; what a lost answer leaves behind is found by :func:`remove_leftovers`."""
    made = canary.workflow(canary.new_path(), service.url, note=_note())
    made["settings"]["errorWorkflow"] = error_workflow_id
    return client.create_workflow(made)


def remove(client: N8nClient, workflow_id: str) -> None:
    """Nothing happens where it is gone."""
    for left in reversed(range(REMOVALS)):
        try:
            client.unpublish(workflow_id)
            client.delete_workflow(workflow_id)
        except WorkflowNotFoundError:
            return
        except N8nConflictError:
            # A repair that was on its way when its session was ended has published it once more.
            if not left:
                raise
        else:
            return


def remove_leftovers(client: N8nClient) -> list[str]:
    """Remove the canaries of drills that were killed; gives their ids. Only one drill runs at this place."""
    left = [str(workflow["id"]) for workflow in client.iter_workflows() if _is_leftover(workflow)]
    for workflow_id in left:
        remove(client, workflow_id)
    return left


def _is_leftover(workflow: Workflow) -> bool:
    notes = " ".join(str(node.get("notes", "")) for node in workflow["nodes"] if isinstance(node, dict))
    if not str(workflow.get("name")).startswith(canary.NAME) or MARK not in notes or workflow.get("isArchived"):
        return False
    if _note() in notes:
        return True
    try:
        made_at = datetime.fromisoformat(str(workflow.get("createdAt")))
    except ValueError:
        return False
    return made_at.astimezone(UTC) < datetime.now(UTC) - timedelta(seconds=FOREIGN_S)


def _note() -> str:
    """Says what it is, and by which place it was made."""
    place = hashlib.sha256(f"{socket.gethostname()}:{Path(__file__).parent}".encode()).hexdigest()[:12]
    return f"{MARK}, made at {place}; it may be deleted."
