"""What people and n8n do at the worst moment of a repair: it is never them who lose by it."""

from __future__ import annotations

from collections.abc import Callable

from tests.heal.rig import FIXED, Healing, node, soon, to

Begin = Callable[..., Healing]


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
