"""A failed run told as its callback would have told it."""

from __future__ import annotations

from typing import Any

import pytest

from app.callbacks.report import parse_error_report
from app.callbacks.runs import failed_at_s, is_production, number_of, report_of_run
from app.repairs import policy

Json = dict[str, Any]
TIMES = {"startedAt": "2026-11-22T16:08:36.242Z", "stoppedAt": "2026-11-22T16:08:38.247Z"}
ASK: Json = {
    "id": "n1",
    "name": "Ask",
    "type": "n8n-nodes-base.httpRequest",
    "typeVersion": 4.2,
    "retryOnFail": True,
    "parameters": {"url": "http://api.test/?token=hidden"},
}


def run(*, error: Json | None = None, settings: Json | None = None, **more: Any) -> Json:
    return {
        "id": "201",
        "mode": "webhook",
        "status": "error",
        "retryOf": None,
        "workflowId": "w",
        **TIMES,
        "data": {
            "resultData": {"lastNodeExecuted": "Ask", "runData": {}, **({"error": error} if error else {})},
            "executionData": {"runtimeData": {"parentExecutionId": "200"}},
        },
        "workflowData": {"id": "w", "name": "Orders", "nodes": [ASK], "settings": settings or {}},
        **more,
    }


def report(taken: Json) -> Any:
    return report_of_run(taken, workflow_name="As registered", base_url="http://n8n.test/")


FAILURE: Json = {
    "name": "NodeApiError",
    "message": "The service refused it, password=hunter2hunter2",
    "httpCode": "ECONNREFUSED",
    "description": None,
    "context": {"request": {"headers": {"authorization": "Bearer abcdefghijklmnop"}}},
    "node": {"name": "not this one"},
}


def test_it_is_what_the_callback_would_have_been() -> None:
    told = report(run(error=FAILURE))
    node = {key: ASK[key] for key in ("id", "name", "type", "typeVersion", "retryOnFail")}
    callback = {
        "execution": {
            "id": "201",
            "url": "http://n8n.test/workflow/w/executions/201",
            "mode": "webhook",
            "lastNodeExecuted": "Ask",
            "error": {key: FAILURE[key] for key in ("name", "message", "httpCode")} | {"node": node},
            "executionContext": {"parentExecutionId": "200"},
        },
        "workflow": {"id": "w", "name": "Orders"},
    }

    expected = parse_error_report(callback)

    assert told.as_body() == expected.as_body()
    assert told.idempotency_key == expected.idempotency_key == "exec:201"
    assert told.failed_at_s == failed_at_s(TIMES)
    assert "hunter2" not in str(told) and "Bearer" not in str(told) and "hidden" not in str(told)


def test_a_large_error_is_cut_as_a_callbacks_is() -> None:
    told = report(run(error={"message": "x" * 2_000_000, "stack": "y" * 2_000_000}))

    assert len(str(told)) < 70_000


def test_a_trigger_that_failed_has_no_run_to_name() -> None:
    told = report(run(error={"message": "feed is gone", "name": "NodeOperationError"}, mode="trigger", startedAt=None))

    assert told.execution is None
    assert (told.trigger, told.node_name, told.error["message"]) == ({"mode": "trigger"}, "Ask", "feed is gone")
    assert policy.signature("w", told.node_name, told.error) == policy.signature(
        "w", "Ask", {"message": "feed is gone"}
    )


@pytest.mark.parametrize(
    ("settings", "stopped", "error", "is_failure"),
    [
        ({"executionTimeout": 2}, "2026-11-22T16:08:38.247Z", None, True),
        ({"executionTimeout": 2}, "2026-11-22T16:08:38.200Z", None, True),
        ({"executionTimeout": 2}, "2026-11-22T16:08:37.900Z", None, False),
        ({"executionTimeout": 2}, None, None, False),
        ({"executionTimeout": 2}, "soon", None, False),
        ({"executionTimeout": 2}, TIMES["stoppedAt"], {"name": "ManualExecutionCancelledError"}, False),
        ({"executionTimeout": -1}, TIMES["stoppedAt"], None, False),
        ({"executionTimeout": True}, TIMES["stoppedAt"], None, False),
        ({"executionTimeout": "2"}, TIMES["stoppedAt"], None, False),
        ({}, TIMES["stoppedAt"], None, False),
    ],
)
def test_a_stopped_run_is_a_failure_where_its_time_was_up(
    settings: Json, stopped: str | None, error: Json | None, is_failure: bool
) -> None:
    told = report(run(status="canceled", settings=settings, stoppedAt=stopped, error=error))

    assert (told is not None) == is_failure
    if told is not None:
        assert told.error == {
            "name": "ExecutionTimeoutError",
            "message": "n8n stopped this run: it took longer than the 2 s that the workflow's settings allow.",
        }
        # An outage is not what it is: nobody on the other side has failed.
        assert policy.triage(told.error, node=ASK, node_name="Ask").kind == "workflow_bug"


def test_a_run_without_its_data_is_told_by_what_is_known() -> None:
    listed = {"id": "201", "status": "crashed", "mode": "webhook", "workflowId": "w", **TIMES}

    told = report(listed)

    assert (told.workflow_name, told.execution_id, told.node) == ("As registered", "201", None)
    assert told.error["name"] == "WorkflowCrashedError"
    assert report({**listed, "status": "error"}).error == {}
    assert report({**listed, "status": "canceled"}) is None


@pytest.mark.parametrize("odd", [[], "text", 7, {"resultData": "text"}, {"resultData": {"error": []}}])
def test_odd_data_is_no_reason_to_lose_an_error(odd: Any) -> None:
    assert report({**run(), "data": odd, "workflowData": odd}).execution_id == "201"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"mode": "webhook", "retryOf": None}, True),
        ({"mode": "integrated"}, True),
        ({"mode": "trigger"}, True),
        ({"mode": "manual"}, False),
        ({"mode": "error"}, False),
        ({"mode": "retry", "retryOf": "7"}, False),
        ({"mode": "webhook", "retryOf": "7"}, False),
    ],
)
def test_only_production_counts(told: Json, expected: bool) -> None:
    assert is_production(told) is expected


@pytest.mark.parametrize(("id", "number"), [("12", 12), (12, 12), ("²", 0), ("-1", 0), (None, 0), ("9" * 21, 0)])
def test_a_runs_number(id: Any, number: int) -> None:
    assert number_of({"id": id}) == number


def test_a_run_fails_when_it_stops() -> None:
    began = failed_at_s({"startedAt": TIMES["startedAt"], "stoppedAt": None})

    assert began is not None and failed_at_s(TIMES) == pytest.approx(began + 2.005)
    assert failed_at_s({"stoppedAt": "2026-11-22T16:08:38"}) is None
    assert failed_at_s({}) is None
