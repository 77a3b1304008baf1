"""A run told in a few KiB, whatever came in."""

from __future__ import annotations

import json

from app.n8n.executions import MAX_CHARS, summarize

RUN = {
    "id": "18",
    "status": "error",
    "mode": "webhook",
    "workflowVersionId": "v1",
    "data": {
        "resultData": {
            "lastNodeExecuted": "Sum",
            "error": {"name": "WrappedExecutionError", "message": "Cannot read", "lineNumber": 1, "stack": "at x"},
            "runData": {
                "Webhook": [{"data": {"main": [[{"json": {"body": {"id": 7, "token": "abc123"}, "tags": ["a"]}}]]}}],
                "Sum": [{"source": [{"previousNode": "Webhook"}], "error": {"message": "Cannot read"}}],
            },
        }
    },
}


def test_the_failed_node_its_error_and_its_input_are_told() -> None:
    told = summarize(RUN)

    assert (told["failedNode"], told["error"]["message"]) == ("Sum", "Cannot read")
    assert told["nodesRun"] == ["Webhook", "Sum"]
    assert told["inputShape"] == {"body": {"id": "number", "token": "text"}, "tags": ["text"]}
    assert told["inputSample"]["body"]["id"] == 7


def test_secrets_and_stacks_stay_behind() -> None:
    text = json.dumps(summarize(RUN))

    assert "abc123" not in text
    assert "at x" not in text


def test_a_huge_input_is_left_out_of_what_is_told() -> None:
    item = {"json": {f"field {n}": "x" * 1000 for n in range(500)}}
    run = json.loads(json.dumps(RUN))
    run["data"]["resultData"]["runData"]["Webhook"][0]["data"]["main"] = [[item]]

    assert len(json.dumps(summarize(run))) <= MAX_CHARS


def test_a_run_without_data_or_with_odd_data_is_told_all_the_same() -> None:
    odd = [
        {},
        {"id": "1", "data": None},
        {"data": {"resultData": None}},
        {"data": {"resultData": {"lastNodeExecuted": "A", "error": "text", "runData": {"A": []}}}},
        {"data": {"resultData": {"lastNodeExecuted": "A", "runData": {"A": [{"source": [None]}]}}}},
        {"data": {"resultData": {"lastNodeExecuted": "A", "runData": {"A": [{"source": [{"previousNode": "B"}]}]}}}},
    ]
    source = [{"previousNode": "B", "previousNodeOutput": 3}]
    runs = {"A": [{"source": source}], "B": [{"data": {}}]}
    odd.append({"data": {"resultData": {"lastNodeExecuted": "A", "runData": runs}}})
    for run in odd:
        assert "inputSample" not in summarize(run)
