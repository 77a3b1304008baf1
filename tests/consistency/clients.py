"""One person with a session: says things, adopts workflows that fail, decides; and n8n's callbacks for them.

Each request is repeated until it is answered, as real clients do, so that what was taken before its answer was lost
comes again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

from tests.consistency.lines import Line
from tests.consistency.plan import Op
from tests.consistency.readers import GONE, Reader, walk
from tests.consistency.recording import Recorder
from tests.heal.rig import SECRET, HealN8n, to, workflow
from tests.support.client import failure
from tests.support.server import Answer, BridgeServer

REQUEST_S = 3.0
IMPATIENT_S = 0.01
INSIST_S = 20.0
AGAIN = (429, 500, 502, 503, 504)
WORDS = ("amber", "birch", "cedar", "dune")
Json = dict[str, Any]
_MISSING = {"name": "NodeApiError", "message": "The resource could not be found", "httpCode": "404"}


@dataclass(slots=True)
class Place:
    """What all threads of a run act on."""

    server: BridgeServer
    n8n: HealN8n
    folder: Path
    recorder: Recorder
    people: list[Person] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Owned:
    """A workflow in n8n; its one HTTP node asks at ``broken`` until it is repaired."""

    workflow_id: str
    path: str

    def url(self, name: str) -> str:
        return f"http://api.test/{self.path}/{name}"


class Person(threading.Thread):
    """:ivar error: what should not have happened to it, and is a bug of this test."""

    def __init__(self, place: Place, name: str, ops: Sequence[Op]) -> None:
        super().__init__(daemon=True)
        self.place, self.name_, self._ops = place, name, ops
        self.error: BaseException | None = None
        self.session, self.token = "", ""
        self.owned: list[Owned] = []
        self._posted: list[Callable[[], None]] = []
        self._count = 0
        self._line = Line(place.server)
        self._reader: Reader | None = None
        self._tab: Reader | None = None

    @property
    def readers(self) -> list[Reader]:
        return [reader for reader in (self._reader, self._tab) if reader is not None]

    @property
    def seen(self) -> int:
        """The last number that it knows of its session."""
        return self._reader.seen if self._reader is not None else 0

    def open(self) -> None:
        answer = self.place.server.post("/sessions", json={})
        assert answer.status == 201, answer
        self.session, self.token = answer.json["sessionId"], answer.json["token"]

    def run(self) -> None:
        try:
            for op in self._ops:
                if self.place.ended.wait(op.after_s):
                    return
                self._do(op)
        except BaseException as exc:
            self.error = exc
        finally:
            self._line.close()

    def _do(self, op: Op) -> None:
        match op.kind:
            case "say":
                self._say(op)
            case "say_on_socket":
                self._say_on_socket(op)
            case "adopt":
                self._adopt(op)
            case "fail" if self.owned:
                self._fail(_chosen(self.owned, op.pick), op)
            case "report" if self.owned:
                self._report(_chosen(self.owned, op.pick), op)
            case "repeat" if self._posted:
                _together([_chosen(self._posted, op.pick)] * op.times)
            case "decide":
                self._decide(op)
            case "roll_back":
                self._roll_back(op)
            case "retry_repair":
                self._retry_repair(op)
            case "cancel":
                self._command("cancel", 1)
            case "autonomy" if self.owned:
                workflow_id = _chosen(self.owned, op.pick).workflow_id
                self._command("set_autonomy", 1, workflowId=workflow_id, autonomy=_autonomy(op.choice))
            case "reconnect":
                self._reconnect(politely=op.choice < 0.5)
            case "tab":
                self._open_tab(op)
            case "walk":
                self._walk(op)
            case "break_again" if self.owned:
                # What repaired it does not help any more.
                owned = _chosen(self.owned, op.pick)
                self.place.n8n.http[owned.url("good")] = [404]

    # -- what is said

    def _say(self, op: Op) -> None:
        key, text = self._new_message(op)

        def post() -> None:
            answer = self._insist("POST", "/messages", {"text": text, "clientMessageId": key}, hasty=op.choice > 0.8)
            if answer is not None:
                seq = answer.json.get("seq") if answer.status == 202 else None
                self._told("message", answer, key=key, seq=seq)

        _together([post] * op.times)
        self._posted.append(post)

    def _say_on_socket(self, op: Op) -> None:
        if self._reader is None or not self._reader.is_open:
            self._reconnect(politely=False)
            return
        key, text = self._new_message(op)
        for _ in range(op.times):
            try:
                self._reader.say(text, client_message_id=key)
            except (OSError, AssertionError, websocket.WebSocketException):  # it has just ended
                return

    def _new_message(self, op: Op) -> tuple[str, str]:
        self._count += 1
        key = f"{self.name_}-{self._count}"
        pace = "long" if op.choice < 0.15 else "slow" if op.choice < 0.4 else "fast"
        text = f"{pace} {key}"
        self.place.recorder.add("said", session=self.session, key=key, text=text)
        return key, text

    # -- workflows and their failures

    def _adopt(self, op: Op) -> None:
        self._count += 1
        path = f"{self.name_}-{self._count}-{self.session[:6]}"
        owned = Owned("", path)
        n8n = self.place.n8n
        for name in ("broken", "bad"):
            n8n.http[owned.url(name)] = [404]
        owned.workflow_id = n8n.add(workflow(path, url=owned.url("broken")))
        proposals = [_proposal(kind, owned) for kind in op.proposals]
        (self.place.folder / f"{owned.workflow_id}.json").write_text(json.dumps({"proposals": proposals}))
        body = {"workflowId": owned.workflow_id, "autonomy": _autonomy(op.choice)}
        answer = self._insist("POST", "/workflows", body)
        if answer is not None and answer.status in (200, 201):
            self.owned.append(owned)

    def _fail(self, owned: Owned, op: Op) -> None:
        """Call the webhook; n8n calls back by itself, and sometimes so do we, at the same time."""
        n8n = self.place.n8n
        known = {run["id"] for run in n8n.runs(owned.workflow_id)}
        n8n.call_webhook(owned.path, {"order": 1})
        failed = [
            run["id"]
            for run in n8n.runs(owned.workflow_id, "webhook")
            if run["id"] not in known and run["status"] == "error"
        ]
        for run_id in failed:
            self._call_back(owned, run_id, _MISSING, op, at_once=op.choice < 0.5)

    def _report(self, owned: Owned, op: Op) -> None:
        """A failure of a run that n8n did not keep."""
        self._count += 1
        error = {**_MISSING, "message": f"Odd answer: {_chosen(WORDS, op.choice)}"}
        self._call_back(owned, f"{self.name_}-r{self._count}-{self.session[:6]}", error, op, at_once=True)

    def _call_back(self, owned: Owned, run_id: str, error: Json, op: Op, *, at_once: bool) -> None:
        node = {"name": "Ask", "type": "n8n-nodes-base.httpRequest", "typeVersion": 1, "parameters": {}}
        execution = {"id": "", "error": {**error, "node": node}, "lastNodeExecuted": "Ask", "mode": "webhook"}
        payload = {"execution": execution, "workflow": {"id": "", "name": owned.path}}
        body = failure(owned.workflow_id, payload=payload, execution_id=run_id)

        def post() -> None:
            answer = self._insist("POST", "/callbacks/n8n/error", body, credential=SECRET, hasty=op.choice > 0.9)
            if answer is not None:
                told = answer.json if answer.status in (200, 202) else {}
                fields = {name: told.get(name) for name in ("seq", "routed", "duplicate", "repair")}
                self._told("callback", answer, key=run_id, **{**fields, "session": told.get("sessionId")})

        if at_once:
            _together([post] * op.times)
        self._posted.append(post)

    # -- what is decided

    def _decide(self, op: Op) -> None:
        waiting = [e["data"]["repairId"] for e in self._events() if e["type"] == "repair_waiting"]
        if not waiting:
            return
        repair_id = _chosen(waiting[-5:], op.pick)
        kinds = ["approve"] if op.choice < 0.6 else ["reject"] if op.choice < 0.75 else ["approve", "reject"]
        _together([lambda k=kind: self._command(k, op.times, repairId=repair_id) for kind in kinds])  # type: ignore[misc]

    def _roll_back(self, op: Op) -> None:
        published = {e["data"]["repairId"] for e in self._events() if e["type"] == "repair_published"}
        proposed = [e["data"] for e in self._events() if e["type"] == "repair_proposed"]
        mended = [data["workflowId"] for data in proposed if data["repairId"] in published]
        if mended:
            self._command("rollback", op.times, workflowId=_chosen(mended, op.pick))

    def _retry_repair(self, op: Op) -> None:
        blocked = [e["data"] for e in self._events() if e["type"] == "repair_blocked"]
        if blocked:
            data = _chosen(blocked, op.pick)
            self._command("retry_repair", op.times, workflowId=data["workflowId"], signature=data["signature"])

    def _command(self, kind: str, times: int, **fields: str) -> None:
        def post() -> None:
            answer = self._insist("POST", "/commands", {"type": kind, **fields})
            if answer is not None:
                more = {"repair": fields.get("repairId"), "workflow": fields.get("workflowId")}
                self._told("command", answer, command=kind, **more)

        _together([post] * times)

    # -- what is read

    def _reconnect(self, *, politely: bool) -> None:
        former = self._reader
        if former is not None:
            former.leave(politely=politely)
        after = former.seen if former is not None else 0
        self._reader = Reader(self.place.server, self.place.recorder, self.session, self.token, after)
        self._reader.begin()

    def _open_tab(self, op: Op) -> None:
        """Follow somebody's session from somewhere within it."""
        if self._tab is not None:
            self._tab.leave(politely=True)
        other = _chosen(self.place.people, op.pick)
        after = int(op.choice * other.seen)
        self._tab = Reader(self.place.server, self.place.recorder, other.session, other.token, after)
        self._tab.begin()

    def _walk(self, op: Op) -> None:
        other = _chosen(self.place.people, op.pick)
        after = int(op.choice * other.seen)
        try:
            walk(self.place.server, self.place.recorder, other.session, other.token, after=after, limit_s=REQUEST_S)
        except GONE:
            return

    def _events(self) -> list[Json]:
        return self._reader.events if self._reader is not None else []

    # -- how it is done

    def _insist(
        self, method: str, path: str, body: Json, *, credential: str = "", hasty: bool = False
    ) -> Answer | None:
        """Ask until there is an answer; ``None``: not within :data:`INSIST_S`. ``hasty``: gone before the first."""
        full = path if path.startswith("/callbacks") else f"/sessions/{self.session}{path}"
        headers = {"Authorization": f"Bearer {credential or self.token}"}
        deadline = time.monotonic() + INSIST_S
        limit_s = IMPATIENT_S if hasty else REQUEST_S
        while time.monotonic() < deadline:
            try:
                answer = self._line.request(method, full, body, headers=headers, limit_s=limit_s)
                if answer.status not in AGAIN:
                    return answer
            except GONE:
                pass
            limit_s = REQUEST_S
            time.sleep(0.05)  # the pace of a client
        return None

    def _told(self, what: str, answer: Answer, **fields: Any) -> None:
        told = {"session": self.session, **fields}
        self.place.recorder.add("told", what=what, by=self.name_, status=answer.status, **told)


def _proposal(kind: str, owned: Owned) -> Json:
    match kind:
        case "beyond":
            return to("http://elsewhere.test/x")
        case "upstream":
            return {"nodes": {"Prepare": {"parameters": {"note": "more"}}}}
    return to(owned.url(kind))


def _autonomy(choice: float) -> str:
    return "auto" if choice < 0.6 else "ask" if choice < 0.85 else "suggest" if choice < 0.95 else "observe"


def _chosen(things: Sequence[Any], pick: float) -> Any:
    return things[int(pick * len(things))]


def _together(calls: Sequence[Callable[[], None]]) -> None:
    """All at the same time; gives back when all have ended."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for call in [pool.submit(call) for call in calls]:
            call.result()
