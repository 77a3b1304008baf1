"""What follows a repair: its error comes back, somebody edits, somebody asks; and how many repairs there may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.n8n.workflows import canonical_hash
from tests.heal.conftest import planned_bridge
from tests.heal.rig import BROKEN, FIXED, Healing, healing_n8n, node, soon, to, url_of
from tests.support.client import Client
from tests.support.scrape import grown, samples

Begin = Callable[..., Healing]
ONCE = "http://api.test/once"


def published(healing: Begin, **options: Any) -> Healing:
    """A repair that was published, and did not help for long."""
    one = healing(to(ONCE), **options)
    one.n8n.http[ONCE] = [200, 404]
    one.heal()
    assert "repair_published" in one.kinds()
    return one


def come_back(one: Healing) -> None:
    """Fail until the bridge takes it for the same error again: production is given some seconds to follow."""

    def is_taken() -> bool:
        one.fail()
        one.n8n.settle()
        return "repair_blocked" in one.kinds()

    soon(is_taken, what="the same error")


def test_a_repair_whose_error_comes_back_within_the_hour_is_undone(healing: Begin) -> None:
    one = published(healing)

    come_back(one)

    undone = one.receive("rolled_back")
    (repair,) = one.repairs()
    assert undone == {"workflowId": one.workflow_id, "snapshotId": repair["snapshotId"], "by": "bridge"}
    assert repair["state"] == "rolled_back"
    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN
    (blocked,) = one.data("repair_blocked")
    assert "undone" in blocked["reason"]
    # And then a person has the word.
    one.fail()
    one.n8n.settle()
    assert one.kinds("repair_started", "rolled_back", "repair_blocked").count("repair_started") == 1


def test_one_more_try_after_that_is_a_persons(healing: Begin) -> None:
    one = published(healing)
    come_back(one)
    one.receive("rolled_back")
    one.plan(to(FIXED))
    signature = one.data("repair_blocked")[0]["signature"]

    assert one.command("retry_repair", workflowId=one.workflow_id, signature=signature) == 202

    one.receive("repair_published")
    assert url_of(one.n8n.active(one.workflow_id)) == FIXED
    assert one.command("retry_repair", workflowId=one.workflow_id, signature=signature) == 409


def test_what_somebody_has_edited_since_is_not_undone(healing: Begin) -> None:
    one = published(healing)
    nodes = one.n8n.draft(one.workflow_id)["nodes"]
    one.n8n.edit(one.workflow_id, nodes=[*nodes, node("Mine", "noOp")], publish=True)
    writes = len(one.n8n.writes(one.workflow_id))

    come_back(one)

    assert "edited" in one.receive("notice")["text"]
    assert len(one.n8n.writes(one.workflow_id)) == writes
    assert any(n["name"] == "Mine" for n in one.n8n.active(one.workflow_id)["nodes"])
    assert "rolled_back" not in one.kinds()
    assert one.state() == "published"


@pytest.mark.parametrize("autonomy", ["suggest", "observe"])
def test_a_brake_that_was_put_on_since_forbids_the_undo(healing: Begin, autonomy: str) -> None:
    one = published(healing)
    assert one.command("set_autonomy", autonomy=autonomy) == 202
    seen = len(one.data("workflow_error"))

    def is_told() -> bool:
        one.fail()
        one.n8n.settle()
        return len(one.data("workflow_error")) > seen + 1 and (autonomy == "observe" or "repair_blocked" in one.kinds())

    soon(is_told)
    one.client.sync()
    assert one.client.silent_for(1.0)
    assert "rolled_back" not in one.kinds()
    assert url_of(one.n8n.active(one.workflow_id)) == ONCE


def test_an_undo_takes_back_others_edits_only_where_they_are_named(healing: Begin) -> None:
    one = healing(to(FIXED))
    one.heal()
    nodes = one.n8n.draft(one.workflow_id)["nodes"]
    one.n8n.edit(one.workflow_id, nodes=[*nodes, node("Mine", "noOp")], publish=True)
    (snapshot,) = one.snapshots()

    assert one.command("rollback", workflowId=one.workflow_id) == 409
    assert any(n["name"] == "Mine" for n in one.n8n.active(one.workflow_id)["nodes"])

    assert one.command("rollback", workflowId=one.workflow_id, snapshotId=snapshot["snapshotId"]) == 202
    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)
    # What was taken back was kept first.
    newest = one.snapshots()[0]
    assert newest["cause"] == "rollback"
    assert any(n["name"] == "Mine" for n in newest["workflow"]["nodes"])


# -- what is known of it afterwards


def test_the_audit_tells_what_happened_when_and_by_whom(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="ask")
    one.heal()
    (repair,) = one.repairs()
    assert one.command("approve", repairId=repair["repairId"]) == 202

    (repair,) = one.repairs()

    assert repair["state"] == "published"
    assert repair["decidedBy"] == "person"
    (trial,) = one.n8n.runs(one.workflow_id, "retry")
    assert repair["executionId"] == trial["id"]
    assert repair["kind"] == "workflow_bug"
    assert [(entry["node"], entry["path"], entry["after"]) for entry in repair["diff"]] == [
        ("Ask", "parameters.url", FIXED)
    ]
    times = repair["times"]
    assert sorted(times, key=times.__getitem__) == [
        *("queued", "running", "trying", "waiting", "publishing", "published")
    ]
    assert all(at.endswith("Z") for at in times.values())


# -- how many


def test_repairs_over_the_pace_wait(tmp_path: Path) -> None:
    with (
        healing_n8n() as n8n,
        planned_bridge(n8n, tmp_path, HEAL_REPAIRS_PER_HOUR=2, HEAL_REPAIRS_PER_WORKFLOW_PER_DAY=1) as server,
    ):
        first, second, third = (Healing(server, n8n, tmp_path) for _ in range(3))
        for one in (first, second, third):
            one.adopt(to(FIXED))
        for one in (first, second):
            one.fail()
            one.receive("repair_published")
            one.ended()

        n8n.http[FIXED] = [500]
        first.fail()
        third.fail()

        assert "within a day" in first.receive("notice")["text"]
        assert "within an hour" in third.receive("notice")["text"]
        assert third.state() == "queued"
        assert "repair_blocked" not in third.kinds()
        # Others of its session are not held up by one that waits.
        first.client.say("hello").receive("turn_finished")
        for one in (first, second, third):
            one.close()


def test_a_session_that_ends_leaves_no_repair_open(healing: Begin) -> None:
    one = healing(to(FIXED))
    one.plan(to(FIXED), hold=True)
    one.fail()
    one.receive("repair_started")
    before = samples(one.server)

    assert one.client.http("DELETE", "/sessions/{sid}").status == 204
    assert grown(before, samples(one.server), "repairs_total") == {"failed": 1}

    one.let_propose()
    one.client.wait_closed()
    other = Client(one.server)
    other.connect()
    answer = other.http("POST", "/sessions/{sid}/workflows", {"workflowId": one.workflow_id})
    assert answer.status == 201, answer
    other.disconnect()
    assert not one.n8n.writes(one.workflow_id)


def test_what_waits_survives_a_reload_and_a_restart(tmp_path: Path) -> None:
    with healing_n8n() as n8n, planned_bridge(n8n, tmp_path) as server:
        first, second = (Healing(server, n8n, tmp_path).adopt(to(FIXED), autonomy="ask") for _ in range(2))
        for one in (first, second):
            one.heal()
            assert one.state() == "waiting"

        server.hup()
        first.client.connect()
        (repair_id,) = first.client.welcome["pendingRepairs"]
        assert first.command("approve", repairId=repair_id) == 202
        first.check_published()

        server.stop()
        server.start()
        second.client.connect()
        (repair_id,) = second.client.welcome["pendingRepairs"]
        assert second.command("approve", repairId=repair_id) == 202
        second.check_published()
        for one in (first, second):
            one.close()
