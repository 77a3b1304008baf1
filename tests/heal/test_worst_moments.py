"""What people and n8n do at the worst moment of a repair: it is never them who lose by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.n8n.workflows import canonical_hash
from tests.heal.rig import BROKEN, FIXED, WORSE, Healing, node, soon, to, url_of
from tests.support.client import Client

Begin = Callable[..., Healing]
ONCE = "http://api.test/once"


def test_what_a_person_publishes_during_the_trial_stays_the_version_that_runs(healing: Begin) -> None:
    one = healing(to(FIXED))
    held = one.n8n.hold(one.workflow_id, "retry", "after")
    one.fail()
    assert held.reached.wait(10)
    nodes = [n for n in one.before["nodes"] if n["name"] != "Tell"]
    one.n8n.edit(one.workflow_id, nodes=[*nodes, node("Mine", "noOp")], connections={}, publish=True)

    held.release()
    one.ended()

    soon(lambda: one.state() == "failed", what="failed")
    assert not one.n8n.sent(one.workflow_id, "publish")
    assert any(n["name"] == "Mine" for n in one.n8n.active(one.workflow_id)["nodes"])
    assert "changed" in one.data("repair_failed")[-1]["reason"]
    assert "repair_published" not in one.kinds()
    assert "is done" not in one.data("tool_finished")[-1]["summary"]


def test_a_trial_that_waits_for_n8n_does_not_go_on_after_an_undo(healing: Begin) -> None:
    """Its turn is put off, so there is none to be cancelled."""
    one = healing(to(FIXED))
    one.n8n.spoil(one.workflow_id, "run", "drop", times=4, skip=1)
    one.fail()
    assert one.ended() == "interrupted"

    assert one.command("rollback", workflowId=one.workflow_id) == 202

    one.wait_state("failed")
    assert one.n8n.is_clean(one.workflow_id)
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN
    one.client.say("hello").receive("turn_finished")
    assert not {"repair_published", "repair_waiting", "repair_unverified"} & set(one.kinds())


def test_an_undo_that_is_done_later_does_not_take_back_what_was_edited_until_then(healing: Begin) -> None:
    one = healing(to(FIXED))
    one.heal()
    one.n8n.spoil(one.workflow_id, "put", "status", times=1000, status=503)
    assert one.command("rollback", workflowId=one.workflow_id) >= 500
    nodes = one.n8n.draft(one.workflow_id)["nodes"]
    one.n8n.edit(one.workflow_id, nodes=[*nodes, node("Mine", "noOp")], publish=True)

    one.n8n._spoils[-1].times = 0

    assert "edited" in one.receive("notice")["text"]
    assert any(n["name"] == "Mine" for n in one.n8n.active(one.workflow_id)["nodes"])


def test_a_later_undo_takes_the_place_of_one_that_n8n_cannot_do(healing: Begin) -> None:
    one = healing(to(FIXED))
    (updated,) = one.chat(["update_workflow", {"workflowId": one.workflow_id, "settings": {"timezone": "UTC"}}])
    assert updated["ok"], updated
    one.heal()
    oldest = one.snapshots()[-1]
    spoiled = one.n8n.spoil(one.workflow_id, "put", "status", times=1000, status=500)
    assert one.command("rollback", workflowId=one.workflow_id) >= 500

    assert one.command("rollback", workflowId=one.workflow_id, snapshotId=oldest["snapshotId"]) >= 500
    spoiled.times = 0

    assert one.receive("rolled_back")["snapshotId"] == oldest["snapshotId"]
    assert canonical_hash(one.n8n.draft(one.workflow_id)) == oldest["hash"]


def test_the_oldest_snapshot_can_be_restored_although_n8n_fails_on_the_way(healing: Begin) -> None:
    one = healing(url=FIXED)
    for number in range(20):
        settings = {"executionTimeout": 60 + number}
        (updated,) = one.chat(["update_workflow", {"workflowId": one.workflow_id, "settings": settings}])
        assert updated["ok"], updated
    oldest = one.snapshots()[-1]
    assert len(one.snapshots()) == 20
    one.n8n.spoil(one.workflow_id, "put", "status", times=4, status=500)

    assert one.command("rollback", workflowId=one.workflow_id, snapshotId=oldest["snapshotId"]) >= 500

    assert one.receive("rolled_back")["snapshotId"] == oldest["snapshotId"]
    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)


def test_a_repair_is_undone_although_another_ones_trial_came_in_between(healing: Begin) -> None:
    """A draft that was put back is another version of the same, and nobody's edit."""
    one = healing(to(ONCE))
    one.n8n.http[ONCE] = [200, 404]
    one.heal()
    assert one.state() == "published"
    one.plan(to(WORSE))
    one.n8n.fail(one.workflow_id, node="Ask", message="Something else entirely")
    assert one.ended() == "completed"
    assert one.n8n.draft(one.workflow_id)["versionId"] != one.n8n.draft(one.workflow_id)["activeVersionId"]

    def is_taken() -> bool:
        one.fail()
        one.n8n.settle()
        return "repair_blocked" in one.kinds()

    soon(is_taken, what="the same error")
    assert one.receive("rolled_back")["by"] == "bridge"
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN


# -- the brake


@contextmanager
def brake(one: Healing, autonomy: str = "suggest") -> Iterator[None]:
    assert Client(one.server).http("PUT", "/autonomy", {"autonomy": autonomy}).status == 200
    try:
        yield
    finally:
        assert Client(one.server).http("PUT", "/autonomy", {"autonomy": "auto"}).status == 200


def test_what_a_person_approves_waits_for_the_brake_to_be_released(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="ask")
    one.heal()
    (repair,) = one.repairs()
    writes = len(one.n8n.writes(one.workflow_id))

    with brake(one):
        assert one.command("approve", repairId=repair["repairId"]) == 409
        assert one.state() == "waiting"
        assert len(one.n8n.writes(one.workflow_id)) == writes

    # The workflow's own autonomy is for what the bridge does by itself.
    assert one.command("set_autonomy", autonomy="observe") == 202
    assert one.command("approve", repairId=repair["repairId"]) == 202
    one.check_published(calls=False)


@pytest.mark.parametrize("autonomy", ["ask", "auto"])
def test_what_was_decided_before_the_brake_and_not_published_is_not(healing: Begin, autonomy: str) -> None:
    one = healing(to(FIXED), autonomy=autonomy)
    if autonomy == "ask":
        one.heal()
        spoiled = one.n8n.spoil(one.workflow_id, "get", "drop", times=1000)
        assert one.command("approve", repairId=one.repairs()[0]["repairId"]) >= 500
    else:
        spoiled = one.n8n.spoil(one.workflow_id, "publish", "drop", times=1000)
        one.fail()
        assert one.ended() == "completed"
    assert one.state() == "publishing"

    with brake(one):
        spoiled.times = 0
        one.wait_state("failed")

    assert "brake" in one.data("repair_failed")[-1]["reason"]
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN
    assert one.n8n.is_clean(one.workflow_id)
    assert "repair_published" not in one.kinds()


def test_an_undo_of_the_bridges_that_n8n_could_not_do_stops_at_the_brake(healing: Begin) -> None:
    one = healing(to(ONCE))
    one.n8n.http[ONCE] = [200, 404]
    one.heal()
    spoiled = one.n8n.spoil(one.workflow_id, "put", "drop", times=1000)

    def is_taken() -> bool:
        one.fail()
        one.n8n.settle()
        return "repair_blocked" in one.kinds()

    soon(is_taken, what="the same error")
    soon(lambda: one.n8n.sent(one.workflow_id, "put")[2:], what="a try")

    with brake(one):
        assert "lowered" in one.receive("notice")["text"]

    spoiled.times = 0
    assert url_of(one.n8n.active(one.workflow_id)) == ONCE


def test_nobody_is_asked_to_publish_somebodys_unpublished_draft_with_a_repair(healing: Begin) -> None:
    one = healing(to("http://elsewhere.test/here"))
    one.n8n.edit(one.workflow_id, nodes=[*one.n8n.draft(one.workflow_id)["nodes"], node("Mine", "noOp")])

    one.heal()

    assert "elsewhere.test" in one.data("tool_refused")[0]["rule"]
    assert one.state() == "failed"
    assert "repair_waiting" not in one.kinds()
