"""The rate limits over HTTP and on the socket, with two workers that count together."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.conftest import ACCESS, SECRET, UNLIMITED, adopt, history, is_problem
from tests.support.client import Client, Refused, failure
from tests.support.server import Answer, BridgeServer, wait_for

LIMIT = 3
BASE = {
    **UNLIMITED,
    "WEB_CONCURRENCY": 2,
    "ACCESS_TOKEN": ACCESS,
    "N8N_CALLBACK_SECRET": SECRET,
    "TRUSTED_PROXY_HOPS": 1,
}
LIMITED = {f"RATE_LIMIT_{name}_PER_MINUTE": LIMIT for name in ("WS", "MESSAGES", "HEALTH", "AUTH_FAILURES")}
SECURITY = (
    *("content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy"),
    *("permissions-policy", "cross-origin-opener-policy", "cross-origin-resource-policy"),
)


@pytest.fixture(scope="module")
def limited() -> Iterator[BridgeServer]:
    """Limits by address; each test is a client of its own, as its ``X-Forwarded-For`` says."""
    with BridgeServer({**BASE, **LIMITED}) as server:
        yield server


@pytest.fixture
def address() -> str:
    return f"2001:db8:{uuid.uuid4().hex[:4]}:{uuid.uuid4().hex[:4]}::1"


@pytest.fixture
def callbacks() -> Iterator[BridgeServer]:
    """A limit of callbacks, which all callers share: a bridge for one test."""
    with BridgeServer({**BASE, "RATE_LIMIT_CALLBACKS_PER_MINUTE": LIMIT, "HEAL_AUTONOMY": "observe"}) as server:
        yield server


def by(address: str, **more: str) -> dict[str, str]:
    return {"X-Forwarded-For": address, **more}


def at_once(count: int, call: Callable[[], Any]) -> list[Any]:
    gate = threading.Barrier(count)

    def go(_: int) -> Any:
        gate.wait(10)
        return call()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(go, range(count)))


def is_refusal(answer: Answer) -> dict[str, Any]:
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert all(name in answer.headers for name in SECURITY), answer.headers
    return is_problem(answer, 429, "rate_limited")


def handshake(server: BridgeServer, address: str, **headers: str) -> int:
    client = Client(server, headers=by(address, **headers))
    try:
        client.open()
    except Refused as refused:
        if refused.status == 429:
            answer = Answer(429, {k.lower(): v for k, v in refused.headers.items()}, refused.body)
            is_refusal(answer)
        return refused.status
    client.drop()
    return 101


# -- /health


def test_exactly_the_limit_of_health_requests_pass(limited: BridgeServer, address: str) -> None:
    answers = at_once(20, lambda: limited.get("/health", headers=by(address)))

    assert sorted(a.status for a in answers) == [200] * LIMIT + [429] * (20 - LIMIT)
    for answer in answers:
        if answer.status == 429:
            is_refusal(answer)
    assert limited.get("/healthz", headers=by(address)).status == 200
    assert limited.get("/readyz", headers=by(address)).status == 200


@pytest.mark.parametrize("more", [{}, {"X-Forwarded-Proto": "https"}, {"Origin": "https://elsewhere.example"}])
def test_every_refusal_looks_the_same(limited: BridgeServer, address: str, more: dict[str, str]) -> None:
    headers = by(address, **more)
    while limited.get("/health", headers=headers).status == 200:
        pass
    answers = [limited.get("/health", headers=headers | {"X-Request-ID": f"request-{n}"}) for n in range(8)]

    shapes = set()
    for number, answer in enumerate(answers):
        body = is_refusal(answer)
        assert body.pop("correlationId") == f"request-{number}"
        varying = ("date", "retry-after", "x-request-id")
        shapes.add((str(body), tuple(sorted((k, v) for k, v in answer.headers.items() if k not in varying))))
        assert ("strict-transport-security" in answer.headers) is ("X-Forwarded-Proto" in more)
    assert len(shapes) == 1


def test_a_head_request_counts_and_is_refused_without_a_body(limited: BridgeServer, address: str) -> None:
    passed = [limited.request("HEAD", "/health", headers=by(address)).status for _ in range(LIMIT)]
    assert passed == [200] * LIMIT

    for _ in range(4):
        refused = limited.request("HEAD", "/health", headers=by(address))
        assert refused.status == 429
        assert refused.body == b""
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert all(name in refused.headers for name in SECURITY)
        assert int(refused.headers["content-length"]) > 0
    is_refusal(limited.get("/health", headers=by(address)))


def test_the_client_is_the_last_address_that_a_trusted_proxy_saw(limited: BridgeServer, address: str) -> None:
    made_up = [limited.get("/health", headers=by(f"10.0.0.{n}, {address}")).status for n in range(LIMIT + 1)]

    assert made_up == [200] * LIMIT + [429]
    assert limited.get("/health", headers=by(f"{address}, 192.0.2.{os.getpid() % 250}")).status == 200


def test_ipv6_is_counted_by_its_64(limited: BridgeServer, address: str) -> None:
    household = address.removesuffix("::1")
    statuses = [limited.get("/health", headers=by(f"{household}:{n}:2:3:4")).status for n in range(LIMIT + 1)]

    assert statuses == [200] * LIMIT + [429]


# -- handshakes


def test_exactly_the_limit_of_handshakes_pass(limited: BridgeServer, address: str) -> None:
    statuses = at_once(12, lambda: handshake(limited, address))

    assert sorted(statuses) == [101] * LIMIT + [429] * (12 - LIMIT)


def test_a_page_of_another_origin_is_refused_first_and_takes_no_place(limited: BridgeServer, address: str) -> None:
    strange = [handshake(limited, address, Origin="https://elsewhere.example") for _ in range(LIMIT + 1)]

    assert strange == [403] * (LIMIT + 1)
    assert [handshake(limited, address) for _ in range(LIMIT + 1)] == [101] * LIMIT + [429]


def test_a_resumed_session_gives_its_place_back(limited: BridgeServer, address: str) -> None:
    client = Client(limited, headers=by(address)).connect(accessToken=ACCESS)
    for _ in range(2 * LIMIT):
        client.connect()
        assert client.welcome["resumed"]
    client.disconnect()

    assert [handshake(limited, address) for _ in range(LIMIT)] == [101] * (LIMIT - 1) + [429]


def test_a_refused_resume_gives_nothing_back(limited: BridgeServer, address: str) -> None:
    owner = Client(limited, headers=by("192.0.2.1")).connect(accessToken=ACCESS)
    for _ in range(LIMIT):
        thief = Client(limited, headers=by(address)).open()
        thief.send({"type": "hello", "sessionId": owner.session_id, "token": "wrong"})
        assert thief.wait_closed() == 4401
    owner.disconnect()

    assert handshake(limited, address) == 429


def test_a_drain_leaves_each_socket_one_return() -> None:
    settings = {**BASE, "RATE_LIMIT_WS_PER_MINUTE": LIMIT, "WEB_CONCURRENCY": 1, "WS_HELLO_TIMEOUT_SECONDS": 50}
    with BridgeServer(settings) as server:
        clients = [Client(server, headers=by("192.0.2.7")).connect(accessToken=ACCESS) for _ in range(LIMIT - 1)]
        silent = Client(server, headers=by("192.0.2.7")).open()
        assert handshake(server, "192.0.2.7") == 429

        server.hup()
        assert [client.wait_closed() for client in (*clients, silent)] == [1012] * LIMIT

        assert [handshake(server, "192.0.2.8") for _ in range(LIMIT + 1)] == [101] * LIMIT + [429], "nobody else's"
        for client in clients:
            assert client.connect().welcome["resumed"]
            client.disconnect()
        assert handshake(server, "192.0.2.7") == 101
        assert handshake(server, "192.0.2.7") == 429


# -- over a reload


def test_hits_count_over_a_reload_and_a_new_limit_is_in_force() -> None:
    settings = {name: value for name, value in BASE.items() if "HEALTH" not in name}
    with BridgeServer(settings, env_file="RATE_LIMIT_HEALTH_PER_MINUTE=3\n") as server:

        def passed(requests: int) -> int:
            answers = at_once(requests, lambda: server.get("/health", headers=by("192.0.2.1")).status)
            assert set(answers) <= {200, 429}
            return answers.count(200)

        assert passed(8) == 3

        server.write_env("RATE_LIMIT_HEALTH_PER_MINUTE=7\n")
        server.hup()

        assert passed(12) == 4


# -- failed authentications


def test_wrong_credentials_become_429_and_right_ones_pass_even_then(limited: BridgeServer, address: str) -> None:
    def look(token: str) -> Answer:
        return limited.get("/sessions", headers=by(address, Authorization=f"Bearer {token}"))

    answers = at_once(10, lambda: look("wrong"))
    assert sorted(a.status for a in answers) == [401] * LIMIT + [429] * (10 - LIMIT)
    for answer in answers:
        if answer.status == 429:
            is_refusal(answer)

    assert look(ACCESS).status == 200
    callback = limited.post("/callbacks/n8n/error", json=failure("w"), headers=by(address, Authorization="Bearer no"))
    is_refusal(callback)
    taken = limited.post(
        "/callbacks/n8n/error", json=failure("w"), headers=by(address, Authorization=f"Bearer {SECRET}")
    )
    assert taken.status == 202
    assert look("wrong").status == 429
    assert limited.get("/sessions", headers=by("192.0.2.99", Authorization="Bearer wrong")).status == 401


def test_a_wrong_hello_over_the_limit_gets_an_error_and_4401(limited: BridgeServer, address: str) -> None:
    for _ in range(LIMIT):
        assert limited.get("/sessions", headers=by(address)).status == 401

    guesser = Client(limited, headers=by(address)).open().send({"type": "hello", "accessToken": "wrong"})

    error = guesser.receive("error")
    assert (error["code"], guesser.wait_closed()) == ("rate_limited", 4401)
    assert 1 <= error["retryAfter"] <= 60
    with Client(limited, headers=by(address)).connect(accessToken=ACCESS) as user:
        assert user.welcome


# -- messages


def test_messages_over_the_rate_are_refused_and_not_queued(limited: BridgeServer, address: str) -> None:
    with Client(limited, headers=by(address)).connect(accessToken=ACCESS) as user:
        for number in range(LIMIT):
            user.say(f"hello {number}", client_message_id=f"m{number}")
        user.say("one too many", client_message_id="late")

        error = user.receive("error")
        assert error["code"] == "rate_limited"
        assert 1 <= error["retryAfter"] <= 60
        by_http = user.http("POST", "/sessions/{sid}/messages", {"text": "and by HTTP"})
        is_refusal(by_http)
        again = user.http("POST", "/sessions/{sid}/messages", {"text": "hello 0", "clientMessageId": "m0"})
        assert again.status == 202, "what was taken already is told as before"
        user.say("hello 1", client_message_id="m1").sync()

        said = [e for e in history(user) if e["type"] == "user_message"]
        assert [e["data"]["clientMessageId"] for e in said] == [f"m{n}" for n in range(LIMIT)]
        assert again.json["seq"] == said[0]["seq"]
        assert len(user.of("error")) == 1
        assert user.close_code is None


def test_a_flood_of_long_messages_over_the_rate_keeps_nobody_waiting(limited: BridgeServer, address: str) -> None:
    """Each of these would take tenths of a second to be looked through for secrets."""
    with Client(limited, headers=by(address)).connect(accessToken=ACCESS) as user:
        for number in range(LIMIT + 1):
            user.say("hello", client_message_id=f"m{number}")
        refused = user.receive("error")
        assert refused["code"] == "rate_limited"

        for number in range(100):
            user.say("eyJ-" * 25_000, client_message_id=f"long{number}" if number % 2 else None)
        user.say("hello", client_message_id="m0").sync(limit_s=4)

        errors = user.of("error")
        assert [error["code"] for error in errors] == ["rate_limited"] * 101
        assert all(1 <= error["retryAfter"] <= 60 for error in errors)
        assert len([e for e in history(user) if e["type"] == "user_message"]) == LIMIT


def test_each_session_has_messages_of_its_own(limited: BridgeServer, address: str) -> None:
    with (
        Client(limited, headers=by(address)).connect(accessToken=ACCESS) as one,
        Client(limited, headers=by(address)).connect(accessToken=ACCESS) as other,
    ):
        posted = at_once(8, lambda: one.http("POST", "/sessions/{sid}/messages", {"text": "hello"}).status)

        assert sorted(posted) == [202] * LIMIT + [429] * (8 - LIMIT)
        assert other.http("POST", "/sessions/{sid}/messages", {"text": "hello"}).status == 202


# -- callbacks


def post(server: BridgeServer, body: Any) -> Answer:
    return server.post("/callbacks/n8n/error", json=body, headers={"Authorization": f"Bearer {SECRET}"})


def letters(server: BridgeServer) -> dict[str, dict[str, Any]]:
    found = server.get("/dead-letters", headers={"Authorization": f"Bearer {ACCESS}"})
    return {letter["id"]: letter for letter in found.json["deadLetters"]}


def errors_of(user: Client) -> list[tuple[str, str]]:
    return [(e["data"]["execution"]["id"], e["data"]["source"]) for e in history(user) if e["type"] == "workflow_error"]


def a_minute_passes(server: BridgeServer) -> None:
    with closing(sqlite3.connect(server.folder / "journal.db", isolation_level=None, timeout=10)) as journal:
        journal.execute("UPDATE hits SET at = at - 60")


def test_callbacks_of_all_kinds_count_together_and_what_is_over_is_kept(callbacks: BridgeServer) -> None:
    with Client(callbacks).connect(accessToken=ACCESS) as user:
        workflow = adopt(user)
        routed = failure(workflow)
        assert post(callbacks, routed).status == 202
        assert post(callbacks, failure("unknown")).status == 202
        assert post(callbacks, {"neither": "shape"}).status == 400

        over = failure(workflow)
        refused = is_refusal(post(callbacks, over))
        assert is_refusal(post(callbacks, over))["deadLetterId"] == refused["deadLetterId"], "one for its key"
        unknown = is_refusal(post(callbacks, failure("unknown too")))
        unread = is_refusal(post(callbacks, {"another": "shape"}))
        large = is_refusal(post(callbacks, {"large": "x" * 1_100_000}))
        assert post(callbacks, routed).json == {"routed": True, "duplicate": True}

        kept = letters(callbacks)
        held = [refused["deadLetterId"], unknown["deadLetterId"], unread["deadLetterId"], large["deadLetterId"]]
        assert [kept[i]["reason"] for i in held] == ["rate_limited"] * 4
        assert len(kept) == 6
        assert errors_of(user) == [(routed["execution"]["id"], "callback")]
        wrong = callbacks.post("/callbacks/n8n/error", json=over, headers={"Authorization": "Bearer no"})
        assert wrong.status == 401, "who is not allowed in is told so first"


def test_exactly_the_limit_of_callbacks_is_taken(callbacks: BridgeServer) -> None:
    with Client(callbacks).connect(accessToken=ACCESS) as user:
        workflow = adopt(user)

        answers = at_once(12, lambda: post(callbacks, failure(workflow)))

        assert sorted(a.status for a in answers) == [202] * LIMIT + [429] * (12 - LIMIT)
        assert len(errors_of(user)) == LIMIT


def test_what_was_refused_is_taken_when_it_comes_again(callbacks: BridgeServer) -> None:
    with Client(callbacks).connect(accessToken=ACCESS) as user:
        workflow = adopt(user)
        for _ in range(LIMIT):
            post(callbacks, failure(workflow))
        known, unknown = failure(workflow), failure("nobody's")
        ids = [is_refusal(post(callbacks, body))["deadLetterId"] for body in (known, unknown)]
        a_minute_passes(callbacks)

        taken, kept = post(callbacks, known), post(callbacks, unknown)

        assert taken.status in (200, 202) and taken.json["routed"] is True  # 200: the bridge's replay was faster
        assert kept.status == 202 and kept.json == {"routed": False, "deadLetterId": ids[1]}
        assert letters(callbacks)[ids[0]]["state"] == "replayed"
        assert letters(callbacks)[ids[1]]["reason"] == "no_session"
        replayed = callbacks.post(f"/dead-letters/{ids[0]}/replay", headers={"Authorization": f"Bearer {ACCESS}"})
        assert replayed.json == {"routed": True, "duplicate": True}
        assert [e for e, _ in errors_of(user)].count(known["execution"]["id"]) == 1


def test_held_callbacks_are_replayed_in_order_after_a_kill(callbacks: BridgeServer) -> None:
    with Client(callbacks).connect(accessToken=ACCESS) as user:
        workflow = adopt(user)
        for _ in range(LIMIT):
            post(callbacks, failure(workflow))
        stranger = is_refusal(post(callbacks, failure("nobody's")))["deadLetterId"]
        held = [failure(workflow) for _ in range(LIMIT + 2)]
        ids = [is_refusal(post(callbacks, body))["deadLetterId"] for body in held]
        for pid in callbacks.processes():
            os.kill(pid, signal.SIGKILL)
        callbacks.stop(check=False)
        a_minute_passes(callbacks)

        callbacks.start()

        wait_for(lambda: len(errors_of(user)) == 2 * LIMIT, what="as many replayed as the limit allows")
        assert errors_of(user)[LIMIT:] == [(body["execution"]["id"], "replay") for body in held[:LIMIT]]
        is_refusal(post(callbacks, failure(workflow)))  # the replays have taken the window's places
        assert post(callbacks, held[0]).json == {"routed": True, "duplicate": True}
        kept = letters(callbacks)
        assert [kept[i]["state"] for i in ids] == ["replayed"] * LIMIT + ["kept"] * 2
        assert (kept[stranger]["state"], kept[stranger]["reason"]) == ("kept", "rate_limited")


# -- a store that is away


def test_requests_pass_while_the_counters_cannot_be_written(address: str) -> None:
    with BridgeServer({**BASE, "WEB_CONCURRENCY": 1, "RATE_LIMIT_HEALTH_PER_MINUTE": LIMIT}) as server:
        with closing(sqlite3.connect(server.folder / "journal.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            passed = [server.get("/health", headers=by(address)).status for _ in range(LIMIT + 3)]
            holder.execute("ROLLBACK")

        assert passed == [200] * (LIMIT + 3)
        server.wait_log("a rate limit's counters are away, requests pass", limit="health")
        wait_for(lambda: server.get("/health", headers=by(address)).status == 429, what="counted again")
