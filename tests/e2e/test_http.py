"""The HTTP routes: what each answers, what each refuses, and the headers and shapes that all have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import (
    ACCESS,
    POLLING_URLS,
    SECRET,
    WEBHOOK,
    adopt,
    history,
    is_problem,
    new_id,
)
from tests.support.client import Client, failure
from tests.support.server import Answer, BridgeServer, wait_for

MIB = 1_048_576
UNKNOWN = "00000000-0000-4000-8000-000000000000"
OPERATOR = {"Authorization": f"Bearer {ACCESS}"}
ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
API_CSP = "default-src 'none'; frame-ancestors 'none'"
Connect = Callable[..., Client]


def has_all_headers(answer: Answer, *, page: bool = False) -> None:
    headers = answer.headers
    assert ALWAYS.items() <= headers.items()
    assert headers["permissions-policy"]
    csp = headers["content-security-policy"]
    assert "unsafe-" not in csp and (page or csp == API_CSP)
    assert "strict-transport-security" not in headers
    assert headers["x-request-id"]
    assert not any(word in headers.get("server", "").lower() for word in ("gunicorn", "gevent", "werkzeug", "python"))
    assert "x-powered-by" not in headers


# -- what all answers have in common

ANSWERS: list[tuple[str, str, int]] = [
    ("GET", "/", 200),
    ("HEAD", "/", 200),
    ("GET", "/health", 200),
    ("GET", "/healthz", 200),
    ("HEAD", "/healthz", 200),
    ("GET", "/readyz", 200),
    ("GET", "/sessions", 401),
    ("POST", "/sessions", 401),
    ("GET", f"/sessions/{UNKNOWN}", 404),
    ("GET", f"/sessions/{UNKNOWN}/events", 404),
    ("POST", f"/sessions/{UNKNOWN}/messages", 404),
    ("POST", f"/sessions/{UNKNOWN}/commands", 404),
    ("GET", f"/sessions/{UNKNOWN}/workflows", 404),
    ("POST", f"/sessions/{UNKNOWN}/workflows", 404),
    ("GET", f"/sessions/{UNKNOWN}/workflows/w", 404),
    ("GET", f"/sessions/{UNKNOWN}/workflows/w/snapshots", 404),
    ("GET", f"/sessions/{UNKNOWN}/repairs", 404),
    ("DELETE", f"/sessions/{UNKNOWN}", 404),
    ("GET", "/dead-letters", 401),
    ("GET", "/dead-letters/nope", 401),
    ("POST", "/dead-letters/nope/replay", 401),
    ("GET", "/autonomy", 401),
    ("PUT", "/autonomy", 401),
    ("POST", "/callbacks/n8n/error", 401),
    ("GET", "/nope", 404),
    ("GET", "/healthz/", 404),
    ("GET", "/mcp", 404),
    ("POST", "/mcp", 404),
    ("GET", "/static/x", 404),
    ("GET", "/sessions/%00%ff%d8", 404),
    ("GET", "/sessions/..%2f..%2fetc%2fpasswd", 404),
    ("GET", "/" + "x" * 3_000, 404),
    ("GET", "/" + "x" * 70_000, 414),
    ("POST", "/", 405),
    ("POST", "/healthz", 405),
    ("DELETE", "/sessions", 405),
    ("PATCH", f"/sessions/{UNKNOWN}", 405),
    ("PUT", "/dead-letters", 405),
    ("GET", "/callbacks/n8n/error", 405),
    ("POST", "/autonomy", 405),
    ("POST", "/ws", 405),
    ("TRACE", "/healthz", 405),
    ("OPTIONS", "/sessions", 200),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS, ids=lambda value: str(value)[:40])
def test_every_answer_has_its_headers_and_every_error_its_shape(
    bridge: BridgeServer, method: str, path: str, status: int
) -> None:
    answer = bridge.request(method, path, headers={"X-Request-ID": "asked-for.this_1"})

    assert answer.status == status, answer.body
    has_all_headers(answer, page=path == "/" and status == 200)
    if status < 400:
        assert answer.headers["x-request-id"] == "asked-for.this_1"
    if method != "HEAD" and status >= 400:
        problem = is_problem(answer, status)
        assert not any(word in str(problem) for word in ("Traceback", ".py", "werkzeug", "flask", "gunicorn"))
    if status == 405:
        assert answer.headers["allow"]
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("given", ["12345678", "a" * 64, "A.b_c-9.", "0000-1111"])
def test_a_well_formed_request_id_is_taken(bridge: BridgeServer, given: str) -> None:
    for path in ("/healthz", "/nope"):
        assert bridge.get(path, headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize(
    "given", ["1234567", "a" * 65, "has space", "new\tline", "<script>", "", "ünicode1", "a,b,c,d,e"]
)
def test_any_other_request_id_is_replaced(bridge: BridgeServer, given: str) -> None:
    answers = [bridge.get("/nope", headers={"X-Request-ID": given}) for _ in range(2)]

    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2 and given not in ids
    for answer in answers:
        is_problem(answer, 404)


def test_refusals_below_the_application_have_the_same_shape(bridge: BridgeServer) -> None:
    for sent in (
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    ):
        head, _, body = bridge.raw(sent).partition(b"\r\n\r\n")
        problem = json.loads(body)
        assert head.split()[1] == str(problem["status"]).encode() and problem["status"] in (400, 431, 505)
        assert {"type", "title", "status", "detail", "code", "correlationId"} <= problem.keys()
        assert f"X-Request-ID: {problem['correlationId']}".encode() in head
        assert b"unicorn" not in head + body


# -- CORS


def test_a_body_that_does_not_come_is_not_waited_for(bridge: BridgeServer) -> None:
    head = (
        f"POST /callbacks/n8n/error HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nContent-Length: 9\r\n\r\n"
    )

    answer, _, body = bridge.raw(head.encode() + b"{", limit_s=20).partition(b"\r\n\r\n")

    assert answer.split()[1] == b"408"
    problem = json.loads(body)
    assert (problem["code"], problem["detail"]) == ("request_timeout", "The body did not arrive in time.")


def test_listed_origins_may_read_the_api_and_others_may_not(bridge: BridgeServer) -> None:
    ours = f"http://localhost:{bridge.port}"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}

    preflight = bridge.request("OPTIONS", "/sessions", headers={"Origin": ours, **asked})
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == ours
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in preflight.headers
    for path in ("/healthz", "/sessions", "/nope"):
        answer = bridge.get(path, headers={"Origin": ours})
        assert answer.headers["access-control-allow-origin"] == ours
        assert "Origin" in answer.headers["vary"]
    for foreign in ("https://evil.example", "null", f"{ours}.evil.example", f"http://127.0.0.1:{bridge.port + 1}"):
        for method, extra in (("OPTIONS", asked), ("GET", {})):
            answer = bridge.request(method, "/sessions", headers={"Origin": foreign, **extra})
            assert "access-control-allow-origin" not in answer.headers
            assert "Origin" in answer.headers["vary"]


# -- probes and the page


def test_health_says_what_is_configured(bridge: BridgeServer, user: Client) -> None:
    health = bridge.get("/health").json

    assert health.keys() == {"status", "version", "uptimeSeconds", "activeSessions", "activeTurns", "configured"}
    assert health["configured"] == {"claude": False, "n8n": False, "callbacks": True, "access": True}
    assert isinstance(health["uptimeSeconds"], int) and isinstance(health["activeTurns"], int)
    assert health["activeSessions"] >= 1


def test_probes_answer(bridge: BridgeServer) -> None:
    assert bridge.get("/healthz").status == 200
    ready = bridge.get("/readyz")
    assert ready.status == 200 and ready.json["checks"]
    assert bridge.request("HEAD", "/readyz").body == b""


def test_the_page_is_html(bridge: BridgeServer) -> None:
    page = bridge.get("/")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")


# -- sessions


def test_a_script_opens_uses_and_ends_a_session(bridge: BridgeServer) -> None:
    opened = bridge.post("/sessions", headers=OPERATOR)
    assert opened.status == 201 and opened.json.keys() == {"sessionId", "token"}
    assert opened.headers["cache-control"] == "no-store"
    script = Client(bridge)
    script.session_id, script.token = opened.json["sessionId"], opened.json["token"]

    answer = script.http("POST", "/sessions/{sid}/messages", {"text": POLLING_URLS, "clientMessageId": "m"})
    assert (answer.status, answer.json) == (202, {"seq": 1})
    wait_for(lambda: history(script)[-1]["type"] == "turn_finished")
    shown = script.http("GET", "/sessions/{sid}").json
    assert shown["state"] == "live" and shown["firstSeq"] == 1 and shown["lastSeq"] == history(script)[-1]["seq"]
    workflow_id = shown["workflows"][0]["workflowId"]
    assert shown["workflows"] == [{**shown["workflows"][0], "autonomy": "auto"}] and shown["pendingRepairs"] == []
    listed = bridge.get("/sessions?limit=1000", headers=OPERATOR).json["sessions"]
    mine = next(entry for entry in listed if entry["id"] == script.session_id)
    assert {"id", "createdAt", "lastActiveAt", "connected", "workflows", "state"} <= mine.keys()
    assert mine["connected"] is False
    assert script.token not in json.dumps(listed)

    workflow = script.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}")
    assert workflow.status == 200 and {"id", "name", "nodes", "connections", "versionId"} <= workflow.json.keys()
    assert script.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}?version=draft").json == workflow.json
    is_problem(script.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}?version=active"), 404)
    is_problem(script.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}?version=x"), 400, "validation_error")
    assert script.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}/snapshots").json == {"snapshots": []}
    assert script.http("GET", "/sessions/{sid}/repairs").json == {"repairs": []}

    assert script.http("DELETE", "/sessions/{sid}").status == 204
    for path in ("", "/events", f"/workflows/{workflow_id}", "/repairs"):
        is_problem(script.http("GET", f"/sessions/{{sid}}{path}"), 404, "session_not_found")
    is_problem(script.http("POST", "/sessions/{sid}/messages", {"text": "hi"}), 404, "session_not_found")


def test_a_connected_session_is_listed_so(bridge: BridgeServer, user: Client) -> None:
    assert user.http("GET", "/sessions/{sid}").json["connected"] is True
    user.disconnect()
    wait_for(lambda: user.http("GET", "/sessions/{sid}").json["connected"] is False)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "/events", None),
        ("POST", "/messages", {"text": "hi"}),
        ("POST", "/commands", {"type": "cancel"}),
        ("POST", "/workflows", {"workflowId": "w"}),
        ("GET", "/workflows/w", None),
        ("GET", "/workflows/w/snapshots", None),
        ("GET", "/repairs", None),
        ("DELETE", "", None),
    ],
)
def test_a_session_route_wants_its_own_token(client: Connect, method: str, path: str, body: Any) -> None:
    user, other = client(), client()
    path = f"/sessions/{user.session_id}{path}"

    for token in (None, "", "wrong", other.token, SECRET, f"{user.token}x", (user.token or "")[:-1]):
        is_problem(user.http(method, path, body, token or None, headers=_empty(token)), 401, "unauthorized")
    basic = user.http(method, path, body, None, headers={"Authorization": f"Basic {user.token}"})
    is_problem(basic, 401, "unauthorized")
    assert history(user) == []
    assert user.http(method, path, body, ACCESS).status != 401


def _empty(token: str | None) -> dict[str, str]:
    return {"Authorization": "Bearer "} if token == "" else {}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/sessions", None),
        ("POST", "/sessions", None),
        ("GET", "/dead-letters", None),
        ("GET", "/dead-letters/x", None),
        ("POST", "/dead-letters/x/replay", {}),
        ("GET", "/autonomy", None),
        ("PUT", "/autonomy", {"autonomy": "auto"}),
    ],
)
def test_an_operators_route_wants_the_access_token(user: Client, method: str, path: str, body: Any) -> None:
    for token in (None, "wrong", user.token, SECRET):
        is_problem(user.http(method, path, body, token), 401, "unauthorized")
    assert user.http(method, path, body, ACCESS).status != 401


# -- events in pages


def test_events_come_in_pages_oldest_first(user: Client) -> None:
    user.build(WEBHOOK)
    user.build(WEBHOOK)
    everything = user.http("GET", "/sessions/{sid}/events?limit=1000").json["events"]

    paged: list[dict[str, Any]] = []
    while page := user.http("GET", f"/sessions/{{sid}}/events?limit=3&after={paged[-1]['seq'] if paged else 0}").json[
        "events"
    ]:
        assert len(page) <= 3
        paged += page

    assert paged == everything and len(paged) > 6
    assert [event["seq"] for event in paged] == sorted(event["seq"] for event in paged)
    assert user.http("GET", f"/sessions/{{sid}}/events?after={2**53}").json == {"events": []}
    assert user.http("GET", "/sessions/{sid}/events?later=1").status == 200


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "limit=1.5",
        "after=-1",
        "after=x",
        "after=1e3",
        f"after={10**30}",
    ],
)
def test_a_bad_page_is_refused(user: Client, query: str) -> None:
    problem = is_problem(user.http("GET", f"/sessions/{{sid}}/events?{query}"), 400, "validation_error")
    assert problem["errors"][0]["path"] == query.partition("=")[0]


# -- bodies


@pytest.mark.parametrize("route", ["messages", "commands", "workflows"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"7", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'{"type": "cancel"} x'],
    ids=lambda body: str(body[:12]),
)
def test_a_body_that_is_no_object_is_refused(user: Client, route: str, body: bytes) -> None:
    is_problem(user.http("POST", f"/sessions/{{sid}}/{route}", body), 400, "validation_error")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
def test_a_body_that_is_not_declared_as_json_is_refused(user: Client, kind: str) -> None:
    answer = user.http("POST", "/sessions/{sid}/messages", b'{"text": "hi"}', headers={"Content-Type": kind})
    is_problem(answer, 415, "unsupported_media_type")
    assert history(user) == []


def test_a_body_may_have_a_mebibyte(user: Client) -> None:
    body = b'{"text": "hi"}'
    assert user.http("POST", "/sessions/{sid}/messages", body.ljust(MIB)).status == 202

    is_problem(user.http("POST", "/sessions/{sid}/messages", body.ljust(MIB + 1)), 413, "too_large")
    is_problem(user.http("PUT", "/autonomy", b"x" * 3 * MIB, ACCESS), 413, "too_large")
    user.receive("turn_finished")


@pytest.mark.parametrize(
    "command",
    [{}, {"type": "hello"}, {"type": "message", "text": "hi"}, {"type": "nope"}, {"type": "approve"}, {"type": 1}],
)
def test_what_is_no_command_is_refused(user: Client, command: Any) -> None:
    is_problem(user.http("POST", "/sessions/{sid}/commands", command), 400, "validation_error")
    assert history(user) == []


def test_a_ping_is_a_command_too(user: Client) -> None:
    assert user.http("POST", "/sessions/{sid}/commands", {"type": "ping"}).status == 202


# -- workflows


def test_adopting_is_once_and_for_one_session(client: Connect) -> None:
    user, other = client(), client()
    body = {"workflowId": new_id(), "name": "Mine", "autonomy": "ask"}

    first = user.http("POST", "/sessions/{sid}/workflows", body)
    assert user.http("GET", "/sessions/{sid}/workflows").json == {"workflows": [body], "n8n": None}
    again = user.http("POST", "/sessions/{sid}/workflows", {**body, "autonomy": "observe"})
    theirs = other.http("POST", "/sessions/{sid}/workflows", body)

    assert (first.status, first.json) == (201, body)
    assert (again.status, again.json) == (200, body), "adopting again changes nothing"
    is_problem(theirs, 409, "conflict")
    assert user.receive("workflow_registered")["data"] == body
    user.sync()
    assert len(user.of("workflow_registered")) == 1
    path = f"/sessions/{{sid}}/workflows/{body['workflowId']}"
    is_problem(user.http("GET", path), 404, "not_found")
    is_problem(other.http("GET", path), 404, "not_found")
    assert user.http("GET", f"{path}/snapshots").json == {"snapshots": []}
    is_problem(other.http("GET", f"{path}/snapshots"), 404, "not_found")

    user.http("DELETE", "/sessions/{sid}")
    inherited = other.http("POST", "/sessions/{sid}/workflows", {"workflowId": body["workflowId"]})
    assert inherited.status == 201, "its session was ended"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"workflowId": ""},
        {"workflowId": 7},
        {"workflowId": "a b"},
        {"workflowId": "é"},
        {"workflowId": "x" * 129},
        {"workflowId": "w", "name": ""},
        {"workflowId": "w", "name": "x" * 257},
        {"workflowId": "w", "name": 7},
        {"workflowId": "w", "autonomy": "full"},
    ],
    ids=str,
)
def test_adopting_something_odd_is_refused(user: Client, body: Any) -> None:
    is_problem(user.http("POST", "/sessions/{sid}/workflows", body), 400, "validation_error")


def test_a_workflow_of_one_session_is_not_shown_to_another(client: Connect) -> None:
    user, other = client(), client()
    workflow_id = user.build(WEBHOOK)

    assert user.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}").status == 200
    for path in ("", "/snapshots"):
        is_problem(other.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}{path}"), 404, "not_found")
    is_problem(other.http("GET", "/sessions/{sid}/workflows/nope"), 404, "not_found")


def test_repairs_and_snapshots_are_listed_newest_first(user: Client) -> None:
    workflow_id = user.build(POLLING_URLS)
    for name in ("HTTP Request", "HTTP Request1"):
        body = failure(workflow_id)
        body["execution"]["lastNodeExecuted"] = body["execution"]["error"]["node"]["name"] = name
        user.http("POST", "/callbacks/n8n/error", body, SECRET)
        repair_id = user.receive("repair_waiting")["data"]["repairId"]
        user.send({"type": "approve", "repairId": repair_id}).receive("repair_published")

    repairs = user.http("GET", "/sessions/{sid}/repairs").json["repairs"]
    snapshots = user.http("GET", f"/sessions/{{sid}}/workflows/{workflow_id}/snapshots").json["snapshots"]

    published = [event["data"] for event in history(user) if event["type"] == "repair_published"][::-1]
    assert [repair["repairId"] for repair in repairs] == [data["repairId"] for data in published]
    assert [snapshot["snapshotId"] for snapshot in snapshots] == [data["snapshotId"] for data in published]
    assert all(repair["state"] == "published" and repair["diff"] for repair in repairs)


# -- the brake


@pytest.mark.parametrize("body", [{}, {"autonomy": "off"}, {"autonomy": None}, {"autonomy": ["auto"]}, []])
def test_the_brake_wants_a_word_that_it_knows(user: Client, body: Any) -> None:
    is_problem(user.http("PUT", "/autonomy", body, ACCESS), 400, "validation_error")


def test_the_brake_is_not_loosened_by_a_session(user: Client) -> None:
    workflow_id = adopt(user)
    assert user.http("GET", "/autonomy", None, ACCESS).json == {"autonomy": "auto"}
    assert user.http("PUT", "/autonomy", {"autonomy": "observe"}, ACCESS).json == {"autonomy": "observe"}
    assert user.http("GET", "/autonomy", None, ACCESS).json == {"autonomy": "observe"}
    try:
        user.send({"type": "set_autonomy", "workflowId": workflow_id, "autonomy": "auto"}).receive("autonomy_changed")
        answer = user.http("POST", "/callbacks/n8n/error", failure(workflow_id), SECRET)
        assert answer.json["repair"] == "observed"
    finally:
        user.http("PUT", "/autonomy", {"autonomy": "auto"}, ACCESS)
