"""One failed run and what becomes of it, by what the agent proposes, what the workflow allows and what n8n does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.n8n.workflows import canonical_hash
from tests.heal.rig import BROKEN, FIXED, SECRET, WORSE, Healing, HealN8n, between, node, soon, to, url_of, workflow
from tests.support.server import BridgeServer

Begin = Callable[..., Healing]
REPAIR = ("repair_started", "repair_diagnosed", "repair_proposed", "repair_verified", "repair_unverified")
ENDS = ("repair_waiting", "repair_decided", "repair_published", "repair_failed", "repair_blocked")


# -- how far the bridge goes


def test_what_is_verified_is_published(healing: Begin) -> None:
    one = healing(to(FIXED))

    events = one.heal()

    assert one.kinds(*REPAIR, *ENDS) == [*REPAIR[:4], "repair_published"]
    (verified,), (published,) = one.data("repair_verified"), one.data("repair_published")
    (trial,) = one.n8n.runs(one.workflow_id, "retry")
    assert verified["executionId"] == trial["id"]
    (snapshot,) = one.snapshots()
    assert published["snapshotId"] == snapshot["snapshotId"]
    assert snapshot["hash"] == canonical_hash(one.before)
    assert one.n8n.urls_put(one.workflow_id) == [FIXED]
    assert len(one.n8n.sent(one.workflow_id, "retry")) == len(one.n8n.sent(one.workflow_id, "publish")) == 1
    assert url_of(one.shown("active")) == url_of(one.shown()) == FIXED
    one.check_published()
    took = between(events, "workflow_error", "repair_published")
    print(f"\nfrom the failure to repair_published, without a model: {took:.3f} s")


def test_asked_for_a_person_publishes(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="ask")
    one.heal()

    assert one.kinds(*REPAIR[2:], *ENDS) == ["repair_proposed", "repair_verified", "repair_waiting"]
    assert one.n8n.urls_put(one.workflow_id) == [FIXED, BROKEN]
    assert one.n8n.is_clean(one.workflow_id)
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN
    assert not one.n8n.sent(one.workflow_id, "publish")
    (repair,) = one.repairs()

    assert one.command("approve", repairId=repair["repairId"]) == 202
    assert one.command("approve", repairId=repair["repairId"]) == 409

    one.check_published()
    assert len(one.n8n.sent(one.workflow_id, "publish")) == len(one.n8n.sent(one.workflow_id, "retry")) == 1
    assert one.kinds(*ENDS) == ["repair_waiting", "repair_decided", "repair_published"]


def test_a_rejected_repair_leaves_everything(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="ask")
    one.heal()
    (repair,) = one.repairs()

    assert one.command("reject", repairId=repair["repairId"]) == 202

    assert one.state() == "rejected"
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN
    assert one.n8n.is_clean(one.workflow_id)
    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)


def test_a_suggestion_is_only_shown(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="suggest")
    one.heal()

    assert one.untouched()
    assert one.kinds(*REPAIR[2:], *ENDS) == ["repair_proposed", "repair_unverified"]
    assert one.data("repair_proposed")[0]["diff"]
    assert one.state() == "unverified"


def test_what_is_observed_is_recorded(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="observe")
    one.fail()

    assert one.receive("workflow_error")["workflowId"] == one.workflow_id
    assert one.client.silent_for(0.5)
    assert one.untouched()
    assert one.repairs() == []


@pytest.mark.parametrize("autonomy", ["suggest", "observe"])
def test_lowered_before_the_draft_nothing_is_written(healing: Begin, autonomy: str) -> None:
    one = healing(to(FIXED))
    # The draft waits for the workflow as it is: read by propose_repair, and once more for the snapshot.
    held = one.n8n.hold(one.workflow_id, "get", "before")
    one.plan(to(FIXED), hold=True)
    one.fail()
    assert held.reached.wait(10)
    held.release()
    one.let_propose()
    one.receive("tool_started", tool="get_workflow")
    one.receive("tool_finished", tool="get_workflow")
    held = one.n8n.hold(one.workflow_id, "get", "before")
    assert held.reached.wait(10)

    assert one.command("set_autonomy", autonomy=autonomy) == 202
    held.release()

    one.ended()
    assert one.untouched()
    assert not {"repair_published", "repair_verified", "repair_waiting"} & set(one.kinds())


@pytest.mark.parametrize("autonomy", ["suggest", "observe"])
@pytest.mark.parametrize(("step", "runs"), [("put", 0), ("retry", 1)])
def test_lowered_during_the_trial_the_next_write_is_not_made(
    healing: Begin, autonomy: str, step: Any, runs: int
) -> None:
    one = healing(to(FIXED))
    held = one.n8n.hold(one.workflow_id, step, "after")
    one.fail()
    assert held.reached.wait(10)

    assert one.command("set_autonomy", autonomy=autonomy) == 202
    held.release()

    one.ended()
    assert len(one.n8n.sent(one.workflow_id, "retry")) == runs
    assert not one.n8n.sent(one.workflow_id, "publish")
    assert one.n8n.is_clean(one.workflow_id)
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN
    assert one.state() == "unverified"


def test_lowered_to_ask_during_the_trial_a_person_publishes(healing: Begin) -> None:
    one = healing(to(FIXED))
    held = one.n8n.hold(one.workflow_id, "retry", "after")
    one.fail()
    assert held.reached.wait(10)

    assert one.command("set_autonomy", autonomy="ask") == 202
    held.release()

    one.ended()
    assert one.state() == "waiting"
    assert one.n8n.is_clean(one.workflow_id)
    assert not one.n8n.sent(one.workflow_id, "publish")


# -- trials that fail


def test_a_second_proposal_follows_a_failed_trial(healing: Begin) -> None:
    one = healing(to(WORSE), to(FIXED))
    one.heal()
    one.n8n.settle()

    assert one.n8n.urls_put(one.workflow_id) == [WORSE, BROKEN, FIXED]
    assert [run["status"] for run in one.n8n.runs(one.workflow_id, "retry")] == ["error", "success"]
    assert one.kinds(*REPAIR[2:], *ENDS) == [
        *("repair_proposed", "repair_unverified", "repair_proposed", "repair_verified", "repair_published")
    ]
    one.check_published()


def test_three_failed_trials_end_the_repair(healing: Begin) -> None:
    one = healing(to(WORSE), to(f"{WORSE}2"), to(f"{WORSE}3"), to(FIXED))
    for number in (2, 3):
        one.n8n.http[f"{WORSE}{number}"] = [404]
    one.heal()
    one.n8n.settle()

    assert one.kinds(*REPAIR[2:], *ENDS).count("repair_unverified") == 3
    assert one.kinds(*ENDS) == ["repair_failed"]
    assert one.state() == "failed"
    assert one.n8n.is_clean(one.workflow_id)
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN
    assert len(one.n8n.runs(one.workflow_id, "retry")) == 3


def test_the_trials_own_failure_is_an_echo(healing: Begin) -> None:
    one = healing(to(WORSE), to(FIXED))
    first = one.fail()
    one.receive("repair_published")
    one.n8n.settle()
    one.ended()

    own, echo = one.data("workflow_error")
    (failed, _) = one.n8n.runs(one.workflow_id, "retry")
    assert own["execution"]["id"] == first
    assert (echo["execution"]["id"], echo["execution"]["retryOf"]) == (failed["id"], first)
    assert (own["repeatCount"], echo["repeatCount"]) == (1, 1)
    assert len(one.repairs()) == 1
    answers = [d for d in one.n8n.deliveries if d.body["workflow"]["id"] == one.workflow_id]
    assert [d.status for d in answers] == [202, 202]


def test_an_echo_that_comes_late_is_one(healing: Begin) -> None:
    """n8n's reports may come minutes later: the repair that tried is over by then."""
    one = healing(to(WORSE))
    held = one.n8n.hold(one.workflow_id, "retry", "before")
    first = one.fail()
    assert held.reached.wait(10)
    del one.n8n.draft(one.workflow_id)["settings"]["errorWorkflow"]
    held.release()
    one.receive("repair_failed")
    one.ended()
    (run,) = one.n8n.runs(one.workflow_id, "retry")

    def report(run_id: str) -> dict[str, Any]:
        execution = {"id": run_id, "mode": "retry", "retryOf": first, "error": {"message": "no"}}
        body = {"execution": execution, "workflow": {"id": one.workflow_id, "name": "Orders"}}
        answer: dict[str, Any] = one.client.http("POST", "/callbacks/n8n/error", body, SECRET).json
        return answer

    assert report(run["id"])["repair"] == "echo"
    assert report(run["id"]) == {"routed": True, "duplicate": True}
    # Somebody else's retry of the same run is none.
    assert report("999001")["repair"] == "queued"
    one.ended()
    assert [error["repeatCount"] for error in one.data("workflow_error")] == [1, 1, 1]


def test_a_run_that_failed_before_the_repair_does_not_speak_against_it(healing: Begin) -> None:
    one = healing(to(FIXED))
    one.plan(to(FIXED), hold=True)
    one.fail()
    settings = one.n8n.draft(one.workflow_id)["settings"]
    handler = settings.pop("errorWorkflow")
    late = one.fail()
    settings["errorWorkflow"] = handler
    one.let_propose()
    one.receive("repair_published")
    one.ended()
    (told,) = [d.body for d in one.n8n.deliveries if d.body["workflow"]["id"] == one.workflow_id]

    def report(run_id: str) -> str:
        body = {**told, "execution": {**told["execution"], "id": run_id}}
        return str(one.client.http("POST", "/callbacks/n8n/error", body, SECRET).json["repair"])

    assert report(late) == "coalesced"
    assert "repair_blocked" not in one.kinds()
    assert one.data("workflow_error")[-1]["repeatCount"] == 2


def test_the_answer_to_an_echo_says_so(healing: Begin) -> None:
    one = healing(to(FIXED))
    held = one.n8n.hold(one.workflow_id, "retry", "before")
    first = one.fail()
    assert held.reached.wait(10)
    body = {
        "execution": {"id": "999002", "mode": "retry", "retryOf": first, "error": {"message": "no"}},
        "workflow": {"id": one.workflow_id, "name": "Orders"},
    }

    answer = one.client.http("POST", "/callbacks/n8n/error", body, SECRET)

    assert (answer.status, answer.json["repair"]) == (202, "echo")
    held.release()
    one.receive("repair_published")
    assert len(one.repairs()) == 1
    assert len(one.data("workflow_error")) == 2


# -- what a trial cannot prove


def test_a_node_that_sends_is_not_run_again(healing: Begin) -> None:
    one = healing(to(FIXED), method="POST")
    one.heal()

    assert not one.n8n.sent(one.workflow_id, "retry")
    assert not one.n8n.sent(one.workflow_id, "publish")
    assert one.kinds(*REPAIR[2:], *ENDS) == ["repair_proposed", "repair_unverified", "repair_waiting"]
    assert "perhaps twice" in one.data("repair_unverified")[0]["reason"]
    assert one.n8n.is_clean(one.workflow_id)
    (repair,) = one.repairs()
    assert one.command("approve", repairId=repair["repairId"]) == 202
    one.check_published()
    assert not one.n8n.sent(one.workflow_id, "retry")


def test_a_change_before_the_failed_node_is_not_proven(healing: Begin) -> None:
    one = healing({"nodes": {"Prepare": {"notes": "x", "retryOnFail": True}, "Ask": {"parameters": {"url": FIXED}}}})
    one.heal()

    assert not one.n8n.sent(one.workflow_id, "retry")
    assert one.state() == "waiting"
    assert "Prepare" in one.data("repair_unverified")[0]["reason"]
    assert one.n8n.is_clean(one.workflow_id)


def test_a_change_after_the_failed_node_is_proven(healing: Begin) -> None:
    one = healing({"nodes": {"Tell": {"retryOnFail": True}, "Ask": {"parameters": {"url": FIXED}}}})
    one.heal()

    one.check_published()


@pytest.mark.parametrize("setting", ["saveDataErrorExecution", "saveDataSuccessExecution"])
def test_a_run_that_is_not_kept_proves_nothing(healing: Begin, setting: str) -> None:
    one = healing(to(FIXED), settings={setting: "none"})
    one.heal()

    assert one.state() == "waiting"
    assert one.kinds(*REPAIR[2:], *ENDS) == ["repair_proposed", "repair_unverified", "repair_waiting"]
    assert one.n8n.is_clean(one.workflow_id)
    assert len(one.n8n.sent(one.workflow_id, "retry")) == (setting == "saveDataSuccessExecution")


def test_a_trial_that_waits_has_no_verdict(healing: Begin) -> None:
    """A draft of the failed node's successors may wait for hours; nobody waits for it here."""
    one = healing(to(FIXED))
    stored = one.n8n.workflows[one.workflow_id]
    wait = node("Tell", "wait", parameters={"amount": 1, "unit": "hours"})
    nodes = [wait if n["name"] == "Tell" else n for n in stored.public["nodes"]]
    one.n8n.edit(one.workflow_id, nodes=nodes, publish=True)
    one.heal()

    assert one.state() == "waiting"
    assert "waiting" in one.data("repair_unverified")[0]["reason"]
    assert one.n8n.is_clean(one.workflow_id)
    assert not one.n8n.sent(one.workflow_id, "publish")


# -- other people


def test_a_draft_of_somebodys_own_is_left(healing: Begin) -> None:
    one = healing(to(FIXED))
    one.n8n.edit(one.workflow_id, nodes=[*one.n8n.draft(one.workflow_id)["nodes"], node("Mine", "noOp")])
    one.heal()

    assert one.kinds(*REPAIR[2:], *ENDS) == ["repair_proposed", "repair_unverified"]
    assert not one.n8n.writes(one.workflow_id)
    assert any(n["name"] == "Mine" for n in one.n8n.draft(one.workflow_id)["nodes"])


@pytest.mark.parametrize("step", ["put", "retry"])
def test_an_edit_in_between_is_not_overwritten(healing: Begin, step: Any) -> None:
    one = healing(to(FIXED))
    held = one.n8n.hold(one.workflow_id, step, "before" if step == "put" else "after")
    one.fail()
    assert held.reached.wait(10)
    nodes = one.n8n.draft(one.workflow_id)["nodes"]
    one.n8n.edit(one.workflow_id, nodes=[*nodes, node("Mine", "noOp")])
    held.release()
    one.ended()

    # A PUT that is under way cannot be called back; what was read before it is what it replaces.
    if step == "retry":
        assert any(n["name"] == "Mine" for n in one.n8n.draft(one.workflow_id)["nodes"])


def test_an_edit_while_it_waits_is_not_overwritten(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="ask")
    one.heal()
    one.n8n.edit(one.workflow_id, nodes=[*one.n8n.draft(one.workflow_id)["nodes"], node("Mine", "noOp")])
    writes = len(one.n8n.writes(one.workflow_id))
    (repair,) = one.repairs()

    one.command("approve", repairId=repair["repairId"])

    assert one.state() == "failed"
    assert len(one.n8n.writes(one.workflow_id)) == writes
    assert any(n["name"] == "Mine" for n in one.n8n.draft(one.workflow_id)["nodes"])


# -- the fence


ASKED = [
    to("http://elsewhere.test/here"),
    {"nodes": {"Ask": {"credentials": {"httpBasicAuth": {"id": "1", "name": "Mine"}}}}},
    {"add": [node("Run", "code", parameters={"jsCode": "return []"})]},
    {"nodes": {"Ask": {"type": "n8n-nodes-base.code"}}},
    {"workflow": {"name": "Renamed"}},
    {"settings": {"executionTimeout": 3600}},
    {"nodes": {"Ask": {"disabled": True}}},
]
NEVER = [
    {"settings": {"errorWorkflow": "none"}},
    {"nodes": {"Ask": {"retryOnFail": True, "maxTries": 1000}}},
    {**to(FIXED), "workflow": {"id": "another00000000001"}},
    {"workflow": {"id": "another00000000001"}},
]


def check_refused(one: Healing) -> None:
    assert one.untouched()
    refused = one.data("tool_refused")
    assert {entry["tool"] for entry in refused} == {"propose_repair"}
    assert all(entry["rule"] for entry in refused)
    (repair,) = one.repairs()
    assert [entry["rule"] for entry in repair["refusals"]] == [entry["rule"] for entry in refused]


@pytest.mark.parametrize("breach", NEVER, ids=["errors", "tries", "another", "only-another"])
def test_what_nobody_may_allow_is_not_asked_for(healing: Begin, breach: Any) -> None:
    one = healing(breach)
    one.heal()

    check_refused(one)
    assert one.state() == "failed"
    assert "repair_proposed" not in one.kinds()


@pytest.mark.parametrize("breach", ASKED, ids=["host", "credential", "code", "type", "name", "settings", "disabled"])
def test_what_goes_beyond_the_fence_is_asked_for_and_not_written(healing: Begin, breach: Any) -> None:
    one = healing(breach)
    one.heal()

    check_refused(one)
    assert one.kinds(*REPAIR[2:], *ENDS) == ["repair_proposed", "repair_unverified", "repair_waiting"]
    (waiting,), (proposed,) = one.data("repair_waiting"), one.data("repair_proposed")
    assert all(entry["rule"] in waiting["reason"] for entry in one.data("tool_refused"))
    assert proposed["diff"]
    assert one.command("reject", repairId=waiting["repairId"]) == 202
    assert one.untouched()


def test_beyond_the_fence_a_person_may_say_yes(healing: Begin) -> None:
    one = healing(to("http://elsewhere.test/here"))
    one.heal()
    (repair,) = one.repairs()

    assert one.command("approve", repairId=repair["repairId"]) == 202

    one.check_published("http://elsewhere.test/here")
    assert not one.n8n.sent(one.workflow_id, "retry")
    (repair,) = one.repairs()
    assert (repair["decidedBy"], repair["executionId"]) == ("person", None)
    assert repair["asked"] == [entry["rule"] for entry in repair["refusals"]]


def test_beyond_the_fence_a_suggestion_is_only_shown(healing: Begin) -> None:
    one = healing(to("http://elsewhere.test/here"), autonomy="suggest")
    one.heal()

    check_refused(one)
    assert one.state() == "unverified"
    assert one.kinds(*REPAIR[2:], *ENDS) == ["repair_proposed", "repair_unverified"]


def test_a_trial_that_failed_since_does_not_spoil_what_is_asked_for(healing: Begin) -> None:
    one = healing(to("http://elsewhere.test/here"), to(WORSE))
    one.heal()
    (repair,) = one.repairs()
    assert repair["state"] == "waiting"
    assert one.n8n.urls_put(one.workflow_id) == [WORSE, BROKEN]

    assert one.command("approve", repairId=repair["repairId"]) == 202

    one.check_published("http://elsewhere.test/here")
    assert one.command("rollback", workflowId=one.workflow_id) == 202
    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)


def test_a_cancelled_turn_asks_for_nothing(healing: Begin) -> None:
    one = healing(to("http://elsewhere.test/here"), to(FIXED))
    # Read before the turn, by the agent, by its proposal and for its draft; held when it looks again.
    held = one.n8n.hold(one.workflow_id, "get", "before", skip=4)
    one.fail()
    assert held.reached.wait(10)
    assert one.data("tool_refused")
    assert one.command("cancel") == 202
    held.release()

    assert one.ended() == "cancelled"
    assert one.state() == "failed"
    assert "repair_waiting" not in one.kinds()


def test_a_proposal_within_the_fence_may_follow(healing: Begin) -> None:
    one = healing(to("http://elsewhere.test/here"), to(FIXED))
    one.heal()

    assert len(one.data("tool_refused")) == 1
    one.check_published()


# -- what n8n makes of it


def test_a_draft_that_n8n_saves_otherwise_is_caught_and_put_back(healing: Begin, monkeypatch: Any) -> None:
    one = healing(to(FIXED))
    save, spoilt = one.n8n._save, []

    def forgets(stored: Any, body: Any, *, publish: bool) -> Any:
        if stored.public["id"] == one.workflow_id and url_of(body) == FIXED:
            spoilt.append(body)
            other = json.loads(json.dumps(body).replace(FIXED, "http://api.test/other"))
            return save(stored, other, publish=publish)
        return save(stored, body, publish=publish)

    monkeypatch.setattr(one.n8n, "_save", forgets)
    one.heal()

    assert len(spoilt) == 1
    assert not one.n8n.sent(one.workflow_id, "publish")
    assert not one.n8n.sent(one.workflow_id, "retry")
    assert "repair_verified" not in one.kinds()
    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)
    assert one.state() in ("unverified", "failed", "waiting")


def test_a_draft_that_n8n_refuses_can_be_corrected(healing: Begin) -> None:
    one = healing(to(f"{FIXED}?"), to(FIXED))
    one.n8n.spoil(one.workflow_id, "put", "status", status=400)
    one.heal()

    one.check_published()


def test_a_publication_that_n8n_refuses_ends_the_repair(healing: Begin) -> None:
    one = healing(to(FIXED))
    one.n8n.spoil(one.workflow_id, "publish", "status", times=1000, status=400)
    one.heal()

    one.wait_state("failed")
    soon(lambda: one.n8n.is_clean(one.workflow_id), what="the draft put back")
    assert one.kinds(*ENDS) == ["repair_failed"]
    assert len(one.n8n.sent(one.workflow_id, "publish")) < 5


def test_production_that_follows_later_is_repaired_all_the_same(healing: Begin) -> None:
    one = healing(to(FIXED))
    one.n8n.lag_s = 0.3
    try:
        one.heal()
        soon(
            lambda: (
                one.n8n.workflows[one.workflow_id].live == one.n8n.draft(one.workflow_id)["versionId"]
                or (one.n8n._settled(one.n8n.workflows[one.workflow_id]))
            )
        )
    finally:
        one.n8n.lag_s = 0.0
    one.check_published()


# -- undo


def test_an_undo_restores_exactly_and_publishes(healing: Begin) -> None:
    one = healing(to(FIXED))
    one.heal()
    one.check_published()

    assert one.command("rollback", workflowId=one.workflow_id) == 202

    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)
    assert one.n8n.is_clean(one.workflow_id)
    assert url_of(one.shown("active")) == BROKEN
    assert one.kinds().count("rolled_back") == 1
    assert one.state() == "rolled_back"
    assert one.command("rollback", workflowId=one.workflow_id) == 409


def test_an_undo_takes_back_settings_too(healing: Begin) -> None:
    one = healing(url=FIXED)
    settings = {"timezone": "Europe/Berlin", "executionTimeout": 60, "saveDataSuccessExecution": "all"}
    (updated,) = one.chat(["update_workflow", {"workflowId": one.workflow_id, "settings": settings}])
    assert updated["ok"], updated
    assert canonical_hash(one.n8n.draft(one.workflow_id)) != canonical_hash(one.before)

    assert one.command("rollback", workflowId=one.workflow_id) == 202

    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)


def test_an_undo_that_n8n_refuses_is_told_and_not_in_the_way(healing: Begin) -> None:
    one = healing(to(FIXED))
    one.heal()
    one.n8n.spoil(one.workflow_id, "put", "status", status=400)

    assert one.command("rollback", workflowId=one.workflow_id) >= 400
    assert one.data("notice")[-1]["level"] == "error"
    one.check_published()

    assert one.command("rollback", workflowId=one.workflow_id) == 202
    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)


def test_an_undo_during_the_trial_ends_the_repair_first(healing: Begin) -> None:
    one = healing(to(FIXED))
    held = one.n8n.hold(one.workflow_id, "retry", "after")
    one.fail()
    assert held.reached.wait(10)

    # n8n answers a retry when its run has ended, which may take long: the undo does not wait for it.
    assert one.command("rollback", workflowId=one.workflow_id) == 202

    assert one.ended() == "cancelled"
    held.release()
    one.wait_state("failed")
    soon(lambda: canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before), what="as it was")
    assert one.kinds().count("rolled_back") == 1
    assert one.n8n.is_clean(one.workflow_id)
    assert "repair_published" not in one.kinds()


def test_a_socket_acts_while_n8n_is_slow_with_an_approval(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="ask")
    one.heal()
    (repair,) = one.repairs()
    held = one.n8n.hold(one.workflow_id, "publish", "before")
    decision = {"repairId": repair["repairId"]}
    one.client.send({"type": "approve", **decision}).send({"type": "reject", **decision})
    assert held.reached.wait(10)

    one.client.send({"type": "ping"}).receive("pong")
    assert one.client.send({"type": "cancel"}).receive("error")["code"] == "conflict"
    one.client.say("[]").receive("turn_finished")
    one.client.send({"type": "set_autonomy", "autonomy": "auto"}).receive("autonomy_changed")
    assert "repair_published" not in one.kinds()
    held.release()

    one.client.receive("repair_published")
    assert one.client.receive("error")["code"] == "conflict", "it was approved before it was rejected"
    assert one.data("repair_decided") == [{"repairId": repair["repairId"], "decision": "approved", "by": "person"}]


def test_a_rollback_that_was_sent_after_an_approval_undoes_it(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="ask")
    one.heal()
    (repair,) = one.repairs()
    held = one.n8n.hold(one.workflow_id, "publish", "before")
    one.client.send({"type": "approve", "repairId": repair["repairId"]})
    one.client.send({"type": "rollback", "workflowId": one.workflow_id})
    assert held.reached.wait(10)
    one.client.sync()
    assert "rolled_back" not in one.kinds()

    held.release()

    one.client.receive("rolled_back")
    assert one.kinds().index("repair_published") < one.kinds().index("rolled_back")
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN


def test_an_approval_is_carried_out_although_its_socket_goes(healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="ask")
    one.heal()
    (repair,) = one.repairs()
    held = one.n8n.hold(one.workflow_id, "publish", "before")
    one.client.send({"type": "approve", "repairId": repair["repairId"]})
    assert held.reached.wait(10)

    one.client.drop()
    held.release()

    soon(lambda: "repair_published" in one.kinds(), what="published")
    one.check_published()


def test_a_cancelled_trial_puts_the_draft_back(healing: Begin) -> None:
    one = healing(to(FIXED))
    held = one.n8n.hold(one.workflow_id, "retry", "after")
    one.fail()
    assert held.reached.wait(10)

    assert one.command("cancel") == 202
    assert one.ended() == "cancelled"

    # The run that tried it is still going, and n8n has answered nothing.
    one.wait_state("failed")
    held.release()
    assert one.n8n.is_clean(one.workflow_id)
    assert url_of(one.n8n.draft(one.workflow_id)) == BROKEN


@pytest.mark.parametrize("step", ["put", "retry"])
def test_a_session_that_is_ended_during_the_trial_leaves_no_draft(
    healing: Begin, home: tuple[BridgeServer, HealN8n, Path], step: Any
) -> None:
    one = healing(to(FIXED))
    held = one.n8n.hold(one.workflow_id, step, "after")
    one.fail()
    assert held.reached.wait(10)

    assert one.client.http("DELETE", "/sessions/{sid}").status == 204
    held.release()

    soon(lambda: one.n8n.is_clean(one.workflow_id), what="the draft put back")
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN
    assert not one.n8n.sent(one.workflow_id, "publish")


def test_nonsense_is_refused_and_nothing_is_written(healing: Begin) -> None:
    one = healing({"workflow": {"nodes": [], "connections": {}}})
    one.heal()

    assert one.untouched()
    assert one.state() == "failed"


# -- adopting, and the tools of a chat


def test_an_adopted_workflow_reports_to_the_bridge(healing: Begin, home: tuple[BridgeServer, HealN8n, Path]) -> None:
    one = healing(to(FIXED))

    settings = one.n8n.draft(one.workflow_id)["settings"]
    handler = one.n8n.workflows[settings["errorWorkflow"]].public
    assert handler["active"] is True
    again = one.client.http("POST", "/sessions/{sid}/workflows", {"workflowId": one.workflow_id})
    assert again.status == 200
    assert again.json["name"] == f"Orders {one.path}"
    assert not one.n8n.writes(one.workflow_id)


def test_what_n8n_has_not_is_not_adopted(healing: Begin) -> None:
    one = healing()
    for unknown in ("unknown0000000000", "no/id", "x" * 80):
        assert one.client.http("POST", "/sessions/{sid}/workflows", {"workflowId": unknown}).status == 404, unknown


def test_another_sessions_workflow_is_refused_before_any_write(
    healing: Begin, home: tuple[BridgeServer, HealN8n, Path]
) -> None:
    one, other = healing(), Healing(*home).open()
    one.n8n.edit(one.workflow_id, settings={"errorWorkflow": "DEFAULT"})
    assert "errorWorkflow" not in one.n8n.draft(one.workflow_id)["settings"]

    answer = other.client.http("POST", "/sessions/{sid}/workflows", {"workflowId": one.workflow_id})

    assert answer.status == 409
    assert not one.n8n.writes(one.workflow_id)
    other.close()


def test_a_chat_builds_changes_publishes_tests_and_stops(healing: Begin) -> None:
    one = healing()
    path = f"built-{one.path}"
    created, published = one.chat(["create_workflow", workflow(path)], ["publish_workflow", {"workflowId": "$id"}])
    assert created["ok"], created
    assert published["ok"], published
    workflow_id = json.loads(created["text"])["workflowId"]
    assert one.n8n.active(workflow_id)["nodes"]
    assert one.n8n.draft(workflow_id)["settings"]["errorWorkflow"]
    assert one.client.http("GET", "/sessions/{sid}").json["workflows"][0]["workflowId"]
    one.n8n.call_webhook(path)
    (failed,) = one.n8n.runs(workflow_id, "webhook")

    (told,) = one.chat(["get_execution", {"workflowId": workflow_id, "executionId": failed["id"]}])
    assert told["ok"] and json.loads(told["text"])["failedNode"] == "Ask"

    nodes = workflow(path, url=FIXED)["nodes"]
    updated, tested = one.chat(
        ["update_workflow", {"workflowId": workflow_id, "nodes": nodes}],
        ["test_workflow", {"workflowId": workflow_id, "executionId": failed["id"]}],
    )
    assert updated["ok"], updated
    assert json.loads(tested["text"])["outcome"] == "verified", tested
    assert url_of(one.n8n.active(workflow_id)) == BROKEN
    again, stopped, foreign = one.chat(
        ["publish_workflow", {"workflowId": workflow_id}],
        ["unpublish_workflow", {"workflowId": workflow_id}],
        ["get_execution", {"workflowId": one.workflow_id, "executionId": failed["id"]}],
    )
    assert again["ok"] and stopped["ok"]
    assert not foreign["ok"]
    assert one.n8n.draft(workflow_id)["active"] is False
    assert url_of(one.n8n.draft(workflow_id)) == FIXED


def test_another_sessions_workflow_is_out_of_reach_of_the_chat(
    healing: Begin, home: tuple[BridgeServer, HealN8n, Path]
) -> None:
    one, other = healing(), healing()
    theirs = {"workflowId": other.workflow_id}
    results = one.chat(
        ["get_workflow", theirs],
        ["update_workflow", {**theirs, "name": "Mine"}],
        ["publish_workflow", theirs],
        ["unpublish_workflow", theirs],
        ["test_workflow", {**theirs, "executionId": "1"}],
        ["get_execution", {**theirs, "executionId": "1"}],
    )
    assert [result["ok"] for result in results] == [False] * 6
    assert other.untouched()
