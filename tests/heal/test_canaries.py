"""Canary secrets, typed into nodes and told by a failing run: nobody sees one, and n8n keeps them all."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.n8n.workflows import canonical_hash
from tests.fakes import n8n as fake
from tests.fakes.messages_api import MessagesApi, Reply, Request, say, use
from tests.fakes.receiver import Receiver
from tests.heal.conftest import planned_bridge
from tests.heal.rig import BROKEN, FIXED, SECRET, Healing, HealN8n, node, workflow
from tests.support.client import failure
from tests.support.server import BridgeServer, wait_for

Json = dict[str, Any]
_PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEcanary{0}AoIBAQ\n-----END RSA PRIVATE KEY-----"
SHAPES = {
    "password": "Pw-canary{0}-9",
    "basic": "Y2FuYXJ5canary{0}dXNlcjpw",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxcanary{0}.c2lnbmF0dXJl",
    "private_key": _PEM,
    "github": "ghp_0123456789abcdefghijcanary{0}",
    "openai": "sk-proj-AbCd1234canary{0}",
    "google": "AIzaSyA-0123456789abcdefghijklcanary{0}",
    "slack": "xoxb-123456789012-canary{0}",
    "stripe": "sk_live_0123456789canary{0}",
    "sendgrid": "SG.aaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbcanary{0}",
    "telegram": "123456789:AAabcdefghijklmnopqrstuvcanary{0}",
    "npm": "npm_abcdefghijklmnopqrcanary{0}",
}
"""Each holds ``canary`` and a number, of which no cut and no encoding leaves nothing."""


class Canaries:
    """Makes secrets that are told apart, and remembers them."""

    def __init__(self) -> None:
        self.marks: list[str] = []

    def of(self, shape: str) -> str:
        self.marks.append(f"canary{uuid.uuid4().hex[:10]}")
        return SHAPES[shape].format(self.marks[-1].removeprefix("canary"))

    def all(self) -> dict[str, str]:
        return {shape: self.of(shape) for shape in SHAPES}

    def as_text(self) -> str:
        """One of each shape, as an error's text would tell them."""
        lines = []
        for shape, secret in self.all().items():
            name = {"basic": "Authorization: Basic ", "password": "password=", "telegram": "bot "}.get(
                shape, f"{shape} "
            )
            lines.append(f"{name}{secret}")
        return "\n".join(lines)

    def found_in(self, what: bytes) -> list[str]:
        return [mark for mark in self.marks if mark.encode() in what]


class TellingN8n(HealN8n):
    """Its runs fail with everything that a node was given, and its callbacks tell all of it.

    :ivar bridge: where they go, past the error workflow that leaves the node's parameters out.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.bridge = ""
        self.told = Canaries()

    def _work(self, node: Json, items: list[Json]) -> list[Json]:
        try:
            return super()._work(node, items)
        except fake.NodeFailure as failure:
            told = self.told
            failure.error |= {
                "message": f"Refused. {told.as_text()}",
                "stack": f"NodeApiError: {told.as_text()}\n    at n8n",
                "description": told.as_text(),
                "messages": [told.as_text()],
                "node": node,
                "context": {
                    "request": {
                        "uri": f"https://app:{quote(told.of('password'))}@api.test/?api_key={quote(told.of('stripe'))}",
                        "headers": {"X-Api-Key": told.of("password"), "Cookie": f"sid={told.of('basic')}"},
                        "body": {f"{shape}_token": secret for shape, secret in told.all().items()},
                    }
                },
            }
            raise

    def _call_back(self, stored: Any, failed: Json) -> None:
        body = {**failed, "workflow": {"id": stored.public["id"], "name": stored.public["name"]}}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {SECRET}"}
        caller = threading.Thread(target=fake._post, args=(self.bridge, body, headers), daemon=True)
        self._callers.append(caller)
        caller.start()


def planted(path: str, canaries: Canaries) -> Json:
    """The workflow of these tests with secrets of each shape, in each sort of place."""
    made = workflow(path)
    s = canaries.all()
    ask = next(n for n in made["nodes"] if n["name"] == "Ask")
    ask["parameters"] |= {
        "url": f"{BROKEN}?page=1&api_key={quote(canaries.of('password'))}",
        "headerParameters": {
            "parameters": [
                {"name": "X-Api-Key", "value": s["password"]},
                {"name": "Authorization", "value": f"Basic {s['basic']}"},
                {"name": "X-Session", "value": f"={{{{ '{s['jwt']}' }}}}"},
            ]
        },
        "queryParameters": {"parameters": [{"name": "key", "value": s["google"]}]},
        "jsonBody": f'={{"id": "{{{{ $json.id }}}}", "password": "{canaries.of("password")}", "k": "{s["stripe"]}"}}',
        "options": {"proxy": f"http://app:{quote(canaries.of('password'))}@proxy.test:8080", "auth": {"pin": 1}},
    }
    ask["notes"] = f"Log in as app, password: {canaries.of('password')}"
    code = f"""const token = $json.body.token;
const key = '{s["openai"]}';
const headers = {{ Authorization: 'Bearer {canaries.of("basic")}', 'X-Bot': '{s["telegram"]}' }};
// npm: {s["npm"]}
return items;"""
    pem = s["private_key"].replace("\n", "\\n")
    extra = [
        node("Script", "code", parameters={"jsCode": code}),
        node("Keys", "noOp", parameters={"values": {"string": [{"name": "signingKey", "value": s["private_key"]}]}}),
        node("Mail", "noOp", parameters={"apiKey": s["sendgrid"], "text": f"{s['slack']} {s['github']}"}),
        node(
            "Body",
            "noOp",
            parameters={"body": f'{{"private_key": "{pem}", "client_secret": "{canaries.of("password")}"}}'},
        ),
    ]
    made["nodes"] += extra
    # A name that says nothing: the secret is one by its name only where it says so.
    made["nodes"][-1]["parameters"]["body"] = made["nodes"][-1]["parameters"]["body"].replace(
        '"pin"', '"client_secret"'
    )
    return made


class Stage:
    def __init__(self, server: BridgeServer, n8n: TellingN8n, folder: Path, receiver: Receiver) -> None:
        self.server, self.n8n, self.folder, self.receiver = server, n8n, folder, receiver
        self.typed = Canaries()

    def adopt(self, path: str) -> Healing:
        one = Healing(self.server, self.n8n, self.folder).open()
        self.original = planted(path, self.typed)
        one.path = path
        one.workflow_id = self.n8n.add(self.original)
        url = next(n for n in self.original["nodes"] if n["name"] == "Ask")["parameters"]["url"]
        self.n8n.http[url] = [404]
        body = {"workflowId": one.workflow_id, "autonomy": "auto"}
        assert one.client.http("POST", "/sessions/{sid}/workflows", body).status == 201
        one.before = json.loads(json.dumps(self.n8n.draft(one.workflow_id)))
        return one

    def check_kept(self, one: Healing) -> None:
        """n8n has what was there, but for the path that was mended."""
        mended = json.loads(json.dumps(one.before["nodes"]).replace(BROKEN, FIXED))
        assert self.n8n.draft(one.workflow_id)["nodes"] == mended
        assert self.n8n.active(one.workflow_id)["nodes"] == mended

    def check_restored(self, one: Healing) -> None:
        assert canonical_hash(self.n8n.draft(one.workflow_id)) == canonical_hash(one.before)
        assert self.n8n.active(one.workflow_id)["nodes"] == one.before["nodes"]

    def check_unseen(self, one: Healing, *more: bytes) -> None:
        """No canary in anything that the bridge said or kept."""
        seen = {"log": "".join(self.server.raw_lines()).encode(), "frames": json.dumps(one.client.frames).encode()}
        letters = one.client.http("GET", "/dead-letters?limit=100", token=None).json["deadLetters"]
        paths = ["/sessions/{sid}", "/sessions/{sid}/events?limit=1000", "/sessions/{sid}/repairs", "/metrics"]
        paths += [
            f"/sessions/{{sid}}/workflows/{one.workflow_id}{end}" for end in ("", "?version=active", "/snapshots")
        ]
        paths += [f"/dead-letters/{letter['deadLetterId']}" for letter in letters]
        for path in paths:
            answer = one.client.http("GET", path, token=None if path.startswith(("/dead", "/metrics")) else "")
            assert answer.status == 200, (path, answer)
            seen[path] = answer.body
        # The journal with its log, and whatever else was left in the server's folder.
        seen |= {str(path): path.read_bytes() for path in self.server.folder.rglob("*") if path.is_file()}
        seen |= {f"request {number}": text for number, text in enumerate(more)}
        wait_for(lambda: self.receiver.posts, what="a notification")
        seen |= {f"notification {number}": post.raw for number, post in enumerate(self.receiver.posts)}
        assert len(self.typed.marks) > 12 and len(self.n8n.told.marks) > 12
        leaks = {
            place: [what[max(0, what.find(m.encode()) - 60) :][:120] for m in found][:3]
            for place, what in seen.items()
            if (found := self.typed.found_in(what) + self.n8n.told.found_in(what))
        }
        assert not leaks, leaks
        assert any("journal.db" in place for place in seen)


@contextmanager
def staged(folder: Path, **settings: Any) -> Iterator[Stage]:
    n8n = TellingN8n()
    n8n.start()
    try:
        with Receiver() as receiver, planned_bridge(n8n, folder, NOTIFY_URL=receiver.url, **settings) as server:
            n8n.bridge = f"{server.url}/callbacks/n8n/error"
            yield Stage(server, n8n, folder, receiver)
        n8n.check()
    finally:
        n8n.stop()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as stage:
        yield stage


def test_no_canary_gets_out_of_a_repair_its_chat_its_dead_letters_and_its_undo(stage: Stage) -> None:
    one = stage.adopt(f"orders-{uuid.uuid4().hex[:8]}")
    one.plan({"nodes": {"Ask": {"replace": {BROKEN: FIXED}}}})

    run_id = one.fail()
    while one.ended() == "interrupted":
        continue

    assert one.state() == "published", one.repairs()
    stage.check_kept(one)
    shown, told = one.chat(
        ["get_workflow", {"workflowId": one.workflow_id}],
        ["get_execution", {"workflowId": one.workflow_id, "executionId": run_id}],
    )
    assert shown["ok"] and told["ok"]
    code = next(n for n in one.shown()["nodes"] if n["name"] == "Script")["parameters"]["jsCode"]
    assert code.startswith("const token = $json.body.token;\nconst key = '[secret:")

    told_now = stage.n8n.told
    error = {"message": told_now.as_text(), "node": {"parameters": {"token": told_now.of("password")}}}
    unknown = failure("nobodys", payload={"execution": {"id": "1", "error": error}, "workflow": {"id": "w"}})
    bad = {"execution": {"error": error}, "workflow": {"name": told_now.as_text()}}
    large = {**unknown, "execution": {**unknown["execution"], "data": "x" * 1_200_000, "more": told_now.as_text()}}
    statuses = []
    for body in (unknown, bad, large):
        answer = one.client.http("POST", "/callbacks/n8n/error", body, SECRET)
        assert "deadLetterId" in answer.json, answer
        statuses.append(answer.status)
    assert statuses == [202, 400, 413]

    assert one.command("rollback", workflowId=one.workflow_id) == 202
    one.receive("rolled_back")
    stage.check_restored(one)
    stage.check_unseen(one)
    one.close()


def test_an_undo_whose_secret_is_gone_from_n8n_says_so_and_is_not_in_the_way_of_the_next(stage: Stage) -> None:
    one = stage.adopt(f"orders-{uuid.uuid4().hex[:8]}")
    one.plan({"nodes": {"Ask": {"replace": {BROKEN: FIXED}}}})
    one.fail()
    while one.ended() == "interrupted":
        continue
    stored = stage.n8n.workflows[one.workflow_id]
    mail = next(n for n in one.before["nodes"] if n["name"] == "Mail")
    emptied = [{**n, "parameters": {}} if n["name"] == "Mail" else n for n in stored.public["nodes"]]
    version_id = stage.n8n.edit(one.workflow_id, publish=True, nodes=emptied)
    stored.versions = {version_id: stored.versions[version_id]}
    writes = len(stage.n8n.sent(one.workflow_id, "put"))
    undo = {"workflowId": one.workflow_id, "snapshotId": one.snapshots()[0]["snapshotId"]}

    refused = one.client.http("POST", "/sessions/{sid}/commands", {"type": "rollback", **undo})
    assert refused.status == 409 and 'parameters.apiKey" of "Mail"' in refused.json["detail"], refused.json
    assert one.receive("notice")["text"].startswith("The undo failed: Nothing was written")
    assert len(stage.n8n.sent(one.workflow_id, "put")) == writes

    # A person does as they were told: it may be typed into any node.
    typed = [{**n, "notes": json.dumps(mail["parameters"])} if n["name"] == "Tell" else n for n in emptied]
    stage.n8n.edit(one.workflow_id, publish=True, nodes=typed)
    assert one.command("rollback", **undo) == 202
    one.receive("rolled_back")
    stage.check_restored(one)
    stage.check_unseen(one)
    one.close()


class Model:
    """Mends the path of the failing node, in what it was shown."""

    def __call__(self, request: Request) -> Reply:
        if "mcp__n8n__propose_repair" not in request.tools:
            return say("Hello.")
        if not request.results:
            return use("get_workflow")
        text = request.results[-1]["text"]
        if '"connections"' in text:
            self.shown = json.loads(text)
            return use("get_execution")
        if "published" in text:
            return say("It asks for what is there now.")
        body = {key: self.shown[key] for key in ("name", "nodes", "connections", "settings")}
        mended = json.loads(json.dumps(body).replace(BROKEN, FIXED))
        return use("propose_repair", {"workflow": mended, "summary": "It asks elsewhere."})


def test_no_canary_reaches_the_model(tmp_path: Path) -> None:
    claude = {
        "AGENT": "claude",
        "ANTHROPIC_API_KEY": "sk-ant-test-0123456789abcdef",
        "CLAUDE_MODEL": "claude-sonnet-5-5",
    }
    with MessagesApi(Model()) as api, staged(tmp_path, ANTHROPIC_BASE_URL=api.url, **claude) as stage:
        one = stage.adopt(f"orders-{uuid.uuid4().hex[:8]}")
        one.fail()
        while one.ended() == "interrupted":
            continue

        assert one.state() == "published", one.repairs()
        stage.check_kept(one)
        assert len(api.requests) >= 4 and not api.unexpected
        stage.check_unseen(one, *(json.dumps(request.body).encode() for request in api.requests))
        one.close()
