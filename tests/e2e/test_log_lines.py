"""One id follows a request through every line, what fails for good is one error line, and no secret is in any of it."""

from __future__ import annotations

import json
import sqlite3
import uuid
from typing import Any

import pytest

from tests.e2e.conftest import ACCESS, OLD_SECRET, SECRET, adopt, history, is_problem, new_id
from tests.support.client import Client, failure
from tests.support.projects import copy_project
from tests.support.server import Answer, BridgeServer, wait_for

# A few shapes of every family; each of them is tried in tests/telemetry.
SHAPES = {
    "bearer": ("Bearer abcDEF123456789", "abcDEF123456789"),
    "jwt": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJzdWIiOiIxIn0"),
    "anthropic": ("sk-ant-api03-AAAAbbbbCCCCdddd1111", "AAAAbbbb"),
    "github": ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "0123456789abcdef"),
    "aws": ("aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtn"),
    "slack": ("xoxb-123456789012-abcdefABCDEF", "abcdefABCDEF"),
    "stripe": ("sk_live_0123456789abcdefABCDEF", "0123456789abcdefA"),
    "sendgrid": ("SG.aaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbb", "bbbbbbbbbb"),
    "google": ("AIzaSyA-0123456789abcdefghijklmnopqrstu", "0123456789abcdefgh"),
    "cookie": ("Cookie: sid=abcdef99", "abcdef99"),
    "private key": ("-----BEGIN PRIVATE KEY-----\nMIIdefghi\n-----END PRIVATE KEY-----", "MIIdefghi"),
    "url": ("postgres://app:hunter22@db/x", "hunter22"),
    "signed": ("https://b.s3.example/k?X-Amz-Signature=0123456789abcdef", "0123456789abcdef"),
    "n8n": ("n8n_api_0123456789abcdef0123", "0123456789abcdef0"),
    "our access token": (f"it said {ACCESS}.", ACCESS),
    "our old callback secret": (OLD_SECRET, OLD_SECRET),
}


def call_back(bridge: BridgeServer, body: Any, request_id: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {SECRET}", "X-Request-ID": request_id}
    return bridge.request("POST", "/callbacks/n8n/error", body=data, headers=headers)


def new_request_id() -> str:
    return f"request-{uuid.uuid4().hex[:12]}"


def test_one_id_follows_a_callback_to_the_end_of_its_repair(bridge: BridgeServer, user: Client) -> None:
    workflow_id, request_id = adopt(user), new_request_id()
    report = failure(workflow_id)

    assert call_back(bridge, report, request_id).json["repair"] == "queued"

    ids = {"requestId": request_id, "sessionId": user.session_id, "workflowId": workflow_id}
    ids["executionId"] = report["execution"]["id"]
    finished = bridge.wait_log("turn finished", **ids)
    assert isinstance(finished["duration"], int) and finished["outcome"] == "completed"
    turn = {**ids, "turnId": finished["turnId"]}
    assert bridge.wait_log("turn started", **turn)["kind"] == "repair"
    assert bridge.wait_log("tool finished", **turn)["toolUseId"]
    assert bridge.wait_log("callback taken", **ids)
    assert bridge.wait_log("access", path="/callbacks/n8n/error", **ids)["status"] == 202
    told = [event for event in history(user) if event["type"] in ("workflow_error", "turn_started")]
    assert [event["requestId"] for event in told] == [request_id, request_id]


def test_a_message_over_a_socket_has_the_sockets_id(bridge: BridgeServer, user: Client) -> None:
    user.say("hello there")
    user.receive("turn_finished")
    line = bridge.wait_log("turn finished", sessionId=user.session_id, outcome="completed")
    assert line["requestId"] == user.welcome["requestId"]
    assert "hello there" not in "".join(bridge.raw_lines())


@pytest.mark.parametrize(("text", "secret"), SHAPES.values(), ids=SHAPES.keys())
def test_a_secret_in_a_callback_is_in_no_event_letter_or_line(
    bridge: BridgeServer, user: Client, text: str, secret: str
) -> None:
    workflow_id, seen = adopt(user, autonomy="observe"), len(bridge.raw_lines())
    report = failure(workflow_id)
    report["execution"]["error"].update(message=f"failed: {text}", context={"deep": [text]}, stack=text)
    other = {**report["execution"], "id": uuid.uuid4().hex}
    lost = {**report, "workflow": {"id": new_id(), "name": text}, "execution": other}
    odd = json.dumps({"nothing": "of the kind", "said": text, "more": [text]}).encode()

    assert call_back(bridge, report, new_request_id()).status == 202
    letters = [call_back(bridge, lost, new_request_id()).json["deadLetterId"]]
    letters.append(call_back(bridge, odd, request_id := new_request_id()).json["deadLetterId"])
    letters.append(call_back(bridge, b"not JSON: " + text.encode(), new_request_id()).json["deadLetterId"])
    user.say(f"please remember {text}")
    user.receive("turn_finished")

    assert secret not in json.dumps(history(user))
    for letter in letters:
        shown = bridge.get(f"/dead-letters/{letter}", headers={"Authorization": f"Bearer {ACCESS}"})
        assert shown.status == 200 and secret not in json.dumps(shown.json)
    bridge.wait_log("access", requestId=request_id)
    assert bridge.wait_log("No session found for workflow", workflowId=lost["workflow"]["id"], level="warning")
    assert secret not in "".join(bridge.raw_lines()[seen:])


def test_a_dead_letter_is_logged_in_at_most_8_kib(bridge: BridgeServer) -> None:
    report = failure(new_id())
    report["execution"]["error"]["stack"] = "ünïcödé " * 5_000
    call_back(bridge, report, request_id := new_request_id())
    call_back(bridge, "ünïcödé ".encode() * 5_000, other := new_request_id())
    for wanted in (request_id, other):
        line = wait_for(
            lambda wanted=wanted: [x for x in bridge.log_lines(requestId=wanted) if "deadLetter" in x], what="the line"
        )[0]
        assert 4_000 < len(line["deadLetter"].encode()) <= 8_192


def test_errors_on_a_socket_carry_its_id_and_are_told_once_a_minute(bridge: BridgeServer, user: Client) -> None:
    request_id = user.welcome["requestId"]
    for _ in range(3):
        user.send({"type": "cancel"})
        assert user.receive("error", code="conflict")["correlationId"] == request_id
    user.disconnect()
    bridge.wait_log("connection closed", requestId=request_id)
    assert len(bridge.log_lines("answered conflict", requestId=request_id)) <= 1
    assert bridge.log_lines("answered conflict", level="info")


def test_a_refusal_is_one_line_with_its_code(bridge: BridgeServer) -> None:
    answer = bridge.get("/sessions/none", headers={"X-Request-ID": (request_id := new_request_id())})
    is_problem(answer, 404)
    line = bridge.wait_log("access", requestId=request_id)
    assert line["code"] == answer.json["code"]
    assert len(bridge.log_lines(requestId=request_id)) == 1


def test_a_callback_that_fails_for_good_is_one_error_line_with_its_session() -> None:
    with BridgeServer() as server, Client(server) as user:
        user.connect()
        workflow_id = adopt(user)
        holder = sqlite3.connect(server.folder / "journal.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        answer = server.post(
            "/callbacks/n8n/error", json=failure(workflow_id), headers={"X-Request-ID": "failing-callback"}
        )
        holder.execute("ROLLBACK")
        holder.close()

        is_problem(answer, 503, "journal_unavailable")
        server.wait_log("access", requestId="failing-callback")
        [line] = server.log_lines(level="error", requestId="failing-callback")
        assert (line["sessionId"], line["workflowId"]) == (user.session_id, workflow_id)
        assert (line["message"], line["code"]) == ("answered journal_unavailable", "journal_unavailable")


FAILING = """
from app import create_app
from app.agents import Finished
from app.errors import ClaudeExecutionError


class FailingAgent:
    name = "offline"

    def run(self, turn):
        if "bug" in turn.prompt:
            raise ZeroDivisionError
        if "raise" in turn.prompt:
            raise ClaudeExecutionError("It broke.")
        yield Finished("failed", error="It said so.")


app = create_app(agent=FailingAgent())
"""


def test_a_turn_that_fails_for_good_is_one_error_line_with_its_ids(tmp_path: Any) -> None:
    project = copy_project(tmp_path / "project")
    (project / "wsgi.py").write_text(FAILING)
    with BridgeServer(project=project) as server:
        for word, reason in (("bug", "internal error"), ("raise", "It broke."), ("say", "It said so.")):
            with Client(server) as user:
                user.connect()
                user.say(f"{word} it")
                turn_id = user.receive("turn_finished", outcome="failed")["turnId"]
                line = server.wait_log("turn finished", turnId=turn_id)
                assert (line["level"], line["outcome"], line["reason"]) == ("error", "failed", reason)
                assert (line["sessionId"], line["requestId"]) == (user.session_id, user.welcome["requestId"])
                assert ("ZeroDivisionError" in line.get("exception", "")) is (word == "bug")
                assert len(server.log_lines(level="error", sessionId=user.session_id)) == 1
