"""What may be written as a workflow, and what counts as the same workflow."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from app.n8n.workflows import canonical_hash, editable, find_node, is_trigger, validate

WORKFLOW: dict[str, Any] = {
    "id": "eJP0ERmeCVD7KG1Q",
    "name": "Invoice sync",
    "active": True,
    "versionId": "838fa929-6387-4064-b944-1788d0ac89f7",
    "createdAt": "2026-11-22T16:08:01.267Z",
    "nodes": [
        {
            "id": "f861ec34-993f-405c-b84e-1d74bcc2da3c",
            "name": "Webhook",
            "webhookId": "087942fe-6bd6-4059-bb8d-51baa56275e6",
            "type": "n8n-nodes-base.webhook",
            "typeVersion": 2,
            "position": [0, 0],
            "parameters": {"httpMethod": "POST", "path": "heal", "responseMode": "onReceived", "options": {}},
        },
        {
            "id": "80e2733a-5215-4ad1-bf3d-adfc3b9812ca",
            "name": "Sum invoice",
            "type": "n8n-nodes-base.code",
            "typeVersion": 2,
            "position": [220, 0],
            "parameters": {"jsCode": "return [];"},
            "credentials": {"httpHeaderAuth": {"id": "c1", "name": "bridge token"}},
        },
    ],
    "connections": {"Webhook": {"main": [[{"node": "Sum invoice", "type": "main", "index": 0}]]}},
    "settings": {"errorWorkflow": "Pf9MHHemQemTHYWD", "executionOrder": "v1"},
    "staticData": None,
    "shared": [{"role": "workflow:owner"}],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The workflow with one place set; ``path`` like ``nodes.1.name``; a value of ``...`` removes it."""
    workflow = copy.deepcopy(WORKFLOW)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = workflow
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return workflow


def nested(levels: int) -> dict[str, Any]:
    return {} if levels == 0 else {"a": nested(levels - 1)}


def test_what_n8n_answers_is_cut_down_to_what_it_takes():
    assert set(editable(WORKFLOW)) == {"name", "nodes", "connections", "settings"}
    assert editable({**WORKFLOW, "staticData": {"last": 1}})["staticData"] == {"last": 1}


def test_a_workflow_that_n8n_runs_is_valid():
    assert validate(WORKFLOW) == []


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("name", "", "name"),
        ("name", ..., "name"),
        ("name", 7, "name"),
        ("name", "x" * 129, "name"),
        ("nodes", {}, "nodes"),
        ("nodes.1", "Set", "nodes"),
        ("nodes.1.name", "", "nodes[1].name"),
        ("nodes.1.name", "Webhook", "nodes[1].name"),
        ("nodes.1.id", "f861ec34-993f-405c-b84e-1d74bcc2da3c", "nodes[1].id"),
        ("nodes.1.type", ..., "nodes[1].type"),
        ("nodes.1.typeVersion", "2", "nodes[1].typeVersion"),
        ("nodes.1.typeVersion", True, "nodes[1].typeVersion"),
        ("nodes.1.position", ..., "nodes[1].position"),
        ("nodes.1.position", [1], "nodes[1].position"),
        ("nodes.1.position", ["0", "0"], "nodes[1].position"),
        ("nodes.1.parameters", [], "nodes[1].parameters"),
        ("nodes.1.retryOnFail", "yes", "nodes[1].retryOnFail"),
        ("nodes.1.myKey", 1, "nodes[1].myKey"),
        ("nodes.0.type", "n8n-nodes-base.set", "nodes"),
        ("nodes.0.disabled", True, "nodes"),
        ("connections", [], "connections"),
        ("connections.Nobody", {"main": []}, "connections.Nobody"),
        ("connections.Webhook", [], "connections.Webhook"),
        ("connections.Webhook.main", {}, "connections.Webhook"),
        ("connections.Webhook.main.0", "Sum invoice", "connections.Webhook.main[0]"),
        ("connections.Webhook.main.0.0", "Sum invoice", "connections.Webhook.main[0][0]"),
        ("connections.Webhook.main.0.0.node", "Nobody", "connections.Webhook.main[0][0].node"),
        ("connections.Webhook.main.0.0.type", ..., "connections.Webhook.main[0][0]"),
        ("connections.Webhook.main.0.0.index", -1, "connections.Webhook.main[0][0]"),
        ("connections.Webhook.main.0.0.index", True, "connections.Webhook.main[0][0]"),
        ("settings", [], "settings"),
        ("nodes.1.parameters", {"jsCode": "x" * 600_000}, ""),
        ("nodes.1.parameters", {"jsCode": "half a pair \ud800"}, ""),
        ("nodes.1.parameters", {"limit": float("nan")}, ""),
        ("nodes.1.parameters", nested(60), ""),
    ],
)
def test_each_mistake_is_told_with_its_place(path, value, where):
    problems = validate(changed(path, value))
    assert where in [problem.path for problem in problems]


def test_an_output_that_leads_nowhere_is_fine():
    assert validate(changed("connections.Webhook.main", [None, []])) == []


def test_too_many_nodes_are_refused():
    node = WORKFLOW["nodes"][1]
    many = [{**node, "id": f"id-{number}", "name": f"node {number}"} for number in range(200)]
    assert [problem.path for problem in validate({**WORKFLOW, "nodes": [WORKFLOW["nodes"][0], *many]})] == ["nodes"]


def test_a_rotten_workflow_gets_a_bounded_list_of_problems():
    assert len(validate({"name": "", "nodes": [{} for _ in range(200)]})) == 20


def test_a_draft_that_is_known_in_part_needs_no_trigger():
    partial = {"name": "known by one node", "nodes": [WORKFLOW["nodes"][1]]}
    assert validate(partial, needs_trigger=False) == []
    assert validate(partial) != []


@pytest.mark.parametrize(
    ("kind", "trigger"),
    [
        ("n8n-nodes-base.webhook", True),
        ("n8n-nodes-base.scheduleTrigger", True),
        ("@n8n/n8n-nodes-langchain.chatTrigger", True),
        ("n8n-nodes-base.emailReadImap", True),
        ("n8n-nodes-base.respondToWebhook", False),
        ("n8n-nodes-base.httpRequest", False),
        ("", False),
    ],
)
def test_a_trigger_is_known_by_its_type(kind, trigger):
    assert is_trigger({"type": kind}) is trigger


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "another"),
        ("versionId", "another"),
        ("name", "another"),
        ("active", False),
        ("createdAt", ...),
        ("staticData", {"last": 1}),
        ("nodes.1.typeVersion", 2.0),
    ],
)
def test_the_hash_leaves_out_what_is_not_the_workflow(path, value):
    assert canonical_hash(changed(path, value)) == canonical_hash(WORKFLOW)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nodes.1.position", [221, 0]),
        ("nodes.1.typeVersion", 2.1),
        ("nodes.1.retryOnFail", True),
        ("nodes.1.parameters.jsCode", "return [1];"),
        ("nodes.1.credentials.httpHeaderAuth.id", "c2"),
        ("connections.Webhook.main", [[]]),
        ("settings.errorWorkflow", ...),
        ("settings.executionOrder", "v0"),
    ],
)
def test_the_hash_tells_every_change_of_the_workflow(path, value):
    assert canonical_hash(changed(path, value)) != canonical_hash(WORKFLOW)


def test_the_hash_does_not_depend_on_the_order_of_keys_or_nodes():
    shuffled = json.loads(json.dumps(WORKFLOW, sort_keys=True))
    shuffled["nodes"].reverse()
    assert canonical_hash(shuffled) == canonical_hash(WORKFLOW)


def test_the_hash_tells_true_from_one():
    assert canonical_hash(changed("nodes.1.disabled", True)) != canonical_hash(changed("nodes.1.disabled", 1))


def test_a_node_is_found_by_name_first_and_then_by_id():
    webhook, code = WORKFLOW["nodes"]
    assert find_node(WORKFLOW, name="Sum invoice", id=webhook["id"]) is code
    assert find_node(WORKFLOW, name="renamed", id=webhook["id"]) is webhook
    assert find_node(WORKFLOW, name="renamed") is None
