"""The story that is interrupted everywhere: a workflow is asked for, fails, is repaired; told by a client that tries
again, as real ones do, until it has an answer."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import websocket

from tests.support.client import Client, Frame, Refused, failure
from tests.support.server import Answer, BridgeServer, wait_for

PAYLOAD = json.loads((Path(__file__).parents[1] / "payloads" / "http_500.json").read_text())
REQUEST = "Every 10 minutes get http://127.0.0.1:9/a and post it to http://127.0.0.1:9/b"
GONE = (OSError, http.client.HTTPException)
LIMIT_S = 60.0


class Story:
    """One session's story. Whatever dies on the way, its steps end only when they have happened.

    :ivar acknowledged: what the bridge said it has: clientMessageIds and execution ids.
    """

    def __init__(self, server: BridgeServer) -> None:
        self.server = server
        self.client = Client(server)
        self.acknowledged: list[str] = []
        self.workflow_id = ""
        opened = retried(lambda: self.client.http("POST", "/sessions", {}, token=None)).json
        self.client.session_id, self.client.token = opened["sessionId"], opened["token"]

    # -- steps

    def ask(self, text: str = REQUEST) -> None:
        """Send a message until it is acknowledged; the same one, so that it is there once."""
        message_id = uuid.uuid4().hex
        body = {"text": text, "clientMessageId": message_id}
        answer = retried(lambda: self.client.http("POST", "/sessions/{sid}/messages", body))
        assert answer.status == 202, answer
        self.acknowledged.append(message_id)

    def fail(self) -> None:
        """Post n8n's callback until it is acknowledged."""
        execution_id = uuid.uuid4().hex[:12]
        body = failure(self.workflow_id, payload=PAYLOAD, execution_id=execution_id)
        answer = retried(lambda: self.client.http("POST", "/callbacks/n8n/error", body, None))
        assert answer.status in (200, 202), answer
        assert answer.json["routed"] is True
        self.acknowledged.append(execution_id)

    def approve(self, repair_id: str) -> None:
        """Approve until somebody has; a second try finds that the first has counted."""
        body = {"type": "approve", "repairId": repair_id}
        answer = retried(lambda: self.client.http("POST", "/sessions/{sid}/commands", body))
        assert answer.status in (202, 409), answer

    def receive(self, kind: str, **wanted: Any) -> Frame:
        """The next event of this type on the socket, which is opened again as often as it breaks."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                return self.client.receive(kind, limit_s=max(0.1, deadline - time.monotonic()), **wanted)
            except AssertionError:
                if self.client.close_code is None or time.monotonic() > deadline:
                    raise
                self.connect()

    def saw(self, kind: str) -> None:
        """Until the client has seen such an event, on whichever socket."""
        wait_for(lambda: self.client.of(kind), limit_s=LIMIT_S, what=kind)

    def connect(self) -> None:
        """Open the socket, after the last event that was seen."""
        retried(lambda: self._connect())

    def _connect(self) -> Answer:
        try:
            self.client.connect()
        except (Refused, AssertionError, websocket.WebSocketException) as exc:
            raise ConnectionError from exc
        return Answer(101, {}, b"")

    def tell(self) -> None:
        """All of it."""
        self.connect()
        self.ask()
        self.workflow_id = self.receive("workflow_registered")["data"]["workflowId"]
        self.ended()
        self.fail()
        repair_id = self.receive("repair_waiting")["data"]["repairId"]
        self.ended()
        self.approve(repair_id)
        self.receive("repair_published")

    def ended(self) -> None:
        """Wait for the end of the running turn, whoever ends it."""
        while self.receive("turn_finished")["data"]["outcome"] == "interrupted":
            continue

    # -- what must be true afterwards

    def events(self) -> list[Frame]:
        found: list[Frame] = []
        while page := self._get(f"/sessions/{{sid}}/events?limit=1000&after={found[-1]['seq'] if found else 0}")[
            "events"
        ]:
            found += page
        return found

    def count(self, kind: str) -> int:
        return [event["type"] for event in self.events()].count(kind)

    def outcomes(self) -> list[str]:
        return [event["data"]["outcome"] for event in self.events() if event["type"] == "turn_finished"]

    def texts(self) -> list[str]:
        """The assistant's messages."""
        return [event["data"]["text"] for event in self.events() if event["type"] == "assistant_message"]

    def check(self, *, inputs: int = 2) -> list[Frame]:
        """Nothing is lost, nothing is there twice; gives the events."""
        events = self.events()
        seqs = [event["seq"] for event in events]
        assert seqs == sorted(set(seqs))
        kept = {event["seq"]: event for event in events}
        for seen in self.client.events:
            assert seen["type"] == "assistant_delta" or kept[seen["seq"]] == seen
        assert Counter(self._received(events)) == Counter(self.acknowledged)

        outcomes = [event["data"]["outcome"] for event in events if event["type"] == "turn_finished"]
        assert [outcome for outcome in outcomes if outcome != "interrupted"] == ["completed"] * inputs
        started = [event["turnId"] for event in events if event["type"] == "turn_started"]
        assert len(started) == len(set(started)) == len(outcomes)
        for turn_id in started:
            own = [event["type"] for event in events if event.get("turnId") == turn_id]
            assert own[0] == "turn_started" or own[0] == "repair_started", own
            assert own[-1] == "turn_finished", own
            assert own.count("turn_finished") == 1, own
        assert not [event for event in events if event["type"] == "assistant_delta"]
        return events

    def check_repaired(self) -> None:
        """The workflow's part of :meth:`check`: everything exactly once."""
        events = self.check()
        count = Counter(event["type"] for event in events)
        once = ("workflow_registered", "workflow_error", "repair_proposed", "repair_waiting", "repair_unverified")
        assert {kind: count[kind] for kind in once} == dict.fromkeys(once, 1)
        assert count["repair_decided"] == count["repair_published"] == 1
        assert not {"repair_failed", "repair_blocked", "repair_verified", "rolled_back"} & count.keys()

        shown = self._get("/sessions/{sid}")
        assert [workflow["workflowId"] for workflow in shown["workflows"]] == [self.workflow_id]
        assert shown["pendingRepairs"] == []
        path = f"/sessions/{{sid}}/workflows/{self.workflow_id}"
        workflow = self._get(path)
        retrying = [node["name"] for node in workflow["nodes"] if node.get("retryOnFail")]
        assert retrying == ["HTTP Request"]
        (snapshot,) = self._get(f"{path}/snapshots")["snapshots"]
        assert not [node for node in snapshot["workflow"]["nodes"] if node.get("retryOnFail")]
        (repair,) = self._get("/sessions/{sid}/repairs")["repairs"]
        assert (repair["state"], repair["attempt"]) == ("published", 1)
        (published,) = [event["data"] for event in events if event["type"] == "repair_published"]
        assert published == {"repairId": repair["repairId"], "snapshotId": snapshot["snapshotId"]}

    def _get(self, path: str) -> Any:
        answer = retried(lambda: self.client.http("GET", path))
        assert answer.status == 200, answer
        return answer.json

    @staticmethod
    def _received(events: list[Frame]) -> list[str]:
        messages = [e["data"]["clientMessageId"] for e in events if e["type"] == "user_message"]
        return messages + [e["data"]["execution"]["id"] for e in events if e["type"] == "workflow_error"]

    def close(self) -> None:
        self.client.disconnect()


def retried(step: Any) -> Answer:
    """What ``step`` answers, as soon as somebody is there to answer it."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            answer: Answer = step()
            if answer.status != 503:
                return answer
            problem: object = answer
        except GONE as exc:
            problem = exc
        assert time.monotonic() < deadline, f"no answer within {LIMIT_S:g} s: {problem!r}"
        time.sleep(0.02)
