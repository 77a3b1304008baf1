"""The canary where no n8n is connected: a draft in the bridge, and a callback that the drill posts in n8n's place."""

from __future__ import annotations

import uuid
from typing import Any

from app.drill import canary
from app.drill.bridge import Bridge, DrillSession, Event
from app.drill.patience import DrillError
from app.drill.timeline import Timeline
from app.n8n import Workflow
from app.settings import Settings

SERVICE_URL = "http://service.example/price"
"""Never asked: nothing runs here."""
REQUEST = f"Build a webhook that gets {SERVICE_URL} and answers with it"
HTTP_REQUEST = "n8n-nodes-base.httpRequest"


class DraftCanary:
    """See :class:`app.drill.canary.Canary`.

    The offline agent builds it in the chat, as a person would have it built, for the same words always give the same
    workflow. A model may build what does not break (retries, say): where one answers, the draft is what the callback
    tells of it.
    """

    can_prove = False

    def __init__(self, settings: Settings, bridge: Bridge, session: DrillSession, timeline: Timeline) -> None:
        self._settings, self._bridge, self._session, self._timeline = settings, bridge, session, timeline
        self.workflow_id = ""
        self._workflow: Workflow = canary.workflow(canary.new_path(), SERVICE_URL)

    def build(self) -> None:
        if self._settings.agent_name == "offline":
            self._build_in_chat()
            return
        self._timeline.awaited = "the canary to be adopted"
        self.workflow_id = uuid.uuid4().hex[:16]
        name = self._workflow["name"]
        body = {"workflowId": self.workflow_id, "name": name, "autonomy": "auto"}
        self._session.call("POST", "/workflows", body)
        self._timeline.add("built", f'"{name}" ({self.workflow_id}), registered by its id')

    def break_down(self) -> None:
        self._timeline.awaited = "the callback to be taken"
        node = _asking(self._workflow)
        run_id = f"drill-{uuid.uuid4().hex[:8]}"
        secret = self._settings.n8n_callback_secret
        body = _callback(self.workflow_id, self._workflow["name"], run_id, node)
        self._bridge.call("POST", "/callbacks/n8n/error", body, token=secret[0] if secret else "")
        self._timeline.add("broke", f'"{node["name"]}" got a 503: the drill calls back in n8n\'s place (run {run_id})')

    def show_healed(self) -> str:
        self._timeline.awaited = "the repair in the draft"
        draft = self._session.call("GET", f"/workflows/{self.workflow_id}")
        before, after = _asking(self._workflow), _asking(draft)
        if after == before:
            raise DrillError("The repair was published, and the draft is as it was. This is a bug of the bridge.")
        self._timeline.add("healed", f'the draft has the repair of "{after["name"]}", ready to be imported into n8n')
        return (
            "Unverified: the failure was diagnosed, a repair proposed, approved by the drill and published as a draft. "
            "Nothing can prove it where no n8n is connected (N8N_API_URL, N8N_API_KEY)."
        )

    def _build_in_chat(self) -> None:
        self._timeline.awaited = "the agent to build the canary"
        self._session.call("POST", "/messages", {"text": REQUEST})
        self._timeline.add("asked", f'in the chat: "{REQUEST}"')
        hint = "Ask the same in the chat to see what the agent says."

        def built(event: Event) -> bool:
            return event["type"] in ("workflow_registered", "turn_finished")

        event = self._session.next_event(built, hint=hint)
        if event["type"] != "workflow_registered":
            raise DrillError(
                f"The agent's turn ended ({event['data'].get('outcome')}) and no workflow is there. {hint}"
            )
        self.workflow_id = str(event["data"]["workflowId"])
        self._session.next_event(lambda event: event["type"] == "turn_finished", hint=hint)
        self._workflow = self._session.call("GET", f"/workflows/{self.workflow_id}")
        self._session.command("set_autonomy", workflowId=self.workflow_id, autonomy="auto")
        steps = " → ".join(node["name"] for node in self._workflow["nodes"])
        self._timeline.add("built", f'"{self._workflow["name"]}" ({self.workflow_id}): {steps}')


def _asking(workflow: Workflow) -> dict[str, Any]:
    node = next((node for node in workflow["nodes"] if node["type"] == HTTP_REQUEST), None)
    if node is None:
        raise DrillError("The canary has no HTTP Request, so it cannot be broken.")
    return dict(node)


def _callback(workflow_id: str, name: str, run_id: str, node: dict[str, Any]) -> dict[str, Any]:
    """What n8n 2.41 reports of an HTTP Request that got a 503."""
    message = "Service unavailable - try again later or consider setting this node to retry automatically"
    error = {
        "name": "NodeApiError",
        "message": message,
        "description": "The drill lets this call fail.",
        "httpCode": "503",
        "node": node,
    }
    execution = {
        "id": run_id,
        "url": f"http://n8n.example/workflow/{workflow_id}/executions/{run_id}",
        "mode": "webhook",
        "lastNodeExecuted": node["name"],
        "error": error,
    }
    return {"execution": execution, "workflow": {"id": workflow_id, "name": name}}
