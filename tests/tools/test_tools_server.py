"""The tools server over real HTTP on loopback."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from app.agents import ToolsAccess
from app.errors import LeaseLostError, ValidationError
from app.tools.server import MAX_BODY_BYTES, ToolResult, ToolsServer
from tests.fakes.turn_tools import FakeTurnTools, off_loop, wait_until


@pytest.fixture
def server() -> Iterator[ToolsServer]:
    server = ToolsServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def tools() -> FakeTurnTools:
    return FakeTurnTools(
        get_workflow=lambda arguments: ToolResult(f"got {json.dumps(arguments)}"),
        refused=ToolResult("no such host is allowed", ok=False),
        stale=LeaseLostError(),
        wrong=ValidationError("Not a workflow.", errors=[{"path": "nodes[0].name", "message": "is missing"}]),
        broken=KeyError("secret-argument"),
    )


@pytest.fixture
def access(server: ToolsServer, tools: FakeTurnTools) -> ToolsAccess:
    return server.open(tools)


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.raw = response.status, response.headers, response.read()

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


def send(
    server: ToolsServer, method: str = "POST", path: str = "/mcp", body: bytes | None = None, **headers: str
) -> Answer:
    """One request; a header given as ``None`` is left out."""

    def work() -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    return off_loop(work)


def post(server: ToolsServer, access: ToolsAccess, body: bytes, **headers: str) -> Answer:
    return send(server, body=body, Authorization=f"Bearer {access.token}", **headers)


def rpc(server: ToolsServer, access: ToolsAccess, method: str, params: Any = None, request_id: Any = 1) -> Any:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {} if params is None else params}
    answer = post(server, access, json.dumps(message).encode())
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    return answer.body


def call(server: ToolsServer, access: ToolsAccess, name: str, arguments: Any = None, **more: Any) -> Any:
    return rpc(server, access, "tools/call", {"name": name, "arguments": arguments or {}, **more})


def test_a_client_can_initialize_list_and_call(server, access):
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    initialized = rpc(server, access, "initialize", params)["result"]
    listed = rpc(server, access, "tools/list")["result"]["tools"]
    called = call(server, access, "get_workflow", {"a": 1})["result"]

    assert initialized["protocolVersion"] == "2025-06-18"
    assert "tools" in initialized["capabilities"]
    assert listed[0] == {"name": "get_workflow", "description": "Does get_workflow.", "inputSchema": {"type": "object"}}
    assert called == {"content": [{"type": "text", "text": 'got {"a": 1}'}], "isError": False}


def test_an_unknown_protocol_version_is_answered_with_a_known_one(server, access):
    result = rpc(server, access, "initialize", {"protocolVersion": "1999-01-01"})["result"]
    assert result["protocolVersion"] == "2025-11-25"


def test_ping_is_answered_with_the_id_it_came_with(server, access):
    assert rpc(server, access, "ping", request_id="p-7") == {"jsonrpc": "2.0", "id": "p-7", "result": {}}


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
        {"jsonrpc": "2.0", "id": 3, "result": {}},
    ],
)
def test_what_needs_no_answer_is_accepted_without_a_body(server, access, message):
    answer = post(server, access, json.dumps(message).encode())
    assert (answer.status, answer.raw) == (202, b"")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"jsonrpc": "2.0", "id": 1, "method": "resources/list"}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "no_such_tool"}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": ["x"]}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "refused", "arguments": 7}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": 7}, -32600),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, -32600),
        ({"id": 1, "method": "ping"}, -32600),
        ([], -32600),
        ("ping", -32600),
    ],
)
def test_a_wrong_message_gets_its_json_rpc_error(server, access, message, code):
    assert post(server, access, json.dumps(message).encode()).body["error"]["code"] == code


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b"[1e999]", b"[" * 101 + b"]" * 101])
def test_what_is_not_json_is_a_parse_error(server, access, body):
    answer = post(server, access, body)
    assert answer.status == 400
    assert answer.body["error"]["code"] == -32700


def test_a_call_that_is_nested_too_deeply_is_told_so(server, access):
    arguments = '{"a":' * 110 + "1" + "}" * 110
    body = (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_workflow","arguments":' + arguments + "}}"
    )
    answer = post(server, access, body.encode())
    assert answer.status == 400
    assert answer.body["error"]["message"] == "the body is nested more than 100 levels deep"


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_only_post_is_taken(server, access, method):
    answer = send(server, method, Authorization=f"Bearer {access.token}")
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"


def test_another_path_is_not_found(server, access):
    assert send(server, path="/", Authorization=f"Bearer {access.token}").status == 404


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \xe9"}])
def test_without_the_turns_token_nothing_is_told(server, access, headers):
    answer = send(server, body=b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}', **headers)
    assert answer.status == 401
    assert b"get_workflow" not in answer.raw


def test_the_token_must_come_as_a_bearer(server, access):
    assert send(server, body=b"{}", Authorization=f"Basic {access.token}").status == 401


def test_a_closed_token_opens_nothing_and_others_stay_open(server, tools, access):
    other = server.open(tools)
    server.close(access.token)
    server.close(access.token)

    assert post(server, access, b"{}").status == 401
    assert rpc(server, other, "ping")["result"] == {}


def test_tokens_are_long_and_do_not_show_in_the_repr(server, tools):
    access = server.open(tools)
    assert len(access.token) >= 43
    assert access.token not in repr(access)
    assert server.open(tools).token != access.token


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Origin": "http://x"}])
def test_what_a_page_in_a_browser_may_have_sent_is_refused(server, access, headers):
    assert post(server, access, b"{}", **headers).status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80"])
def test_every_loopback_name_is_a_good_host(server, access, host):
    assert post(server, access, b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}', Host=host).status == 200


def test_a_body_over_the_limit_is_refused(server, access):
    assert post(server, access, b" " * (MAX_BODY_BYTES + 1)).status == 413
    assert post(server, access, b"{}" + b" " * (MAX_BODY_BYTES - 2)).status == 200


def test_a_body_in_chunks_is_read_and_bounded_too(server, access):
    def chunked(size: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        headers = {"Authorization": f"Bearer {access.token}", "Transfer-Encoding": "chunked"}
        message = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'.ljust(size)
        connection.request("POST", "/mcp", iter([message[:10], message[10:]]), headers, encode_chunked=True)
        status = connection.getresponse().status
        connection.close()
        return status

    assert off_loop(lambda: chunked(100)) == 200
    assert off_loop(lambda: chunked(MAX_BODY_BYTES + 1)) == 413


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(server, access, capfd):
    def leave() -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            head = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {access.token}\r\n"
            sock.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())

    off_loop(leave)

    assert rpc(server, access, "ping")["result"] == {}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (
            {"claudecode/toolUseId": "toolu_113e51a0247d4db0adde3905", "progressToken": 2},
            "toolu_113e51a0247d4db0adde3905",
        ),
        ({"claudecode/toolUseId": ""}, "1"),
        ({"claudecode/toolUseId": "x" * 129}, "1"),
        ({"claudecode/toolUseId": 7}, "1"),
        ("rubbish", "1"),
    ],
)
def test_a_call_carries_the_id_of_the_agents_tool_use(server, access, tools, meta, expected):
    call(server, access, "get_workflow", _meta=meta)
    assert tools.calls[-1][2] == expected


def test_a_tool_that_fails_tells_the_agent(server, access):
    result = call(server, access, "refused")["result"]
    assert result == {"content": [{"type": "text", "text": "no such host is allowed"}], "isError": True}


def test_an_error_of_ours_is_told_in_its_own_words(server, access):
    stale, wrong = (call(server, access, name)["result"] for name in ("stale", "wrong"))
    assert stale["isError"] is True
    assert stale["content"][0]["text"] == "Another worker has taken this over"
    assert wrong["content"][0]["text"] == "Not a workflow.\nnodes[0].name: is missing"


def test_a_bug_in_a_tool_is_logged_once_and_told_as_internal_error(server, access, caplog):
    result = call(server, access, "broken", {"note": "private-words"})["result"]

    assert result == {"content": [{"type": "text", "text": "internal error"}], "isError": True}
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "private-words" not in caplog.text


def test_a_bug_outside_a_tool_is_told_as_internal_error_too(server, access, tools, caplog, capfd):
    tools.answers = None  # its list cannot be made any more

    answer = post(server, access, b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}')

    assert (answer.status, answer.body["error"]["code"]) == (500, -32603)
    assert "tools request failed" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_one_turn_has_four_calls_at_a_time_and_another_turn_is_not_held_up(server):
    go, running = Event(), []

    def wait(arguments: Any) -> ToolResult:
        running.append(arguments["number"])
        go.wait()
        return ToolResult("done")

    tools = FakeTurnTools(wait=wait)
    access, other = server.open(tools), server.open(FakeTurnTools(quick=ToolResult("quick")))
    calls = [gevent.spawn(call, server, access, "wait", {"number": number}) for number in range(6)]
    wait_until(lambda: len(running) == 4)

    assert call(server, other, "quick")["result"]["isError"] is False
    assert len(running) == 4
    go.set()
    gevent.joinall(calls, timeout=10, raise_error=True)
    assert sorted(running) == list(range(6))


def test_a_turn_ends_its_calls_and_those_that_wait_do_not_begin(server):
    begun, put_away = [], []

    def wait(arguments: Any) -> ToolResult:
        begun.append(arguments)
        try:
            Event().wait()
        finally:
            put_away.append(arguments)
        return ToolResult("done")

    tools = FakeTurnTools(wait=wait)
    access = server.open(tools)
    calls = [gevent.spawn(call, server, access, "wait") for _ in range(5)]
    # Each call looks at the list of tools right before it waits for its place.
    wait_until(lambda: tools.listed == 5 and len(begun) == 4)
    server.close(access.token)
    assert len(put_away) == 4, "what they held is free when the turn goes on"
    gevent.joinall(calls, timeout=10, raise_error=True)

    assert {done.value["result"]["content"][0]["text"] for done in calls} == {"This turn has ended."}
    assert len(begun) == 4


def test_a_call_that_takes_long_to_end_is_no_bug_of_its_turn(server, monkeypatch):
    """The journal may be away while it gives back what it holds; or all of the worker was paused."""
    monkeypatch.setattr("app.tools.server.END_CALLS_S", 0.05)
    begun, go = Event(), Event()

    def wait(arguments: Any) -> ToolResult:
        begun.set()
        try:
            Event().wait()
        finally:
            go.wait()
        return ToolResult("done")

    access = server.open(FakeTurnTools(wait=wait))
    running = gevent.spawn(call, server, access, "wait")
    assert begun.wait(5)

    server.close(access.token)

    assert not running.dead
    go.set()
    running.get(timeout=10)


def test_a_stopped_server_takes_no_more_connections(tools):
    server = ToolsServer()
    server.start()
    port = server.port
    server.stop()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        off_loop(lambda: socket.create_connection(("127.0.0.1", port), timeout=5))


def test_a_server_that_never_started_can_be_stopped():
    ToolsServer().stop()


def test_two_servers_have_ports_of_their_own(server):
    other = ToolsServer()
    other.start()
    assert other.port != server.port
    other.stop()
