"""Idle sessions fall asleep and come back, and no more than MAX_SESSIONS are live: two workers, real sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import UNLIMITED, Holds, adopt, bugs, held_project, history, new_id
from tests.support.client import Client, Refused
from tests.support.server import Answer, BridgeServer, wait_for

FULL = 4
SETTINGS = {
    **UNLIMITED,
    "WEB_CONCURRENCY": 2,
    "MAX_SESSIONS": FULL,
    "MAX_CONCURRENT_TURNS": 4,
    "LEASE_SECONDS": 2,
    "SESSION_SWEEP_SECONDS": 0.1,
    "SESSION_IDLE_TTL_SECONDS": 0.4,
}
NEVER = {**SETTINGS, "SESSION_IDLE_TTL_SECONDS": 3600, "MAX_CONNECTIONS": 12}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "holds").mkdir()
    return held_project(folder / "project"), folder / "holds"


def serve(project: tuple[Path, Path], settings: dict[str, Any]) -> Iterator[BridgeServer]:
    with BridgeServer({**settings, "HOLD_FOLDER": project[1]}, project=project[0]) as server:
        yield server
        assert not bugs(server)


@pytest.fixture(scope="module")
def _sweeping(project: tuple[Path, Path]) -> Iterator[BridgeServer]:
    yield from serve(project, SETTINGS)


@pytest.fixture(scope="module")
def _full(project: tuple[Path, Path]) -> Iterator[BridgeServer]:
    yield from serve(project, NEVER)


@pytest.fixture
def holds(project: tuple[Path, Path]) -> Holds:
    return Holds(project[1])


@pytest.fixture
def sweeping(_sweeping: BridgeServer) -> Iterator[BridgeServer]:
    """What is idle for 0.4 s falls asleep."""
    yield _sweeping
    empty(_sweeping)


@pytest.fixture
def full(_full: BridgeServer) -> Iterator[BridgeServer]:
    """Only the bound on live sessions puts any to sleep."""
    yield _full
    empty(_full)


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def open_(server: BridgeServer, **hello: Any) -> Client:
        made.append(Client(server))
        return made[-1].connect(**hello)

    yield open_
    for one in made:
        one.disconnect()


def listed(server: BridgeServer) -> dict[str, dict[str, Any]]:
    return {s["id"]: s for s in server.get("/sessions").json["sessions"]}


def empty(server: BridgeServer) -> None:
    for session_id in listed(server):
        server.request("DELETE", f"/sessions/{session_id}")


def state(client: Client) -> str:
    found: str = client.http("GET", "/sessions/{sid}").json["state"]
    return found


def live(server: BridgeServer) -> int:
    count: int = server.get("/health").json["activeSessions"]
    assert count == sum(s["state"] == "live" for s in listed(server).values())
    return count


def open_by_http(server: BridgeServer) -> Answer:
    return server.post("/sessions", json={})


def refusal(client: Client, **hello: Any) -> dict[str, Any]:
    """Say hello and be refused; gives the error."""
    client.open().send({"type": "hello", **hello})
    error = client.receive("error")
    assert client.wait_closed() == 1013
    return error


# -- the sweep


def test_an_idle_session_falls_asleep_and_a_client_takes_it_up_where_it_was(
    sweeping: BridgeServer, connect: Callable[..., Client]
) -> None:
    user = connect(sweeping)
    workflow_id = user.build("a webhook that answers hello")
    known = len(history(user))
    user.disconnect()

    wait_for(lambda: state(user) == "asleep")

    assert live(sweeping) == 0
    assert len(history(user)) == known
    user.connect()
    assert user.welcome["resumed"] and [w["workflowId"] for w in user.welcome["workflows"]] == [workflow_id]
    assert (state(user), live(sweeping)) == ("live", 1)


def test_a_callback_for_a_sleeping_session_is_routed_and_repaired(
    sweeping: BridgeServer, connect: Callable[..., Client]
) -> None:
    user = connect(sweeping)
    workflow_id = user.build("every 10 minutes get http://127.0.0.1:9/a and post it to http://127.0.0.1:9/b")
    user.disconnect()
    wait_for(lambda: state(user) == "asleep")

    answer = user.fail(workflow_id, execution_id=new_id("e"))

    assert (answer.status, answer.json["routed"], answer.json["repair"]) == (202, True, "queued")
    wait_for(lambda: user.http("GET", "/sessions/{sid}").json["pendingRepairs"])
    assert state(user) == "live", "a repair that waits for a person keeps it awake"


def test_a_silent_socket_keeps_its_session_awake(sweeping: BridgeServer, connect: Callable[..., Client]) -> None:
    silent, other = connect(sweeping), connect(sweeping)
    other.disconnect()

    # It was used later than the silent one, and fell asleep: the sweep has come by.
    wait_for(lambda: state(other) == "asleep")

    assert state(silent) == "live"
    silent.say("still there?").receive("turn_finished")


def test_a_running_turn_keeps_its_session_awake(
    sweeping: BridgeServer, connect: Callable[..., Client], holds: Holds
) -> None:
    user, other, name = connect(sweeping), connect(sweeping), holds.name()
    user.say(f"hold {name}").receive("turn_started")
    user.disconnect()
    other.disconnect()

    wait_for(lambda: state(other) == "asleep")

    assert state(user) == "live"
    holds.release(name)
    wait_for(lambda: state(user) == "asleep")


def test_a_session_is_idle_only_from_when_its_last_socket_went(
    sweeping: BridgeServer, connect: Callable[..., Client]
) -> None:
    user, other = connect(sweeping), connect(sweeping)
    other.disconnect()
    wait_for(lambda: state(other) == "asleep")
    before = listed(sweeping)[str(user.session_id)]["lastActiveAt"]

    user.disconnect()

    wait_for(lambda: listed(sweeping)[str(user.session_id)]["lastActiveAt"] > before)


def test_a_message_wakes_its_session(sweeping: BridgeServer) -> None:
    user = Client(sweeping)
    opened = open_by_http(sweeping).json
    user.session_id, user.token = opened["sessionId"], opened["token"]
    wait_for(lambda: state(user) == "asleep")

    assert user.http("POST", "/sessions/{sid}/messages", {"text": "good morning"}).status == 202

    wait_for(lambda: any(e["type"] == "turn_finished" for e in history(user)))
    wait_for(lambda: state(user) == "asleep")


def test_a_session_never_sleeps_while_it_has_a_socket(sweeping: BridgeServer, connect: Callable[..., Client]) -> None:
    """Coming and going at the pace of the sweep, over both workers."""
    users = [connect(sweeping) for _ in range(FULL)]

    def come_and_go(user: Client) -> None:
        for _ in range(6):
            user.disconnect()
            with suppress(AssertionError):
                wait_for(lambda: state(user) == "asleep", limit_s=0.3)
            user.connect().sync()
            assert state(user) == "live"

    with ThreadPoolExecutor(FULL) as pool:
        list(pool.map(come_and_go, users))
    assert live(sweeping) == FULL


# -- at most MAX_SESSIONS


def test_the_longest_idle_session_makes_way(full: BridgeServer, connect: Callable[..., Client]) -> None:
    first, second, third = (open_by_http(full).json["sessionId"] for _ in range(3))
    user = connect(full)
    assert full.post(f"/sessions/{first}/messages", json={"text": "hello"}).status == 202
    wait_for(lambda: any(e["type"] == "turn_finished" for e in full.get(f"/sessions/{first}/events").json["events"]))

    fifth = open_by_http(full)

    assert fifth.status == 201
    states = {session_id: s["state"] for session_id, s in listed(full).items()}
    assert states == {
        first: "live",
        second: "asleep",
        third: "live",
        user.session_id: "live",
        fifth.json["sessionId"]: "live",
    }


def test_of_many_sessions_some_make_way_at_once() -> None:
    """Or each opening at the bound would look for the longest idle anew."""
    with BridgeServer({**UNLIMITED, "MAX_SESSIONS": 400}) as server:
        with ThreadPoolExecutor(4) as pool:
            first = list(pool.map(lambda _: open_by_http(server).status, range(400)))
        assert {*first} == {201} and server.get("/health").json["activeSessions"] == 400

        assert open_by_http(server).status == 201

        assert server.get("/health").json["activeSessions"] == 400 - 3 + 1


def test_when_all_are_in_use_nobody_else_comes_in(full: BridgeServer, connect: Callable[..., Client]) -> None:
    sleeper = connect(full)
    sleeper.disconnect()
    users = [connect(full) for _ in range(FULL)]
    assert state(sleeper) == "asleep"

    by_http = open_by_http(full)
    assert (by_http.status, by_http.json["code"]) == (503, "too_many_sessions")
    assert int(by_http.headers["retry-after"]) >= 1
    new = refusal(Client(full))
    assert new["code"] == "too_many_sessions" and new["retryAfter"] >= 1
    resumed = refusal(Client(full), sessionId=sleeper.session_id, token=sleeper.token)
    assert resumed["code"] == "too_many_sessions" and resumed["retryAfter"] >= 1
    message = sleeper.http("POST", "/sessions/{sid}/messages", {"text": "hello?"})
    assert (message.status, message.json["code"]) == (503, "too_many_sessions")
    assert live(full) == FULL

    users[0].disconnect()
    wait_for(lambda: not listed(full)[str(users[0].session_id)]["connected"])
    sleeper.connect()
    assert (state(sleeper), state(users[0]), live(full)) == ("live", "asleep", FULL)
    users[1].say("I was not disturbed").receive("turn_finished")


def test_a_callback_is_never_refused_for_want_of_a_place(full: BridgeServer, connect: Callable[..., Client]) -> None:
    sleeper = connect(full)
    workflow_id = sleeper.build("every 10 minutes get http://127.0.0.1:9/a and post it to http://127.0.0.1:9/b")
    sleeper.disconnect()
    for _ in range(FULL):
        connect(full)
    assert state(sleeper) == "asleep"

    answer = sleeper.fail(workflow_id, execution_id=new_id("e"))

    assert (answer.status, answer.json["repair"]) == (202, "queued")
    wait_for(lambda: sleeper.http("GET", "/sessions/{sid}").json["pendingRepairs"])
    assert (state(sleeper), live(full)) == ("asleep", FULL)


def test_fifty_that_open_at_once_over_http_all_come_in_and_the_bound_holds(full: BridgeServer) -> None:
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: open_by_http(full), range(50)))

    assert Counter(answer.status for answer in answers) == {201: 50}
    assert listed(full).keys() == {answer.json["sessionId"] for answer in answers}
    assert live(full) == FULL


def test_fifty_that_connect_at_once_fill_all_places_and_no_more(full: BridgeServer) -> None:
    clients = [Client(full) for _ in range(50)]

    def come(client: Client) -> str:
        try:
            client.open().send({"type": "hello"})
        except Refused as refused:
            return str(refused.status)  # MAX_CONNECTIONS, before the upgrade
        client.receive_if(lambda frame: frame["type"] in ("welcome", "error"))
        return "in" if client.of("welcome") else str(client.wait_closed())

    with ThreadPoolExecutor(25) as pool:
        outcomes = Counter(pool.map(come, clients))

    assert outcomes["in"] == FULL and outcomes.keys() <= {"in", "1013", "503"}, outcomes
    assert live(full) == FULL
    for client in clients:
        client.disconnect()


# -- places for sockets


def test_more_sockets_than_a_worker_has_places_for_are_refused_before_the_upgrade(full: BridgeServer) -> None:
    clients = [Client(full) for _ in range(2 * 12 + 1)]
    refused = []
    try:
        for client in clients:
            try:
                client.open()
            except Refused as exc:
                refused.append(exc)
        assert refused and {exc.status for exc in refused} == {503}
        assert all(int(exc.headers["retry-after"]) >= 1 for exc in refused)
        assert full.healthy()
    finally:
        for client in clients:
            client.disconnect()


def test_adopted_workflows_stay_with_a_session_that_sleeps(full: BridgeServer, connect: Callable[..., Client]) -> None:
    owner = connect(full)
    workflow_id = adopt(owner)
    owner.disconnect()
    others = [connect(full) for _ in range(FULL)]
    assert state(owner) == "asleep"

    answer = others[0].http("POST", "/sessions/{sid}/workflows", {"workflowId": workflow_id})

    assert answer.status == 409
