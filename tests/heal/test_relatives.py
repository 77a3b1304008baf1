"""A failing sub-workflow is told of twice, by its own run and by the one that called it: one repair, of the child."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.heal.rig import FIXED, SECRET, WORSE, Healing, HealN8n, node, soon, to
from tests.support.server import BridgeServer

Begin = Callable[..., Healing]


def calls(child: Healing) -> dict[str, Any]:
    return {"type": "n8n-nodes-base.executeWorkflow", "parameters": {"workflowId": child.workflow_id}}


@pytest.fixture
def family(healing: Begin) -> tuple[Healing, Healing]:
    """A parent whose node "Tell" calls the child; each has a session of its own."""
    child = healing(to(FIXED))
    parent = healing(to(FIXED), url=FIXED, tell=calls(child))
    return parent, child


def silently(one: Healing) -> str:
    """Keep n8n from reporting this workflow's failures; gives the id of what would have."""
    return str(one.n8n.draft(one.workflow_id)["settings"].pop("errorWorkflow"))


def report(one: Healing, run: dict[str, Any], node_name: str, **execution: Any) -> str:
    """The callback of a run, as n8n's error workflow sends it; gives what the bridge makes of it."""
    failed = {"id": run["id"], "mode": run["mode"], "lastNodeExecuted": node_name, **execution}
    body = {"execution": failed, "workflow": {"id": one.workflow_id, "name": "Orders"}}
    answer = one.client.http("POST", "/callbacks/n8n/error", body, SECRET)
    assert answer.status == 202, answer
    return str(answer.json["repair"])


def of_child(child: Healing, run: dict[str, Any], parent_run: dict[str, Any]) -> str:
    error = {"message": "The resource could not be found", "name": "NodeApiError", "httpCode": "404"}
    context = {"parentExecutionId": parent_run["id"]}
    return report(child, run, "Ask", error=error, executionContext=context)


def of_parent(parent: Healing, run: dict[str, Any]) -> str:
    return report(parent, run, "Tell", error={"message": "The resource could not be found"})


def both_fail(parent: Healing, child: Healing) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let both fail without a report; gives their runs."""
    silently(parent), silently(child)
    parent.fail()
    return parent.n8n.runs(parent.workflow_id)[-1], child.n8n.runs(child.workflow_id)[-1]


def check_one_repair(parent: Healing, child: Healing) -> None:
    assert child.receive("repair_published")
    child.ended()
    child.check_published(calls=False)
    assert child.kinds().count("repair_started") == 1
    assert len(child.repairs()) == 1
    soon(lambda: "workflow_error" in parent.kinds(), what="the parent's error told")
    assert len(parent.data("workflow_error")) == 1
    soon(lambda: parent.repairs() == [], what="no repair of the parent")
    assert "repair_started" not in parent.kinds()
    assert not parent.n8n.writes(parent.workflow_id)


def test_the_child_is_repaired_and_its_parent_is_not(family: tuple[Healing, Healing]) -> None:
    parent, child = family

    parent.fail()

    check_one_repair(parent, child)
    assert parent.call() == "success"


def test_the_childs_report_may_come_first(family: tuple[Healing, Healing]) -> None:
    parent, child = family
    parent_run, child_run = both_fail(parent, child)

    assert of_child(child, child_run, parent_run) == "queued"
    assert of_parent(parent, parent_run) == "coalesced"

    check_one_repair(parent, child)


def test_the_parents_report_may_come_first(family: tuple[Healing, Healing]) -> None:
    parent, child = family
    parent_run, child_run = both_fail(parent, child)

    assert of_parent(parent, parent_run) == "queued"
    assert of_child(child, child_run, parent_run) == "queued"

    check_one_repair(parent, child)
    # Its next failure is looked at as if this one had not been its own.
    assert [entry["text"] for entry in parent.data("notice")] == [
        '"Orders", which this workflow calls, failed; that is what is looked at.'
    ]


def test_a_parent_of_somebody_elses_child_is_looked_at_after_a_while(
    healing: Begin, home: tuple[BridgeServer, HealN8n, Path]
) -> None:
    child = Healing(*home)
    child.workflow_id = child.n8n.add(
        {
            "name": "Nobody's",
            "nodes": [node("Start", "webhook", parameters={"path": uuid.uuid4().hex}), node("Stop", "stopAndError")],
            "connections": {"Start": {"main": [[{"node": "Stop", "type": "main", "index": 0}]]}},
            "settings": {},
        }
    )
    parent = healing(url=FIXED, tell=calls(child))

    parent.fail()

    assert parent.receive("repair_started")["workflowId"] == parent.workflow_id
    parent.ended()


def test_what_a_trial_calls_is_an_echo(healing: Begin) -> None:
    """The trial of the parent's repair goes on into the child, which fails: no news to whoever tried."""
    child = healing(to(FIXED))
    parent = healing(to(FIXED), to(WORSE), tell=calls(child))
    parent.fail()
    parent.ended()
    parent.n8n.settle()

    (trial, _) = parent.n8n.runs(parent.workflow_id, "retry")
    assert trial["status"] == "error"
    assert [error["source"] for error in child.data("workflow_error")] == ["callback"]
    assert child.repairs() == []
    assert "repair_started" not in child.kinds()
    assert not child.n8n.writes(child.workflow_id)


def test_a_child_that_fails_in_production_during_a_trial_of_others_is_repaired(healing: Begin) -> None:
    child = healing(to(FIXED))
    other = healing(to(FIXED))
    held = other.n8n.hold(other.workflow_id, "retry", "before")
    other.fail()
    assert held.reached.wait(10)
    parent = healing(url=FIXED, tell=calls(child))

    parent.fail()

    assert child.receive("repair_published")
    held.release()
    other.receive("repair_published")
