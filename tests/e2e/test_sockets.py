"""The socket as a client sees it: hello, resume, replay, tabs, frames good and bad, commands, the end."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.e2e.conftest import (
    ACCESS,
    OLD_ACCESS,
    POLLING_URLS,
    UNLIMITED,
    WEBHOOK,
    Holds,
    adopt,
    history,
    is_problem,
    new_id,
    tab,
)
from tests.support.client import Client, Refused
from tests.support.server import BridgeServer, wait_for

MIB = 1_048_576
UNKNOWN_SESSION = "00000000-0000-4000-8000-000000000000"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
Connect = Callable[..., Client]


def refused(client: Client, *, code: int, error: str | None = None) -> None:
    """Assert that the socket is closed with ``code`` after one ``error`` frame, and nothing else."""
    assert client.wait_closed() == code, client.frames
    assert [frame["type"] for frame in client.frames] == ["error"]
    frame = client.frames[0]
    assert isinstance(frame["message"], str) and frame["correlationId"]
    if error:
        assert frame["code"] == error


# -- hello


def test_a_new_session_is_welcomed_with_exactly_these_fields(bridge: BridgeServer, user: Client) -> None:
    welcome = user.welcome

    assert welcome.keys() == {
        *("type", "sessionId", "token", "firstSeq", "lastSeq", "resumed", "agent", "requestId", "limits"),
        *("workflows", "pendingRepairs"),
    }
    assert welcome["resumed"] is False and welcome["lastSeq"] == 0
    assert welcome["agent"] == "offline"
    assert welcome["workflows"] == [] and welcome["pendingRepairs"] == []
    assert welcome["limits"].keys() == {"messagesPerMinute", "maxMessageBytes", "pingIntervalSeconds"}
    assert welcome["limits"]["maxMessageBytes"] == MIB
    assert len(welcome["token"]) >= 22, "128 bits"


def test_a_resumed_session_is_welcomed_without_its_token(client: Connect, user: Client) -> None:
    workflow_id = adopt(user, name="mine", autonomy="ask")

    welcome = client(sessionId=user.session_id, token=user.token).welcome

    assert "token" not in welcome
    assert welcome["resumed"] is True
    assert welcome["firstSeq"] <= welcome["lastSeq"] == 1
    assert welcome["workflows"] == [{"workflowId": workflow_id, "name": "mine", "autonomy": "ask"}]


def test_the_request_id_of_the_handshake_is_in_welcome(bridge: BridgeServer) -> None:
    with Client(bridge).connect(headers={"X-Request-ID": "trace.me_01"}, accessToken=ACCESS) as user:
        assert user.welcome["requestId"] == "trace.me_01"
        error = user.send({"type": "cancel"}).receive("error")
        assert error["correlationId"] == "trace.me_01"
        assert user.say("hi").receive("user_message")["requestId"] == "trace.me_01"
        user.receive("turn_finished")


@pytest.mark.parametrize(
    "first",
    [
        "",
        "hello",
        "null",
        "[]",
        '"hello"',
        "{}",
        '{"type": "hello"',
        b'{"type": "hello"}',
        {"type": "ping"},
        {"type": "message", "text": "hi"},
        {"type": "HELLO"},
        {"type": "hello", "after": -1},
        {"type": "hello", "after": "1"},
        {"type": "hello", "after": True},
        {"type": "hello", "after": 1.5},
        {"type": "hello", "after": 10**400},
        {"type": "hello", "sessionId": 7},
        {"type": "hello", "sessionId": ""},
        {"type": "hello", "sessionId": "a b"},
        {"type": "hello", "sessionId": "x" * 129},
        {"type": "hello", "sessionId": ["x"]},
        {"type": "hello", "token": 7},
        {"type": "hello", "accessToken": {}},
        '{"type": "hello", "accessToken": "\\ud800"}',
        '{"type": "hello", "x": ' + "[" * 100_000,
    ],
    ids=lambda first: str(first)[:40],
)
def test_a_bad_hello_is_refused(bridge: BridgeServer, first: Any) -> None:
    with Client(bridge).open() as stranger:
        stranger.send(first)
        refused(stranger, code=4400, error="validation_error")


def test_no_hello_in_time_closes_the_socket(bridge: BridgeServer) -> None:
    with Client(bridge).open() as silent, Client(bridge).open() as babbling:
        assert babbling._socket is not None
        for _ in range(10):
            babbling._socket.ping("not a hello")
        babbling._socket.send_frame(websocket.ABNF(0, 0, 0, 0, 1, 1, b'{"type":'))  # the beginning of a message
        refused(silent, code=4408)
        refused(babbling, code=4408)


@pytest.mark.parametrize("given", [{}, {"accessToken": "wrong"}, {"accessToken": ""}, {"token": ACCESS}])
def test_a_new_session_wants_the_access_token(bridge: BridgeServer, given: dict[str, str]) -> None:
    with Client(bridge).open() as stranger:
        stranger.send({"type": "hello", **given})
        refused(stranger, code=4401, error="unauthorized")


def test_each_of_several_access_tokens_opens_a_session(client: Connect) -> None:
    assert client(accessToken=OLD_ACCESS).session_id


def test_a_session_wants_its_own_token_or_the_access_token(bridge: BridgeServer, client: Connect) -> None:
    user, other = client(), client()
    hello = {"type": "hello", "sessionId": user.session_id}

    for wrong in ({}, {"token": ""}, {"token": "wrong"}, {"token": other.token}, {"accessToken": user.token + "x"}):
        with Client(bridge).open() as stranger:
            stranger.send({**hello, **wrong})
            refused(stranger, code=4401, error="unauthorized")

    assert client(sessionId=user.session_id, token=ACCESS).welcome["resumed"]
    assert client(sessionId=user.session_id, accessToken=ACCESS).welcome["resumed"]


@pytest.mark.parametrize("session_id", [UNKNOWN_SESSION, "nope", "../../etc/passwd", "'; DROP TABLE events;--"[:9]])
def test_an_unknown_session_is_not_found(bridge: BridgeServer, session_id: str) -> None:
    with Client(bridge).open() as stranger:
        stranger.send({"type": "hello", "sessionId": session_id.replace(" ", ""), "token": ACCESS})
        refused(stranger, code=4404, error="session_not_found")


def test_unknown_fields_and_doubled_keys_of_a_hello_do_no_harm(bridge: BridgeServer) -> None:
    with Client(bridge).open() as user:
        user.send(f'{{"type": "x", "type": "hello", "accessToken": "{ACCESS}", "new": [1e999, {{"a": null}}]}}')
        assert user.receive("welcome")["resumed"] is False


# -- resume and replay


def without_deltas(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] != "assistant_delta"]


def test_every_reader_gets_the_same_events(user: Client) -> None:
    user.build(POLLING_URLS)
    before = user.last_seq
    readers = {after: tab(user, after=after) for after in (0, 3, before)}
    try:
        user.build(WEBHOOK)
        kept = history(user)

        assert without_deltas(user.events) == kept
        for after, reader in readers.items():
            reader.receive("user_message", text=WEBHOOK)
            reader.receive("turn_finished")
            assert without_deltas(reader.events) == [event for event in kept if event["seq"] > after]
    finally:
        for reader in readers.values():
            reader.disconnect()


def test_event_numbers_rise_and_deltas_leave_the_log(user: Client, holds: Holds) -> None:
    name = holds.name()
    user.say(f"hold {name}").receive("assistant_delta", text="holding ")
    assert history(user)[-1]["type"] == "assistant_delta"
    holds.release(name)
    user.receive("turn_finished")

    kept = history(user)
    assert kept == without_deltas(user.events)
    assert [e["data"]["text"] for e in kept if e["type"] == "assistant_message"] == [f"held {name}"]
    seqs = [event["seq"] for event in user.events]
    assert seqs == sorted(set(seqs))
    for event in kept:
        assert {"type", "seq", "at", "data"} <= event.keys()
        assert TIME.fullmatch(event["at"])


def test_a_client_that_was_away_gets_what_it_missed_once(user: Client, holds: Holds) -> None:
    name = holds.name()
    user.say(f"hold {name}").receive("assistant_delta")
    user.drop()
    user.http("POST", "/sessions/{sid}/messages", {"text": "said by a script"})
    holds.release(name)

    user.connect()

    user.receive("turn_finished")
    user.receive("turn_finished")
    seqs = [event["seq"] for event in user.events]
    assert seqs == sorted(set(seqs)), "nothing twice, nothing out of order"
    assert without_deltas(user.events) == history(user)


def test_a_client_ahead_of_the_journal_waits_for_what_is_new(client: Connect, user: Client) -> None:
    user.say("hi").receive("turn_finished")

    ahead = client(sessionId=user.session_id, token=user.token, after=2**53)

    user.say("again")
    assert ahead.receive("user_message")["data"]["text"] == "again"
    ahead.receive("turn_finished")


# -- tabs


def test_a_sixth_socket_closes_the_oldest_wherever_it_is(user: Client) -> None:
    tabs = [tab(user) for _ in range(4)]
    try:
        user.sync()
        tabs.append(tab(user))

        assert user.wait_closed() == 4409
        tabs.append(tab(user))
        assert tabs[0].wait_closed() == 4409
        for number, still in enumerate(tabs[1:]):
            still.say(f"from tab {number}")
        for still in tabs[1:]:
            texts = {still.receive("user_message")["data"]["text"] for _ in range(5)}
            assert texts == {f"from tab {n}" for n in range(5)}
        wait_for(lambda: len(of_type(history(tabs[-1]), "turn_finished")) == 5)
    finally:
        for one in tabs:
            one.disconnect()


def test_sockets_that_were_closed_or_cut_make_room(user: Client) -> None:
    for end in ("disconnect", "drop") * 4:
        getattr(tab(user), end)()

    def alone() -> bool:
        user.sync()
        return user.close_code is None

    assert alone()
    tabs = [tab(user) for _ in range(4)]
    assert alone()
    for one in tabs:
        one.sync().disconnect()


def test_two_tabs_in_a_race_for_one_place_leave_five(user: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        tabs = list(pool.map(lambda _: tab(user), range(12)))
    try:
        everyone = [user, *tabs]
        wait_for(lambda: sum(one.close_code is None for one in everyone) == 5, what="five sockets to be left")
        assert {one.close_code for one in everyone} == {None, 4409}
    finally:
        for one in tabs:
            one.disconnect()


# -- messages


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def test_a_client_message_id_appends_once_over_sockets_and_http(user: Client) -> None:
    user.say("one", client_message_id="m-1").say("one", client_message_id="m-1").receive("turn_finished")
    user.drop()
    user.connect().say("one", client_message_id="m-1").sync()
    with ThreadPoolExecutor(8) as pool:
        body = {"text": "two", "clientMessageId": "m-1"}
        answers = list(pool.map(lambda _: user.http("POST", "/sessions/{sid}/messages", body), range(16)))

    assert {(answer.status, answer.json["seq"]) for answer in answers} == {(202, user.of("user_message")[0]["seq"])}
    events = history(user)
    assert [e["data"] for e in of_type(events, "user_message")] == [{"text": "one", "clientMessageId": "m-1"}]
    assert len(of_type(events, "turn_started")) == 1


def test_a_client_message_id_counts_within_its_session_only(client: Connect) -> None:
    for user in (client(), client()):
        user.say("hi", client_message_id="m-1").receive("turn_finished")


@pytest.mark.parametrize(
    "text",
    ["x" * 100_000, "\N{GRINNING FACE}" * 100_000, "a\0b", "\u2028\u202e\ufeff\uffff", " ", '"\\\n</script>', "é" * 5],
    ids=["100000", "emoji", "NUL", "odd", "space", "quotes", "accents"],
)
def test_any_text_is_taken_and_comes_back_as_it_was(user: Client, text: str) -> None:
    user.send(json.dumps({"type": "message", "text": text}, ensure_ascii=False))

    assert user.receive("user_message")["data"]["text"] == text
    assert user.receive("turn_finished")["data"]["outcome"] == "completed"
    assert of_type(history(user), "user_message")[0]["data"]["text"] == text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text": ""},
        {"text": "x" * 100_001},
        {"text": 7},
        {"text": None},
        {"text": ["hi"]},
        {"text": "hi", "clientMessageId": ""},
        {"text": "hi", "clientMessageId": "x" * 65},
        {"text": "hi", "clientMessageId": 7},
    ],
    ids=lambda fields: str(fields)[:30],
)
def test_a_message_of_another_shape_is_refused_everywhere(user: Client, fields: dict[str, Any]) -> None:
    error = user.send({"type": "message", **fields}).receive("error")
    problem = is_problem(user.http("POST", "/sessions/{sid}/messages", fields), 400, "validation_error")

    assert error["code"] == "validation_error"
    assert problem["errors"] and all(found.keys() == {"path", "message"} for found in problem["errors"])
    assert history(user) == []


@pytest.mark.parametrize("text", [r'"\ud800"', r'"a\udfffb"', r'"\udc00\ud800"'])
def test_lone_surrogates_are_refused_everywhere(user: Client, text: str) -> None:
    error = user.send(f'{{"type": "message", "text": {text}}}').receive("error")
    answer = user.http("POST", "/sessions/{sid}/messages", f'{{"text": {text}}}'.encode())

    assert error["code"] == "validation_error"
    is_problem(answer, 400, "validation_error")


def test_messages_are_answered_in_their_order(user: Client) -> None:
    for number in range(5):
        user.say(f"message {number}")
    for _ in range(5):
        user.receive("turn_finished")

    events = history(user)
    assert [e["data"]["text"] for e in of_type(events, "user_message")] == [f"message {n}" for n in range(5)]
    spans = [event["type"] for event in events if event["type"] in ("turn_started", "turn_finished")]
    assert spans == ["turn_started", "turn_finished"] * 5, "one turn at a time"


def test_twenty_messages_may_wait_and_no_more(user: Client, holds: Holds) -> None:
    name = holds.name()
    user.say(f"hold {name}", client_message_id="first").receive("turn_started")
    for number in range(19):
        user.say(f"waiting {number}")
    user.sync()
    assert not user.of("error")

    error = user.say("one too many").receive("error")
    answer = user.http("POST", "/sessions/{sid}/messages", {"text": "one too many"})
    user.say("hold again", client_message_id="first").sync()

    assert error["code"] == "too_many_pending"
    assert answer.json["code"] == "too_many_pending" and answer.status in (409, 429)
    assert len(user.of("error")) == 1, "one that was taken before is no new one"
    holds.release(name)
    for _ in range(20):
        user.receive("turn_finished")
    user.say("room again").receive("turn_finished")
    assert len(of_type(history(user), "user_message")) == 21


# -- frames


def padded(size: int) -> str:
    frame = '{"type":"ping","pad":""}'
    return frame.replace('""', f'"{"x" * (size - len(frame))}"')


def test_a_frame_may_have_a_mebibyte(user: Client) -> None:
    user.send(padded(MIB)).receive("pong")

    user.send(padded(MIB + 1))

    assert user.wait_closed() == 1009


def test_a_multibyte_frame_is_counted_in_bytes(user: Client) -> None:
    frame = json.dumps({"type": "ping", "pad": "é" * (MIB // 2)}, ensure_ascii=False)
    assert len(frame) < MIB < len(frame.encode())

    user.send(frame)

    assert user.wait_closed() == 1009


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x01",
        b'{"type":"ping"}',
        "",
        "ping",
        "null",
        "[]",
        "[" * 100_000,
        '{"type":"ping","x":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        {"type": "hello"},
        {"type": "Ping"},
        {"type": ""},
        {"type": None},
        {"type": ["ping"]},
        {"type": {"ping": 1}},
        {"kind": "ping"},
        {"type": "welcome"},
        {"type": "user_message", "seq": 1},
        {"type": "approve"},
        {"type": "approve", "repairId": ""},
        {"type": "reject", "repairId": 7},
        {"type": "retry_repair", "workflowId": "w"},
        {"type": "rollback", "workflowId": "w", "snapshotId": 7},
        {"type": "set_autonomy", "autonomy": "AUTO"},
        {"type": "set_autonomy"},
        {"type": "set_autonomy", "workflowId": "", "autonomy": "auto"},
        '{"type":"ping"} {"type":"ping"}',
        "\ufeff" + '{"type":"ping"}',
    ],
    ids=lambda frame: str(frame)[:40],
)
def test_a_bad_frame_gets_an_error_and_the_socket_stays(user: Client, frame: Any) -> None:
    error = user.send(frame).receive("error")

    assert error.keys() == {"type", "code", "message", "correlationId"}
    assert error["code"] == "validation_error"
    assert not re.search(r"pydantic|jiter|python|Traceback|\.py", error["message"], re.IGNORECASE)
    user.sync()


def test_ten_bad_frames_close_the_socket(user: Client) -> None:
    for _ in range(9):
        user.send("bad").receive("error")
    user.send({"type": "cancel"}).receive("error", code="conflict")
    user.sync()

    user.send("bad").receive("error", code="validation_error")

    assert user.wait_closed() == 4400
    user.connect().sync()


def test_invalid_utf8_in_a_text_frame_is_a_protocol_error(user: Client) -> None:
    assert user._socket is not None
    user._socket.send(b'{"type":"ping","x":"\xff"}', opcode=1)

    assert user.wait_closed() == 1007


def test_unknown_keys_of_a_frame_are_ignored(user: Client) -> None:
    user.send({"type": "ping", "later": {"a": [1]}}).receive("pong")


# -- commands

NOTHING_TO_ACT_ON = [
    ({"type": "cancel"}, "conflict"),
    ({"type": "approve", "repairId": "nope"}, "not_found"),
    ({"type": "reject", "repairId": "nope"}, "not_found"),
    ({"type": "retry_repair", "workflowId": "nope", "signature": "0123456789abcdef"}, "not_found"),
    ({"type": "rollback", "workflowId": "nope"}, "not_found"),
    ({"type": "set_autonomy", "workflowId": "nope", "autonomy": "ask"}, "not_found"),
    ({"type": "set_autonomy", "autonomy": "ask"}, "conflict"),
]


@pytest.mark.parametrize(("command", "code"), NOTHING_TO_ACT_ON, ids=lambda value: str(value)[:40])
def test_a_command_with_nothing_to_act_on_says_so(user: Client, command: dict[str, str], code: str) -> None:
    assert user.send(command).receive("error")["code"] == code
    is_problem(user.http("POST", "/sessions/{sid}/commands", command), {"conflict": 409, "not_found": 404}[code], code)
    assert history(user) == []


def test_a_workflow_without_errors_or_snapshots_has_nothing_to_undo(user: Client) -> None:
    workflow_id = adopt(user)

    for command in (
        {"type": "rollback", "workflowId": workflow_id},
        {"type": "rollback", "workflowId": workflow_id, "snapshotId": "nope"},
        {"type": "retry_repair", "workflowId": workflow_id, "signature": "0123456789abcdef"},
    ):
        assert user.send(command).receive("error")["code"] == "not_found"


def test_another_sessions_things_are_not_found(client: Connect) -> None:
    owner, stranger = client(), client()
    workflow_id = adopt(owner)

    for command in (
        {"type": "set_autonomy", "workflowId": workflow_id, "autonomy": "observe"},
        {"type": "rollback", "workflowId": workflow_id},
    ):
        assert stranger.send(command).receive("error")["code"] == "not_found"
    assert owner.http("GET", "/sessions/{sid}").json["workflows"][0]["autonomy"] == "auto"


def test_commands_act_beside_a_running_turn(user: Client, holds: Holds) -> None:
    workflow_id = adopt(user)
    user.say(f"hold {holds.name()}").receive("turn_started")
    user.say("waits behind it")

    user.sync()
    user.send({"type": "set_autonomy", "workflowId": workflow_id, "autonomy": "ask"}).receive("autonomy_changed")
    assert not user.of("turn_finished")
    user.send({"type": "cancel"})

    assert user.receive("turn_finished")["data"]["outcome"] == "cancelled"
    assert user.receive("turn_finished")["data"]["outcome"] == "completed", "the next one goes on"
    assert user.send({"type": "cancel"}).receive("error")["code"] == "conflict"


def test_cancelling_over_http_stops_the_turn(user: Client, holds: Holds) -> None:
    user.say(f"hold {holds.name()}").receive("assistant_delta")

    answers = [user.http("POST", "/sessions/{sid}/commands", {"type": "cancel"}) for _ in range(2)]

    assert answers[0].status == 202
    is_problem(answers[1], 409, "conflict")
    finished = user.receive("turn_finished")["data"]
    assert finished["outcome"] == "cancelled" and "error" not in finished
    assert len(of_type(history(user), "turn_finished")) == 1


def test_autonomy_is_set_for_one_workflow_or_for_all(user: Client) -> None:
    first, second = adopt(user), adopt(user)

    user.send({"type": "set_autonomy", "workflowId": first, "autonomy": "suggest"})
    one = user.receive("autonomy_changed")["data"]
    user.send({"type": "set_autonomy", "autonomy": "observe"})
    both = [user.receive("autonomy_changed")["data"] for _ in range(2)]

    assert one == {"workflowId": first, "autonomy": "suggest", "by": one["by"]}
    assert {data["workflowId"] for data in both} == {first, second}
    assert {data["autonomy"] for data in both} == {"observe"}
    shown = user.http("GET", "/sessions/{sid}").json["workflows"]
    assert {w["workflowId"]: w["autonomy"] for w in shown} == {first: "observe", second: "observe"}


# -- the end


def test_deleting_a_session_closes_its_sockets_and_stops_its_turn(user: Client, holds: Holds) -> None:
    other = tab(user)
    user.say(f"hold {holds.name()}").receive("turn_started")

    assert user.http("DELETE", "/sessions/{sid}").status == 204

    for one in (user, other):
        assert one.receive("session_closed")["data"]["reason"]
        assert one.wait_closed() == 1000
    is_problem(user.http("GET", "/sessions/{sid}"), 404, "session_not_found")
    is_problem(user.http("DELETE", "/sessions/{sid}"), 404, "session_not_found")
    with Client(user.server).open() as late:
        late.send({"type": "hello", "sessionId": user.session_id, "token": user.token})
        refused(late, code=4404)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1", "http://localhost.evil.example"]
)
def test_a_foreign_page_does_not_get_a_socket(bridge: BridgeServer, origin: str) -> None:
    with pytest.raises(Refused) as caught:
        Client(bridge).open(headers={"Origin": origin})

    assert caught.value.status == 403
    problem = json.loads(caught.value.body)
    assert problem["code"] == "forbidden_origin"


def test_a_page_of_ours_gets_a_socket(bridge: BridgeServer) -> None:
    for name in ("127.0.0.1", "localhost", "[::1]"):
        origin = {"Origin": f"http://{name}:{bridge.port}"}
        with Client(bridge).connect(headers=origin, accessToken=ACCESS) as user:
            user.sync()


@pytest.mark.parametrize("lacking", ["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"])
def test_a_request_that_is_no_handshake_gets_a_problem(bridge: BridgeServer, lacking: str) -> None:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }
    del headers[lacking]

    answer = bridge.get("/ws", headers=headers)

    assert answer.status in (400, 426)
    is_problem(answer, answer.status)


def test_only_a_get_is_a_handshake(bridge: BridgeServer) -> None:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }

    for method in ("HEAD", "POST"):
        answer = bridge.request(method, "/ws", headers=headers)

        assert answer.status == 405
        assert "GET" in answer.headers["allow"]


@pytest.fixture
def restarting(_held: tuple[Path, Path]) -> Iterator[BridgeServer]:
    settings = {**UNLIMITED, "GRACEFUL_TIMEOUT_SECONDS": 4, "HOLD_FOLDER": _held[1], "WEB_CONCURRENCY": 2}
    with BridgeServer(settings, project=_held[0]) as server:
        yield server


def test_a_restart_tells_where_to_come_back_and_loses_nothing(restarting: BridgeServer, holds: Holds) -> None:
    name = holds.name()
    working, idle = Client(restarting).connect(), Client(restarting).connect()
    idle.say("hi").receive("turn_finished")
    working.say(f"hold {name}", client_message_id="m").receive("assistant_delta")
    working.say("behind it").receive("user_message")

    restarting.term()

    for one in (working, idle):
        frame = one.receive("server_shutdown")
        assert frame["reconnect"] == {
            "afterMs": 500,
            "jitterMs": 3000,
            "sessionId": one.session_id,
            "lastSeq": one.last_seq,
        }
        assert one.wait_closed() == 1012
        assert one.frames[-1] is frame, "nothing after the goodbye"
    assert restarting.wait() == 0

    holds.release(name)
    restarting.start()
    working.connect().say("hold it", client_message_id="m")
    outcomes = [working.receive("turn_finished")["data"]["outcome"] for _ in range(3)]

    assert outcomes == ["interrupted", "completed", "completed"]
    kept = history(working)
    assert Counter(event["type"] for event in kept)["user_message"] == 2
    assert {e["seq"] for e in kept} <= {e["seq"] for e in working.events}, "nothing was lost"
    seqs = [event["seq"] for event in working.events]
    assert seqs == sorted(set(seqs))
    idle.connect().sync()
    assert without_deltas(idle.events) == history(idle)
    for one in (working, idle):
        one.disconnect()


def test_a_socket_that_has_not_said_hello_does_not_hold_up_a_restart(restarting: BridgeServer) -> None:
    silent = Client(restarting).open()

    restarting.term()

    reconnect = silent.receive("server_shutdown")["reconnect"]
    assert reconnect == {"afterMs": 500, "jitterMs": 3000, "sessionId": None, "lastSeq": 0}
    assert silent.wait_closed() == 1012
    assert restarting.wait() == 0
    silent.disconnect()


def test_ids_of_new_sessions_do_not_repeat(client: Connect) -> None:
    users = [client() for _ in range(3)]
    assert len({user.session_id for user in users}) == len({user.token for user in users}) == 3
    assert new_id() != new_id()
