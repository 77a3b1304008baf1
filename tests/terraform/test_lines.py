"""The saved queries and the metric filters of the monitoring module, on lines that real bridges have written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.messages_api import MessagesApi, Reply, Request, say
from tests.support.aws import Aws
from tests.support.client import Client, failure
from tests.support.projects import copy_project
from tests.support.server import UNLIMITED, BridgeServer, wait_for
from tests.terraform.insights import LINE_METRICS, QUERIES, metric, query

LOST = ("lost-1", "lost-2")
# A copy of a dead letter is tried three times, and not 101 times in four days.
IMPATIENT = """
from app import create_app, lifecycle
from app.callbacks import copies
lifecycle.COPIES_INTERVAL_S = 0.1
copies.PAUSES_S = (0.1, 0.1)
app = create_app()
"""


@dataclass(frozen=True)
class Told:
    """All lines, and what they are about."""

    lines: list[str]
    failed_session: str
    claude_sessions: set[str]


@pytest.fixture(scope="module")
def told() -> Told:
    with MessagesApi(model) as api, BridgeServer(claude(api)) as server:
        with Client(server) as pleased, Client(server) as failed:
            pleased.connect().say("hello").receive("turn_finished", outcome="completed")
            failed.connect().say("please fail").receive("turn_finished", outcome="failed")
            server.wait_log("turn finished", outcome="failed")
        sessions = [str(pleased.session_id), str(failed.session_id)]
        lines = server.raw_lines()
    with BridgeServer({**UNLIMITED, "VITALS_INTERVAL_SECONDS": 0.1}) as server:
        wait_for(lambda: server.log_lines("Memory usage", activeConnections=0))
        with Client(server) as user:
            block_a_repair(user.connect())
            wait_for(lambda: server.log_lines("Memory usage", activeConnections=1))
        for workflow_id in LOST:
            assert call_back(server, failure(workflow_id)) == 202
        assert call_back(server, {"nothing": "of the kind"}) == 400
        server.wait_log("callback kept as a dead letter")
        lines += server.raw_lines()
    return Told(lines, sessions[1], set(sessions))


@pytest.fixture(scope="module")
def without_a_store(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines of a bridge that nobody takes copies from."""
    project = copy_project(tmp_path_factory.mktemp("project") / "project")
    (project / "wsgi.py").write_text(IMPATIENT)
    settings = {**Aws().settings, "DEAD_LETTER_URL": "s3://nobodys-bucket"}
    with BridgeServer(settings, project=project) as server:
        assert call_back(server, failure(LOST[0])) == 202
        server.wait_log("a dead letter's copy was given up: nobody listens there", level="error")
        return server.raw_lines()


def claude(api: MessagesApi) -> dict[str, Any]:
    key = "sk-ant-test-0123456789abcdef0123456789"
    return {"AGENT": "claude", "ANTHROPIC_API_KEY": key, "ANTHROPIC_BASE_URL": api.url}


def model(request: Request) -> Reply:
    return Reply(error=401) if "please fail" in request.prompt else say("Hello.")


def call_back(server: BridgeServer, body: Any) -> int:
    return server.post("/callbacks/n8n/error", json=body).status


def block_a_repair(user: Client) -> None:
    workflow_id = "w1"
    assert user.http("POST", "/sessions/{sid}/workflows", {"workflowId": workflow_id}).status == 201
    for _ in range(3):
        assert call_back(user.server, failure(workflow_id)) == 202
        repair_id = user.receive("repair_waiting")["data"]["repairId"]
        user.send({"type": "reject", "repairId": repair_id}).receive("repair_decided")
    for _ in range(2):
        assert call_back(user.server, failure(workflow_id)) == 202
    user.receive("repair_blocked")
    user.server.wait_log("repair blocked")


def test_errors_are_shown_with_their_session(told: Told) -> None:
    (row,) = query(QUERIES["errors"], told.lines)

    assert row["sessionId"] == told.failed_session and row["@timestamp"]
    assert json.loads(row["@message"])["message"] == "turn finished"


def test_of_many_errors_the_newest_hundred_are_shown(told: Told) -> None:
    error = json.loads(query(QUERIES["errors"], told.lines)[0]["@message"])
    many = [json.dumps({**error, "timestamp": f"2026-03-01T12:00:00.{n:03d}Z"}) for n in range(150)]

    rows = query(QUERIES["errors"], [*told.lines[:10], *many])

    assert [row["@timestamp"][-4:-1] for row in rows] == [f"{n:03d}" for n in range(149, 49, -1)]


def test_runs_of_claude_longer_than_five_seconds_are_shown_longest_first(told: Told) -> None:
    runs = [line for line in told.lines if '"Claude execution complete"' in line]
    assert {json.loads(line)["sessionId"] for line in runs} == told.claude_sessions
    assert all(type(json.loads(line)["duration"]) is int for line in runs)
    # Real lines but for the time they took, which no test should wait for.
    lasting = [json.dumps({**json.loads(runs[0]), "duration": ms}) for ms in (4_999, 5_000, 5_001, 100_000, 60_000)]

    rows = query(QUERIES["slow-claude"], [line for line in told.lines if line not in runs] + lasting)

    assert [row["duration"] for row in rows] == [100_000, 60_000, 5_001]
    assert all(row["sessionId"] in told.claude_sessions and row["@timestamp"] for row in rows)


def test_callbacks_that_reached_no_session_are_shown_with_their_workflow(told: Told) -> None:
    rows = query(QUERIES["unrouted-callbacks"], told.lines)

    assert {row["workflowId"] for row in rows} == set(LOST) and len(rows) == len(LOST)
    assert [row["@timestamp"] for row in rows] == sorted((row["@timestamp"] for row in rows), reverse=True)
    assert all(json.loads(row["@message"])["reason"] == "no_session" for row in rows)


@pytest.mark.parametrize(("name", "times"), [("UnroutedCallbacks", 2), ("BlockedRepairs", 1), ("DeadLetters", 1)])
def test_what_calls_a_person_is_counted_once_each(told: Told, name: str, times: int) -> None:
    assert metric(name, told.lines) == [1.0] * times


def test_a_copy_that_is_given_up_calls_a_person_and_a_try_does_not(without_a_store: list[str]) -> None:
    assert sum("a dead letter's copy was not taken" in line for line in without_a_store) == 2
    assert metric("DeadLetterCopies", without_a_store) == [1.0]


def test_open_sockets_and_turns_are_read_out_of_the_line_about_memory(told: Told) -> None:
    said = sum('"Memory usage"' in line for line in told.lines)

    assert {0.0, 1.0} <= set(metric("ActiveConnections", told.lines))
    assert len(metric("ActiveConnections", told.lines)) == len(metric("ActiveTurns", told.lines)) == said


def test_every_query_and_every_metric_is_tried_here() -> None:
    assert QUERIES.keys() == {"errors", "slow-claude", "unrouted-callbacks"}
    counted = {"UnroutedCallbacks", "BlockedRepairs", "DeadLetters", "DeadLetterCopies"}
    assert LINE_METRICS.keys() == counted | {"ActiveConnections", "ActiveTurns"}


@pytest.mark.parametrize("text", ["stats count(*)", "filter a != 1", 'filter a = "b" or c = 1', "sort a asc"])
def test_what_the_evaluator_does_not_know_it_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        query(text, [])
