"""A small n8n: a real HTTP server that answers as n8n 2.41.1 does, records what it got, objects to the unexpected.

It runs tiny workflows (webhook, code, HTTP request, stop and error, pass-through), calls back from the error workflow,
and misbehaves when told to. It runs in threads of its own; as a process: ``python -m tests.fakes.n8n --port 5678``.
"""

from __future__ import annotations

import argparse
import base64
import copy
import itertools
import json
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

API_KEY = "n8n-key-for-tests"
Json = dict[str, Any]
Kind = Literal["status", "html", "drop", "drop_after", "stall", "huge", "drip", "garbage"]

READ_ONLY = (
    *("id", "active", "createdAt", "updatedAt", "versionId", "isArchived", "triggerCount"),
    *("tags", "meta", "shared", "activeVersion"),
)
TAKEN = ("name", "nodes", "connections", "settings", "staticData", "pinData", "nodeGroups", "description")
NODE_KEYS = {
    *("id", "name", "type", "typeVersion", "position", "parameters", "credentials", "webhookId", "disabled", "notes"),
    *("notesInFlow", "executeOnce", "alwaysOutputData", "retryOnFail", "maxTries", "waitBetweenTries"),
    *("continueOnFail", "onError"),
}
SETTINGS = {
    *("saveExecutionProgress", "saveManualExecutions", "saveDataErrorExecution", "saveDataSuccessExecution"),
    *("executionTimeout", "errorWorkflow", "timezone", "executionOrder", "callerPolicy", "callerIds"),
}
NO_TRIGGER = (
    "Workflow cannot be activated because it has no trigger node. "
    "At least one trigger, webhook, or polling node is required."
)
HTML = "<!DOCTYPE html>\n<html><head><title>Error</title></head><body><pre>ResponseError: Failed</pre></body></html>\n"
WEBHOOK = "n8n-nodes-base.webhook"


@dataclass(frozen=True, slots=True)
class Request:
    """What came in. ``path`` is as sent, without the query."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try of a callback; ``status`` 0: nobody answered."""

    url: str
    body: Json
    headers: dict[str, str]
    status: int


class Refusal(Exception):
    """An answer that is an error: ``{"message": …}``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class NodeFailure(Exception):
    """A node failed with this n8n error object."""

    def __init__(self, error: Json) -> None:
        super().__init__(error.get("message"))
        self.error = error


@dataclass(slots=True)
class Fault:
    kind: Kind
    times: int
    method: str
    path: re.Pattern[str]
    status: int


@dataclass(slots=True)
class Stored:
    """A workflow. ``live`` is the version that production runs; it follows ``activeVersionId`` when published."""

    public: Json
    versions: dict[str, Json] = field(default_factory=dict)
    live: str | None = None
    due: float = 0.0


class FakeN8n:
    """Start it with ``with FakeN8n() as n8n:``; leaving checks that nothing unexpected came.

    :ivar http: what an HTTP Request node meets, by its ``url``: statuses (``500``) or network errors
        (``"ECONNREFUSED"``), one for each call, the last for good. Not listed: 200.
    :ivar calls_loopback: an HTTP Request node really calls a ``url`` on loopback that ``http`` does not list.
    :ivar scopes: of the API key; ``None``: all.
    :ivar version: what it says that it is, in the page of its editor, or, where ``tells_anybody``, as n8n 1.122 did.
    :ivar clock_ahead_s: of its ``Date`` header.
    :ivar first_run_id: where several report to one bridge, which knows a report by its run's id.
    :ivar lists_credentials: whether this n8n has ``GET /credentials``.
    :ivar calls_back: ``False``: n8n is killed each time before its error workflow has told of a failure.
    :ivar retry_pause_s, wait_s, give_up_s: stand in for the 5 s, 70 s and 24 h of the error workflow.
    """

    def __init__(self, *, port: int = 0, api_key: str = API_KEY, prefix: str = "", lag_s: float = 0.0) -> None:
        self.api_key, self.prefix, self.lag_s = api_key, prefix, lag_s
        self.scopes: set[str] | None = None
        self.lists_credentials = True
        self.calls_loopback = False
        self.version, self.tells_anybody, self.clock_ahead_s = "2.41.1", False, 0.0
        self.ready = True
        self.first_run_id = 1
        self.calls_back = True
        self.http: dict[str, list[int | str]] = {}
        self.retry_pause_s, self.wait_s, self.give_up_s = 0.02, 0.1, 10.0
        self.requests: list[Request] = []
        self.deliveries: list[Delivery] = []
        self.unexpected: list[str] = []
        self.log: list[str] = []
        self.workflows: dict[str, Stored] = {}
        self.executions: dict[str, Json] = {}
        self.credentials: dict[str, Json] = {}
        self._faults: list[Fault] = []
        self._run_ids = itertools.count()
        self._publication, self._runs, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._callbacks = threading.Event()
        for open_gate in (self._publication, self._runs, self._callbacks):
            open_gate.set()
        self._lock = threading.RLock()
        self._callers: list[threading.Thread] = []
        self._server = _Server(("127.0.0.1", port), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    # -- life

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """What ``N8N_API_URL`` would be."""
        return self.origin + self.prefix

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopped.set()
        self._runs.set()
        self._callbacks.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is None:
            self.check()

    def check(self) -> None:
        """:raises AssertionError: something came that n8n's public API does not have."""
        assert not self.unexpected, f"unexpected requests: {self.unexpected}"

    # -- what a test does to it

    def misbehave(self, kind: Kind, *, times: int = 1, method: str = "", path: str = "", status: int = 500) -> None:
        """Spoil the next requests whose path (before ``/api/v1`` is cut off, with query) matches ``path``.

        ``status`` and ``html`` answer with that status and do nothing; ``drop`` closes the connection unanswered,
        ``drop_after`` does the work first; ``stall`` works and never answers; ``huge``, ``drip`` and ``garbage`` do the
        work and answer with too much, too slowly, or with no JSON.
        """
        self._faults.append(Fault(kind, times, method, re.compile(path), status))

    def hold_publication(self) -> None:
        """From now on production keeps running what it runs."""
        self._publication.clear()

    def release_publication(self) -> None:
        self._publication.set()

    def hold_runs(self) -> None:
        """From now on runs begin and do not end."""
        self._runs.clear()

    def release_runs(self) -> None:
        self._runs.set()

    def hold_callbacks(self) -> None:
        """From now on the error workflow begins and does not send."""
        self._callbacks.clear()

    def release_callbacks(self) -> None:
        self._callbacks.set()

    def add(self, body: Mapping[str, Any], *, active: bool = True) -> str:
        """A workflow that a person has made; returns its id."""
        with self._lock:
            stored = self._create(dict(body))
            if active:
                self._activate(stored, {})
            return str(stored.public["id"])

    def edit(self, workflow_id: str, *, publish: bool = False, **changes: Any) -> str:
        """What a person does in the editor; returns the version's id."""
        with self._lock:
            stored = self.workflows[workflow_id]
            self._save(stored, {**{key: stored.public[key] for key in TAKEN[:4]}, **changes}, publish=publish)
            return str(stored.public["versionId"])

    def call_webhook(self, path: str, body: Any = None) -> tuple[int, Json]:
        """Call it as the outside world does; the run has ended when this returns."""
        request = urllib.request.Request(
            f"{self.url}/webhook/{path}",
            data=json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            return exc.code, json.load(exc)

    def fail(self, workflow_id: str, *, node: str, message: str, name: str = "NodeOperationError") -> str:
        """A run of the active version that fails in that node; returns its id. The callback goes out by itself."""
        stored = self.workflows[workflow_id]
        version = self._version(stored, stored.public["activeVersionId"])
        found = next(n for n in version["nodes"] if n["name"] == node)
        error = {"message": message, "name": name, "stack": f"{name}: {message}\n    at n8n", "node": found}
        return str(self._run(stored, version, mode="trigger", failing={node: error})["id"])

    def fail_trigger(self, workflow_id: str, *, message: str) -> str:
        """The trigger itself fails: a run that never began is saved, and no callback names it; gives its id."""
        stored = self.workflows[workflow_id]
        version = self._version(stored, stored.public["activeVersionId"])
        node = version["nodes"][0]
        error = {"message": message, "name": "NodeOperationError", "timestamp": int(time.time() * 1000), "context": {}}
        failed = {"runData": {node["name"]: [{"error": error, "source": []}]}, "error": error}
        with self._lock:
            run = self._begin(stored, version, mode="trigger")
            result = {**failed, "lastNodeExecuted": node["name"]}
            run.update(status="error", startedAt=None, stoppedAt=run["createdAt"], data={"resultData": result})
        self._call_back(stored, {"trigger": {"error": {**error, "stack": message, "node": node}, "mode": "trigger"}})
        return str(run["id"])

    def crash(self, workflow_id: str, *, node: str) -> str:
        """n8n is killed while that node runs, and comes back; gives the run's id."""
        name, message = "WorkflowCrashedError", "Workflow did not finish, possible out-of-memory issue"
        error = {"name": name, "message": message, "context": {}}
        return self._broken_off(workflow_id, "crashed", node, ran_s=1.0, error=error)

    def cancel(self, workflow_id: str, *, node: str, ran_s: float) -> str:
        """A run is stopped so long after its start: by its ``executionTimeout``, or by a person; gives its id."""
        return self._broken_off(workflow_id, "canceled", node, ran_s=ran_s)

    def remove_run(self, run_id: str) -> None:
        """A person deletes it."""
        self.executions[run_id]["kept"] = False

    def settle(self, timeout_s: float = 5.0) -> None:
        """Wait until all callbacks are delivered or given up."""
        deadline = time.monotonic() + timeout_s
        for caller in list(self._callers):
            caller.join(max(0.0, deadline - time.monotonic()))
            assert not caller.is_alive(), "a callback is still on its way"

    def count(self, method: str, path: str) -> int:
        """How many requests came whose path (after ``/api/v1``) matches."""
        wanted = re.compile(path)
        return sum(1 for r in self.requests if r.method == method and wanted.search(r.path.partition("/api/v1")[2]))

    # -- requests

    def answer(self, request: Request) -> tuple[int, Any]:
        """Status and JSON, or text for what is no JSON."""
        path = request.path.removeprefix(self.prefix) if self.prefix else request.path
        if request.method == "GET" and path in ("/healthz", "/healthz/readiness"):
            return (200, {"status": "ok"}) if self.ready else (503, {"status": "error"})
        if request.method == "GET" and path == "/rest/settings":
            told = {"versionCli": self.version} if self.tells_anybody else {}
            return 200, {"data": {"settingsMode": "public", **told}}
        if request.method == "GET" and path == "/":
            return 200, _editor("" if self.tells_anybody else self.version)
        if path.startswith("/webhook/"):
            return self._webhook(request.method, unquote(path.removeprefix("/webhook/")), request)
        if not path.startswith("/api/v1/"):
            self.unexpected.append(f"{request.method} {request.path}")
            return 404, HTML
        try:
            return 200, self._api(request, path.removeprefix("/api/v1"))
        except Refusal as refusal:
            return refusal.status, {"message": refusal.message}

    def fault_for(self, request: Request, target: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.method in ("", request.method) and fault.path.search(target):
                    fault.times -= 1
                    return fault
        return None

    def _api(self, request: Request, path: str) -> Any:
        if request.headers.get("x-n8n-api-key") != self.api_key:
            raise Refusal(401, "Unauthorized")
        for method, pattern, scope, queries, handle in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found is None or method != request.method:
                continue
            if path == "/credentials" and method == "GET" and not self.lists_credentials:
                raise Refusal(405, "GET method not allowed")
            if self.scopes is not None and scope not in self.scopes:
                raise Refusal(403, "Forbidden")
            if strange := set(request.query) - set(queries.split()):
                self.unexpected.append(f"{method} {path} with {sorted(strange)}")
                raise Refusal(400, f"Unknown query parameter '{strange.pop()}'")
            return handle(self, request, *map(unquote, found.groups()))
        self.unexpected.append(f"{request.method} {path}")
        raise Refusal(404, "not found")

    # -- workflows

    def list_workflows(self, request: Request) -> Json:
        with self._lock:
            everything = [self._shown(stored, request) for stored in self.workflows.values()]
        return _page(everything, request)

    def create_workflow(self, request: Request) -> Json:
        with self._lock:
            return self._shown(self._create(_body(request)), request)

    def get_workflow(self, request: Request, workflow_id: str) -> Json:
        return self._shown(self._stored(workflow_id), request)

    def put_workflow(self, request: Request, workflow_id: str) -> Json:
        with self._lock:
            body = _body(request)
            _refuse_invalid(body)
            stored = self.workflows.get(workflow_id)
            if stored is None:
                raise Refusal(404, "You do not have permission to update this workflow. Ask the owner to share it.")
            publish = request.query.get("publishIfActive", "true") == "true"
            return self._shown(self._save(stored, body, publish=publish), request)

    def activate(self, request: Request, workflow_id: str) -> Json:
        with self._lock:
            return self._shown(self._activate(self._stored(workflow_id), _body(request) or {}), request)

    def deactivate(self, request: Request, workflow_id: str) -> Json:
        with self._lock:
            stored = self._stored(workflow_id)
            self._switch(stored, None)
            return self._shown(stored, request)

    def delete_workflow(self, request: Request, workflow_id: str) -> Json:
        with self._lock:
            stored = self._stored(workflow_id)
            self._settled(stored)
            if stored.public["active"] or stored.live is not None:
                raise Refusal(409, "The workflow is still being unpublished. Try again in a moment.")
            del self.workflows[workflow_id]
            for run in [run for run in self.executions.values() if run["workflowId"] == workflow_id]:
                del self.executions[run["id"]]
            return self._shown(stored, request)

    def history(self, request: Request, workflow_id: str) -> Json:
        versions = reversed(self._stored(workflow_id).versions.values())
        return _page([{k: v for k, v in ver.items() if k not in ("nodes", "connections")} for ver in versions], request)

    def version(self, request: Request, workflow_id: str, version_id: str) -> Json:
        return self._version(self._stored(workflow_id), version_id)

    def _stored(self, workflow_id: str) -> Stored:
        if workflow_id not in self.workflows:
            raise Refusal(404, "Not Found")
        return self.workflows[workflow_id]

    def _version(self, stored: Stored, version_id: str | None) -> Json:
        if version_id not in stored.versions:
            raise Refusal(404, "Version not found")
        return copy.deepcopy(stored.versions[version_id])

    def _create(self, body: Json) -> Stored:
        _refuse_invalid(body)
        workflow_id = uuid.uuid4().hex[:16]
        public: Json = {
            "id": workflow_id,
            "description": None,
            "active": False,
            "activeVersionId": None,
            "createdAt": _now(),
            "isArchived": False,
            "versionId": "",
            "versionCounter": 0,
            "triggerCount": 0,
            "nodeGroups": [],
            "staticData": None,
            "pinData": None,
            "meta": None,
            "tags": [],
            "name": "",
            "nodes": None,
            "connections": None,
            "settings": {},
        }
        stored = Stored(public)
        self._save(stored, body, publish=False)
        self.workflows[workflow_id] = stored
        return stored

    def _save(self, stored: Stored, body: Json, *, publish: bool) -> Stored:
        public = stored.public
        if public["isArchived"]:
            raise Refusal(400, "Cannot update an archived workflow.")
        body = copy.deepcopy(body)
        publish = publish and public["active"]
        if publish and not any(map(_is_trigger, body["nodes"])):
            raise Refusal(400, NO_TRIGGER)
        for node in body["nodes"]:
            node.setdefault("id", str(uuid.uuid4()))
            if node["type"] == WEBHOOK:
                node.setdefault("webhookId", str(uuid.uuid4()))
        changed = (body["nodes"], body["connections"]) != (public["nodes"], public["connections"])
        settings = {**public["settings"], **body["settings"]}
        body["settings"] = {key: value for key, value in settings.items() if value not in ("DEFAULT", -1)}
        public.update(body, updatedAt=_now())
        if changed:
            public["versionId"] = str(uuid.uuid4())
            public["versionCounter"] += 1
            stored.versions[public["versionId"]] = {
                "versionId": public["versionId"],
                "workflowId": public["id"],
                "nodes": copy.deepcopy(body["nodes"]),
                "connections": copy.deepcopy(body["connections"]),
                "nodeGroups": [],
                "authors": "Owner",
                "name": None,
                "description": None,
                "createdAt": _now(),
            }
        if publish:
            self._switch(stored, public["versionId"])
        return stored

    def _activate(self, stored: Stored, body: Json) -> Stored:
        if stored.public["isArchived"]:
            raise Refusal(400, "Cannot activate an archived workflow.")
        version = self._version(stored, body.get("versionId") or stored.public["versionId"])
        if not any(map(_is_trigger, version["nodes"])):
            raise Refusal(400, NO_TRIGGER)
        for other in self.workflows.values():
            if other is not stored and other.live and _paths(version) & _paths(other.versions[other.live]):
                raise Refusal(409, "There is a conflict with one of the webhooks.")
        self._switch(stored, version["versionId"])
        return stored

    def _switch(self, stored: Stored, version_id: str | None) -> None:
        self._settled(stored)
        stored.public.update(active=version_id is not None, activeVersionId=version_id)
        stored.due = time.monotonic() + self.lag_s
        self._settled(stored)

    def _settled(self, stored: Stored) -> None:
        """Production follows, where nothing holds it back."""
        if self._publication.is_set() and time.monotonic() >= stored.due:
            stored.live = stored.public["activeVersionId"]

    def _shown(self, stored: Stored, request: Request) -> Json:
        shown = copy.deepcopy(stored.public)
        if request.query.get("excludePinnedData") == "true":
            del shown["pinData"]
        shown["shared"] = [{"role": "workflow:owner", "project": {"name": "Owner <owner@example.com>"}}]
        version_id = shown["activeVersionId"]
        shown["activeVersion"] = self._version(stored, version_id) if version_id else None
        return shown

    # -- executions

    def list_executions(self, request: Request) -> Json:
        query, cursor = request.query, _decoded(request.query.get("cursor"))
        limit = int(cursor.get("limit") or query.get("limit") or 100)
        with self._lock:
            found = [
                run
                for run in reversed(self.executions.values())
                if run["kept"]
                and query.get("workflowId") in (None, run["workflowId"])
                and (run["status"] == query["status"] if "status" in query else run["status"] != "running")
                and int(run["id"]) < int(cursor.get("lastId") or 10**9)
            ]
        rows = [{k: run[k] for k in _LISTED} for run in found[:limit]]
        more = len(found) > limit
        return {"data": rows, "nextCursor": _encoded({"lastId": rows[-1]["id"], "limit": limit}) if more else None}

    def get_execution(self, request: Request, execution_id: str) -> Json:
        run = self._kept(execution_id)
        if request.query.get("includeData") == "true":
            return copy.deepcopy(run)
        return {key: value for key, value in run.items() if key not in ("data", "workflowData", "customData")}

    def stop_execution(self, request: Request, execution_id: str) -> Json:
        run = self._kept(execution_id)
        run["status"] = "canceled"
        return {k: run[k] for k in _LISTED}

    def retry(self, request: Request, execution_id: str) -> Json:
        body = _body(request) or {}
        if not execution_id.isdigit() or execution_id not in self.executions:
            raise Refusal(404, f'The execution with the ID "{execution_id}" does not exist.')
        first = self._kept(execution_id)
        if first["status"] == "success":
            raise Refusal(409, "The execution succeeded, so it cannot be retried.")
        stored = self.workflows[first["workflowId"]]
        version = self._version(stored, stored.public["versionId"])
        if not body.get("loadWorkflow"):
            version = self._version(stored, first["workflowVersionId"])
        failed = first["data"]["resultData"]["lastNodeExecuted"]
        if not any(node["name"] == failed for node in version["nodes"]):
            raise Refusal(500, "Internal server error")
        run = self._run(stored, version, mode="retry", retry_of=first, start=failed)
        if run["status"] == "success":
            first["retrySuccessId"] = run["id"]
        return {k: run[k] for k in ("id", "mode", "startedAt", "workflowId", "finished", "retryOf", "status", "data")}

    def _kept(self, execution_id: str) -> Json:
        if not execution_id.isdigit():
            raise Refusal(400, "request/params/executionId must be a positive integer")
        run = self.executions.get(execution_id)
        if run is None or not run["kept"]:
            raise Refusal(404, "Not Found")
        return run

    def _webhook(self, method: str, path: str, request: Request) -> tuple[int, Json]:
        for stored in list(self.workflows.values()):
            self._settled(stored)
            version = stored.versions.get(stored.live or "", {"nodes": []})
            for node in version["nodes"]:
                wanted = node["parameters"].get("httpMethod", "GET")
                if node["type"] == WEBHOOK and node["parameters"].get("path") == path and wanted == method:
                    # n8n answers first and runs then; here the run has ended when the answer comes.
                    item = {"json": {"body": request.body, "headers": request.headers, "query": request.query}}
                    self._run(stored, copy.deepcopy(version), mode="webhook", start=node["name"], items=[item])
                    return 200, {"message": "Workflow was started"}
        message = f'The requested webhook "{method} {path}" is not registered.'
        return 404, {"code": 404, "message": message, "hint": "The workflow must be active."}

    def _run(
        self,
        stored: Stored,
        version: Json,
        *,
        mode: str,
        start: str = "",
        items: Sequence[Json] = (),
        retry_of: Json | None = None,
        failing: Mapping[str, Json] | None = None,
        parent_id: str | None = None,
    ) -> Json:
        """Run it to its end; the callback of a failure goes out. ``parent_id``: of the run that calls it."""
        before = retry_of["data"]["resultData"]["runData"] if retry_of else {}
        run_data = {name: runs for name, runs in copy.deepcopy(before).items() if name != start}
        result: Json = {"runData": run_data, "lastNodeExecuted": start}
        with self._lock:
            run = self._begin(stored, version, mode=mode, retry_of=retry_of)
            run["data"]["resultData"] = result
        settings = run["workflowData"]["settings"]
        self._runs.wait()
        nodes = {node["name"]: node for node in version["nodes"]}
        given = list(items) or _input_of(before.get(start)) or [{"json": {}}]
        queue: list[tuple[str, list[Json], Json | None]] = [(start or version["nodes"][0]["name"], given, None)]
        status = "success"
        try:
            while queue:
                name, taken, source = queue.pop(0)
                result["lastNodeExecuted"] = name
                if nodes[name]["type"].endswith(".wait"):
                    status = "waiting"
                    break
                outputs = self._outputs(nodes[name], taken, failing or {}, run["id"])
                data = {"main": outputs, "input": taken}
                run_data.setdefault(name, []).append({"executionStatus": "success", "source": [source], "data": data})
                for number, targets in enumerate(version["connections"].get(name, {}).get("main", [])):
                    emitted = outputs[number] if number < len(outputs) else []
                    came = {"previousNode": name, "previousNodeOutput": number}
                    queue += [(target["node"], emitted, came) for target in targets or [] if emitted]
        except NodeFailure as failure:
            status = "error"
            result["error"] = failure.error
            failed = {"executionStatus": "error", "error": failure.error, "source": [source], "data": {"input": taken}}
            run_data.setdefault(name, []).append(failed)
        if run["status"] == "running":
            run.update(status=status, finished=status == "success", stoppedAt=_now())
        run["kept"] = settings.get(_SAVED.get(status, "")) != "none"
        if status == "error":
            failed_run = {"id": run["id"], "url": f"{self.url}/workflow/{run['workflowId']}/executions/{run['id']}"}
            more = {"error": result["error"], "lastNodeExecuted": name, "mode": mode}
            retried = {"retryOf": run["retryOf"]} if run["retryOf"] else {}
            if parent_id is not None:
                more["executionContext"] = {"parentExecutionId": parent_id}
            self._call_back(stored, {"execution": {**failed_run, **retried, **more}})
        return run

    def _next_run_id(self) -> str:
        return str(self.first_run_id + next(self._run_ids))

    def _begin(self, stored: Stored, version: Json, *, mode: str, retry_of: Json | None = None) -> Json:
        run: Json = {
            "id": self._next_run_id(),
            "finished": False,
            "mode": mode,
            "status": "running",
            "retryOf": retry_of["id"] if retry_of else None,
            "retrySuccessId": None,
            "waitTill": None,
            "createdAt": _now(),
            "startedAt": _now(),
            "stoppedAt": None,
            "deletedAt": None,
            "workflowId": stored.public["id"],
            "workflowVersionId": version["versionId"],
            "kept": True,
            "data": {"resultData": {}},
            "customData": {},
        }
        told = {"id": run["workflowId"], "name": stored.public["name"], "settings": stored.public["settings"]}
        run["workflowData"] = {**version, **told}
        self.executions[run["id"]] = run
        return run

    def _broken_off(self, workflow_id: str, status: str, node: str, *, ran_s: float, error: Json | None = None) -> str:
        """A run that ends now and has no outcome of its own; only one with an error is called back for."""
        stored = self.workflows[workflow_id]
        version = self._version(stored, stored.public["activeVersionId"])
        result: Json = {"runData": {}, "lastNodeExecuted": node, **({"error": error} if error else {})}
        with self._lock:
            run = self._begin(stored, version, mode="webhook")
            times = {"startedAt": _now(-ran_s), "stoppedAt": _now()}
            run.update(status=status, data={"resultData": result}, **times)
        if error:
            url = f"{self.url}/workflow/{workflow_id}/executions/{run['id']}"
            told = {"id": run["id"], "url": url, "error": error, "lastNodeExecuted": node, "mode": "webhook"}
            self._call_back(stored, {"execution": told})
        return str(run["id"])

    def _outputs(self, node: Json, items: list[Json], failing: Mapping[str, Json], run_id: str) -> list[list[Json]]:
        tries = int(node.get("maxTries", 3)) if node.get("retryOnFail") else 1
        for left in reversed(range(tries)):
            try:
                if node["name"] in failing:
                    raise NodeFailure(failing[node["name"]])
                return [self._call_sub(node, items, run_id) or self._work(node, items)]
            except NodeFailure as failure:
                if left:
                    continue
                errors = [{"json": {"error": failure.error}}]
                if node.get("onError") == "continueRegularOutput":
                    return [errors]
                if node.get("onError") == "continueErrorOutput":
                    return [[], errors]
                raise
        raise AssertionError("unreachable")

    def _call_sub(self, node: Json, items: list[Json], run_id: str) -> list[Json] | None:
        """The sub-workflow that the node calls, where it is such a node."""
        if node["type"] != "n8n-nodes-base.executeWorkflow":
            return None
        stored = self._stored(node["parameters"]["workflowId"])
        self._settled(stored)
        version = self._version(stored, stored.live or stored.public["versionId"])
        start = version["nodes"][0]["name"]
        run = self._run(stored, version, mode="integrated", start=start, items=items, parent_id=run_id)
        result = run["data"]["resultData"]
        if run["status"] == "error":
            # Neither a name nor the node, as n8n has it.
            raise NodeFailure({"message": result["error"]["message"], "stack": "at n8n"})
        return items

    def _work(self, node: Json, items: list[Json]) -> list[Json]:
        kind, parameters = node["type"].rpartition(".")[2], node.get("parameters", {})
        if kind == "code":
            thrown = re.search(r"throw new Error\(['\"](.*?)['\"]\)", parameters.get("jsCode", ""))
            if thrown:
                message = f"{thrown[1]} [line 1]"
                name = "WrappedExecutionError"
                raise NodeFailure({"name": name, "message": message, "stack": f"{name}: {message}", "lineNumber": 1})
        if kind == "stopAndError":
            message = parameters.get("errorMessage", "")
            raise NodeFailure({"name": "NodeOperationError", "message": message, "stack": message, "node": node})
        if kind == "httpRequest":
            url = parameters.get("url", "")
            is_near = self.calls_loopback and urlsplit(url).hostname == "127.0.0.1"
            outcomes = self.http.get(url) or [_call(url) if is_near else 200]
            outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
            if outcome not in range(200, 300):
                raise NodeFailure(_http_error(node, outcome))
            return [{"json": {"ok": True}}]
        return items

    # -- callbacks

    def _call_back(self, stored: Stored, failed: Json) -> None:
        if not self.calls_back:
            return
        handler = self.workflows.get(stored.public["settings"].get("errorWorkflow", ""))
        if handler is not None:
            self._settled(handler)
        if handler is None or handler is stored or handler.live is None:
            self.log.append(f"no error workflow for {stored.public['id']}")
            return
        version = self._version(handler, handler.live)
        post = next(node for node in version["nodes"] if node["type"].endswith(".httpRequest"))
        caller = threading.Thread(target=self._deliver, args=(handler, version, post, stored, failed), daemon=True)
        caller.start()
        self._callers.append(caller)  # who waits for them joins them, which needs a thread that was started

    def _deliver(self, handler: Stored, version: Json, post: Json, stored: Stored, failed: Json) -> None:
        with self._lock:
            run_id = self._next_run_id()
            self.executions[run_id] = {
                "id": run_id,
                "finished": False,
                "mode": "error",
                "status": "running",
                "retryOf": None,
                "retrySuccessId": None,
                "startedAt": _now(),
                "stoppedAt": None,
                "waitTill": None,
                "kept": True,
                "workflowId": handler.public["id"],
                "workflowVersionId": version["versionId"],
                "data": {},
            }
        self._callbacks.wait()
        durable = any(node["name"] == "Report" for node in version["nodes"])
        waits = any(node["type"].endswith(".wait") for node in version["nodes"])
        workflow = {"id": stored.public["id"], "name": stored.public["name"]}
        body = _reported(failed, workflow, run_id) if durable else {**_enumerable(failed), "workflow": workflow}
        key = f"exec-{failed['execution']['id']}" if "execution" in failed else f"trigger-{run_id}"
        headers = {"Content-Type": "application/json", "User-Agent": "n8n", "X-Idempotency-Key": key}
        for credential in post.get("credentials", {}).values():
            data = self.credentials[credential["id"]]["data"]
            headers[data["name"]] = data["value"]
        delivered = False
        give_up = time.monotonic() + self.give_up_s
        while not delivered and not self._stopped.is_set():
            for _ in range(int(post.get("maxTries", 3)) if post.get("retryOnFail") else 1):
                status = _post(post["parameters"]["url"], body, headers)
                self.deliveries.append(Delivery(post["parameters"]["url"], body, headers, status))
                delivered = 200 <= status < 300
                if delivered or self._stopped.wait(self.retry_pause_s):
                    break
            refused = 400 <= status < 500 and status not in (401, 403, 404, 408, 425, 429)
            if (
                not waits
                or refused
                or time.monotonic() > give_up
                or self._stopped.wait(0 if delivered else self.wait_s)
            ):
                break
        self.executions[run_id].update(status="success" if delivered else "error", finished=delivered, stoppedAt=_now())

    # -- credentials

    def list_credentials(self, request: Request) -> Json:
        return _page([{k: v for k, v in c.items() if k != "data"} for c in self.credentials.values()], request)

    def create_credential(self, request: Request) -> Json:
        body = _body(request)
        if "name" not in body:
            raise Refusal(400, "request/body must have required property 'name'")
        with self._lock:
            credential = {"id": uuid.uuid4().hex[:16], "name": body["name"], "type": body["type"], "data": body["data"]}
            self.credentials[credential["id"]] = credential
        return {key: value for key, value in credential.items() if key != "data"}


_LISTED = (
    *("id", "finished", "mode", "retryOf", "retrySuccessId", "status", "startedAt", "stoppedAt"),
    *("workflowId", "waitTill"),
)
_SAVED = {"error": "saveDataErrorExecution", "success": "saveDataSuccessExecution"}
_W, _E = r"/workflows/([^/]+)", r"/executions/([^/]+)"
_ROUTES: list[tuple[str, str, str, str, Callable[..., Json]]] = [
    ("GET", "/workflows", "workflow:list", "limit cursor excludePinnedData active name", FakeN8n.list_workflows),
    ("POST", "/workflows", "workflow:create", "", FakeN8n.create_workflow),
    ("GET", _W, "workflow:read", "excludePinnedData", FakeN8n.get_workflow),
    ("PUT", _W, "workflow:update", "publishIfActive", FakeN8n.put_workflow),
    ("DELETE", _W, "workflow:delete", "", FakeN8n.delete_workflow),
    ("POST", f"{_W}/(?:activate|publish)", "workflow:activate", "", FakeN8n.activate),
    ("POST", f"{_W}/(?:deactivate|unpublish)", "workflow:deactivate", "", FakeN8n.deactivate),
    ("GET", f"{_W}/history", "workflow:read", "limit cursor", FakeN8n.history),
    ("GET", f"{_W}/versions/([^/]+)", "workflow:read", "", FakeN8n.version),
    ("GET", "/executions", "execution:list", "workflowId status limit cursor", FakeN8n.list_executions),
    ("GET", _E, "execution:read", "includeData", FakeN8n.get_execution),
    ("POST", f"{_E}/retry", "execution:retry", "", FakeN8n.retry),
    ("POST", f"{_E}/stop", "execution:stop", "", FakeN8n.stop_execution),
    ("GET", "/credentials", "credential:list", "limit cursor", FakeN8n.list_credentials),
    ("POST", "/credentials", "credential:create", "", FakeN8n.create_credential),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; a bug of this fake is told by the test that meets it."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _handler_for(n8n: FakeN8n) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(size)
            if len(raw) < size:  # broken off in the middle: nothing was asked for
                self.close_connection = True
                return
            target, parts = self.path, urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            is_json = headers.get("content-type", "application/json").startswith("application/json")
            try:
                body = json.loads(raw) if raw else None
            except ValueError:
                self.reply(500 if is_json else 415, HTML if is_json else {"message": "unsupported media type"})
                return
            request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
            n8n.requests.append(request)
            fault = n8n.fault_for(request, target)
            kind = fault.kind if fault else None
            if fault and kind in ("status", "html"):
                self.reply(fault.status, HTML if kind == "html" else {"message": "Told to fail"})
                return
            status, answer = (0, None) if kind == "drop" else n8n.answer(request)
            match kind:
                case "drop" | "drop_after":
                    self.hang_up()
                case "stall":
                    n8n._stopped.wait()
                    self.hang_up()
                case "huge":
                    self.reply(200, {"data": ["x" * 1024] * 10_000, "nextCursor": None})
                case "drip":
                    self.drip()
                case "garbage":
                    self.reply(200, HTML)
                case _:
                    self.reply(status, answer)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any

        def reply(self, status: int, answer: Any) -> None:
            payload = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) + n8n.clock_ahead_s)

        def drip(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not n8n._stopped.wait(0.02):
                self.wfile.write(b" ")

        def hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            """Quiet: a test asks ``requests``."""

    return Handler


def _refuse_invalid(body: Json) -> None:
    """The checks of n8n's own, in its words."""
    if body is None:
        raise Refusal(400, "request/body must be object")
    for key in body:
        if key in READ_ONLY:
            raise Refusal(400, f"request/body/{key} is read-only")
    for key in TAKEN[:4]:
        if key not in body:
            raise Refusal(400, f"request/body must have required property '{key}'")
    for where, keys, known in (
        ("", body, TAKEN),
        ("/settings", body["settings"], SETTINGS),
        *((f"/nodes/{number}", node, NODE_KEYS) for number, node in enumerate(body["nodes"])),
    ):
        for key in keys:
            if key not in known:
                raise Refusal(400, f"request/body{where} Unrecognized key(s) in object: '{key}'")
    if not isinstance(body.get("description", ""), str):
        raise Refusal(400, "request/body/description Expected string, received null")
    names: set[str] = set()
    for number, node in enumerate(body["nodes"]):
        if node["name"] in names:
            wrong = f'nodes[{number}].name (duplicate_node_name): Duplicate node name "{node["name"]}"'
            raise Refusal(400, f"Workflow structure is invalid. {wrong}")
        names.add(node["name"])
        if not node["type"].startswith(("n8n-nodes-base.", "@n8n/")):
            raise Refusal(400, f"Unrecognized node type: {node['type']}")
    for source, kinds in body["connections"].items():
        for output, targets in enumerate(kinds.get("main", [])):
            for number, target in enumerate(targets or []):
                if target["node"] not in names or source not in names:
                    wrong = f"connections.{source}.main[{output}][{number}].node (unknown_connection_target)"
                    said = f'Connection target "{target["node"]}" does not reference an existing node'
                    raise Refusal(400, f"Workflow structure is invalid. {wrong}: {said}")


def _is_trigger(node: Json) -> bool:
    kind: str = node["type"].rpartition(".")[2]
    return kind.endswith("Trigger") or kind == "webhook"


def _paths(version: Json) -> set[tuple[str, str]]:
    hooks = [node["parameters"] for node in version["nodes"] if node["type"] == WEBHOOK]
    return {(hook.get("httpMethod", "GET"), hook.get("path", "")) for hook in hooks}


def _input_of(runs: list[Json] | None) -> list[Json]:
    return list(runs[-1]["data"]["input"]) if runs else []


def _http_error(node: Json, outcome: int | str) -> Json:
    messages = {500: "The service was not able to process your request", 404: "The resource could not be found"}
    message = messages.get(outcome, "Request failed") if isinstance(outcome, int) else "The service refused it"
    context = {"itemIndex": 0, "request": {"uri": node["parameters"].get("url"), "headers": {}}}
    more = {"description": "told to fail", "httpCode": str(outcome), "node": node, "context": context}
    return {"name": "NodeApiError", "message": message, "stack": f"NodeApiError: {message}", "messages": [], **more}


def _enumerable(failed: Json) -> Json:
    """A trigger's error as ``JSON.stringify($json)`` gives it: without its message and stack."""
    if "trigger" not in failed:
        return failed
    error = {k: v for k, v in failed["trigger"]["error"].items() if k not in ("message", "stack")}
    return {"trigger": {**failed["trigger"], "error": error}}


def _reported(failed: Json, workflow: Json, run_id: str) -> Json:
    """What the ``Report`` node of the shipped error workflow makes of it."""
    [(shape, told)] = failed.items()
    error, node = told["error"], told["error"].get("node")
    names = ("name", "message", "description", "stack", "lineNumber", "httpCode")
    picked = {**{name: error.get(name) for name in names}, "itemIndex": error.get("context", {}).get("itemIndex")}
    if node:
        kept = ("id", "name", "type", "typeVersion", "retryOnFail", "maxTries")
        picked["node"] = {name: node[name] for name in kept if name in node}
    return {"workflow": workflow, "handlerExecutionId": run_id, shape: {**told, "error": picked}}


def _call(url: str) -> int | str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return "ECONNREFUSED"


def _post(url: str, body: Json, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return 0


def _editor(version: str) -> str:
    told = json.dumps({"dsn": "", "environment": "development", "release": f"n8n@{version}"})
    meta = f'<meta name="n8n:config:sentry" content="{base64.b64encode(told.encode()).decode()}">' if version else ""
    return f"<!DOCTYPE html>\n<html><head>{meta}<title>n8n.io - Workflow Automation</title></head></html>\n"


def _body(request: Request) -> Any:
    return copy.deepcopy(request.body)


def _page(everything: list[Json], request: Request) -> Json:
    cursor = _decoded(request.query.get("cursor"))
    limit = int(cursor.get("limit") or request.query.get("limit") or 100)
    end = int(cursor.get("offset", 0)) + limit
    more = _encoded({"limit": limit, "offset": end}) if end < len(everything) else None
    return {"data": everything[end - limit : end], "nextCursor": more}


def _encoded(cursor: Json) -> str:
    return base64.b64encode(json.dumps(cursor).encode()).decode()


def _decoded(cursor: str | None) -> Json:
    decoded: Json = json.loads(base64.b64decode(cursor)) if cursor else {}
    return decoded


def _now(later_s: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=later_s)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def main() -> None:
    """Serve until SIGTERM; the first line on stdout is JSON: ``url`` and ``apiKey``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api-key", default=API_KEY)
    parser.add_argument("--lag-s", type=float, default=0.12, help="from the answer to a publication to production")
    options = parser.parse_args()
    ends = {signal.SIGTERM, signal.SIGINT}
    # Before any thread starts: they inherit it, and the signal waits for sigwait.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    n8n = FakeN8n(port=options.port, api_key=options.api_key, lag_s=options.lag_s).start()
    print(json.dumps({"url": n8n.url, "apiKey": n8n.api_key}), flush=True)
    signal.sigwait(ends)
    n8n.stop()
    for request in n8n.unexpected:
        print(f"unexpected: {request}", file=sys.stderr)
    sys.exit(bool(n8n.unexpected))


if __name__ == "__main__":
    main()
