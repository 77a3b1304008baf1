"""``GET /metrics``: each series there from the start, each fact counted once, whichever worker took it or answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from app.factory import create_app
from app.settings import load
from app.telemetry import metrics
from tests.e2e.conftest import POLLING_URLS, UNLIMITED, Holds, adopt, held_project, is_problem, new_id
from tests.support.client import Client, Refused, failure
from tests.support.scrape import PREFIX, Samples, answered_by, by_label, grown, samples, value
from tests.support.server import BridgeServer, wait_for

PAYLOADS = Path(__file__).parents[1] / "payloads"
METRICS_TOKEN, SECRET = "metrics-token-now", "callback-secret-now"
HOOK = "/callbacks/n8n/error"
COUNTERS = {
    "messages_total": metrics.Direction,
    "errors_total": metrics.ErrorType,
    "error_callbacks_total": metrics.Routed,
    "dead_letters_total": metrics.Reason,
    "dead_letter_copies_total": metrics.CopyOutcome,
    "repairs_total": metrics.Outcome,
    "rate_limited_total": metrics.LimitName,
    "limiter_failures_total": metrics.LimitName,
}
PLAIN = (
    *("active_sessions", "active_connections", "active_turns", "workflow_registrations_total"),
    *("log_lines_dropped_total", "claude_execution_seconds_count", "callback_delivery_seconds_count"),
)


@pytest.fixture(scope="module")
def _held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return held_project(tmp_path_factory.mktemp("held") / "project"), tmp_path_factory.mktemp("holds")


@pytest.fixture(scope="module")
def server(_held: tuple[Path, Path]) -> Iterator[BridgeServer]:
    """Two workers; turns end after a second."""
    settings = {
        **UNLIMITED,
        "WEB_CONCURRENCY": 2,
        "N8N_CALLBACK_SECRET": SECRET,
        "METRICS_TOKEN": METRICS_TOKEN,
        "HOLD_FOLDER": _held[1],
        "TURN_TIMEOUT_SECONDS": 1.5,
        "MAX_SESSIONS": 1000,
    }
    with BridgeServer(settings, project=_held[0]) as server:
        yield server


@pytest.fixture(scope="module")
def first(server: BridgeServer) -> Samples:
    """The first scrape of the server's life."""
    return samples(server)


@pytest.fixture
def holds(_held: tuple[Path, Path]) -> Iterator[Holds]:
    holds = Holds(_held[1])
    yield holds
    holds.release_repairs()


@pytest.fixture
def user(server: BridgeServer, first: Samples) -> Iterator[Client]:
    with Client(server).connect() as user:
        yield user


def call_back(user: Client, body: Any, *, secret: str | None = SECRET) -> Any:
    return user.http("POST", HOOK, body if isinstance(body, bytes) else json.dumps(body).encode(), secret)


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_text())


# -- what is there


def test_every_series_is_there_at_the_first_scrape(first: Samples) -> None:
    assert {name: set(by_label(first, name)) for name in COUNTERS} == {
        name: set(get_args(values)) for name, values in COUNTERS.items()
    }
    assert {value(first, name) for name in PLAIN} == {0.0}
    for name, buckets in (
        ("claude_execution_seconds", metrics.CLAUDE_BUCKETS_S),
        ("callback_delivery_seconds", metrics.DELIVERY_BUCKETS_S),
    ):
        edges = [float(dict(labels)["le"]) for one, labels in first if one == f"{PREFIX}{name}_bucket"]
        assert edges == [*buckets, float("inf")]
    assert not any(amount for (name, _), amount in first.items() if name.startswith(PREFIX))
    of_flask = {name for name, _ in first if name.startswith("flask_")}
    assert {"flask_http_request_duration_seconds_bucket", "flask_http_request_total"} <= of_flask
    assert {"flask_http_request_exceptions_total", "flask_exporter_info"} <= of_flask


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text; version=nonsense", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain; version=\xff1", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(server: BridgeServer, accept: str, kind: str) -> None:
    answer = server.get("/metrics", headers={"Accept": accept})

    assert answer.status == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.body.endswith(b"# EOF\n") is ("openmetrics" in kind)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Authorization": f"Bearer {METRICS_TOKEN}"}, 200),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {SECRET}"}, 401),
        ({"X-Forwarded-For": "203.0.113.9"}, 401),
        ({"X-Forwarded-For": "203.0.113.9", "Authorization": f"Bearer {METRICS_TOKEN}"}, 200),
        ({"Host": "attacker.example"}, 401),
        ({"Origin": "https://attacker.example"}, 401),
    ],
)
def test_only_a_scraper_may_look(server: BridgeServer, headers: dict[str, str], status: int) -> None:
    answer = server.get("/metrics", headers=headers)

    if status == 200:
        assert answer.status == 200 and b"n8n_builder_active_sessions" in answer.body
    else:
        is_problem(answer, status, "unauthorized")
        assert b"n8n_builder" not in answer.body


def test_without_the_journal_all_but_the_sessions_is_there(tmp_path: Path) -> None:
    (tmp_path / ".env").touch()
    app = create_app(load({"JOURNAL_PATH": str(tmp_path / "journal.db")}, tmp_path / ".env"))
    journal = app.extensions["bridge"].journal
    journal.open()
    assert b"\nn8n_builder_active_sessions 0" in app.test_client().get("/metrics").data
    journal.close()

    answer = app.test_client().get("/metrics")

    assert answer.status_code == 200
    assert b"n8n_builder_active_sessions" not in answer.data and b"\nn8n_builder_active_turns 0" in answer.data


# -- what is counted


def test_frames_are_counted_by_whichever_worker_takes_them(server: BridgeServer, first: Samples) -> None:
    before = samples(server)
    sent = received = 0
    for pid in server.worker_pids():
        with Client(server) as user:
            with answered_by(server, pid):
                user.open()
            user.send({"type": "hello"})
            user.session_id = user.receive("welcome")["sessionId"]
            user.send("not json").receive("error")
            assert user.http("POST", "/sessions/{sid}/workflows", {"workflowId": new_id()}).status == 201
            user.receive("workflow_registered")
            user.say("hello").receive("turn_finished")
            user.sync()
            sent, received = sent + 4, received + len(user.frames)

    runs = value(before, "claude_execution_seconds_count")
    wait_for(lambda: value(samples(server), "claude_execution_seconds_count") == runs + 2)
    for pid in server.worker_pids():
        with answered_by(server, pid):
            after = samples(server)
        assert grown(before, after, "messages_total") == {"in": sent, "out": received}
        assert value(after, "workflow_registrations_total") - value(before, "workflow_registrations_total") == 2
        assert value(after, "claude_execution_seconds_count") == runs + 2
        assert value(after, "active_sessions") - value(before, "active_sessions") == 2


def test_callbacks_are_counted_once_each(server: BridgeServer, user: Client) -> None:
    before, gone = samples(server), Client(server).connect()
    lost = adopt(gone)
    assert gone.http("DELETE", "/sessions/{sid}").status == 204
    workflow_id, report = adopt(user, autonomy="observe"), failure(new_id())
    mine = failure(workflow_id)

    answers = [
        call_back(user, mine),
        call_back(user, mine),
        call_back(user, failure(workflow_id)),
        call_back(user, report),
        call_back(user, report),
        call_back(user, failure(lost)),
        call_back(user, b"{"),
        call_back(user, b"{"),
        call_back(user, b"x" * 1_200_000),
        call_back(user, mine, secret="wrong"),
    ]

    assert [answer.status for answer in answers] == [202, 200, 202, 202, 200, 202, 400, 400, 413, 401]
    after = samples(server)
    assert grown(before, after, "error_callbacks_total") == {"true": 2, "false": 4}
    kept = {"no_session": 1, "session_closed": 1, "bad_schema": 1, "too_large": 1}
    assert grown(before, after, "dead_letters_total") == kept
    assert grown(before, after, "errors_total") == {"callback": 3}

    letter = answers[3].json["deadLetterId"]
    replay = f"/dead-letters/{letter}/replay"
    assert user.http("POST", replay, {"sessionId": user.session_id}, None).status == 202
    assert user.http("POST", replay, {"sessionId": user.session_id}, None).status == 200
    user.receive("repair_waiting")
    user.receive("turn_finished")
    replayed = samples(server)
    for name in ("error_callbacks_total", "dead_letters_total", "errors_total"):
        assert grown(after, replayed, name) == {}


def wait_for_approval(user: Client) -> tuple[str, str]:
    """A workflow whose repair waits, and the repair's id."""
    workflow_id = user.build(POLLING_URLS)
    assert call_back(user, failure(workflow_id, payload=payload("http_500"))).json["repair"] == "queued"
    repair_id: str = user.receive("repair_waiting")["data"]["repairId"]
    user.receive("turn_finished")
    return workflow_id, repair_id


def publish(user: Client) -> str:
    workflow_id, repair_id = wait_for_approval(user)
    user.send({"type": "approve", "repairId": repair_id}).receive("repair_published")
    return workflow_id


def reject(user: Client) -> None:
    _, repair_id = wait_for_approval(user)
    user.send({"type": "reject", "repairId": repair_id}).receive("repair_decided")


def end_session(user: Client) -> None:
    wait_for_approval(user)
    assert user.http("DELETE", "/sessions/{sid}").status == 204


def only_suggest(user: Client) -> None:
    call_back(user, failure(adopt(user, autonomy="suggest"), payload=payload("http_500")))
    user.receive("turn_finished")


def fail_to_know(user: Client) -> None:
    call_back(user, failure(adopt(user), payload=payload("code_throw")))
    user.receive("repair_failed")


def come_back(user: Client) -> None:
    workflow_id = publish(user)
    for _ in range(3):
        assert call_back(user, failure(workflow_id, payload=payload("http_500"))).json["repair"] == "blocked"


def only_observe(user: Client) -> None:
    body = failure(adopt(user, autonomy="observe"))
    assert [call_back(user, body).status for _ in range(2)] == [202, 200]


def refuse_credentials(user: Client) -> None:
    call_back(user, failure(adopt(user), payload=payload("http_401")))
    user.receive("repair_diagnosed")


def undo(user: Client) -> None:
    workflow_id = publish(user)
    path = f"/sessions/{{sid}}/workflows/{workflow_id}/snapshots"
    user.send({"type": "rollback", "workflowId": workflow_id}).receive("rolled_back")
    newest = user.http("GET", path).json["snapshots"][0]["snapshotId"]
    user.send({"type": "rollback", "workflowId": workflow_id, "snapshotId": newest}).receive("rolled_back")


@pytest.mark.parametrize(
    ("story", "outcomes"),
    [
        (publish, {"waiting": 1, "published": 1}),
        (reject, {"waiting": 1, "rejected": 1}),
        (end_session, {"waiting": 1, "expired": 1}),
        (only_suggest, {"unverified": 1}),
        (fail_to_know, {"failed": 1}),
        (come_back, {"waiting": 1, "published": 1, "blocked": 1, "rolled_back": 1}),
        (only_observe, {"observed": 1}),
        (refuse_credentials, {"not_a_bug": 1}),
        (undo, {"waiting": 1, "published": 1, "rolled_back": 1}),
    ],
)
def test_each_outcome_of_a_repair_is_counted_once(
    server: BridgeServer, user: Client, story: Callable[[Client], Any], outcomes: dict[str, int]
) -> None:
    before = samples(server)

    story(user)

    # Another worker may show what was committed a moment before the one that did it has counted it.
    wait_for(lambda: sum(grown(before, samples(server), "repairs_total").values()) >= sum(outcomes.values()))
    assert grown(before, samples(server), "repairs_total") == outcomes


def test_an_error_is_timed_to_each_socket_it_reaches_but_not_when_it_is_told_again(
    server: BridgeServer, user: Client
) -> None:
    before = samples(server)
    workflow_id = adopt(user, autonomy="observe")
    with Client(server).connect(sessionId=user.session_id, token=user.token) as tab:
        call_back(user, failure(workflow_id))
        for socket in (user, tab):
            socket.receive("workflow_error")
            socket.sync()
    with Client(server).connect(sessionId=user.session_id, token=user.token, after=0) as late:
        late.receive("workflow_error")
        late.sync()

    name = "callback_delivery_seconds"
    wait_for(lambda: value(samples(server), f"{name}_count") >= value(before, f"{name}_count") + 2)
    after = samples(server)
    assert value(after, f"{name}_count") - value(before, f"{name}_count") == 2
    assert 0 < value(after, f"{name}_sum") - value(before, f"{name}_sum") < 20


def test_a_turn_counts_while_it_runs_and_as_an_error_when_it_fails(
    server: BridgeServer, user: Client, holds: Holds
) -> None:
    before, name = samples(server), holds.name()
    user.say(f"hold {name}").receive("assistant_delta")
    assert value(samples(server), "active_turns") == 1
    holds.release(name)
    user.receive("turn_finished", outcome="completed")
    user.say(f"hold {holds.name()}").receive("turn_finished", outcome="failed")

    wait_for(lambda: value(samples(server), "active_turns") == 0)

    after = samples(server)
    assert grown(before, after, "errors_total") == {"claude": 1}
    runs = [value(found, "claude_execution_seconds_count") for found in (before, after)]
    assert runs[1] - runs[0] == 2


def test_sockets_count_while_they_are_open_and_as_errors_when_they_are_refused(
    server: BridgeServer, first: Samples
) -> None:
    before = samples(server)
    tabs = [Client(server).connect()]
    tabs += [Client(server).connect(sessionId=tabs[0].session_id, token=tabs[0].token) for _ in range(5)]
    wait_for(lambda: tabs[0].close_code == 4409)
    wait_for(lambda: value(samples(server), "active_connections") == 5)
    for tab in tabs[1:3]:
        tab.disconnect()
    tabs[3].drop()
    tabs[4].http("DELETE", "/sessions/{sid}")
    wait_for(lambda: value(samples(server), "active_connections") == 0)
    assert grown(before, samples(server), "errors_total") == {}, "each of them just ended"

    refusals: list[tuple[Any, int]] = [
        ("no hello", 4400),
        ({"type": "hello", "sessionId": "00000000-0000-4000-8000-000000000000", "token": "x"}, 4404),
        ("x" * 1_100_000, 1009),
    ]
    for frame, code in refusals:
        with Client(server).open() as refused:
            refused.send(frame)
            assert refused.wait_closed() == code
    with Client(server).connect() as rude:
        with contextlib.suppress(OSError):
            for _ in range(10):
                rude.send("{}")
        assert rude.wait_closed() == 4400

    # Of these one is a bad hello, one a message that is too large, and ten are bad frames; a session that is not there
    # is nobody's failure.
    wait_for(lambda: grown(before, samples(server), "errors_total") == {"websocket": 12})


# -- requests


def of_requests(found: Samples) -> list[dict[str, str]]:
    return [dict(labels) for (name, labels) in found if name.startswith("flask_http_")]


def test_no_label_carries_what_a_stranger_makes_up(server: BridgeServer, user: Client) -> None:
    before = samples(server)
    for number in range(8):
        server.request("GET", f"/wp-{number}/admin.php?{number}")
        server.request(f"BREW{number}", "/health")
        server.request(f"BREW{number}", f"/nowhere/{number}")
        server.request("GET", f"/sessions/{new_id()}")
        server.request("GET", f"/dead-letters/{new_id()}")
    server.request("PUT", "/healthz")
    server.request("HEAD", "/healthz")
    server.request("OPTIONS", "/healthz")

    after = samples(server)

    new = [dict(labels) for (name, labels) in after.keys() - before.keys() if name.endswith("_count")]
    kinds = {(labels["method"], labels["endpoint"], labels["status"]) for labels in new}
    assert kinds == {
        *(("GET", "None", "404"), ("other", "None", "405"), ("other", "None", "404"), ("PUT", "None", "405")),
        *(("GET", "sessions.show_session", "404"), ("GET", "dead_letters.show_letter", "404")),
        *(("HEAD", "probes.alive", "200"), ("OPTIONS", "probes.alive", "200")),
    }
    assert not any("wp-" in text or "BREW" in text for labels in of_requests(after) for text in labels.values())
    count = ("flask_http_request_duration_seconds_count", (("endpoint", "None"), ("method", "GET"), ("status", "404")))
    assert after[count] == 8


def test_sockets_and_scrapes_are_no_requests(server: BridgeServer, user: Client) -> None:
    user.disconnect()
    with pytest.raises(Refused):
        Client(server).open(headers={"Origin": "https://attacker.example"})
    server.get("/ws")
    for _ in range(2):
        found = samples(server)

    assert not [labels for labels in of_requests(found) if "socket" in labels.get("endpoint", "")]
    assert not [labels for labels in of_requests(found) if "metrics" in labels.get("endpoint", "")]
