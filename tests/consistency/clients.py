"""One person with a session: says things, adopts workflows that fail, decides; and n8n's callbacks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

from tests.consistency.lines import GONE, REQUEST_S, Line
from tests.consistency.owned import MISSING, Owned
from tests.consistency.plan import Op
from tests.consistency.readers import Reader, walk
from tests.consistency.recording import Recorder
from tests.consistency.recording_n8n import RecordingN8n
from tests.heal.rig import SECRET
from tests.support.server import Answer, BridgeServer

WORDS = ("amber", "birch", "cedar", "dune")
Json = dict[str, Any]


@dataclass(slots=True)
class Place:
    """What all threads of a run act on."""

    server: BridgeServer
    n8n: RecordingN8n
    folder: Path
    recorder: Recorder
    people: list[Person] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


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
                _chosen(self.owned, op.pick).break_again()

    # -- what is said

    def _say(self, op: Op) -> None:
        key, text = self._new_message(op)

        def post() -> None:
            answer = self._insist("/messages", {"text": text, "clientMessageId": key}, hasty=op.choice > 0.8)
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
        key = self._new_name()
        pace = "long" if op.choice < 0.06 else "slow" if op.choice < 0.35 else "fast"
        text = f"{pace} {key}"
        self.place.recorder.add("said", session=self.session, key=key, text=text)
        return key, text

    # -- workflows and their failures

    def _adopt(self, op: Op) -> None:
        path = self._new_name()
        owned = Owned.make(self.place.n8n, self.place.folder, path, op.proposals)
        answer = self._insist("/workflows", {"workflowId": owned.workflow_id, "autonomy": _autonomy(op.choice)})
        if answer is not None and answer.status in (200, 201):
            self.owned.append(owned)

    def _fail(self, owned: Owned, op: Op) -> None:
        """Let it fail; n8n calls back by itself, and sometimes so do we, at the same time."""
        for run_id in owned.call():
            self._call_back(owned.report(run_id, MISSING["message"]), run_id, op, at_once=op.choice < 0.5)

    def _report(self, owned: Owned, op: Op) -> None:
        """A failure of a run that n8n did not keep."""
        run_id = self._new_name()
        self._call_back(owned.report(run_id, f"Odd answer: {_chosen(WORDS, op.choice)}"), run_id, op, at_once=True)

    def _call_back(self, body: Json, run_id: str, op: Op, *, at_once: bool) -> None:
        def post() -> None:
            hasty = op.choice > 0.9
            answer = self._line.insist("POST", "/callbacks/n8n/error", body, credential=SECRET, hasty=hasty)
            if answer is not None:
                told_callback(self.place.recorder, answer, run_id, by=self.name_)

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
            answer = self._insist("/commands", {"type": kind, **fields})
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

    def _insist(self, path: str, body: Json, *, hasty: bool = False) -> Answer | None:
        return self._line.insist("POST", f"/sessions/{self.session}{path}", body, credential=self.token, hasty=hasty)

    def _new_name(self) -> str:
        """For a message, a workflow, a run: nobody else has it."""
        self._count += 1
        return f"{self.name_}-{self._count}-{self.session[:6]}"

    def _told(self, what: str, answer: Answer, **fields: Any) -> None:
        told = {"session": self.session, **fields}
        self.place.recorder.add("told", what=what, by=self.name_, status=answer.status, **told)


def told_callback(recorder: Recorder, answer: Answer, run_id: str, *, by: str) -> None:
    told = answer.json if answer.status in (200, 202) else {}
    fields = {name: told.get(name) for name in ("seq", "routed", "duplicate", "repair")}
    recorder.add(
        "told", what="callback", by=by, status=answer.status, key=run_id, session=told.get("sessionId"), **fields
    )


def _autonomy(choice: float) -> str:
    return "auto" if choice < 0.6 else "ask" if choice < 0.85 else "suggest" if choice < 0.95 else "observe"


def _chosen(things: Sequence[Any], pick: float) -> Any:
    return things[int(pick * len(things))]


def _together(calls: Sequence[Callable[[], None]]) -> None:
    """All at the same time; gives back when all have ended."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for call in [pool.submit(call) for call in calls]:
            call.result()
