"""What the healing tests stand on: an n8n whose requests can be spoiled or held by workflow and step, and a session
whose workflow fails in it."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from app.n8n import error_workflow
from app.n8n.client import N8nClient
from tests.fakes.n8n import API_KEY, FakeN8n, Fault, Kind, Request, _handler_for, _Server
from tests.support.client import Client, Frame
from tests.support.ports import free_port
from tests.support.server import UNLIMITED, BridgeServer, wait_for

LIMIT_S = 20.0
BROKEN, FIXED, WORSE = "http://api.test/gone", "http://api.test/here", "http://api.test/nowhere"
SECRET = "callback-secret-of-these-tests"
Json = dict[str, Any]
Step = Literal["get", "put", "create", "publish", "run", "retry", "list", "other"]


@dataclass(slots=True)
class Spoil:
    workflow_id: str
    step: Step
    kind: Kind
    times: int
    status: int = 500
    skip: int = 0


@dataclass(slots=True)
class Hold:
    """A request that n8n has got (``before``) or has done (``after``) and does not answer until it is let go."""

    workflow_id: str
    step: Step
    when: Literal["before", "after"]
    skip: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.released.set()


class HealN8n(FakeN8n):
    """The fake n8n; its steps are told apart by the workflow that they are about (``""`` for any)."""

    def __init__(self, **options: Any) -> None:
        self.port = free_port()
        super().__init__(port=self.port, **options)
        self.down = False
        self.steps: list[tuple[str, Step, Request]] = []
        self._spoils: list[Spoil] = []
        self._holds: list[Hold] = []
        # What comes before a repair's own requests must not be hurt: put in only when wanted.
        for url in (BROKEN, WORSE):
            self.http[url] = [404]

    def spoil(
        self, workflow_id: str, step: Step, kind: Kind, *, times: int = 1, status: int = 500, skip: int = 0
    ) -> Spoil:
        """Spoil that workflow's next requests of this step but for the first ``skip``; see ``misbehave``."""
        self._spoils.append(Spoil(workflow_id, step, kind, times, status, skip))
        return self._spoils[-1]

    def hold(self, workflow_id: str, step: Step, when: Literal["before", "after"], *, skip: int = 0) -> Hold:
        """Hold that workflow's next request of this step, after ``skip`` others."""
        self._holds.append(Hold(workflow_id, step, when, skip))
        return self._holds[-1]

    def go_down(self) -> None:
        """Nobody listens any more, and connections that are open get no answer."""
        self.down = True
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        self.down = False
        self._server = _Server(("127.0.0.1", self.port), _handler_for(self))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        for hold in self._holds:
            hold.release()
        if self.down:
            self.come_back()
        super().stop()

    def fault_for(self, request: Request, target: str) -> Fault | None:
        workflow_id, step = self.step_of(request)
        with self._lock:
            self.steps.append((workflow_id, step, request))
            if self.down:
                return Fault("drop", 1, "", _ANY, 500)
            for spoil in self._spoils:
                if spoil.times > 0 and spoil.step == step and spoil.workflow_id in ("", workflow_id):
                    if spoil.skip:
                        spoil.skip -= 1
                        continue
                    spoil.times -= 1
                    return Fault(spoil.kind, 1, "", _ANY, spoil.status)
        return super().fault_for(request, target)

    def answer(self, request: Request) -> tuple[int, Any]:
        hold = self._hold_of(*self.step_of(request))
        if hold is None:
            return super().answer(request)
        try:
            if hold.when == "before":
                hold.reached.set()
                hold.released.wait(LIMIT_S)
                return super().answer(request)
            answer = super().answer(request)
            hold.reached.set()
            hold.released.wait(LIMIT_S)
            return answer
        finally:
            hold.done.set()

    def _hold_of(self, workflow_id: str, step: Step) -> Hold | None:
        with self._lock:
            for hold in self._holds:
                if hold.step == step and hold.workflow_id in ("", workflow_id):
                    if hold.skip:
                        hold.skip -= 1
                        continue
                    self._holds.remove(hold)
                    return hold
        return None

    def step_of(self, request: Request) -> tuple[str, Step]:
        parts = request.path.partition("/api/v1/")[2].split("/")
        match request.method, parts:
            case "GET", ["workflows", workflow_id]:
                return workflow_id, "get"
            case "PUT", ["workflows", workflow_id]:
                return workflow_id, "put"
            case "POST", ["workflows"]:
                return "", "create"
            case "POST", ["workflows", workflow_id, "activate"]:
                return workflow_id, "publish"
            case "POST", ["executions", run_id, "retry"]:
                return str(self.executions.get(run_id, {}).get("workflowId", "")), "retry"
            case "GET", ["executions", run_id]:
                return str(self.executions.get(run_id, {}).get("workflowId", "")), "run"
            case "GET", ["executions" | "workflows"]:
                return request.query.get("workflowId", ""), "list"
        return "", "other"

    # -- what came of it

    def sent(self, workflow_id: str, step: Step) -> list[Request]:
        """That workflow's requests of this step so far, done or not."""
        with self._lock:
            return [request for found, which, request in self.steps if (found, which) == (workflow_id, step)]

    def writes(self, workflow_id: str) -> list[Request]:
        return [r for step in ("put", "publish", "retry") for r in self.sent(workflow_id, step)]  # type: ignore[arg-type]

    def urls_put(self, workflow_id: str) -> list[str]:
        """What each PUT made of the failing node's URL."""
        return [url_of(request.body) for request in self.sent(workflow_id, "put")]

    def active(self, workflow_id: str) -> Json:
        stored = self.workflows[workflow_id]
        return stored.versions[stored.public["activeVersionId"]]

    def draft(self, workflow_id: str) -> Json:
        return self.workflows[workflow_id].public

    def is_clean(self, workflow_id: str) -> bool:
        """Whether the draft is what runs."""
        draft, active = self.draft(workflow_id), self.active(workflow_id)
        return all(draft[key] == active[key] for key in ("nodes", "connections"))

    def runs(self, workflow_id: str, mode: str = "") -> list[Json]:
        with self._lock:
            return [r for r in self.executions.values() if r["workflowId"] == workflow_id and mode in ("", r["mode"])]


class _Any:
    def search(self, _: str) -> bool:
        return True


_ANY: Any = _Any()


@contextmanager
def healing_n8n(**options: Any) -> Iterator[HealN8n]:
    n8n = HealN8n(**options)
    n8n.start()
    try:
        yield n8n
        n8n.check()
    finally:
        n8n.stop()


def install(n8n: HealN8n, server: BridgeServer) -> str:
    """The bridge's error workflow, as an operator installs it; gives its id."""
    client = N8nClient(n8n.url, API_KEY)
    try:
        return error_workflow.install(client, callback_url=server.url, secret=SECRET).workflow_id
    finally:
        client.close()


def settings_for(n8n: HealN8n, **more: Any) -> Json:
    return {
        **UNLIMITED,
        "N8N_API_URL": n8n.url,
        "N8N_API_KEY": API_KEY,
        "N8N_CALLBACK_SECRET": SECRET,
        "LEASE_SECONDS": 1,
        "MAX_CONCURRENT_TURNS": 30,
        "MAX_SESSIONS": 10_000,
        **more,
    }


# -- workflows


def node(name: str, kind: str, **more: Any) -> Json:
    base = {"name": name, "type": f"n8n-nodes-base.{kind}", "typeVersion": 1, "position": [0, 0], "parameters": {}}
    return {**base, **more}


def workflow(
    path: str,
    *,
    url: str = BROKEN,
    method: str = "",
    settings: Mapping[str, Any] | None = None,
    ask: Mapping[str, Any] | None = None,
    tell: Mapping[str, Any] | None = None,
) -> Json:
    """Webhook → Prepare → Ask (an HTTP request) → Tell; ``ask`` and ``tell`` are more of these nodes."""
    asks = {"url": url, **({"method": method} if method else {})}
    names = ["Hook", "Prepare", "Ask", "Tell"]
    links = pairwise(names)
    return {
        "name": f"Orders {path}",
        "nodes": [
            node("Hook", "webhook", parameters={"path": path, "httpMethod": "POST"}, webhookId=str(uuid.uuid4())),
            node("Prepare", "noOp"),
            {**node("Ask", "httpRequest", parameters=asks), **(ask or {})},
            {**node("Tell", "noOp"), **(tell or {})},
        ],
        "connections": {a: {"main": [[{"node": b, "type": "main", "index": 0}]]} for a, b in links},
        "settings": {"executionOrder": "v1", **(settings or {})},
    }


def url_of(body: Mapping[str, Any]) -> str:
    return next((str(n["parameters"].get("url")) for n in body["nodes"] if n["name"] == "Ask"), "")


def to(url: str) -> Json:
    """A proposal of the planned agent: the failing node asks there."""
    return {"nodes": {"Ask": {"parameters": {"url": url}}}}


class Healing:
    """A session with one workflow of its own in n8n, which fails when its webhook is called.

    :ivar workflow_id: of the workflow that :meth:`adopt` made.
    """

    def __init__(self, server: BridgeServer, n8n: HealN8n, folder: Path) -> None:
        self.server, self.n8n, self.folder = server, n8n, folder
        self.client = Client(server)
        self.path = f"orders-{uuid.uuid4().hex[:8]}"
        self.workflow_id = ""
        self.before: Json = {}

    def open(self) -> Healing:
        self.client.connect()
        return self

    def adopt(self, *proposals: Json, autonomy: str = "auto", **made: Any) -> Healing:
        """Connect, and adopt a published workflow for whose failures the agent has these proposals."""
        self.open()
        self.workflow_id = self.n8n.add(workflow(self.path, **made))
        self.plan(*proposals)
        body = {"workflowId": self.workflow_id, "autonomy": autonomy}
        answer = self.client.http("POST", "/sessions/{sid}/workflows", body)
        assert answer.status == 201, answer
        self.before = json.loads(json.dumps(self.n8n.draft(self.workflow_id)))
        with self.n8n._lock:
            self.n8n.steps = [step for step in self.n8n.steps if step[0] != self.workflow_id]
        return self

    def plan(self, *proposals: Json, hold: bool = False) -> None:
        path = self.folder / f"{self.workflow_id}.json"
        path.write_text(json.dumps({"proposals": proposals}))
        if hold:
            (self.folder / f"{self.workflow_id}.hold").touch()

    def let_propose(self) -> None:
        (self.folder / f"{self.workflow_id}.hold").unlink()

    def fail(self) -> str:
        """Call the webhook; gives the id of the run, which failed."""
        known = {run["id"] for run in self.n8n.runs(self.workflow_id)}
        assert self.n8n.call_webhook(self.path, {"order": 1})[0] == 200
        (run,) = [run for run in self.n8n.runs(self.workflow_id) if run["id"] not in known]
        assert run["status"] == "error"
        return str(run["id"])

    def call(self) -> str:
        """Call the webhook; gives the run's status."""
        known = {run["id"] for run in self.n8n.runs(self.workflow_id)}
        self.n8n.call_webhook(self.path, {"order": 2})
        (run,) = [run for run in self.n8n.runs(self.workflow_id) if run["id"] not in known]
        return str(run["status"])

    def receive(self, kind: str, **wanted: Any) -> Json:
        """The ``data`` of the next such event."""
        data: Json = self.client.receive(kind, limit_s=LIMIT_S, **wanted)["data"]
        return data

    def ended(self) -> str:
        """Wait for a turn's end; gives its outcome."""
        return str(self.receive("turn_finished")["outcome"])

    def heal(self) -> list[Json]:
        """Fail, and wait for the end of the repair's turn; gives the session's events."""
        self.fail()
        while self.ended() == "interrupted":
            continue
        return self.events()

    def command(self, kind: str, **fields: Any) -> int:
        return self.client.http("POST", "/sessions/{sid}/commands", {"type": kind, **fields}, limit_s=LIMIT_S).status

    def events(self) -> list[Json]:
        """All of the session, but text."""
        found: list[Json] = []
        while page := self.client.http(
            "GET", f"/sessions/{{sid}}/events?limit=1000&after={found[-1]['seq'] if found else 0}"
        ).json["events"]:
            found += page
        return found

    def kinds(self, *wanted: str) -> list[str]:
        """Types of the session's events, in order; of those named, where any are."""
        return [event["type"] for event in self.events() if not wanted or event["type"] in wanted]

    def data(self, kind: str) -> list[Json]:
        return [event["data"] for event in self.events() if event["type"] == kind]

    def repairs(self) -> list[Json]:
        found: list[Json] = self.client.http("GET", "/sessions/{sid}/repairs").json["repairs"]
        return found

    def state(self) -> str:
        """Of the one repair."""
        (repair,) = self.repairs()
        return str(repair["state"])

    def wait_state(self, state: str) -> None:
        wait_for(lambda: self.state() == state, limit_s=LIMIT_S, what=f"{state}, not {self.state()}")

    def shown(self, version: str = "draft") -> Json:
        answer = self.client.http("GET", f"/sessions/{{sid}}/workflows/{self.workflow_id}?version={version}")
        assert answer.status == 200, answer
        body: Json = answer.json
        return body

    def snapshots(self) -> list[Json]:
        path = f"/sessions/{{sid}}/workflows/{self.workflow_id}/snapshots"
        found: list[Json] = self.client.http("GET", path).json["snapshots"]
        return found

    def chat(self, *calls: Sequence[Any]) -> list[Json]:
        """A turn of the planned agent with these tool calls; gives what each came to: ``ok`` and ``text``."""
        self.client.say(json.dumps(calls))
        self.client.receive_if(lambda f: f["type"] == "turn_started" and f["data"]["kind"] == "chat", LIMIT_S)
        text = self.receive("assistant_message")["text"]
        self.ended()
        results: list[Json] = json.loads(text)
        return results

    def untouched(self) -> bool:
        """Whether n8n saw no write to the workflow at all."""
        return not self.n8n.writes(self.workflow_id) and self.n8n.draft(self.workflow_id) == self.before

    def check_published(self, url: str = FIXED, *, calls: bool = True) -> None:
        """The proposal runs, is the draft too, and nothing was done twice."""
        n8n, workflow_id = self.n8n, self.workflow_id
        assert url_of(n8n.active(workflow_id)) == url
        assert n8n.is_clean(workflow_id)
        tried = [run["workflowVersionId"] for run in n8n.runs(workflow_id, "retry")]
        assert len(tried) == len(set(tried))
        assert self.kinds().count("repair_published") == 1
        if calls:
            assert self.call() == "success"

    def close(self) -> None:
        self.client.disconnect()


def between(events: Sequence[Frame], first: str, last: str) -> float:
    """Seconds from one event to another, by their times."""
    times = {event["type"]: datetime.fromisoformat(event["at"]) for event in reversed(events)}
    return (times[last] - times[first]).total_seconds()


def soon(met: Any, *, limit_s: float = LIMIT_S, what: str = "") -> None:
    wait_for(met, limit_s=limit_s, what=what)


def claude_processes(server: BridgeServer) -> list[int]:
    """Of the CLI under this server's folder, by the home that its environment names."""
    marker = f"HOME={server.folder / 'claude' / 'home'}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker in (entry / "environ").read_bytes() + b"\0":
                found.append(int(entry.name))
        except OSError:  # it has just ended, or is somebody else's
            continue
    return found
