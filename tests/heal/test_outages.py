"""A service that is away: the failed run is repeated plainly, a few times, before anybody is bothered."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.heal.conftest import planned_bridge
from tests.heal.rig import FIXED, Healing, HealN8n, healing_n8n, soon, to
from tests.support.server import BridgeServer

AWAY = "http://api.test/away"
TOUGH = {"retryOnFail": True, "maxTries": 2}
Begin = Callable[..., Healing]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, HealN8n, Path]]:
    folder = tmp_path_factory.mktemp("outages")
    pauses = {"HEAL_OUTAGE_RETRY_SECONDS": "0.2,0.2,0.2", "WEB_CONCURRENCY": 2}
    with healing_n8n() as n8n, planned_bridge(n8n, folder, **pauses) as server:
        yield server, n8n, folder


def outage(healing: Begin, *outcomes: Any, **made: Any) -> Healing:
    """A workflow whose service answers so, one for each try; it is tried twice in each run."""
    one = healing(to(FIXED), url=AWAY, ask=TOUGH, **made)
    one.n8n.http[AWAY] = list(outcomes)
    return one


def repetitions(one: Healing) -> list[str]:
    return [str(run["status"]) for run in one.n8n.runs(one.workflow_id, "retry")]


def test_the_run_is_repeated_until_the_service_is_back(healing: Begin) -> None:
    one = outage(healing, 503, 503, 503, 503, 200)
    failed = one.fail()

    told = one.receive("notice")

    assert told["level"] == "info"
    first, second = one.n8n.runs(one.workflow_id, "retry")
    assert second["id"] in told["text"]
    assert [first["status"], second["status"]] == ["error", "success"]
    assert {first["retryOf"], second["retryOf"]} == {failed}
    assert {run["workflowVersionId"] for run in (first, second)} == {one.n8n.draft(one.workflow_id)["versionId"]}
    assert not any(request.body["loadWorkflow"] for request in one.n8n.sent(one.workflow_id, "retry"))
    assert one.state() == "not_a_bug"
    (diagnosed,) = one.data("repair_diagnosed")
    assert diagnosed["kind"] == "remote_outage"
    assert not {"turn_started", "repair_started", "repair_failed"} & set(one.kinds())
    assert not one.n8n.sent(one.workflow_id, "put")
    one.n8n.settle()
    # The repetition's own failure was an echo.
    assert one.repairs()[0]["retries"] == 1
    assert [error["repeatCount"] for error in one.data("workflow_error")] == [1, 1]


def test_after_three_a_person_is_told(healing: Begin) -> None:
    one = outage(healing, "ECONNREFUSED")
    one.fail()

    failed = one.receive("repair_failed")

    assert "stayed away" in failed["reason"]
    assert repetitions(one) == ["error"] * 3
    assert one.state() == "failed"
    assert "turn_started" not in one.kinds()
    # No attempt was used up: the next outage is met in the same way.
    assert "repair_blocked" not in one.kinds()


def test_more_failures_meanwhile_are_counted(healing: Begin) -> None:
    one = outage(healing, 503)
    one.fail()
    one.receive("repair_diagnosed")
    one.fail()

    one.receive("repair_failed")

    own = [error for error in one.data("workflow_error") if "retryOf" not in error["execution"]]
    assert [error["repeatCount"] for error in own] == [1, 2]
    assert len(one.repairs()) == 1


def test_what_sends_is_left_to_a_person(healing: Begin) -> None:
    one = outage(healing, 503, method="POST")
    one.fail()

    assert one.receive("repair_diagnosed")["kind"] == "remote_outage"
    one.wait_state("not_a_bug")
    assert repetitions(one) == []


def test_what_a_person_has_repeated_is_not_repeated_again(healing: Begin) -> None:
    one = outage(healing, 503, 503, 200)
    held = one.n8n.hold(one.workflow_id, "run", "before")
    failed = one.fail()
    assert held.reached.wait(10)
    one.n8n.executions[failed]["retrySuccessId"] = "4711"
    held.release()

    assert "4711" in one.receive("notice")["text"]
    assert repetitions(one) == []


@pytest.mark.parametrize("autonomy", ["observe", "suggest"])
def test_the_brake_ends_the_repetitions(healing: Begin, autonomy: str) -> None:
    one = outage(healing, 503)
    held = one.n8n.hold(one.workflow_id, "retry", "after")
    one.fail()
    assert held.reached.wait(10)
    assert one.command("set_autonomy", autonomy=autonomy) == 202
    held.release()

    assert "lowered" in one.receive("notice")["text"]
    assert one.state() == "not_a_bug"
    assert repetitions(one) == ["error"]


def test_a_run_that_n8n_did_not_keep_ends_it(healing: Begin) -> None:
    one = outage(healing, 503, settings={"saveDataErrorExecution": "none"})
    one.fail()

    assert "did not keep" in one.receive("repair_failed")["reason"]
    assert repetitions(one) == []


def test_an_undo_ends_the_repetitions(healing: Begin) -> None:
    one = outage(healing, 503)
    (updated,) = one.chat(["update_workflow", {"workflowId": one.workflow_id, "name": "Mine"}])
    assert updated["ok"]
    held = one.n8n.hold(one.workflow_id, "run", "before")
    one.fail()
    assert held.reached.wait(10)

    one.command("rollback", workflowId=one.workflow_id)
    held.release()

    one.wait_state("failed")
    assert len(repetitions(one)) <= 1


def test_a_worker_that_dies_repeats_nothing_twice(healing: Begin, home: tuple[BridgeServer, HealN8n, Path]) -> None:
    server, _, _ = home
    one = outage(healing, 503, 503, 200)
    held = one.n8n.hold(one.workflow_id, "retry", "after")
    one.fail()
    assert held.reached.wait(10)
    for pid in server.worker_pids():
        os.kill(pid, signal.SIGKILL)
    held.release()
    server.wait_healthy()

    soon(lambda: one.state() == "not_a_bug", what="not a bug")
    assert repetitions(one) == ["success"]


def test_a_repetition_that_goes_on_is_not_repeated_beside_itself(tmp_path: Path) -> None:
    """Past the node that had failed it may wait for days, and another one would do the rest twice."""
    soon_late = "from app.repairs import outage\noutage.LOOK_AGAIN_S, outage.GOES_ON_S = 0.1, 0.5\n"
    with (
        healing_n8n() as n8n,
        planned_bridge(n8n, tmp_path, prelude=soon_late, HEAL_OUTAGE_RETRY_SECONDS="0.1,0.1,0.1") as server,
    ):
        one = Healing(server, n8n, tmp_path)
        n8n.http[AWAY] = [503, 503, 200]
        wait = {"type": "n8n-nodes-base.wait", "parameters": {"amount": 1, "unit": "hours"}}
        one.adopt(to(FIXED), url=AWAY, ask=TOUGH, tell=wait)
        one.fail()

        assert "goes on still" in one.receive("notice")["text"]
        assert one.state() == "not_a_bug"
        assert repetitions(one) == ["waiting"]
        one.close()


def test_a_repetition_that_never_reached_n8n_is_followed_by_the_next(healing: Begin) -> None:
    one = outage(healing, 503, 503, 200)
    one.n8n.spoil(one.workflow_id, "retry", "drop")
    one.fail()

    assert "back" in one.receive("notice")["text"]
    assert repetitions(one) == ["success"]
    assert one.repairs()[0]["retries"] == 1
