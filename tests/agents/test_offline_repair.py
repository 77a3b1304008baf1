"""The offline agent's repair of an HTTP node that gives up too soon, on errors as n8n sends them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from app.agents import Finished, TextFinal
from app.agents.offline_repair import find_fix
from app.n8n.workflows import validate
from app.tools.server import ToolResult
from tests.fakes.turn_tools import FakeTurnTools

PAYLOADS = Path(__file__).parent.parent / "payloads"
WEBHOOK = {
    "id": "n1",
    "name": "Webhook",
    "type": "n8n-nodes-base.webhook",
    "typeVersion": 2,
    "position": [0, 0],
    "parameters": {"path": "heal"},
}
RETRIES = {"retryOnFail": True, "maxTries": 3, "waitBetweenTries": 2000}


def error_of(name: str) -> dict[str, Any]:
    error: dict[str, Any] = json.loads((PAYLOADS / f"{name}.json").read_text())["execution"]["error"]
    return error


def workflow_of(*nodes: dict[str, Any]) -> dict[str, Any]:
    links = {"Webhook": {"main": [[{"node": nodes[0]["name"], "type": "main", "index": 0}]]}}
    return {
        "id": "9NHISgDHNWyGRnjc",
        "name": "HTTP 500",
        "active": True,
        "nodes": [WEBHOOK, *nodes],
        "connections": links,
        "settings": {"executionOrder": "v1"},
        "staticData": {"last": 1},
    }


def http_node(name: str, **more: Any) -> dict[str, Any]:
    return {**error_of("http_500")["node"], "id": f"id of {name}", "name": name, **more}


def repair(run: Any, error: dict[str, Any], workflow: dict[str, Any], node: str | None) -> tuple[list[Any], list[Any]]:
    tools = FakeTurnTools(get_workflow=ToolResult(json.dumps(workflow)), propose_repair=ToolResult("published as v2"))
    facts = {"workflowId": workflow["id"], "error": error, "node": node, "repairId": "r1"}
    return run(tools, facts=facts), tools.calls


@pytest.mark.parametrize("name", ["http_500", "http_timeout", "http_econnrefused", "big_http_500"])
def test_a_node_that_gave_up_at_once_gets_retries(run, name):
    error = error_of(name)
    workflow = workflow_of(error["node"])

    events, calls = repair(run, error, workflow, error["node"]["name"])

    [(_, arguments, _), (tool, proposal, tool_use_id)] = calls
    assert arguments == {}
    assert (tool, tool_use_id) == ("propose_repair", "turn-1-t2")
    assert set(proposal["workflow"]) == {"name", "nodes", "connections", "settings"}
    assert validate(proposal["workflow"]) == []
    assert proposal["workflow"]["nodes"][0] == WEBHOOK
    assert proposal["workflow"]["nodes"][1].items() >= RETRIES.items()
    assert proposal["summary"]
    assert events[-1] == Finished("completed")


def test_the_verdict_stands_in_the_answer(run):
    error = error_of("http_500")
    events, _ = repair(run, error, workflow_of(error["node"]), "HTTP Request")
    [text] = [event.text for event in events if isinstance(event, TextFinal)]
    assert text.startswith("[offline agent] ")
    assert "published as v2" in text


def test_a_short_timeout_is_raised_too(run):
    error = error_of("http_timeout")
    _, calls = repair(run, error, workflow_of(error["node"]), "HTTP Request")
    assert calls[1][1]["workflow"]["nodes"][1]["parameters"]["options"] == {"timeout": 10000}


@pytest.mark.parametrize("options", [{"timeout": 20000}, {"timeout": "={{ $json.limit }}"}])
def test_a_timeout_that_is_fair_or_unknown_stays(options):
    error = error_of("http_timeout")
    node = http_node("HTTP Request", parameters={"url": "http://a.example/", "options": options})
    fix = find_fix(workflow_of(node), error, "HTTP Request")
    assert fix is not None
    assert fix.workflow["nodes"][1]["parameters"]["options"] == options


def test_a_limit_that_only_the_error_tells_is_raised():
    error = {"httpCode": "ECONNABORTED", "messages": ["timeout of 1000ms exceeded"]}
    fix = find_fix(workflow_of(http_node("HTTP Request", parameters={"url": "http://a/"})), error, "HTTP Request")
    assert fix is not None
    assert fix.workflow["nodes"][1]["parameters"] == {"url": "http://a/", "options": {"timeout": 10000}}


def test_an_error_other_than_a_timeout_leaves_the_timeout_alone():
    node = http_node("HTTP Request", parameters={"url": "http://a/", "options": {"timeout": 1000}})
    fix = find_fix(workflow_of(node), error_of("http_500"), "HTTP Request")
    assert fix is not None
    assert fix.workflow["nodes"][1]["parameters"]["options"] == {"timeout": 1000}


def test_only_the_node_that_failed_is_changed():
    first, second = http_node("HTTP Request"), http_node("HTTP Request1")
    fix = find_fix(workflow_of(first, second), error_of("http_500"), "HTTP Request1")
    assert fix is not None
    assert fix.workflow["nodes"][1:] == [first, {**second, **RETRIES}]


def test_a_renamed_node_is_found_by_its_id():
    error = error_of("http_500")
    first, second = http_node("First"), {**error["node"], "name": "Renamed"}
    fix = find_fix(workflow_of(first, second), error, "HTTP Request")
    assert fix is not None
    assert fix.workflow["nodes"][1:] == [first, {**second, **RETRIES}]


def test_where_nothing_tells_the_node_all_fragile_ones_are_strengthened():
    first, second = http_node("First"), http_node("Second", retryOnFail=True, maxTries=2)
    fix = find_fix(workflow_of(first, second), {"httpCode": "503"}, None)
    assert fix is not None
    assert fix.workflow["nodes"][1:] == [{**first, **RETRIES}, second]


@pytest.mark.parametrize(
    "error",
    [
        {"httpCode": "502"},
        {"httpCode": 503},
        {"httpCode": "ECONNRESET"},
        {"httpCode": "ETIMEDOUT"},
        {"message": "socket hang up"},
        {"messages": ["connect ECONNREFUSED 127.0.0.1:9"]},
        {"message": "timeout of 300000ms exceeded"},
        {"messages": ['500 - "oops"', None]},
    ],
)
def test_every_sort_of_hiccup_is_known(error):
    assert find_fix(workflow_of(http_node("HTTP Request")), error, "HTTP Request") is not None


@pytest.mark.parametrize(
    "error",
    [
        {},
        {"httpCode": "ENOTFOUND"},
        {"httpCode": "401", "message": "timeout of 10ms exceeded"},
        {"httpCode": "404"},
        {"httpCode": "429"},
        {"httpCode": "5000"},
        {"message": None, "messages": "rubbish", "node": "rubbish", "context": []},
        {"message": "Cannot read properties of null (reading 'reduce') [line 1]"},
    ],
)
def test_no_other_error_is_taken_for_a_hiccup(error):
    assert find_fix(workflow_of(http_node("HTTP Request")), error, "HTTP Request") is None


@pytest.mark.parametrize("name", ["code_throw", "http_401", "http_429", "http_retry_on_fail", "missing_credentials"])
def test_an_error_without_a_rule_leads_to_no_proposal(run, name):
    error = error_of(name)
    events, calls = repair(run, error, workflow_of(error.get("node") or http_node("Sum invoice")), None)

    assert [call[0] for call in calls] == ["get_workflow"]
    assert events[-1] == Finished("failed", error="no rule of the offline agent fits this error")
    assert "propose nothing" in events[-2].text


def test_a_node_of_another_kind_is_left_alone():
    code = {**http_node("Code"), "type": "n8n-nodes-base.code"}
    assert find_fix(workflow_of(code, http_node("HTTP Request")), {"message": "socket hang up"}, "Code") is None
    gone = {"message": "socket hang up", "node": {"name": "Code", "type": "n8n-nodes-base.code"}}
    assert find_fix(workflow_of(http_node("HTTP Request")), gone, "Code") is None


def test_the_workflow_that_was_read_is_not_touched():
    workflow = workflow_of(http_node("HTTP Request"))
    before = copy.deepcopy(workflow)
    find_fix(workflow, error_of("http_timeout"), "HTTP Request")
    assert workflow == before


def test_a_refused_proposal_fails_the_turn(run):
    error = error_of("http_500")
    tools = FakeTurnTools(
        get_workflow=ToolResult(json.dumps(workflow_of(error["node"]))),
        propose_repair=ToolResult("the trial failed", ok=False),
    )
    events = run(tools, facts={"workflowId": "w", "error": error, "node": "HTTP Request", "repairId": "r1"})
    assert "the trial failed" in events[-2].text
    assert events[-1].outcome == "failed"


@pytest.mark.parametrize("answer", [ToolResult("gone", ok=False), ToolResult("not JSON")])
def test_a_workflow_that_cannot_be_read_is_not_repaired(run, answer):
    events = run(FakeTurnTools(get_workflow=answer), facts={"error": error_of("http_500"), "node": "HTTP Request"})
    assert events[-1].outcome == "failed"
