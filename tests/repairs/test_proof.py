"""What a second run of a failed execution proves, and when it is not made unasked."""

from __future__ import annotations

import copy

import pytest

from app.repairs.proof import cannot_prove, may_not_repeat, may_not_try

CONNECTIONS = {
    "Webhook": {"main": [[{"node": "Get", "type": "main", "index": 0}]]},
    "Get": {"main": [[{"node": "Sum", "type": "main", "index": 0}], None]},
    "Sum": {"main": [[{"node": "Get", "type": "main", "index": 0}, {"node": "Post", "type": "main", "index": 0}]]},
}


def changes(*nodes):
    return [{"node": node, "change": "changed", "path": "x", "before": 1, "after": 2} for node in nodes]


@pytest.mark.parametrize(
    ("changed", "failed", "proven"),
    [
        (["Get"], "Get", True),
        (["Get", "Sum", "Post"], "Get", True),
        (["Webhook"], "Get", False),
        (["Get", "Webhook"], "Get", False),
        ([None], "Get", False),
        (["Get"], None, False),
        (["Sum"], "Post", False),
    ],
)
def test_only_the_failed_node_and_what_follows_runs_again(changed, failed, proven):
    assert (cannot_prove(changes(*changed), {"connections": CONNECTIONS}, failed) == "") == proven


@pytest.mark.parametrize(
    ("kind", "parameters", "repeats"),
    [
        ("n8n-nodes-base.httpRequest", {}, True),
        ("n8n-nodes-base.httpRequest", {"method": "GET"}, True),
        ("n8n-nodes-base.httpRequest", {"method": "POST"}, False),
        ("n8n-nodes-base.httpRequest", {"requestMethod": "DELETE"}, False),
        ("n8n-nodes-base.httpRequest", {"method": "={{ $json.method }}"}, False),
        ("n8n-nodes-base.code", {"jsCode": "return 1"}, True),
        ("n8n-nodes-base.code", {"jsCode": "await this.helpers.httpRequest({ method: 'POST', url })"}, False),
        ("n8n-nodes-base.code", {"jsCode": "await this.helpers.httpRequest({ method: 'GET', url })"}, True),
        ("n8n-nodes-base.mongoDb", {"operation": "find"}, True),
        ("n8n-nodes-base.mongoDb", {"operation": "findOneAndUpdate"}, False),
        ("n8n-nodes-base.slack", {"operation": "post"}, False),
        ("n8n-nodes-base.googleSheets", {"operation": "getAll"}, True),
        ("n8n-nodes-base.stripe", {}, False),
        ("n8n-nodes-base.executeCommand", {}, False),
    ],
)
def test_a_node_that_may_have_done_something_is_not_run_again_unasked(kind, parameters, repeats):
    assert (may_not_repeat({"name": "N", "type": kind, "parameters": parameters}) == "") == repeats


def test_an_unknown_node_is_not_run_again():
    assert may_not_repeat(None)


WORKFLOW = {
    "nodes": [
        {"name": "Webhook", "type": "n8n-nodes-base.webhook", "parameters": {}},
        {"name": "Get", "type": "n8n-nodes-base.httpRequest", "parameters": {"url": "https://a.example/"}},
        {"name": "Sum", "type": "n8n-nodes-base.set", "parameters": {}},
        {"name": "Post", "type": "n8n-nodes-base.httpRequest", "parameters": {"method": "POST", "jsonBody": "1"}},
        {"name": "Stop", "type": "n8n-nodes-base.noOp", "parameters": {}},
    ],
    "connections": CONNECTIONS,
}


def proposed(**nodes):
    wanted = copy.deepcopy(WORKFLOW)
    for node in wanted["nodes"]:
        node.update(nodes.get(node["name"], {}))
    return wanted


def leading(source, *targets):
    wanted = copy.deepcopy(WORKFLOW)
    wanted["connections"][source] = {"main": [[{"node": target, "type": "main", "index": 0} for target in targets]]}
    return wanted


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (proposed(), ""),
        (proposed(Get={"parameters": {"url": "https://a.example/b"}, "retryOnFail": True}), ""),
        (proposed(Sum={"parameters": {"x": 1}}, Post={"retryOnFail": True}), ""),
        (leading("Get", "Sum", "Stop"), ""),
        # What the trial would do that nobody has asked for.
        (proposed(Get={"parameters": {"method": "DELETE", "url": "https://a.example/all"}}), "sends data (DELETE)"),
        (proposed(Post={"parameters": {"method": "POST", "jsonBody": "2"}}), "sends data (POST)"),
        (proposed(Webhook={"parameters": {"path": "x"}}), ""),
        (leading("Get", "Sum", "Post"), "sends data (POST)"),
        # A success that says nothing.
        (proposed(Get={"onError": "continueRegularOutput"}), "go on after an error"),
        (proposed(Get={"onError": "continueErrorOutput"}), "go on after an error"),
        (proposed(Sum={"continueOnFail": True}), "go on after an error"),
        (proposed(Get={"executeOnce": True}), "go on after an error"),
        (proposed(Get={"parameters": {"options": {"response": {"response": {"neverError": True}}}}}), "after an error"),
        (leading("Sum"), '"Post" would not run'),
        (leading("Get"), '"Post" would not run'),
    ],
)
def test_what_a_trial_may_not_do_or_would_not_show(wanted, why):
    found = may_not_try(WORKFLOW, wanted, "Get")
    assert why in found if why else not found


def test_errors_that_were_gone_on_after_before_still_are():
    before = proposed(Get={"onError": "continueRegularOutput"})
    assert may_not_try(before, before, "Get") == ""
