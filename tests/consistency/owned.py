"""Workflows in n8n that fail until they are repaired, and what n8n tells of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.heal.rig import HealN8n, to, workflow
from tests.support.client import failure

MISSING = {"name": "NodeApiError", "message": "The resource could not be found", "httpCode": "404"}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Owned:
    """Its one HTTP node asks at ``broken``; the agent proposes by the file in ``folder``."""

    n8n: HealN8n
    workflow_id: str
    path: str

    @classmethod
    def make(cls, n8n: HealN8n, folder: Path, path: str, proposals: Sequence[str]) -> Owned:
        broken = f"http://api.test/{path}/broken"
        owned = cls(n8n, n8n.add(workflow(path, url=broken)), path)
        for name in ("broken", "bad"):
            n8n.http[owned.url(name)] = [404]
        made = {"proposals": [owned.proposal(kind) for kind in proposals]}
        (folder / f"{owned.workflow_id}.json").write_text(json.dumps(made))
        return owned

    def url(self, name: str) -> str:
        return f"http://api.test/{self.path}/{name}"

    def proposal(self, kind: str) -> Json:
        match kind:
            case "beyond":
                return to("http://elsewhere.test/x")
            case "upstream":
                return {"nodes": {"Prepare": {"parameters": {"note": "more"}}}}
        return to(self.url(kind))

    def break_again(self) -> None:
        """What repaired it does not help any more."""
        self.n8n.http[self.url("good")] = [404]

    def call(self) -> list[str]:
        """Call its webhook; gives the ids of the runs that have failed, which are none or one."""
        known = {run["id"] for run in self.n8n.runs(self.workflow_id)}
        self.n8n.call_webhook(self.path, {"order": 1})
        runs = self.n8n.runs(self.workflow_id, "webhook")
        return [run["id"] for run in runs if run["id"] not in known and run["status"] == "error"]

    def report(self, run_id: str, message: str) -> Json:
        """The callback for a failure of the HTTP node."""
        node = {"name": "Ask", "type": "n8n-nodes-base.httpRequest", "typeVersion": 1, "parameters": {}}
        error = {**MISSING, "message": message, "node": node}
        execution = {"id": "", "error": error, "lastNodeExecuted": "Ask", "mode": "webhook"}
        payload = {"execution": execution, "workflow": {"id": "", "name": self.path}}
        return failure(self.workflow_id, payload=payload, execution_id=run_id)
