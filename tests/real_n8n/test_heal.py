"""The whole product: a real n8n, the real CLI, a scripted model. A workflow is built, fails, is mended and runs."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.n8n import error_workflow
from app.n8n.client import N8nClient
from app.n8n.workflows import canonical_hash
from dev.local_n8n import LocalN8n
from tests.fakes.messages_api import MessagesApi, Reply, Request, say, use
from tests.support.client import Client
from tests.support.server import BridgeServer, wait_for

BROKEN = "const total = $input.first().json.body.items.reduce((a, i) => a + i.price, 0);\nreturn [{ json: { total } }];"
MENDED = (
    "const items = $input.first().json.body?.items ?? [];\n"
    "return [{ json: { total: items.reduce((a, i) => a + i.price, 0) } }];"
)
SECRET = "s3cret-of-the-callback"


def workflow(path: str) -> dict[str, Any]:
    webhook = {"httpMethod": "POST", "path": path, "responseMode": "lastNode", "options": {}}
    return {
        "name": f"Invoice {path}",
        "nodes": [
            {
                "name": "Webhook",
                "type": "n8n-nodes-base.webhook",
                "typeVersion": 2,
                "position": [0, 0],
                "webhookId": str(uuid.uuid4()),
                "parameters": webhook,
            },
            {
                "name": "Sum invoice",
                "type": "n8n-nodes-base.code",
                "typeVersion": 2,
                "position": [220, 0],
                "parameters": {"jsCode": BROKEN},
            },
        ],
        "connections": {"Webhook": {"main": [[{"node": "Sum invoice", "type": "main", "index": 0}]]}},
        "settings": {"executionOrder": "v1"},
    }


def results(request: Request) -> list[str]:
    """What the tools came to since the last thing that was asked, oldest first; without what failed."""
    done: list[dict[str, Any]] = []
    for message in request.body["messages"]:
        content = message["content"]
        for block in content if isinstance(content, list) else [{"type": "text"}]:
            if message["role"] == "user" and block["type"] == "text":
                done = []
            elif block["type"] == "tool_result" and not block.get("is_error"):
                done.append(block["content"])
    return [content if isinstance(content, str) else content[0]["text"] for content in done]


def model(request: Request) -> Reply:
    """Builds what the message names, and mends what failed."""
    done = results(request)
    if "mcp__n8n__propose_repair" in request.tools:
        if not done:
            return use("get_workflow")
        if len(done) == 1:
            proposal = {key: json.loads(done[0])[key] for key in ("name", "nodes", "connections", "settings")}
            for node in proposal["nodes"]:
                if node["name"] == "Sum invoice":
                    node["parameters"]["jsCode"] = MENDED
            return use("propose_repair", {"workflow": proposal, "summary": "An invoice may have no items."})
        return say("Mended.")
    if not done:
        return use("create_workflow", workflow(request.prompt.split()[-1]))
    if len(done) == 1:
        return use("publish_workflow", {"workflowId": json.loads(done[0])["workflowId"]})
    return say("It runs.")


@dataclass
class Scene:
    n8n: LocalN8n
    server: BridgeServer
    user: Client
    workflow_id: str
    path: str

    def call(self, body: dict[str, Any]) -> int:
        request = urllib.request.Request(
            f"{self.n8n.url}/webhook/{self.path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            return exc.code

    def events(self) -> list[dict[str, Any]]:
        answer = self.user.http("GET", f"/sessions/{self.user.session_id}/events?limit=1000")
        return list(answer.json["events"])

    def count(self, kind: str) -> int:
        return sum(event["type"] == kind for event in self.events())


@pytest.fixture(scope="module")
def api() -> Iterator[MessagesApi]:
    with MessagesApi(model) as made:
        yield made


@pytest.fixture(scope="module")
def server(n8n: LocalN8n, api: MessagesApi) -> Iterator[BridgeServer]:
    settings = {
        "N8N_API_URL": n8n.url,
        "N8N_API_KEY": n8n.api_key,
        "N8N_CALLBACK_SECRET": SECRET,
        "ANTHROPIC_API_KEY": "sk-fake",
        "ANTHROPIC_BASE_URL": api.url,
        "LEASE_SECONDS": 1,
        "RATE_LIMIT_WS_PER_MINUTE": 0,
        "RATE_LIMIT_MESSAGES_PER_MINUTE": 0,
    }
    made = BridgeServer(settings)
    error_workflow.install(N8nClient(n8n.url, n8n.api_key), callback_url=made.url, secret=SECRET)
    with made:
        yield made


@pytest.fixture
def scene(n8n: LocalN8n, server: BridgeServer) -> Iterator[Scene]:
    made = build(n8n, server)
    yield made
    made.user.disconnect()


def build(n8n: LocalN8n, server: BridgeServer) -> Scene:
    user = Client(server)
    user.connect()
    path = f"heal-{uuid.uuid4().hex[:8]}"
    user.say(f"Sum invoices at the webhook {path}")
    workflow_id = str(user.receive("workflow_registered", limit_s=60)["data"]["workflowId"])
    user.receive("turn_finished", limit_s=60)
    made = Scene(n8n, server, user, workflow_id, path)
    wait_for(lambda: made.call({"items": [{"price": 3}]}) == 200, limit_s=30, what="the webhook runs")
    return made


def children(server: BridgeServer) -> list[int]:
    """Claude processes of this server: their arguments name its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(server.folder) in command and "--output-format" in command:
                found.append(int(entry.name))
    return found


def test_a_failure_is_mended_proven_and_published(scene: Scene, server: BridgeServer) -> None:
    began = time.monotonic()
    assert scene.call({}) == 500

    verified = scene.user.receive("repair_verified", limit_s=60)
    published = scene.user.receive("repair_published", limit_s=60)
    print(f"failure -> repair_published: {time.monotonic() - began:.2f} s")

    assert verified["data"]["executionId"].isdigit()
    assert published["data"]["repairId"] == verified["data"]["repairId"]
    wait_for(lambda: scene.call({}) == 200, limit_s=10, what="the mended webhook answers")
    scene.user.receive("turn_finished", limit_s=30)
    wait_for(lambda: not children(server), what="no child is left")


def test_a_person_approves_and_takes_it_back(scene: Scene) -> None:
    client = N8nClient(scene.n8n.url, scene.n8n.api_key)
    before = client.get_workflow(scene.workflow_id)
    scene.user.send({"type": "set_autonomy", "workflowId": scene.workflow_id, "autonomy": "ask"})
    scene.user.receive("autonomy_changed")
    assert scene.call({}) == 500

    repair_id = scene.user.receive("repair_waiting", limit_s=60)["data"]["repairId"]
    scene.user.receive("turn_finished", limit_s=60)
    assert scene.call({}) == 500, "nothing is published before the person says so"

    scene.user.send({"type": "approve", "repairId": repair_id})
    scene.user.receive("repair_published", limit_s=60)
    wait_for(lambda: scene.call({}) == 200, limit_s=10, what="the approved version runs")

    scene.user.send({"type": "rollback", "workflowId": scene.workflow_id})
    scene.user.receive("rolled_back", limit_s=60)
    after = client.get_workflow(scene.workflow_id)
    assert canonical_hash(after) == canonical_hash(before)
    assert after["activeVersionId"] == after["versionId"]


STEPS = [
    *("workflow_error", "turn_started", "repair_diagnosed", "tool_started", "tool_finished"),
    *("repair_proposed", "repair_verified", "repair_published", "turn_finished"),
]


@pytest.mark.parametrize("step", STEPS)
def test_the_worker_may_be_killed_at_any_step(n8n: LocalN8n, server: BridgeServer, step: str) -> None:
    scene = build(n8n, server)
    since = scene.user.last_seq
    assert scene.call({}) == 500
    scene.user.receive(step, limit_s=60)

    for pid in server.worker_pids():
        os.kill(pid, signal.SIGKILL)
    server.wait_healthy()
    scene.user.connect()

    wait_for(lambda: scene.count("repair_published") == 1, limit_s=90, what="published once")
    later = [event for event in scene.events() if event["seq"] > since]
    assert sum(event["type"] == "repair_verified" for event in later) == 1
    assert sum(event["type"] == "workflow_error" for event in later) == 1
    # Production follows its publication by some tenths of a second.
    wait_for(lambda: scene.call({}) == 200, limit_s=15, what="the mended webhook answers")
    workflow = N8nClient(n8n.url, n8n.api_key).get_workflow(scene.workflow_id)
    assert workflow["activeVersionId"] == workflow["versionId"]
    wait_for(lambda: not children(server), limit_s=30, what="no child is left")


def test_n8n_may_be_away_in_the_middle(n8n: LocalN8n, server: BridgeServer) -> None:
    scene = build(n8n, server)
    assert scene.call({}) == 500
    scene.user.receive("repair_started", limit_s=60)

    n8n.stop()
    n8n.start()

    wait_for(lambda: scene.count("repair_published") == 1, limit_s=120, what="published once")
    wait_for(lambda: scene.call({}) == 200, limit_s=30, what="the mended webhook answers")
