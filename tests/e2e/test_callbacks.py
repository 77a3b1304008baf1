"""n8n's callback: real payloads, bodies of every odd shape, each error once, secrets kept out, repairs to their end."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import (
    ACCESS,
    OLD_SECRET,
    POLLING_URLS,
    SECRET,
    Holds,
    adopt,
    bugs,
    history,
    is_problem,
    new_id,
)
from tests.support.client import Client, Frame, failure
from tests.support.server import Answer, BridgeServer, wait_for
from tests.support.wire import Wire

PAYLOADS = Path(__file__).parents[1] / "payloads"
REAL = sorted(path.stem for path in PAYLOADS.glob("*.json") if ".activation-refused" not in path.name)
PATH = "/callbacks/n8n/error"
MIB = 1_048_576
Connect = Callable[..., Client]


def payload(name: str) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((PAYLOADS / f"{name}.json").read_text())
    return recorded


def call_back(
    bridge: BridgeServer, body: Any, *, secret: str | None = SECRET, headers: dict[str, str] | None = None
) -> Answer:
    """POST a callback: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    if secret is not None:
        sent["Authorization"] = f"Bearer {secret}"
    return bridge.request("POST", PATH, body=data, headers=sent, limit_s=20)


def errors_of(user: Client, workflow_id: str | None = None) -> list[Frame]:
    """The session's ``workflow_error`` events."""
    found = [event for event in history(user) if event["type"] == "workflow_error"]
    return [event for event in found if workflow_id in (None, event["data"]["workflowId"])]


def dead_letters(bridge: BridgeServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = bridge.get(
        "/dead-letters?limit=1000", headers={"Authorization": f"Bearer {ACCESS}"}
    ).json["deadLetters"]
    return found


# -- what n8n sends


@pytest.mark.parametrize("name", REAL)
def test_a_recorded_payload_becomes_one_workflow_error(bridge: BridgeServer, user: Client, name: str) -> None:
    body = payload(name)
    workflow_id = adopt(user)

    answer = call_back(bridge, failure(workflow_id, payload=body))

    assert answer.status == 202, answer.body
    assert answer.json == {
        "routed": True,
        "sessionId": user.session_id,
        "seq": answer.json["seq"],
        "repair": "queued",
    }
    event = user.receive("workflow_error")
    assert event["seq"] == answer.json["seq"]
    data = event["data"]
    assert data["workflowId"] == workflow_id and data["workflowName"] == body["workflow"]["name"]
    assert data["source"] == "callback" and data["repeatCount"] == 1 and data["signature"]
    if "execution" in body:
        assert data["execution"]["lastNodeExecuted" if "lastNodeExecuted" in body["execution"] else "mode"]
        assert data["execution"]["id"] and data["execution"]["url"] == body["execution"]["url"]
        assert "trigger" not in data
    else:
        assert data["trigger"] == {"mode": body["trigger"]["mode"]}
        assert "execution" not in data
    user.receive("repair_diagnosed")
    wait_for(lambda: repairs(user)[0]["state"] not in ("queued", "running"), what="the repair to settle")
    assert len(errors_of(user)) == 1


def repairs(user: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = user.http("GET", "/sessions/{sid}/repairs").json["repairs"]
    return found


# -- bodies of odd shape


def with_error(error: Any, **more: Any) -> Callable[[str], Any]:
    return lambda workflow_id: {
        "execution": {"id": new_id("x"), "mode": "webhook", "error": error, **more},
        "workflow": {"id": workflow_id, "name": "odd"},
    }


def raw(text: str) -> Callable[[str], bytes]:
    """JSON text with ``W`` for the workflow's id and ``X`` for a fresh execution's."""
    return lambda workflow_id: text.replace('"W"', f'"{workflow_id}"').replace('"X"', f'"{new_id("x")}"').encode()


WHOLE = '{"execution":{"id":"X","error":{"message":"m"}},"workflow":{"id":"W","name":"n"}}'
TAKEN: dict[str, Callable[[str], Any]] = {
    "no message": with_error({}),
    "no error": lambda workflow_id: {"execution": {"id": new_id("x")}, "workflow": {"id": workflow_id}},
    "empty execution": lambda workflow_id: {"execution": {}, "workflow": {"id": workflow_id}},
    "empty trigger": lambda workflow_id: {"trigger": {}, "workflow": {"id": workflow_id}},
    "null execution and a trigger": lambda workflow_id: {
        "execution": None,
        "trigger": {"error": {"message": "t"}, "mode": "trigger"},
        "workflow": {"id": workflow_id},
    },
    "message null": with_error({"message": None}),
    "message list": with_error({"message": ["a", {"b": None}]}),
    "message object": with_error({"message": {"text": "m"}}),
    "NUL": with_error({"message": "a\0b", "stack": "\0"}),
    "surrogates": with_error({"message": "a\ud800b", "\udfff": "\udc00"}, lastNodeExecuted="n\ud800"),
    "direction": with_error({"message": "\u202emoc\u202c \u200b\ufeff"}),
    "error text": with_error("it broke"),
    "error null": with_error(None),
    "error list": with_error(["it", {"broke": 1}]),
    "error number": with_error(7),
    "error false": with_error(False),
    "error nested": with_error({"error": {"error": {"error": [[[[]]]]}}}),
    "node text": with_error({"message": "m", "node": "HTTP Request"}),
    "node list": with_error({"message": "m", "node": ["HTTP Request"]}),
    "node empty": with_error({"message": "m", "node": {}}),
    "node of other types": with_error(
        {"message": "m", "node": {"name": 7, "type": [], "parameters": "x", "position": {}, "typeVersion": "1"}}
    ),
    "long name": lambda workflow_id: {
        "execution": {"id": new_id("x"), "error": {}},
        "workflow": {"id": workflow_id, "name": "é" * 100_000},
    },
    "name missing": lambda workflow_id: {"execution": {"id": new_id("x")}, "workflow": {"id": workflow_id}},
    "name list": lambda workflow_id: {
        "execution": {"id": new_id("x")},
        "workflow": {"id": workflow_id, "name": ["n"]},
    },
    "list of one": lambda workflow_id: [failure(workflow_id)],
    "execution id true": lambda workflow_id: failure(workflow_id) | {"execution": {"id": True, "error": {}}},
    "execution id list": lambda workflow_id: failure(workflow_id) | {"execution": {"id": ["1"], "error": {}}},
    "execution id with spaces": lambda workflow_id: failure(workflow_id) | {"execution": {"id": "a b", "error": {}}},
    "execution id huge": lambda workflow_id: raw(WHOLE.replace('"X"', "9" * 4000))(workflow_id),
    "execution id infinite": lambda workflow_id: raw(WHOLE.replace('"X"', "1e999"))(workflow_id),
    "huge numbers": raw(WHOLE.replace('"m"', f'"m","count":{"9" * 4000},"x":1e999,"y":-1e999,"z":1e-999')),
    "http code of odd digits": with_error({"message": "m", "httpCode": "²"}),
    "http code very long": with_error({"message": "m", "httpCode": "9" * 5000}),
    "http code huge": raw(WHOLE.replace('"m"', f'"m","httpCode":{"9" * 4000}')),
    "http code object": with_error({"message": "m", "httpCode": {"code": 500}}),
    "http code number": with_error({"message": "m", "httpCode": 500}),
    "byte order mark": lambda workflow_id: b"\xef\xbb\xbf" + raw(WHOLE)(workflow_id),
    "white space": lambda workflow_id: b"\r\n\t " + raw(WHOLE)(workflow_id) + b"\n\n",
    "doubled keys": raw(WHOLE.replace('"workflow":{', '"workflow":null,"workflow":{"id":"other",')),
    "deep error": raw(WHOLE.replace('"m"', '"m","deep":' + "[" * 97 + "]" * 97)),
    "many keys": with_error({f"key{n}": n for n in range(20_000)}),
    "unknown keys": lambda workflow_id: {**failure(workflow_id), "new": 1, "": None, "a.b": [1]},
    "almost a mebibyte": lambda workflow_id: json.dumps(failure(workflow_id)).encode().ljust(MIB),
}


@pytest.fixture(scope="module")
def taken(_bridge: BridgeServer) -> Iterator[dict[str, tuple[Client, Answer]]]:
    """A session and the callback's answer for each odd body, sent one after the other: what does not name its node
    waits some seconds for a sub-workflow's report, so they all wait at once."""
    seen = len(_bridge.raw_lines())
    users = {shape: Client(_bridge).connect(accessToken=ACCESS) for shape in TAKEN}
    yield {shape: (users[shape], call_back(_bridge, body(adopt(users[shape])))) for shape, body in TAKEN.items()}
    for user in users.values():
        user.disconnect()
    assert not bugs(_bridge, seen)


@pytest.mark.parametrize("shape", TAKEN)
def test_an_odd_body_with_an_id_is_taken_once(taken: dict[str, tuple[Client, Answer]], shape: str) -> None:
    user, answer = taken[shape]

    assert answer.status == 202, answer.body
    assert answer.json["routed"] is True
    assert user.receive("workflow_error")["seq"] == answer.json["seq"]
    user.receive("repair_diagnosed")
    wait_for(lambda: repairs(user)[0]["state"] not in ("queued", "running"), what="the repair to settle")
    user.say("still there?").receive("turn_finished", outcome="completed")
    assert len(errors_of(user)) == 1


REFUSED: dict[str, Any] = {
    "empty": b"",
    "spaces": b"  \n ",
    "no JSON": b"hello",
    "form": b"workflow.id=1&execution=2",
    "half": b'{"execution": {"id": "1"}, "workflow": {"id": "w"',
    "two": b"{} {}",
    "invalid UTF-8": b'{"execution": {}, "workflow": {"id": "w", "name": "\xff\xfe"}}',
    "UTF-16": '{"execution": {}, "workflow": {"id": "w"}}'.encode("utf-16"),
    "NaN": b'{"execution": {"error": {"x": NaN}}, "workflow": {"id": "w"}}',
    "Infinity": b'{"execution": {"error": {"x": -Infinity}}, "workflow": {"id": "w"}}',
    "one level too deep": WHOLE.replace('"m"', '"m","deep":' + "[" * 98 + "]" * 98).encode(),
    "deep list": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep error": b'{"workflow":{"id":"w"},"execution":' + b'{"error":' * 100_000 + b"1" + b"}" * 100_002,
    "endless number": b'{"workflow":{"id":' + b"9" * 500_000 + b'},"execution":{}}',
    "null": b"null",
    "number": b"7",
    "text": b'"{}"',
    "list": [],
    "list of two": [failure("w"), failure("w")],
    "list of list": [[failure("w")]],
    "object": {},
    "no workflow": {"execution": {}},
    "workflow null": {"execution": {}, "workflow": None},
    "workflow text": {"execution": {}, "workflow": "w"},
    "no id": {"execution": {}, "workflow": {"name": "n"}},
    "neither": {"workflow": {"id": "w"}},
    "both null": {"workflow": {"id": "w"}, "execution": None, "trigger": None},
    "execution list": {"workflow": {"id": "w"}, "execution": []},
    "execution text": {"workflow": {"id": "w"}, "execution": "1"},
    "trigger true": {"workflow": {"id": "w"}, "trigger": True},
    **{
        f"id {str(value)[:12]!r}": {"execution": {}, "workflow": {"id": value}}
        for value in (None, True, False, "", " ", "a b", "é", "a\0", "x" * 129, [], {}, ["w"], "\ud800")
    },
    "id 1e999": b'{"execution": {}, "workflow": {"id": 1e999}}',
    "id -1e999": b'{"execution": {}, "workflow": {"id": -1e999}}',
    "id huge": b'{"execution": {}, "workflow": {"id": ' + b"9" * 4000 + b"}}",
    "one byte over": json.dumps(failure("w")).encode().ljust(MIB + 1),
}


@pytest.mark.parametrize("shape", [shape for shape in REFUSED if shape != "one byte over"])
def test_a_body_without_the_schema_is_kept_as_a_dead_letter(bridge: BridgeServer, shape: str) -> None:
    answers = [call_back(bridge, REFUSED[shape]) for _ in range(2)]

    problem = is_problem(answers[0], 400, "validation_error")
    assert problem["errors"]
    assert answers[1].json["deadLetterId"] == problem["deadLetterId"], "the same body is kept once"
    shown = bridge.get(f"/dead-letters/{problem['deadLetterId']}", headers={"Authorization": f"Bearer {ACCESS}"}).json
    assert shown["reason"] == "bad_schema"


@pytest.mark.parametrize(("workflow_id", "registered"), [(0, "0"), (12, "12"), (-1, "-1"), (12.0, "12"), (1.5, "1.5")])
def test_numbers_are_ids_too(bridge: BridgeServer, user: Client, workflow_id: float, registered: str) -> None:
    user.http("POST", "/sessions/{sid}/workflows", {"workflowId": registered})
    body = failure("w") | {"workflow": {"id": workflow_id}, "execution": {"id": 0, "error": {}}}

    answer = call_back(bridge, body)

    user.http("DELETE", "/sessions/{sid}")
    if answer.status == 200:
        assert answer.json == {"routed": True, "duplicate": True}, "execution 0 was another case's"
    else:
        assert answer.status == 202 and answer.json["routed"] is True


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=x", ""])
def test_the_content_type_of_a_callback_does_not_matter(bridge: BridgeServer, user: Client, kind: str) -> None:
    workflow_id = adopt(user)
    assert call_back(bridge, failure(workflow_id), headers={"Content-Type": kind}).status == 202


def send_chunks(bridge: BridgeServer, chunks: Any, *, limit_s: float = 30) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=limit_s)
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json", "Connection": "close"}
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", PATH, body=chunks, headers=headers, encode_chunked=True)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def test_no_body_is_left_for_the_request_behind_it(bridge: BridgeServer, user: Client) -> None:
    body = json.dumps(failure(adopt(user))).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n".encode()
    whole = b"Content-Length: %d\r\n\r\n" % len(body) + body
    sent = [
        whole,
        b"Content-Length: 0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        b"Content-Length: %d\r\n\r\n" % (2 * MIB) + b" " * (2 * MIB),
        b"Connection: close\r\n" + whole,
    ]

    answers = bridge.raw(b"".join(head + one for one in sent), limit_s=20)

    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"202", b"400", b"200", b"413", b"200"]


def test_a_chunked_body_is_taken(bridge: BridgeServer, user: Client) -> None:
    body = json.dumps(failure(adopt(user))).encode()
    assert send_chunks(bridge, (body[n : n + 7] for n in range(0, len(body), 7))).status == 202


@pytest.mark.parametrize("rest", [b"", b"9", b"zz\r\n{}\r\n", b"-1\r\n", b"9\r\n{", b"2\r\n{}"])
def test_chunks_that_stop_or_make_no_sense_are_the_callers_mistake(bridge: BridgeServer, rest: bytes) -> None:
    head = f"POST /callbacks/n8n/error HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n".encode()
    wire = Wire(bridge.port)

    wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{ \r\n" + rest, end=True)
    answer = wire.answer()
    wire.close()

    assert answer is not None and answer.status == 400
    assert answer.json["code"] == "validation_error" and answer.json["errors"]


# -- too large


def test_a_large_body_leaves_its_ends(bridge: BridgeServer, user: Client) -> None:
    workflow_id = adopt(user)
    first, last = b'{"execution":{"id":"first-of-all","data":"', f'"}},"workflow":{{"id":"{workflow_id}"}}}}'.encode()
    body = first + b"a" * 2_000_000 + b"MIDDLE" + b"z" * 2_000_000 + last

    for answer in (
        call_back(bridge, body),
        send_chunks(bridge, (body[n : n + 60_000] for n in range(0, len(body), 60_000))),
    ):
        problem = is_problem(answer, 413, "too_large")
        letter = bridge.get(
            f"/dead-letters/{problem['deadLetterId']}", headers={"Authorization": f"Bearer {ACCESS}"}
        ).json
        assert letter["reason"] == "too_large" and letter["sizeBytes"] == len(body)
        assert letter["body"].startswith(first.decode()) and letter["body"].endswith(last.decode())
        assert "MIDDLE" not in letter["body"] and 65_536 <= len(letter["body"]) <= 65_600
    assert errors_of(user) == []


def test_one_byte_over_is_too_large(bridge: BridgeServer) -> None:
    is_problem(call_back(bridge, REFUSED["one byte over"]), 413, "too_large")


def test_an_endless_body_is_cut_off_and_does_no_harm(bridge: BridgeServer, user: Client) -> None:
    sent = 0

    def chunks() -> Any:
        nonlocal sent
        for _ in range(64):
            sent += MIB
            yield b"x" * MIB

    try:
        answer: Answer | None = send_chunks(bridge, chunks())
    except (ConnectionError, http.client.HTTPException):
        answer = None
    assert answer is None or answer.status == 413
    assert sent < 64 * MIB, "nobody listens that long"
    announced = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n"
        f"Content-Length: {1 << 40}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=20) as connection:
        connection.sendall(announced)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"x" * MIB)
            pytest.fail("it read more than 64 MiB")
    assert call_back(bridge, failure(adopt(user))).status == 202


# -- once


def test_the_same_execution_counts_once(bridge: BridgeServer, user: Client) -> None:
    body = failure(adopt(user))

    first = call_back(bridge, body)
    again = call_back(bridge, body, headers={"X-Idempotency-Key": "another"})
    body["execution"]["error"]["message"] = "something else"
    changed = call_back(bridge, [body])

    assert first.status == 202
    for answer in (again, changed):
        assert (answer.status, answer.json) == (200, {"routed": True, "duplicate": True})
    assert len(errors_of(user)) == 1


def test_without_an_execution_id_the_header_counts(bridge: BridgeServer, user: Client) -> None:
    body = failure(adopt(user), payload=payload("trigger_poll"))
    key = new_id("key")

    statuses = [call_back(bridge, body, headers={"X-Idempotency-Key": key}).status for _ in range(2)]
    statuses += [call_back(bridge, body).status for _ in range(2)]

    assert statuses == [202, 200, 202, 202], "without a key each counts"
    assert len(errors_of(user)) == 3


def test_a_header_cannot_take_an_executions_place(bridge: BridgeServer, user: Client) -> None:
    workflow_id, execution_id = adopt(user), new_id("x")
    trigger = failure(workflow_id, payload=payload("trigger_poll"))

    for key in (execution_id, f"exec:{execution_id}", f"callback:exec:{execution_id}"):
        assert call_back(bridge, trigger, headers={"X-Idempotency-Key": key}).status == 202

    assert call_back(bridge, failure(workflow_id, execution_id=execution_id)).status == 202


def test_long_keys_are_told_apart_to_their_end(bridge: BridgeServer, user: Client) -> None:
    body = failure(adopt(user), payload=payload("trigger_poll"))
    stem = new_id() + "k" * 4_000

    keys = [f"{stem}1", f"{stem}2", f"{stem}1", f"{stem}2"]
    statuses = [call_back(bridge, body, headers={"X-Idempotency-Key": key}).status for key in keys]

    assert statuses == [202, 202, 200, 200]


def test_fifty_times_the_same_at_once_is_one_error(bridge: BridgeServer, user: Client) -> None:
    body = failure(adopt(user))

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: call_back(bridge, body), range(50)))

    assert Counter(answer.status for answer in answers) == {202: 1, 200: 49}
    assert all(answer.json["duplicate"] and answer.json["routed"] for answer in answers if answer.status == 200)
    user.receive("repair_waiting")
    assert len(errors_of(user)) == 1


def test_fifty_failures_of_one_kind_at_once_are_one_repair(bridge: BridgeServer, user: Client) -> None:
    workflow_id = adopt(user)

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: call_back(bridge, failure(workflow_id)), range(50)))

    assert {answer.status for answer in answers} == {202}
    assert Counter(answer.json["repair"] for answer in answers) == {"queued": 1, "coalesced": 49}
    user.receive("repair_waiting")
    errors = errors_of(user)
    assert {event["seq"] for event in errors} == {answer.json["seq"] for answer in answers}
    assert [event["data"]["repeatCount"] for event in errors] == list(range(1, 51))
    assert len({event["data"]["signature"] for event in errors}) == 1
    assert len({event["repairId"] for event in errors}) == 1
    assert len(repairs(user)) == 1


def test_other_numbers_and_ids_in_the_message_are_the_same_failure(bridge: BridgeServer, user: Client) -> None:
    workflow_id = adopt(user)
    for text in ("Row 17 of 3f2b8c9d0e1f", "row 18  of\n4a2b8c9d0e1f"):
        body = failure(workflow_id)
        body["execution"]["error"]["message"] = text
        call_back(bridge, body)

    assert [event["data"]["repeatCount"] for event in errors_of(user)] == [1, 2]


# -- who may call


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {SECRET}x",
        f"Bearer {SECRET[:-1]}",
        f"Bearer {SECRET.upper()}",
        f"Basic {SECRET}",
        SECRET,
        f"Bearer {SECRET},{OLD_SECRET}",
        f"Bearer {SECRET} {SECRET}",
        f"Bearer {ACCESS}",
        "Bearer \xff\xfe",
        "Bearer " + "x" * 5_000,
    ],
    ids=lambda header: str(header)[:30],
)
def test_a_wrong_secret_is_refused_and_nothing_is_kept(bridge: BridgeServer, user: Client, header: str | None) -> None:
    before = len(dead_letters(bridge))
    headers = {} if header is None else {"Authorization": header}

    for body in (failure(adopt(user)), failure(new_id()), b"no JSON", b"x" * (MIB + 1)):
        answer = call_back(bridge, body, secret=None, headers=headers)
        problem = is_problem(answer, 401, "unauthorized")
        assert "deadLetterId" not in problem
        assert answer.headers["www-authenticate"].startswith("Bearer")

    assert errors_of(user) == []
    assert len(dead_letters(bridge)) == before


def test_each_live_secret_is_taken(bridge: BridgeServer, user: Client) -> None:
    workflow_id = adopt(user)
    for header in (f"Bearer {SECRET}", f"bearer {OLD_SECRET}", f"BEARER   {SECRET}"):
        answer = call_back(bridge, failure(workflow_id), secret=None, headers={"Authorization": header})
        assert answer.status == 202


# -- secrets stay out

PLANTED = {
    "bearer": "planted-bearer-0123456789abcdef",
    "basic": "cGxhbnRlZDpiYXNpYy1wYXNzd29yZA",
    "url": "planted-url-password",
    "query": "planted-query-key-123",
    "openai": "sk-plantedplantedplantedplanted1234",
    "github": "ghp_planted0planted1planted2planted3abcd",
    "aws": "AKIAPLANTED0PLANTED1",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.cGxhbnRlZC1qd3Q.c2lnbmF0dXJl",
    "param": "planted-parameter-password",
    "header": "planted-header-value",
    "cookie": "planted-cookie-value",
    "embedded": "planted-embedded-json",
    "escaped": "planted-escaped-json",
    "name": "planted-in-the-name-000",
}


def planted(workflow_id: str) -> dict[str, Any]:
    """A failure with a secret in every place where n8n may put one."""
    body = failure(workflow_id, payload=payload("http_500"))
    error = body["execution"]["error"]
    error["message"] = (
        f"The service was not able to process your request: Authorization: Bearer {PLANTED['bearer']} "
        f"at https://admin:{PLANTED['url']}@db.example/x?api_key={PLANTED['query']}&page=1 {PLANTED['openai']}"
    )
    error["description"] = f'{{"password": "{PLANTED["embedded"]}", "reason": "login"}}'
    error["messages"] = [f'500 - "{{\\"api_key\\":\\"{PLANTED["escaped"]}\\",\\"ok\\":false}}"']
    error["stack"] = f"Error: {PLANTED['github']}\n    at https://x:{PLANTED['url']}@host/{PLANTED['jwt']}"
    error["context"]["request"]["headers"] = {
        "authorization": f"Basic {PLANTED['basic']}",
        "X-Api-Key": PLANTED["header"],
        "Cookie": f"sid={PLANTED['cookie']}",
    }
    error["context"]["request"]["uri"] = f"http://127.0.0.1/?token={PLANTED['query']}"
    error["node"]["parameters"] |= {
        "password": PLANTED["param"],
        "url": f"http://root:{PLANTED['url']}@127.0.0.1:5695/500?key={PLANTED['query']}",
        "headerParameters": {"parameters": [{"name": "X-Api-Key", "value": PLANTED["header"]}]},
        "jsonBody": json.dumps({"client_secret": PLANTED["param"], "aws": PLANTED["aws"]}),
        "jsonHeaders": json.dumps({"Authorization": f"Bearer {PLANTED['bearer']}"}),
    }
    body["execution"]["url"] = f"http://127.0.0.1:5678/workflow/1?access_token={PLANTED['query']}"
    body["workflow"]["name"] = f"sync password={PLANTED['name']}"
    body["unknown"] = {"secret": PLANTED["param"]}
    return body


def on_disk(bridge: BridgeServer) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bridge.folder.iterdir() if file.is_file()}


def leaks(text: str | bytes) -> list[str]:
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return [name for name, secret in PLANTED.items() if secret in text]


def test_no_secret_of_a_callback_reaches_the_session_the_log_or_the_disk(bridge: BridgeServer, user: Client) -> None:
    workflow_id = adopt(user)

    assert call_back(bridge, planted(workflow_id)).status == 202

    repair_id = user.receive("repair_waiting")["data"]["repairId"]
    user.send({"type": "approve", "repairId": repair_id}).receive("repair_published")
    for path in (
        "/events?limit=1000",
        "/repairs",
        f"/workflows/{workflow_id}",
        f"/workflows/{workflow_id}/snapshots",
        "",
    ):
        answer = user.http("GET", f"/sessions/{{sid}}{path}")
        assert answer.status == 200
        assert leaks(answer.body) == [], path
    assert leaks(json.dumps(user.frames)) == []
    assert leaks("\n".join(bridge.raw_lines())) == []
    assert {name: found for name, text in on_disk(bridge).items() if (found := leaks(text))} == {}


@pytest.mark.parametrize("kind", ["no_session", "bad_schema", "too_large"])
def test_no_secret_of_a_dead_letter_is_kept_or_logged(bridge: BridgeServer, kind: str) -> None:
    body = planted(new_id())
    if kind == "bad_schema":
        del body["workflow"]["id"]
    if kind == "too_large":
        body["rest"] = "x" * MIB
    answer = call_back(bridge, body)
    letter_id = answer.json["deadLetterId"]
    bridge.wait_log("access", requestId=answer.headers["x-request-id"])

    shown = bridge.get(f"/dead-letters/{letter_id}", headers={"Authorization": f"Bearer {ACCESS}"})
    listed = bridge.get("/dead-letters?limit=1000", headers={"Authorization": f"Bearer {ACCESS}"})

    assert shown.status == listed.status == 200
    assert leaks(shown.body) == []
    assert leaks(listed.body) == []
    assert leaks("\n".join(bridge.raw_lines())) == []
    assert {name: found for name, text in on_disk(bridge).items() if (found := leaks(text))} == {}


def test_neither_callback_nor_session_secrets_are_logged_or_stored(bridge: BridgeServer, user: Client) -> None:
    call_back(bridge, failure(new_id()))
    user.http("GET", "/sessions/{sid}")

    log = "\n".join(bridge.raw_lines())
    disk = b"".join(on_disk(bridge).values())

    for secret in (SECRET, OLD_SECRET, ACCESS, user.token or ""):
        assert secret not in log
        assert secret.encode() not in disk


# -- repairs

MENDED = ["http_500", "http_timeout", "http_econnrefused"]


def node_of(workflow: dict[str, Any], name: str) -> dict[str, Any]:
    return next(node for node in workflow["nodes"] if node["name"] == name)


def break_it(user: Client, name: str, *, built: bool) -> tuple[str, Frame]:
    """Have a workflow fail as recorded; gives its id and the ``repair_waiting``."""
    workflow_id = user.build(POLLING_URLS) if built else adopt(user)
    answer = call_back(user.server, failure(workflow_id, payload=payload(name)))
    assert answer.json["repair"] == "queued"
    return workflow_id, user.receive("repair_waiting")


@pytest.mark.parametrize("built", [True, False], ids=["built", "adopted"])
@pytest.mark.parametrize("name", MENDED)
def test_a_hiccup_is_mended_once_a_person_approves(user: Client, name: str, built: bool) -> None:
    workflow_id, waiting = break_it(user, name, built=built)

    repair_id = waiting["data"]["repairId"]
    proposed = user.of("repair_proposed")[0]["data"]
    assert proposed["repairId"] == waiting["repairId"] == repair_id and proposed["workflowId"] == workflow_id
    assert {"retryOnFail": True}.items() <= {entry["path"]: entry["after"] for entry in proposed["diff"]}.items()
    assert proposed["summary"] and waiting["data"]["expiresAt"] and waiting["data"]["reason"]
    before = user.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}").json
    failing = payload(name)["execution"]["lastNodeExecuted"]
    assert "retryOnFail" not in node_of(before, failing)
    assert user.http("GET", "/sessions/{sid}").json["pendingRepairs"] == [repair_id]

    user.send({"type": "approve", "repairId": repair_id})

    decided = user.receive("repair_decided")["data"]
    assert decided == {"repairId": repair_id, "decision": "approved", "by": decided["by"]}
    published = user.receive("repair_published")["data"]
    after = user.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}").json
    assert node_of(after, failing)["retryOnFail"] is True
    assert after["versionId"] != before["versionId"] and after["id"] == workflow_id
    assert user.http("GET", "/sessions/{sid}").json["pendingRepairs"] == []
    assert user.http("GET", "/sessions/{sid}/repairs").json["repairs"][0]["state"] == "published"

    user.send({"type": "approve", "repairId": repair_id})
    assert user.receive("error")["code"] == "conflict"
    user.send({"type": "reject", "repairId": repair_id})
    assert user.receive("error")["code"] == "conflict"
    user.send({"type": "rollback", "workflowId": workflow_id})
    rolled = user.receive("rolled_back")["data"]
    assert rolled == {"workflowId": workflow_id, "snapshotId": published["snapshotId"], "by": rolled["by"]}
    restored = user.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}").json
    for part in ("name", "nodes", "connections", "settings"):
        assert restored[part] == before[part]
    user.send({"type": "rollback", "workflowId": workflow_id})
    assert user.receive("error")["code"] == "conflict"
    assert repairs(user)[0]["state"] == "rolled_back"


def test_a_rollback_to_a_named_snapshot_goes_forward_again_too(user: Client) -> None:
    workflow_id, waiting = break_it(user, "http_500", built=True)
    user.send({"type": "approve", "repairId": waiting["data"]["repairId"]}).receive("repair_published")
    path = f"/sessions/{{sid}}/workflows/{workflow_id}"
    mended = user.http("GET", path).json
    user.send({"type": "rollback", "workflowId": workflow_id}).receive("rolled_back")

    newest = user.http("GET", f"{path}/snapshots").json["snapshots"][0]
    user.send({"type": "rollback", "workflowId": workflow_id, "snapshotId": newest["snapshotId"]})

    user.receive("rolled_back", snapshotId=newest["snapshotId"])
    assert user.http("GET", path).json["nodes"] == mended["nodes"]


def test_a_rejected_repair_changes_nothing(user: Client) -> None:
    workflow_id, waiting = break_it(user, "http_500", built=True)
    before = user.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}").json
    command = {"type": "reject", "repairId": waiting["data"]["repairId"]}

    answers = [user.http("POST", "/sessions/{sid}/commands", command) for _ in range(2)]

    assert answers[0].status == 202
    is_problem(answers[1], 409, "conflict")
    assert user.receive("repair_decided")["data"]["decision"] == "rejected"
    assert user.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}").json == before
    assert user.http("GET", "/sessions/{sid}").json["pendingRepairs"] == []


def test_of_ten_decisions_at_once_one_counts(user: Client) -> None:
    _, waiting = break_it(user, "http_500", built=True)
    kinds = ["approve", "reject"] * 5
    commands = [{"type": kind, "repairId": waiting["data"]["repairId"]} for kind in kinds]

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda c: user.http("POST", "/sessions/{sid}/commands", c), commands))

    assert sorted(answer.status for answer in answers) == [202, *[409] * 9]
    decided = [event for event in history(user) if event["type"] == "repair_decided"]
    assert len(decided) == 1
    word = "approved" if answers[[a.status for a in answers].index(202)] in answers[::2] else "rejected"
    assert decided[0]["data"]["decision"] == word


def test_another_sessions_repair_cannot_be_decided(client: Connect, user: Client) -> None:
    _, waiting = break_it(user, "http_500", built=False)
    stranger = client()

    for kind in ("approve", "reject"):
        stranger.send({"type": kind, "repairId": waiting["data"]["repairId"]})
        assert stranger.receive("error")["code"] == "not_found"
    assert repairs(user)[0]["state"] == "waiting"


def test_the_same_error_after_its_repair_is_blocked_until_a_person_asks(user: Client) -> None:
    workflow_id, waiting = break_it(user, "http_500", built=True)
    user.send({"type": "approve", "repairId": waiting["data"]["repairId"]}).receive("repair_published")

    answers = [call_back(user.server, failure(workflow_id, payload=payload("http_500"))) for _ in range(2)]

    assert [answer.json["repair"] for answer in answers] == ["blocked", "blocked"]
    blocked = user.receive("repair_blocked")["data"]
    assert blocked["workflowId"] == workflow_id and blocked["reason"]
    user.receive("workflow_error", repeatCount=3)
    assert len(user.of("repair_blocked")) == 1
    retry = {"type": "retry_repair", "workflowId": workflow_id, "signature": blocked["signature"]}
    user.send(retry).receive("repair_diagnosed")
    assert user.send(retry).receive("error")["code"] == "conflict"


def test_after_three_attempts_only_a_person_starts_another(client: Connect, user: Client) -> None:
    workflow_id = adopt(user)
    for attempt in (1, 2, 3):
        assert call_back(user.server, failure(workflow_id)).json["repair"] == "queued"
        assert user.receive("repair_started")["data"]["attempt"] == attempt
        repair_id = user.receive("repair_waiting")["data"]["repairId"]
        user.send({"type": "reject", "repairId": repair_id}).receive("repair_decided")

    answers = [call_back(user.server, failure(workflow_id)).json["repair"] for _ in range(2)]

    assert answers == ["blocked", "blocked"]
    blocked = user.receive("repair_blocked")["data"]
    wait_for(lambda: len(errors_of(user)) == 5)
    user.sync()
    assert len(user.of("repair_blocked")) == 1, "said once"
    user.send({"type": "retry_repair", "workflowId": workflow_id, "signature": blocked["signature"]})
    repair_id = user.receive("repair_waiting")["data"]["repairId"]
    assert client(sessionId=user.session_id, token=user.token).welcome["pendingRepairs"] == [repair_id]
    user.send({"type": "approve", "repairId": repair_id}).receive("repair_published")
    assert len({repair["repairId"] for repair in repairs(user)}) == 4


def test_the_same_error_after_a_rollback_is_blocked(user: Client) -> None:
    workflow_id, waiting = break_it(user, "http_500", built=True)
    user.send({"type": "approve", "repairId": waiting["data"]["repairId"]}).receive("repair_published")
    user.send({"type": "rollback", "workflowId": workflow_id}).receive("rolled_back")

    answer = call_back(user.server, failure(workflow_id, payload=payload("http_500")))

    assert answer.json["repair"] == "blocked"
    assert user.receive("repair_blocked")["data"]["workflowId"] == workflow_id


def test_observing_takes_the_error_and_starts_nothing(user: Client) -> None:
    workflow_id = adopt(user, autonomy="observe")

    answer = call_back(user.server, failure(workflow_id, payload=payload("http_500")))

    assert (answer.status, answer.json["repair"]) == (202, "observed")
    user.say("a turn later").receive("turn_finished")
    assert [event["type"] for event in history(user)][:3] == ["workflow_registered", "workflow_error", "user_message"]
    assert repairs(user) == []


def test_suggesting_shows_a_change_and_nothing_waits(user: Client) -> None:
    workflow_id = adopt(user, autonomy="suggest")

    call_back(user.server, failure(workflow_id, payload=payload("http_500")))

    assert user.receive("repair_proposed")["data"]["diff"]
    assert user.receive("repair_unverified")["data"]["reason"]
    user.receive("turn_finished")
    assert not [event for event in history(user) if event["type"] in ("repair_waiting", "repair_published")]
    assert user.http("GET", "/sessions/{sid}").json["pendingRepairs"] == []
    user.send({"type": "approve", "repairId": repairs(user)[0]["repairId"]})
    assert user.receive("error")["code"] == "conflict"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("http_401", "credentials"),
        ("http_429", "quota"),
        ("missing_credentials", "credentials"),
        ("http_retry_on_fail", "remote_outage"),
    ],
)
def test_what_no_workflow_change_can_mend_gets_a_diagnosis_and_no_turn(user: Client, name: str, kind: str) -> None:
    workflow_id = adopt(user)

    call_back(user.server, failure(workflow_id, payload=payload(name)))

    diagnosed = user.receive("repair_diagnosed")["data"]
    assert (diagnosed["workflowId"], diagnosed["kind"]) == (workflow_id, kind) and diagnosed["summary"]
    user.say("a turn later").receive("turn_finished")
    assert [event["data"]["kind"] for event in history(user) if event["type"] == "turn_started"] == ["chat"]
    assert repairs(user)[0]["state"] == "not_a_bug"


def test_the_brake_holds_every_workflow(bridge: BridgeServer, user: Client) -> None:
    def brake(autonomy: str) -> None:
        assert user.http("PUT", "/autonomy", {"autonomy": autonomy}, ACCESS).status == 200

    brake("observe")
    try:
        assert call_back(bridge, failure(adopt(user))).json["repair"] == "observed"
        brake("suggest")
        call_back(bridge, failure(adopt(user)))
        user.receive("repair_unverified")
        user.receive("turn_finished")
        assert user.http("GET", "/sessions/{sid}").json["pendingRepairs"] == []
    finally:
        brake("auto")
    call_back(bridge, failure(adopt(user)))
    user.receive("repair_waiting")


def test_the_brake_stops_a_running_repair_before_it_proposes(bridge: BridgeServer, user: Client, holds: Holds) -> None:
    holds.repairs()
    call_back(bridge, failure(adopt(user)))
    user.receive("repair_started")
    try:
        user.http("PUT", "/autonomy", {"autonomy": "observe"}, ACCESS)
        holds.release_repairs()

        assert user.receive("turn_finished")["data"]["outcome"] == "failed"
    finally:
        user.http("PUT", "/autonomy", {"autonomy": "auto"}, ACCESS)
    assert not user.of("repair_proposed") and user.of("repair_failed")


def test_a_cancelled_repair_says_so(bridge: BridgeServer, user: Client, holds: Holds) -> None:
    holds.repairs()
    call_back(bridge, failure(adopt(user)))
    user.receive("repair_started")

    user.send({"type": "cancel"})

    assert user.receive("repair_failed")["data"]["reason"]
    assert user.receive("turn_finished")["data"]["outcome"] == "cancelled"


def test_a_rollback_cancels_the_running_repair_first(bridge: BridgeServer, user: Client, holds: Holds) -> None:
    workflow_id, waiting = break_it(user, "http_500", built=True)
    user.send({"type": "approve", "repairId": waiting["data"]["repairId"]}).receive("repair_published")
    holds.repairs()
    other = failure(workflow_id, payload=payload("http_econnrefused"))
    other["execution"]["lastNodeExecuted"] = other["execution"]["error"]["node"]["name"] = "HTTP Request1"
    call_back(bridge, other)
    user.receive("repair_started")

    user.send({"type": "rollback", "workflowId": workflow_id})

    user.receive("rolled_back")
    wait_for(lambda: user.of("turn_finished")[-1]["data"]["outcome"] == "cancelled")
    assert not user.of("error")


def test_a_workflow_of_a_session_that_was_ended_is_repaired_in_its_next_one(client: Connect, holds: Holds) -> None:
    for state in ("waiting", "running"):
        former, heir = client(), client()
        workflow_id = adopt(former)
        if state == "running":
            holds.repairs()
        call_back(former.server, failure(workflow_id))
        former.receive("repair_waiting" if state == "waiting" else "repair_started")
        former.http("DELETE", "/sessions/{sid}")
        holds.release_repairs()
        adopt(heir, workflow_id)

        assert call_back(heir.server, failure(workflow_id)).json["repair"] == "queued", state
        heir.receive("repair_waiting")


def test_a_secret_name_is_no_reason_to_lose_the_error(bridge: BridgeServer, user: Client) -> None:
    for error in ({"message": "token expired", "token": {}}, {"message": "x", "password": [1, [2]]}, {"message": ""}):
        body = failure(adopt(user))
        body["execution"]["error"] = error
        assert call_back(bridge, body).status == 202
    assert [event["data"]["error"].get("message") for event in errors_of(user)] == ["token expired", "x", ""]


# -- junk in every place of a recorded payload


def places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if path:
        yield path
    if isinstance(value, dict) and len(path) < 4:
        for key in value:
            yield from places(value[key], (*path, key))


def replaced(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    body = json.loads(json.dumps(body))
    at = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return body


JUNK = (None, True, 0, -1.5, "", "\0", "\ud800", [], [[1]], {}, {"name": []}, "x" * 20_000)


def test_junk_in_any_place_neither_breaks_the_answer_nor_the_session(bridge: BridgeServer, user: Client) -> None:
    workflow_id = adopt(user)
    base = failure(workflow_id, payload=payload("http_500"))
    cases = list(itertools.product(list(places(base)), JUNK))
    seen = len(bridge.raw_lines())

    def send(case: tuple[tuple[Any, ...], Any]) -> tuple[Any, int]:
        path, value = case
        body = replaced(base, path, value)
        if path[0] != "execution" or len(path) > 2 or path[1:] not in ((), ("id",)):
            body["execution"]["id"] = new_id("x")
        status = call_back(bridge, body).status
        return case, 202 if status == 200 and (path, value) == (("execution", "id"), 0) else status

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, cases))

    odd = [(path, value) for (path, value), status in answers if status not in (202, 400)]
    assert odd == []
    refused = {path for (path, _), status in answers if status == 400}
    assert refused <= {("execution",), ("workflow",), ("workflow", "id")}
    assert not [line for line in bridge.raw_lines()[seen:] if re.search("unexpected error|by a bug", line)]
    user.say("still there?")
    user.receive_if(lambda f: f["type"] == "turn_finished" and "repairId" not in f, 30, "the chat turn's end")
