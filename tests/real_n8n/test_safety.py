"""What makes it safe to leave on, on a real n8n: others' edits, undo, sub-workflows, outages, secrets."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.n8n import error_workflow
from app.n8n.client import N8nClient
from app.n8n.workflows import canonical_hash, editable
from dev.local_n8n import LocalN8n
from tests.support.client import Client
from tests.support.projects import copy_project
from tests.support.server import UNLIMITED, BridgeServer, wait_for

SECRET = "s3cret-of-the-callback"
TYPED = "sk-typed-into-a-node-0123456789"
LIMIT_S = 60.0
Json = dict[str, Any]
BROKEN = "throw new Error('no total');"
MENDED = "return [{ json: { total: 0 } }];"
HALF_MENDED = "if ($input.first().json.body.n === 1) return [{ json: { total: 0 } }];\nthrow new Error('no total');"


def node(name: str, kind: str, version: float, **more: Any) -> Json:
    base = {"name": name, "type": f"n8n-nodes-base.{kind}", "typeVersion": version, "position": [0, 0]}
    return {**base, "parameters": {}, **more}


def webhook(path: str) -> Json:
    parameters = {"httpMethod": "POST", "path": path, "responseMode": "lastNode", "options": {}}
    return node("Hook", "webhook", 2, webhookId=str(uuid.uuid4()), parameters=parameters)


def chain(name: str, *nodes: Json) -> Json:
    names = [made["name"] for made in nodes]
    links = pairwise(names)
    return {
        "name": name,
        "nodes": list(nodes),
        "connections": {a: {"main": [[{"node": b, "type": "main", "index": 0}]]} for a, b in links},
        "settings": {"executionOrder": "v1"},
    }


def code(text: str) -> Json:
    return node("Sum", "code", 2, parameters={"jsCode": text})


def to(text: str) -> Json:
    return {"nodes": {"Sum": {"parameters": {"jsCode": text}}}}


class Stage:
    """A bridge beside the real n8n, with the agent that acts by plans."""

    def __init__(self, n8n: LocalN8n, server: BridgeServer, folder: Path) -> None:
        self.n8n, self.server, self.folder = n8n, server, folder
        self.api = N8nClient(n8n.url, n8n.api_key)

    def adopt(self, body: Json, *proposals: Json, autonomy: str = "auto", active: bool = True) -> Adopted:
        return Adopted(self, body, proposals, autonomy, active)


class Adopted:
    """A workflow in n8n that a session of its own has adopted."""

    def __init__(self, stage: Stage, body: Json, proposals: tuple[Json, ...], autonomy: str, active: bool) -> None:
        self.stage, self.user = stage, Client(stage.server)
        self.user.connect()
        created = stage.api.create_workflow(body)
        self.workflow_id = str(created["id"])
        (stage.folder / f"{self.workflow_id}.json").write_text(json.dumps({"proposals": proposals}))
        wanted = {"workflowId": self.workflow_id, "autonomy": autonomy}
        assert self.user.http("POST", "/sessions/{sid}/workflows", wanted).status == 201
        if active:
            now = self.now()
            stage.api.publish(self.workflow_id, str(now["versionId"]))
            wait_for(lambda: self.now()["activeVersionId"] == self.now()["versionId"], limit_s=10)
        self.before = self.now()

    def now(self) -> Json:
        return self.stage.api.get_workflow(self.workflow_id)

    def edit(self, *, publish: bool) -> None:
        """What a person does in n8n's editor."""
        body = editable(self.now())
        body["nodes"] = [*body["nodes"], node("Mine", "noOp", 1)]
        self.stage.api.put_workflow(self.workflow_id, body, publish_if_active=publish)

    def is_mine(self) -> bool:
        return any(found["name"] == "Mine" for found in self.now()["nodes"])

    def receive(self, kind: str, **wanted: Any) -> Json:
        data: Json = self.user.receive(kind, limit_s=LIMIT_S, **wanted)["data"]
        return data

    def events(self, kind: str) -> list[Json]:
        found = self.user.http("GET", "/sessions/{sid}/events?limit=1000").json["events"]
        return [event["data"] for event in found if event["type"] == kind]

    def repairs(self) -> list[Json]:
        found: list[Json] = self.user.http("GET", "/sessions/{sid}/repairs").json["repairs"]
        return found

    def command(self, kind: str, **fields: Any) -> int:
        body = {"type": kind, **fields}
        return self.user.http("POST", "/sessions/{sid}/commands", body, limit_s=LIMIT_S).status


@pytest.fixture(scope="module")
def stage(n8n: LocalN8n, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("safety")
    project = copy_project(folder / "project")
    tests = Path(__file__).parents[1]
    for path in (tests / "heal" / "wsgi.py", tests / "support" / "mortal_journal.py"):
        shutil.copy(path, project / path.name)
    settings = {
        **UNLIMITED,
        "N8N_API_URL": n8n.url,
        "N8N_API_KEY": n8n.api_key,
        "N8N_CALLBACK_SECRET": SECRET,
        "N8N_POLL_INTERVAL_SECONDS": 1,
        "HEAL_OUTAGE_RETRY_SECONDS": "1,1,1",
        "LEASE_SECONDS": 2,
        "TEST_FOLDER": folder,
    }
    with BridgeServer(settings, project=project) as server:
        made = Stage(n8n, server, folder)
        error_workflow.install(made.api, callback_url=server.url, secret=SECRET)
        yield made


def call(n8n: LocalN8n, path: str, body: Json) -> int:
    request = urllib.request.Request(
        f"{n8n.url}/webhook/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def fail(one: Adopted, path: str, body: Json | None = None) -> None:
    """Call the webhook, once it is served, so that the run fails."""
    wait_for(lambda: call(one.stage.n8n, path, body or {}) == 500, limit_s=30, what="the webhook fails")


def broken(stage: Stage, *proposals: Json, **options: Any) -> tuple[Adopted, str]:
    path = f"safe-{uuid.uuid4().hex[:8]}"
    headers = {"parameters": [{"name": "X-Api-Key", "value": TYPED}]}
    asks = {"url": "http://127.0.0.1:9/", "sendHeaders": True, "headerParameters": headers}
    body = chain(f"Orders {path}", webhook(path), code(BROKEN))
    body["nodes"].append(node("Ask", "httpRequest", 4.2, parameters=asks))
    return stage.adopt(body, *proposals, **options), path


def typed(one: Adopted) -> bool:
    return TYPED in json.dumps(one.now()["nodes"])


def test_secrets_stay_in_n8n_and_an_undo_is_exact(stage: Stage) -> None:
    one, path = broken(stage, to(MENDED))

    fail(one, path)
    one.receive("repair_published")

    assert typed(one)
    shown = one.user.http("GET", f"/sessions/{{sid}}/workflows/{one.workflow_id}").body.decode()
    assert TYPED not in shown
    assert "[secret:" in shown
    wait_for(lambda: call(stage.n8n, path, {}) == 200, limit_s=15, what="the mended webhook answers")
    assert one.command("rollback", workflowId=one.workflow_id) == 202
    assert canonical_hash(one.now()) == canonical_hash(one.before)
    assert typed(one)
    everything = json.dumps(one.user.events) + "".join(stage.server.raw_lines())
    files = [file for file in stage.server.folder.glob("journal.db*") if file.is_file()]
    journal = b"".join(file.read_bytes() for file in files)
    assert TYPED not in everything
    assert TYPED.encode() not in journal


def test_an_edit_while_a_repair_waits_is_not_overwritten(stage: Stage) -> None:
    one, path = broken(stage, to(MENDED), autonomy="ask")
    fail(one, path)
    waiting = one.receive("repair_waiting")
    one.edit(publish=False)

    one.command("approve", repairId=waiting["repairId"])

    assert one.receive("repair_failed")["reason"]
    assert one.is_mine()
    assert BROKEN in json.dumps(one.now()["nodes"])


def test_a_draft_of_somebodys_own_is_left_alone(stage: Stage) -> None:
    one, path = broken(stage, to(MENDED))
    one.edit(publish=False)
    version = one.now()["versionId"]

    fail(one, path)

    assert "unpublished draft" in one.receive("repair_unverified")["reason"]
    assert one.now()["versionId"] == version


def test_an_undo_takes_back_others_edits_only_where_they_are_named(stage: Stage) -> None:
    one, path = broken(stage, to(MENDED))
    fail(one, path)
    published = one.receive("repair_published")
    one.receive("turn_finished")
    one.edit(publish=True)

    assert one.command("rollback", workflowId=one.workflow_id) == 409
    assert one.is_mine()
    assert one.command("rollback", workflowId=one.workflow_id, snapshotId=published["snapshotId"]) == 202
    assert canonical_hash(one.now()) == canonical_hash(one.before)


def test_a_repair_whose_error_comes_back_is_undone(stage: Stage) -> None:
    one, path = broken(stage, to(HALF_MENDED))
    fail(one, path, {"n": 1})
    one.receive("repair_published")
    one.receive("turn_finished")

    def came_back() -> bool:
        call(stage.n8n, path, {"n": 2})
        return bool(one.events("repair_blocked"))

    wait_for(came_back, limit_s=LIMIT_S, what="the same error")
    assert one.receive("rolled_back")["by"] == "bridge"
    assert canonical_hash(one.now()) == canonical_hash(one.before)
    wait_for(lambda: call(stage.n8n, path, {"n": 1}) == 500, limit_s=15, what="what ran before runs")


def test_a_failing_sub_workflow_is_what_is_repaired(stage: Stage) -> None:
    start = node("Start", "executeWorkflowTrigger", 1.1, parameters={"inputSource": "passthrough"})
    child = stage.adopt(chain(f"Child {uuid.uuid4().hex[:8]}", start, code(BROKEN)), to(MENDED))
    path = f"parent-{uuid.uuid4().hex[:8]}"
    chosen = {"__rl": True, "mode": "id", "value": child.workflow_id}
    calls = node("Call", "executeWorkflow", 1.2, parameters={"workflowId": chosen, "options": {}})
    parent = stage.adopt(chain(f"Parent {path}", webhook(path), calls), to(MENDED))

    fail(parent, path)

    assert child.receive("repair_published")
    wait_for(lambda: call(stage.n8n, path, {}) == 200, limit_s=15, what="the parent answers")
    assert parent.receive("workflow_error")
    wait_for(lambda: parent.repairs() == [], limit_s=15, what="no repair of the parent")
    assert len(child.events("repair_started")) == 1
    assert parent.events("repair_started") == []
    assert canonical_hash(parent.now()) == canonical_hash(parent.before)


def test_what_no_callback_brought_is_found(stage: Stage) -> None:
    handler = next(str(w["id"]) for w in stage.api.iter_workflows() if str(w["name"]).startswith("Self-healing bridge"))
    one, path = broken(stage, to(MENDED))
    stage.api.unpublish(handler)
    time.sleep(1.0)  # production follows by some tenths of a second, and n8n says nowhere that it has
    try:
        fail(one, path)
        error = one.receive("workflow_error")
        one.receive("repair_published")
    finally:
        version = str(stage.api.get_workflow(handler)["versionId"])
        stage.api.publish(handler, version)

    assert error["source"] == "poll"
    assert len(one.events("workflow_error")) == 1
    assert len(one.repairs()) == 1


def test_a_service_that_is_away_is_tried_again_without_an_agent(stage: Stage) -> None:
    with Service() as service:
        path = f"away-{uuid.uuid4().hex[:8]}"
        asks = {"url": service.url, "options": {}}
        tries = {"retryOnFail": True, "maxTries": 2, "waitBetweenTries": 100}
        ask = node("Ask", "httpRequest", 4.2, parameters=asks, **tries)
        one = stage.adopt(chain(f"Away {path}", webhook(path), ask))

        fail(one, path)
        assert one.receive("repair_diagnosed")["kind"] == "remote_outage"
        service.status = 200
        told = one.receive("notice")

    assert "back" in told["text"]
    (repair,) = one.repairs()
    assert repair["state"] == "not_a_bug"
    run = stage.api.get_execution(repair["executionId"])
    assert (run["status"], run["mode"]) == ("success", "retry")
    assert one.events("turn_started") == []
    assert canonical_hash(one.now()) == canonical_hash(one.before)


class Service:
    """Answers what it is told to."""

    def __init__(self) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(service.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.status = 503
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Service:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
