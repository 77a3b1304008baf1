"""Callbacks that reach nobody are kept once, shown redacted, and routed when somebody replays or adopts them."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import ACCESS, SECRET, adopt, history, is_problem, new_id
from tests.support.client import Client, failure
from tests.support.server import Answer, BridgeServer

OPERATOR = {"Authorization": f"Bearer {ACCESS}"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"
Connect = Callable[..., Client]


def call_back(bridge: BridgeServer, body: Any, **headers: str) -> Answer:
    sent = {"Authorization": f"Bearer {SECRET}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return bridge.post("/callbacks/n8n/error", json=body, headers=sent)


def lose(bridge: BridgeServer, workflow_id: str | None = None, **options: Any) -> tuple[str, str]:
    """Post a callback for a workflow nobody knows; gives the workflow's id and the dead letter's."""
    workflow_id = workflow_id or new_id()
    answer = call_back(bridge, failure(workflow_id, **options))
    assert answer.status == 202 and answer.json.keys() == {"routed", "deadLetterId"} and not answer.json["routed"]
    return workflow_id, answer.json["deadLetterId"]


def show(bridge: BridgeServer, letter_id: str) -> dict[str, Any]:
    answer = bridge.get(f"/dead-letters/{letter_id}", headers=OPERATOR)
    assert answer.status == 200, answer.body
    shown: dict[str, Any] = answer.json
    return shown


def replay(bridge: BridgeServer, letter_id: str, session_id: str | None = None) -> Answer:
    body = None if session_id is None else {"sessionId": session_id}
    return bridge.post(f"/dead-letters/{letter_id}/replay", json=body, headers=OPERATOR)


def errors_of(user: Client) -> list[dict[str, Any]]:
    return [event for event in history(user) if event["type"] == "workflow_error"]


def test_an_unknown_workflow_is_kept_and_told_of(bridge: BridgeServer) -> None:
    workflow_id, letter_id = lose(bridge, execution_id=(execution_id := new_id("x")))

    letter = show(bridge, letter_id)

    assert letter["reason"] == "no_session" and letter["workflowId"] == workflow_id
    assert letter["executionId"] == execution_id and letter["at"]
    assert letter["body"]["workflow"]["id"] == workflow_id
    assert letter["body"]["execution"]["error"]["node"]["name"] == "HTTP Request"
    line = bridge.wait_log("No session found for workflow", workflowId=workflow_id)
    assert line["executionId"] == execution_id


def test_the_same_execution_is_kept_once(bridge: BridgeServer) -> None:
    body = failure(new_id())

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: call_back(bridge, body), range(20)))

    assert Counter(answer.status for answer in answers) == {202: 1, 200: 19}
    assert all(answer.json == {"routed": False, "duplicate": True} for answer in answers if answer.status == 200)
    listed = bridge.get("/dead-letters?limit=1000", headers=OPERATOR).json["deadLetters"]
    assert len([letter for letter in listed if letter["workflowId"] == body["workflow"]["id"]]) == 1


def test_an_error_of_an_ended_session_is_kept(bridge: BridgeServer, user: Client) -> None:
    workflow_id = adopt(user)
    user.http("DELETE", "/sessions/{sid}")

    _, letter_id = lose(bridge, workflow_id)

    assert show(bridge, letter_id)["reason"] == "session_closed"
    is_problem(replay(bridge, letter_id), 409, "conflict")


def test_letters_are_listed_by_reason_newest_first(bridge: BridgeServer) -> None:
    letters = [lose(bridge)[1] for _ in range(3)]
    bad = call_back(bridge, {"nonsense": new_id()}).json["deadLetterId"]

    def listed(query: str) -> list[str]:
        answer = bridge.get(f"/dead-letters?{query}", headers=OPERATOR)
        return [letter["deadLetterId"] for letter in answer.json["deadLetters"]]

    assert listed("limit=4") == [bad, *letters[::-1]]
    assert listed("reason=no_session&limit=2") == letters[:0:-1]
    assert listed("reason=bad_schema&limit=1") == [bad]
    assert not set(letters) & set(listed("reason=rate_limited"))


@pytest.mark.parametrize("query", ["reason=other", "reason=", "limit=0", "limit=1001", "limit=x"])
def test_a_bad_question_is_refused(bridge: BridgeServer, query: str) -> None:
    is_problem(bridge.get(f"/dead-letters?{query}", headers=OPERATOR), 400, "validation_error")


@pytest.mark.parametrize("letter_id", ["nope", "d" + "0" * 23, "%00", "x" * 500])
def test_an_unknown_letter_is_not_found(bridge: BridgeServer, letter_id: str) -> None:
    is_problem(bridge.get(f"/dead-letters/{letter_id}", headers=OPERATOR), 404, "not_found")
    is_problem(replay(bridge, letter_id), 404, "not_found")


def test_a_replay_into_a_session_adopts_the_workflow_and_routes_the_error(bridge: BridgeServer, user: Client) -> None:
    workflow_id, letter_id = lose(bridge)

    answer = replay(bridge, letter_id, user.session_id)

    assert answer.status == 202
    assert answer.json == {
        "routed": True,
        "sessionId": user.session_id,
        "seq": answer.json["seq"],
        "repair": "queued",
    }
    assert user.receive("workflow_registered")["data"]["workflowId"] == workflow_id
    event = user.receive("workflow_error")
    assert event["seq"] == answer.json["seq"]
    assert event["data"]["source"] == "replay" and event["data"]["workflowId"] == workflow_id
    assert user.receive("repair_waiting")
    assert show(bridge, letter_id)["state"] == "replayed"
    assert call_back(bridge, failure(workflow_id)).json["repair"] == "coalesced", "it is the same failure"


def test_a_replay_twice_is_once(bridge: BridgeServer, client: Connect) -> None:
    user, other = client(), client()
    _, letter_id = lose(bridge)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: replay(bridge, letter_id, user.session_id), range(16)))
    late = replay(bridge, letter_id, other.session_id)

    assert Counter(answer.status for answer in answers) == {202: 1, 200: 15}
    assert (late.status, late.json) == (200, {"routed": True, "duplicate": True})
    assert len(errors_of(user)) == 1
    assert history(other) == []


def test_a_replay_without_a_session_needs_an_owner(bridge: BridgeServer, user: Client) -> None:
    workflow_id, letter_id = lose(bridge)

    is_problem(replay(bridge, letter_id), 409, "conflict")
    adopt(user, workflow_id)
    answer = bridge.post(f"/dead-letters/{letter_id}/replay", json={}, headers=OPERATOR)

    assert answer.status == 202 and answer.json["sessionId"] == user.session_id
    assert len(errors_of(user)) == 1


def test_a_replay_does_not_take_a_workflow_away(bridge: BridgeServer, client: Connect) -> None:
    owner, other = client(), client()
    workflow_id, letter_id = lose(bridge)
    adopt(owner, workflow_id)

    is_problem(replay(bridge, letter_id, other.session_id), 409, "conflict")
    assert replay(bridge, letter_id, owner.session_id).status == 202


def test_a_replay_into_no_session_changes_nothing(bridge: BridgeServer, client: Connect) -> None:
    ended = client()
    ended.http("DELETE", "/sessions/{sid}")
    _, letter_id = lose(bridge)

    for session_id in (UNKNOWN, ended.session_id):
        is_problem(replay(bridge, letter_id, session_id), 404, "session_not_found")
    assert show(bridge, letter_id)["state"] == "kept"


def test_what_could_not_be_read_cannot_be_replayed(bridge: BridgeServer, user: Client) -> None:
    letter_id = call_back(bridge, {"nonsense": new_id()}).json["deadLetterId"]

    is_problem(replay(bridge, letter_id, user.session_id), 409, "conflict")
    assert history(user) == []


@pytest.mark.parametrize("body", [[], {"sessionId": 7}, {"sessionId": ""}, {"sessionId": "a b"}, "x"])
def test_a_replay_of_another_shape_is_refused(bridge: BridgeServer, body: Any) -> None:
    _, letter_id = lose(bridge)
    answer = bridge.post(f"/dead-letters/{letter_id}/replay", json=body, headers=OPERATOR)
    is_problem(answer, 400, "validation_error")


def test_a_replay_takes_a_chunked_body(bridge: BridgeServer, user: Client) -> None:
    _, letter_id = lose(bridge)
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=10)
    body = json.dumps({"sessionId": user.session_id}).encode()
    headers = {**OPERATOR, "Content-Type": "application/json", "Connection": "close"}
    connection.request(
        "POST", f"/dead-letters/{letter_id}/replay", body=iter([body]), headers=headers, encode_chunked=True
    )
    assert connection.getresponse().status == 202
    connection.close()
    assert len(errors_of(user)) == 1


def test_a_letter_without_a_key_is_kept_each_time(bridge: BridgeServer) -> None:
    body = {"trigger": {"error": {"message": "m"}, "mode": "trigger"}, "workflow": {"id": new_id()}}

    answers = [call_back(bridge, body, X_Request_ID="the-same-id") for _ in range(2)]
    keyed = [call_back(bridge, body, X_Idempotency_Key=body["workflow"]["id"]) for _ in range(2)]

    assert answers[0].json["deadLetterId"] != answers[1].json["deadLetterId"]
    assert [answer.status for answer in keyed] == [202, 200]


def test_a_replayed_trigger_keeps_its_shape(bridge: BridgeServer, user: Client) -> None:
    body = {"trigger": {"error": {"message": "m"}, "mode": "trigger"}, "workflow": {"id": new_id(), "name": "T"}}
    letter_id = call_back(bridge, body).json["deadLetterId"]

    replay(bridge, letter_id, user.session_id)

    data = user.receive("workflow_error")["data"]
    assert data["trigger"] == {"mode": "trigger"} and "execution" not in data
    assert data["workflowName"] == "T" and data["error"]["message"] == "m"


def test_many_letters_at_once_are_all_kept(bridge: BridgeServer) -> None:
    with ThreadPoolExecutor(16) as pool:
        letters = list(pool.map(lambda _: lose(bridge), range(48)))

    assert len({letter_id for _, letter_id in letters}) == 48
    for workflow_id, letter_id in letters:
        assert show(bridge, letter_id)["workflowId"] == workflow_id
