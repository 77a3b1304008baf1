"""The offline agent's turns, against the real tools server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.agents import Agent, Finished, TextDelta, TextFinal, ToolFinished, ToolStarted
from app.agents.offline import OfflineAgent
from app.errors import ClaudeExecutionError
from app.n8n.workflows import validate
from app.tools.server import ToolResult
from tests.fakes.turn_tools import FakeTurnTools

A, B = "https://a.example/report?day=today", "http://127.0.0.1:5000/in"
EVERY = f"every 10 minutes get {A} and post it to {B}"


def builder() -> FakeTurnTools:
    created = {"workflowId": "eJP0ERmeCVD7KG1Q", "name": "Stored name", "versionId": "v1"}
    return FakeTurnTools(create_workflow=ToolResult(json.dumps(created)), list_workflows=ToolResult('[{"name": "A"}]'))


def built(run: Any, prompt: str, **more: Any) -> dict[str, Any]:
    tools = builder()
    run(tools, prompt, **more)
    [(_, workflow, _)] = tools.calls
    return dict(workflow)


def said(events: list[Any]) -> str:
    [final] = [event for event in events if isinstance(event, TextFinal)]
    return final.text


def test_it_is_an_agent_of_that_name():
    agent: Agent = OfflineAgent()
    assert agent.name == "offline"


def test_a_schedule_becomes_a_chain_of_n8n_nodes(run):
    workflow = built(run, EVERY)
    trigger, get, post = workflow["nodes"]

    assert (trigger["name"], trigger["type"], trigger["typeVersion"]) == (
        "Schedule Trigger",
        "n8n-nodes-base.scheduleTrigger",
        1.2,
    )
    assert trigger["parameters"] == {"rule": {"interval": [{"field": "minutes", "minutesInterval": 10}]}}
    assert (get["name"], get["type"], get["typeVersion"]) == ("HTTP Request", "n8n-nodes-base.httpRequest", 4.2)
    assert get["parameters"] == {"method": "GET", "url": A, "options": {}}
    assert (post["name"], post["parameters"]["method"], post["parameters"]["url"]) == ("HTTP Request1", "POST", B)
    assert post["parameters"]["jsonBody"] == "={{ JSON.stringify($json) }}"
    assert workflow["connections"] == {
        "Schedule Trigger": {"main": [[{"node": "HTTP Request", "type": "main", "index": 0}]]},
        "HTTP Request": {"main": [[{"node": "HTTP Request1", "type": "main", "index": 0}]]},
    }


def test_a_webhook_answers_the_text_that_was_asked_for(run):
    webhook, respond = built(run, 'a webhook that answers "pong!"')["nodes"]

    assert (webhook["name"], webhook["type"], webhook["typeVersion"]) == ("Webhook", "n8n-nodes-base.webhook", 2)
    assert webhook["parameters"]["responseMode"] == "responseNode"
    assert webhook["parameters"]["path"]
    assert webhook["webhookId"]
    assert (respond["name"], respond["typeVersion"]) == ("Respond to Webhook", 1.1)
    assert respond["parameters"] == {"respondWith": "text", "responseBody": "pong!", "options": {}}


def test_a_text_that_n8n_would_take_for_an_expression_stays_a_text(run):
    respond = built(run, "a webhook that answers =1+1")["nodes"][1]
    assert respond["parameters"]["responseBody"] == '={{ "=1+1" }}'


def test_a_webhook_can_answer_with_what_it_fetched(run):
    nodes = built(run, f"a webhook that gets {A} and returns it")["nodes"]
    assert [node["name"] for node in nodes] == ["Webhook", "HTTP Request", "Respond to Webhook"]
    assert nodes[2]["parameters"]["respondWith"] == "firstIncomingItem"


@pytest.mark.parametrize(
    "prompt",
    [EVERY, f"every day get {A}", "a webhook that answers pong", f"a webhook that gets {A} and posts it to {B}"],
)
def test_whatever_it_builds_is_valid(run, prompt):
    assert validate(built(run, prompt)) == []


def test_the_same_words_make_the_same_workflow_in_a_later_turn(run):
    prompt = "a webhook that answers pong"
    assert built(run, prompt, turn_id="turn-1") == built(run, prompt, turn_id="turn-2")
    assert built(run, EVERY) != built(run, EVERY.replace("10", "20"))


def test_a_turn_shows_its_call_and_its_words_as_they_come(run):
    events = run(builder(), EVERY)
    pieces = [event for event in events if isinstance(event, TextDelta)]

    assert isinstance(events[0], ToolStarted)
    assert isinstance(events[1], ToolFinished)
    assert (events[0].tool, events[0].tool_use_id, events[1].tool_use_id) == (
        "create_workflow",
        "turn-1-t1",
        "turn-1-t1",
    )
    assert events[1].ok
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == said(events)
    assert {piece.message_id for piece in pieces} == {"turn-1-m1"}
    assert isinstance(events[-2], TextFinal)
    assert events[-1] == Finished("completed")


def test_the_answer_names_what_was_made_and_who_made_it(run):
    text = said(run(builder(), EVERY))
    assert text.startswith("[offline agent] ")
    assert "Stored name" in text
    assert "eJP0ERmeCVD7KG1Q" in text


def test_what_it_does_not_understand_is_answered_without_a_call(run):
    tools = builder()
    events = run(tools, "write me a poem")

    assert tools.calls == []
    assert said(events).startswith("[offline agent] ")
    assert "ANTHROPIC_API_KEY" in said(events)
    assert events[-1] == Finished("completed")


def test_workflows_are_listed(run):
    assert '[{"name": "A"}]' in said(run(builder(), "List my workflows."))


def test_a_refused_workflow_is_told_as_a_failure(run):
    events = run(FakeTurnTools(create_workflow=ToolResult("no such host is allowed", ok=False)), EVERY)
    assert "no such host is allowed" in said(events)
    assert events[-1].outcome == "failed"


def test_a_turn_without_its_tools_raises(run, server):
    server.stop()
    with pytest.raises(ClaudeExecutionError):
        run(builder(), EVERY)
