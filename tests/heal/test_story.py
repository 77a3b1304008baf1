"""The whole story: the real Claude CLI with a scripted model, gunicorn, and a fake n8n."""

from __future__ import annotations

import json
import os
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.n8n.workflows import canonical_hash
from tests.fakes.messages_api import MessagesApi, Reply, Request, say, use
from tests.heal.conftest import planned_bridge
from tests.heal.rig import (
    BROKEN,
    FIXED,
    LIMIT_S,
    WORSE,
    HealN8n,
    between,
    claude_processes,
    healing_n8n,
    soon,
    url_of,
    workflow,
)
from tests.kills.story import Story
from tests.support.server import BridgeServer, wait_for

KEY = "sk-ant-test-0123456789abcdef0123456789"


class Model:
    """What the model does: builds the workflow that the person names by its path, and repairs by its plan.

    :ivar plan: by path, the URLs to propose in turn; only ``FIXED`` where there is none.
    """

    def __init__(self) -> None:
        self.plan: dict[str, list[str]] = {}
        self.told: list[str] = []

    def __call__(self, request: Request) -> Reply:
        last = _last_tool(request)
        if "mcp__n8n__propose_repair" in request.tools:
            return self._repair(request, last)
        if last is None:
            return use("create_workflow", workflow(request.prompt.split()[-1]), text="I build it.")
        if last == "create_workflow":
            return use("publish_workflow", {"workflowId": json.loads(_answer(request))["workflowId"]})
        return say("It is built, and it runs.")

    def _repair(self, request: Request, last: str | None) -> Reply:
        if last is None:
            self.told.append(request.prompt)
            return use("get_workflow")
        if last == "get_workflow":
            return use("get_execution")
        if last == "propose_repair" and not _answer(request).startswith("The trial failed"):
            return say("It asks for what is there now.")
        shown = next(json.loads(text) for text in reversed(_answers(request)) if '"connections"' in text)
        plan = self.plan.get(shown["name"].split()[-1], [FIXED])
        tried = sum(text.startswith("The trial failed") for text in _answers(request))
        body = {key: shown[key] for key in ("name", "nodes", "connections", "settings")}
        for node in body["nodes"]:
            if node["name"] == "Ask":
                node["parameters"]["url"] = plan[min(tried, len(plan) - 1)]
        return use("propose_repair", {"workflow": body, "summary": "It asks elsewhere."})


def _contents(request: Request, role: str) -> list[Any]:
    return [m["content"] for m in request.body["messages"] if m["role"] == role and isinstance(m["content"], list)]


def _last_tool(request: Request) -> str | None:
    """The tool whose answer this request brings; ``None`` at a turn's begin."""
    if not request.results:
        return None
    names = [b["name"] for content in _contents(request, "assistant") for b in content if b["type"] == "tool_use"]
    return str(names[-1]).removeprefix("mcp__n8n__")


def _answers(request: Request) -> list[str]:
    """What the tools have said so far."""
    found = []
    for content in _contents(request, "user"):
        for block in content:
            if block["type"] == "tool_result":
                said = block.get("content", "")
                found.append(said if isinstance(said, str) else "".join(part.get("text", "") for part in said))
    return found


def _answer(request: Request) -> str:
    return _answers(request)[-1]


Told = Callable[..., Any]


class Stage:
    def __init__(self, server: BridgeServer, n8n: HealN8n, model: Model, folder: Path) -> None:
        self.server, self.n8n, self.model, self.folder = server, n8n, model, folder

    def no_child_is_left(self) -> None:
        soon(lambda: not claude_processes(self.server), limit_s=5, what="the end of every child")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder, model = tmp_path_factory.mktemp("story"), Model()
    with MessagesApi(model) as api, healing_n8n() as n8n:
        claude = {"AGENT": "claude", "ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": api.url}
        with planned_bridge(n8n, folder, **claude, CLAUDE_MODEL="claude-sonnet-5-5") as server:
            yield Stage(server, n8n, model, folder)
            assert not api.unexpected


def tell(stage: Stage, story: Story, path: str) -> str:
    """Ask for the workflow, let it fail, wait until its repair is published; gives its id."""
    story.connect()
    story.ask(f"Please build the orders at {path}")
    workflow_id = str(story.receive("workflow_registered")["data"]["workflowId"])
    story.ended()
    stage.n8n.call_webhook(path)
    story.receive("repair_published")
    soon(lambda: story.count("turn_started") == story.count("turn_finished"), what="every turn's end")
    return workflow_id


def check(stage: Stage, story: Story, workflow_id: str, path: str) -> list[Any]:
    n8n = stage.n8n
    n8n.settle(LIMIT_S)
    own = [d for d in n8n.deliveries if d.body["workflow"]["id"] == workflow_id and 200 <= d.status < 300]
    story.acknowledged += sorted({d.body["execution"]["id"] for d in own})
    events = story.check()
    count = Counter(event["type"] for event in events)
    once = ("workflow_registered", "workflow_error", "repair_proposed", "repair_verified", "repair_published")
    assert {kind: count[kind] for kind in once} == dict.fromkeys(once, 1)
    assert [w.public["name"] for w in n8n.workflows.values()].count(f"Orders {path}") == 1
    assert [url_of(v) for v in n8n.workflows[workflow_id].versions.values()] == [BROKEN, FIXED]
    (trial,) = n8n.runs(workflow_id, "retry")
    assert trial["status"] == "success"
    assert len(n8n.sent(workflow_id, "retry")) == 1
    assert n8n.is_clean(workflow_id)
    n8n.call_webhook(path)
    assert [run["status"] for run in n8n.runs(workflow_id, "webhook")] == ["error", "success"]
    stage.no_child_is_left()
    return events


def test_one_id_follows_an_error_into_the_turn_the_child_its_tools_and_n8n(stage: Stage) -> None:
    story, path = Story(stage.server), f"orders-{uuid.uuid4().hex[:8]}"
    workflow_id = tell(stage, story, path)
    (failed,) = (e for e in check(stage, story, workflow_id, path) if e["type"] == "workflow_error")

    ids = {"requestId": failed["requestId"], "workflowId": workflow_id}
    ids["executionId"] = failed["data"]["execution"]["id"]
    complete = stage.server.wait_log("Claude execution complete", **ids)
    assert isinstance(complete["duration"], int) and complete["outcome"] == "completed"
    turn = {**ids, "turnId": complete["turnId"]}
    for message in ("turn started", "Claude execution started", "turn finished"):
        assert len(stage.server.log_lines(message, **turn)) == 1
    assert stage.server.log_lines("tool finished", **turn, tool="propose_repair", ok=True)
    asked = [r.method for r in stage.n8n.requests if r.headers.get("x-request-id") == failed["requestId"]]
    assert {"GET", "PUT", "POST"} <= set(asked)
    lines = "".join(stage.server.raw_lines())
    assert KEY not in lines and f"Please build the orders at {path}" not in lines


def test_a_workflow_is_built_fails_is_healed_and_can_be_as_it_was(stage: Stage) -> None:
    story, path, n8n = Story(stage.server), f"orders-{uuid.uuid4().hex[:8]}", stage.n8n

    workflow_id = tell(stage, story, path)
    events = check(stage, story, workflow_id, path)

    (registered,) = (e["data"] for e in events if e["type"] == "workflow_registered")
    assert registered == {"workflowId": workflow_id, "name": f"Orders {path}", "autonomy": "auto"}
    assert n8n.draft(workflow_id)["settings"]["errorWorkflow"] in n8n.workflows
    repair = [e for e in events if e.get("repairId") or e["type"].startswith(("repair_", "tool_"))]
    order = [e["type"] for e in repair if e["type"].startswith("repair_")]
    assert order == [
        *("repair_started", "repair_diagnosed", "repair_proposed", "repair_verified", "repair_published"),
    ]
    tools = [e["data"]["tool"] for e in events if e["type"] == "tool_finished" and e["data"]["ok"]]
    assert tools == [
        *("create_workflow", "publish_workflow", "get_workflow", "get_execution", "propose_repair"),
    ]
    (verified,) = (e["data"] for e in events if e["type"] == "repair_verified")
    (trial,) = n8n.runs(workflow_id, "retry")
    assert verified["executionId"] == trial["id"]
    assert n8n.urls_put(workflow_id) == [FIXED]
    assert len(n8n.sent(workflow_id, "publish")) == 2  # the chat's, and the repair's
    (told,) = [prompt for prompt in stage.model.told if workflow_id in prompt]
    assert "could not be found" in told and "Ask" in told

    shown = story._get(f"/sessions/{{sid}}/workflows/{workflow_id}?version=active")
    assert url_of(shown) == FIXED
    (snapshot,) = story._get(f"/sessions/{{sid}}/workflows/{workflow_id}/snapshots")["snapshots"]
    assert url_of(snapshot["workflow"]) == BROKEN
    body = {"type": "rollback", "workflowId": workflow_id}
    assert story.client.http("POST", "/sessions/{sid}/commands", body).status == 202
    story.receive("rolled_back")
    assert canonical_hash(n8n.draft(workflow_id)) == snapshot["hash"]
    assert n8n.is_clean(workflow_id)
    print(
        f"\nwith the CLI, from the failure to repair_published: "
        f"{between(events, 'workflow_error', 'repair_published'):.2f} s"
    )
    story.close()


def test_the_model_is_told_that_its_trial_failed_and_proposes_better(stage: Stage) -> None:
    story, path = Story(stage.server), f"orders-{uuid.uuid4().hex[:8]}"
    stage.model.plan[path] = [WORSE, FIXED]

    workflow_id = tell(stage, story, path)

    stage.n8n.settle(LIMIT_S)
    assert stage.n8n.urls_put(workflow_id) == [WORSE, BROKEN, FIXED]
    assert story.count("repair_unverified") == story.count("repair_verified") == 1
    assert story.count("workflow_error") == 2
    assert stage.n8n.is_clean(workflow_id)
    stage.no_child_is_left()
    story.close()


@pytest.mark.parametrize(("step", "when"), [("create", "after"), ("put", "before"), ("retry", "after")])
def test_a_killed_worker_takes_its_children_along_and_the_story_goes_on(stage: Stage, step: Any, when: Any) -> None:
    story, path, n8n = Story(stage.server), f"orders-{uuid.uuid4().hex[:8]}", stage.n8n
    hold = n8n.hold("", step, when)
    seen: list[int] = []

    def kill() -> None:
        assert hold.reached.wait(LIMIT_S)
        seen.extend(claude_processes(stage.server))
        (pid,) = stage.server.worker_pids()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not set(seen) & set(claude_processes(stage.server)), limit_s=3, what="the children's end")
        hold.release()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    workflow_id = tell(stage, story, path)
    killer.join(LIMIT_S)

    assert seen, "no child ran"
    check(stage, story, workflow_id, path)
    story.close()


@pytest.mark.parametrize("moment", ["after repair_proposed 1", "after repair_published 1"])
def test_a_worker_that_dies_between_two_changes_leaves_nothing(stage: Stage, moment: str) -> None:
    story, path = Story(stage.server), f"orders-{uuid.uuid4().hex[:8]}"
    (stage.folder / "die").write_text(moment)

    workflow_id = tell(stage, story, path)

    assert not (stage.folder / "die").exists(), "nobody was killed"
    check(stage, story, workflow_id, path)
    story.close()
