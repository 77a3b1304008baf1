"""The canary: a workflow that asks a service once and gives up at its first hiccup. Any agent can mend that."""

from __future__ import annotations

import uuid
from typing import Any, Protocol

from app.n8n import Workflow

NAME = "Bridge drill"
TRIGGER, ASKING = "Call", "Ask the service"


class Canary(Protocol):
    """One canary in its home. The steps are done in this order; each raises where the story does not go on."""

    can_prove: bool
    """Whether a repair can be tried out here before it is published."""
    workflow_id: str

    def build(self) -> None:
        """Have the workflow there, owned by the drill's session and with the autonomy ``auto``."""

    def break_down(self) -> None:
        """Let it fail once."""

    def show_healed(self) -> str:
        """See that the repair is there and works; gives the verdict."""


def workflow(path: str, service_url: str, *, note: str = "") -> Workflow:
    """Webhook → HTTP request, without retries. Every run is kept, for the drill reads how it ended."""
    webhook = {"httpMethod": "GET", "path": path, "responseMode": "lastNode", "options": {}}
    return {
        "name": f"{NAME} {path[-6:]}",
        "nodes": [
            _node(TRIGGER, "webhook", 2, 0, webhook) | {"webhookId": str(uuid.uuid4()), "notes": note},
            _node(ASKING, "httpRequest", 4.2, 220, {"method": "GET", "url": service_url, "options": {}}),
        ],
        "connections": {TRIGGER: {"main": [[{"node": ASKING, "type": "main", "index": 0}]]}},
        "settings": {
            "executionOrder": "v1",
            "saveDataErrorExecution": "all",
            "saveDataSuccessExecution": "all",
        },
    }


def new_path() -> str:
    """A webhook's path that nobody guesses."""
    return f"bridge-drill-{uuid.uuid4().hex}"


def _node(name: str, kind: str, version: float, x: int, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "name": name,
        "type": f"n8n-nodes-base.{kind}",
        "typeVersion": version,
        "position": [x, 0],
        "parameters": parameters,
    }
