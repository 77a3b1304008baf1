"""Who may do what where nothing is configured: this machine alone, however somebody tries to look like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import UNLIMITED, bugs, is_problem, new_id
from tests.support.client import Client, failure
from tests.support.server import Answer, BridgeServer, wait_for

Ask = Callable[..., Answer]

# How a request looks that came through a proxy on this host, from another site's page, or to a rebound name.
NOT_LOOPBACK: dict[str, dict[str, str]] = {
    "forwarded for": {"X-Forwarded-For": "203.0.113.9"},
    "forwarded for loopback": {"X-Forwarded-For": "127.0.0.1"},
    "forwarded for nobody": {"X-Forwarded-For": ""},
    "forwarded": {"Forwarded": "for=203.0.113.9"},
    "forwarded host": {"X-Forwarded-Host": "localhost"},
    "forwarded proto": {"X-Forwarded-Proto": "https"},
    "real ip": {"X-Real-IP": "127.0.0.1"},
    "via": {"Via": "1.1 proxy"},
    "rebound name": {"Host": "evil.example"},
    "rebound name with our port": {"Host": "evil.example:3000"},
    "name that begins like ours": {"Host": "localhost.evil.example"},
    "name that looks like an address": {"Host": "127.0.0.1.evil.example"},
    "user in host": {"Host": "localhost@evil.example"},
    "another address": {"Host": "192.0.2.1"},
    "no name": {"Host": ""},
    "foreign page": {"Origin": "https://evil.example"},
    "sandboxed page": {"Origin": "null"},
    "another port's page": {"Origin": "http://localhost:1"},
}


@pytest.fixture(scope="module")
def _bare() -> Iterator[BridgeServer]:
    with BridgeServer({**UNLIMITED, "MAX_SESSIONS": 1_000}) as server:
        yield server
        assert not bugs(server)


@pytest.fixture
def bare(_bare: BridgeServer) -> BridgeServer:
    """Nothing is configured."""
    return _bare


@pytest.fixture(scope="module")
def anonymous() -> Iterator[BridgeServer]:
    """``ALLOW_ANONYMOUS``, and room for three sessions."""
    with BridgeServer({**UNLIMITED, "ALLOW_ANONYMOUS": "true", "MAX_SESSIONS": 3}) as server:
        yield server
        assert not bugs(server)


def operator_routes() -> list[tuple[str, str, Any]]:
    return [
        ("POST", "/sessions", None),
        ("GET", "/sessions", None),
        ("GET", "/dead-letters", None),
        ("GET", "/dead-letters/nope", None),
        ("POST", "/dead-letters/nope/replay", None),
        ("GET", "/autonomy", None),
        ("PUT", "/autonomy", {"autonomy": "auto"}),
    ]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:3000", "LOCALHOST", "127.0.0.1", "127.1.2.3:80", "[::1]:3000"]
)
def test_callers_on_this_machine_need_no_credential(bare: BridgeServer, host: str) -> None:
    for method, path, body in operator_routes():
        answer = bare.request(method, path, json=body, headers={"Host": host})
        assert answer.status in (200, 201, 404), (path, answer.body)
    assert bare.get("/health", headers={"Host": host}).json["configured"]["access"] is False


@pytest.mark.parametrize("look", NOT_LOOPBACK)
def test_whoever_may_come_from_elsewhere_is_told_what_is_missing(bare: BridgeServer, look: str) -> None:
    for method, path, body in operator_routes():
        is_problem(bare.request(method, path, json=body, headers=NOT_LOOPBACK[look]), 503, "not_configured")
    callback = bare.post("/callbacks/n8n/error", json=failure(new_id()), headers=NOT_LOOPBACK[look])
    assert "deadLetterId" not in is_problem(callback, 503, "not_configured")
    assert int(callback.headers["retry-after"]) >= 1
    for path in ("/", "/health", "/healthz", "/readyz"):
        assert bare.get(path, headers=NOT_LOOPBACK[look]).status == 200


@pytest.mark.parametrize("look", [look for look, headers in NOT_LOOPBACK.items() if "Origin" not in headers])
def test_a_socket_from_elsewhere_gets_no_session(bare: BridgeServer, look: str) -> None:
    if NOT_LOOPBACK[look].get("Host") == "":
        pytest.skip("the client library always names a host")
    with Client(bare).open(headers=NOT_LOOPBACK[look]) as stranger:
        stranger.send({"type": "hello"})
        assert stranger.wait_closed() == 4401
        assert stranger.frames[0]["code"] == "not_configured"


@pytest.mark.parametrize("look", NOT_LOOPBACK)
def test_a_sessions_own_token_works_from_anywhere(bare: BridgeServer, look: str) -> None:
    user = Client(bare)
    opened = bare.post("/sessions").json
    user.session_id, user.token = opened["sessionId"], opened["token"]

    assert user.http("GET", "/sessions/{sid}", headers=NOT_LOOPBACK[look]).status == 200
    is_problem(user.http("GET", "/sessions/{sid}", None, None, headers=NOT_LOOPBACK[look]), 401, "unauthorized")
    assert user.http("GET", "/sessions/{sid}", None, None).status == 200, "loopback stands for it"
    user.http("DELETE", "/sessions/{sid}")


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", "Bearer", "", "Basic Og==", "wrong"])
def test_a_wrong_credential_is_refused_on_this_machine_too(bare: BridgeServer, header: str) -> None:
    headers = {"Authorization": header}
    for method, path, body in operator_routes():
        is_problem(bare.request(method, path, json=body, headers=headers), 401, "unauthorized")
    session_id = bare.post("/sessions").json["sessionId"]
    is_problem(bare.get(f"/sessions/{session_id}", headers=headers), 401, "unauthorized")
    callback = bare.post("/callbacks/n8n/error", json=failure(new_id()), headers=headers)
    assert "deadLetterId" not in is_problem(callback, 401, "unauthorized")


def test_a_wrong_credential_on_a_socket_is_refused_on_this_machine_too(bare: BridgeServer) -> None:
    session_id = bare.post("/sessions").json["sessionId"]
    for hello in (
        {"accessToken": "wrong"},
        {"accessToken": ""},
        {"sessionId": session_id, "token": "wrong"},
        {"sessionId": session_id, "token": ""},
        {"sessionId": session_id, "accessToken": "wrong"},
    ):
        with Client(bare).open() as stranger:
            stranger.send({"type": "hello", **hello})
            assert stranger.wait_closed() == 4401, hello
            assert stranger.frames[0]["code"] == "unauthorized"


def test_on_this_machine_a_session_is_resumed_without_a_token(bare: BridgeServer) -> None:
    with Client(bare).connect() as user, Client(bare) as other:
        assert other.connect(sessionId=user.session_id).welcome["resumed"] is True
        for look in ("forwarded for", "rebound name"):
            with Client(bare).open(headers=NOT_LOOPBACK[look]) as stranger:
                stranger.send({"type": "hello", "sessionId": user.session_id})
                assert stranger.wait_closed() == 4401


def test_callbacks_pass_from_this_machine(bare: BridgeServer) -> None:
    answer = bare.post("/callbacks/n8n/error", json=failure(new_id()))
    assert answer.status == 202 and answer.json["routed"] is False


def test_our_own_page_on_this_machine_passes(bare: BridgeServer) -> None:
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert bare.post("/sessions", headers={"Origin": f"http://{name}:{bare.port}"}).status == 201


# -- anonymous, and full


def test_anybody_may_open_a_session_where_that_is_allowed(anonymous: BridgeServer) -> None:
    elsewhere = {"X-Forwarded-For": "203.0.113.9", "Host": "bridge.example"}

    with Client(anonymous, headers=elsewhere).connect() as user:
        assert user.http("GET", "/sessions/{sid}").status == 200
        is_problem(user.http("GET", "/sessions/{sid}", None, None), 401, "unauthorized")
        for method, path, body in operator_routes()[1:]:
            is_problem(anonymous.request(method, path, json=body, headers=elsewhere), 503, "not_configured")
        is_problem(
            anonymous.post("/callbacks/n8n/error", json=failure(new_id()), headers=elsewhere), 503, "not_configured"
        )
        is_problem(
            anonymous.post("/sessions", headers={**elsewhere, "Authorization": "Bearer guess"}), 401, "unauthorized"
        )
        user.http("DELETE", "/sessions/{sid}")


def squeeze_in(client: Client, hello: dict[str, Any]) -> dict[str, Any]:
    """Ask until there is room: a place is free once the server has seen a socket go. Gives the ``welcome``."""

    def ask() -> dict[str, Any] | None:
        first = client.open().send(hello).receive_if(lambda frame: frame["type"] in ("welcome", "error"))
        return first if first["type"] == "welcome" else None

    return wait_for(ask, what="room for a session") or {}


def test_a_full_bridge_says_when_to_come_back(anonymous: BridgeServer) -> None:
    users = [Client(anonymous).connect() for _ in range(3)]
    try:
        full = anonymous.post("/sessions")
        is_problem(full, 503, "too_many_sessions")
        assert int(full.headers["retry-after"]) >= 1
        with Client(anonymous).open() as late:
            late.send({"type": "hello"})
            assert late.wait_closed() == 1013
            error = late.frames[0]
            assert error["code"] == "too_many_sessions" and error["retryAfter"] >= 1

        users[0].disconnect()
        with Client(anonymous) as late:
            squeeze_in(late, {"type": "hello"})  # the one that is away makes room
            late.disconnect()
            returned = {"type": "hello", "sessionId": users[0].session_id, "token": users[0].token}
            assert squeeze_in(late, returned)["resumed"] is True
    finally:
        for user in users:
            user.http("DELETE", "/sessions/{sid}")
            user.disconnect()


def test_lowering_the_number_of_sessions_takes_effect_at_once() -> None:
    with BridgeServer({**UNLIMITED, "MAX_SESSIONS": 20}) as server:
        for _ in range(20):
            assert server.post("/sessions").status == 201
        server.stop()
        server.set_environment(MAX_SESSIONS=4)
        server.start()

        assert server.post("/sessions").status == 201
        assert server.get("/health").json["activeSessions"] == 4
