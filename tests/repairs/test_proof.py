"""What a second run of a failed execution proves, and when it is not made unasked."""

from __future__ import annotations

import pytest

from app.repairs.proof import cannot_prove, may_not_repeat

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
