"""Failures that no callback brought, or that came both ways: each is told once, and repaired."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.n8n import _ROUTES
from tests.heal.conftest import planned_bridge
from tests.heal.rig import FIXED, LIMIT_S, Healing, HealN8n, healing_n8n, soon, to, workflow
from tests.support.server import BridgeServer

INTERVAL_S = 0.2
DOWN_S = float(os.environ.get("BRIDGE_DOWN_S", "3"))
"""How long the bridge is away in the test of that; 60 for the whole story."""
Json = dict[str, Any]
Adopt = Callable[..., Healing]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, HealN8n, Path]]:
    folder = tmp_path_factory.mktemp("poll")
    with healing_n8n() as n8n, planned_bridge(n8n, folder, N8N_POLL_INTERVAL_SECONDS=INTERVAL_S) as server:
        yield server, n8n, folder


@pytest.fixture
def n8n(home: tuple[BridgeServer, HealN8n, Path]) -> Iterator[HealN8n]:
    """Calls back again after the test, whatever was done to it."""
    found = home[1]
    yield found
    found.calls_back, found.scopes = True, None
    found.release_callbacks()
    found.settle()


def rounds(n8n: HealN8n) -> int:
    return sum(1 for request in list(n8n.requests) if request.query.get("status") == "canceled")


def let_it_look(n8n: HealN8n, times: int = 3) -> None:
    """Wait until that many rounds have begun; all but the last have ended."""
    before = rounds(n8n)
    soon(lambda: rounds(n8n) >= before + times, what="rounds of the poll")


def errors(one: Healing) -> list[Json]:
    return one.data("workflow_error")


def told(one: Healing, count: int = 1) -> list[Json]:
    soon(lambda: len(errors(one)) >= count, what=f"{count} errors")
    return errors(one)


def read_whole(n8n: HealN8n, workflow_id: str) -> int:
    return sum(1 for request in n8n.sent(workflow_id, "run") if request.query.get("includeData"))


def test_what_failed_while_the_bridge_was_down_is_repaired_once_each(tmp_path: Path) -> None:
    with healing_n8n() as n8n, planned_bridge(n8n, tmp_path) as server:
        lost, given_up, late = ones = [Healing(server, n8n, tmp_path).adopt(to(FIXED)) for _ in range(3)]
        server.stop()
        n8n.calls_back = False
        lost.fail()
        n8n.calls_back, n8n.give_up_s = True, 0.1
        given_up.fail()
        n8n.settle()
        n8n.give_up_s = 600.0
        late.fail()
        time.sleep(DOWN_S)  # it is this long that is asked for
        server.start()

        for one in ones:
            told(one)
            one.wait_state("published")
        n8n.settle()
        for one in ones:
            assert len(errors(one)) == 1
            assert len(one.repairs()) == 1
            one.check_published()
        assert errors(lost)[0]["source"] == errors(given_up)[0]["source"] == "poll"
        assert n8n.deliveries[-1].status in (200, 202)


def test_a_callback_that_came_is_not_told_again_and_its_run_not_read(n8n: HealN8n, healing: Adopt) -> None:
    one = healing(autonomy="observe")

    run_id = one.fail()
    n8n.settle()
    let_it_look(n8n)

    (error,) = errors(one)
    assert error["execution"]["id"] == run_id
    assert read_whole(n8n, one.workflow_id) == (0 if error["source"] == "callback" else 1)


def test_a_callback_that_comes_after_the_poll_is_a_duplicate(n8n: HealN8n, healing: Adopt) -> None:
    one = healing(to(FIXED))
    n8n.hold_callbacks()
    run_id = one.fail()
    (error,) = told(one)

    n8n.release_callbacks()
    n8n.settle()

    assert (error["source"], error["execution"]["id"]) == ("poll", run_id)
    assert error["execution"]["url"].endswith(f"/workflow/{one.workflow_id}/executions/{run_id}")
    assert error["error"]["node"]["name"] == "Ask"
    assert n8n.deliveries[-1].status == 200
    one.wait_state("published")
    assert len(errors(one)) == 1


def test_a_crash_is_found(n8n: HealN8n, healing: Adopt) -> None:
    one = healing(autonomy="observe")
    n8n.calls_back = False

    n8n.crash(one.workflow_id, node="Ask")

    (error,) = told(one)
    assert error["error"]["name"] == "WorkflowCrashedError"
    assert error["execution"]["lastNodeExecuted"] == "Ask"


def test_a_run_that_was_stopped_is_a_failure_only_where_its_time_was_up(n8n: HealN8n, healing: Adopt) -> None:
    limited = healing(autonomy="observe", settings={"executionTimeout": 2})
    unlimited = healing(autonomy="observe")

    n8n.cancel(limited.workflow_id, node="Prepare", ran_s=1.0)
    n8n.cancel(unlimited.workflow_id, node="Prepare", ran_s=100.0)
    timed_out = n8n.cancel(limited.workflow_id, node="Prepare", ran_s=2.005)

    (error,) = told(limited)
    assert error["execution"]["id"] == timed_out
    assert error["error"]["name"] == "ExecutionTimeoutError" and "2 s" in error["error"]["message"]
    let_it_look(n8n)
    assert not errors(unlimited) and len(errors(limited)) == 1


def test_a_run_that_fails_after_later_ones_were_told_is_found(n8n: HealN8n, healing: Adopt) -> None:
    slow, quick = healing(autonomy="observe"), healing(autonomy="observe")
    n8n.calls_back = False
    n8n.hold_runs()
    call = threading.Thread(target=n8n.call_webhook, args=(slow.path, {}))
    try:
        call.start()
        soon(lambda: n8n.runs(slow.workflow_id), what="a run that goes on")
        n8n.crash(quick.workflow_id, node="Ask")
        told(quick)
        let_it_look(n8n)
        assert not errors(slow)
    finally:
        n8n.release_runs()
        call.join(LIMIT_S)

    (error,) = told(slow)

    assert int(error["execution"]["id"]) < int(errors(quick)[0]["execution"]["id"])
    # It was passed, and looked at by its own id.
    assert any(not request.query for request in n8n.sent(slow.workflow_id, "run"))


def test_a_triggers_failure_is_told_once_whichever_way_is_first(n8n: HealN8n, healing: Adopt) -> None:
    by_callback, by_poll = healing(autonomy="observe"), healing(autonomy="observe")
    n8n.fail_trigger(by_callback.workflow_id, message="the feed is gone")
    n8n.settle()
    n8n.hold_callbacks()
    n8n.fail_trigger(by_poll.workflow_id, message="the feed is gone")
    (error,) = told(by_poll)
    n8n.release_callbacks()
    n8n.settle()
    let_it_look(n8n)

    assert (error["source"], error["trigger"]["mode"]) == ("poll", "trigger")
    assert error["error"]["message"] == "the feed is gone" and error["error"]["node"]["name"] == "Hook"
    assert n8n.deliveries[-1].status == 200
    assert len(errors(by_poll)) == len(errors(by_callback)) == 1
    assert errors(by_callback)[0]["signature"] != error["signature"]  # of another workflow


def test_of_many_failures_of_a_trigger_each_is_told_once(n8n: HealN8n, healing: Adopt) -> None:
    one = healing(autonomy="observe")
    n8n.hold_callbacks()
    for _ in range(3):
        n8n.fail_trigger(one.workflow_id, message="the feed is gone")
    told(one, 3)
    n8n.calls_back = False
    n8n.fail_trigger(one.workflow_id, message="the feed is gone")
    n8n.calls_back = True
    n8n.fail_trigger(one.workflow_id, message="the feed is gone")
    n8n.release_callbacks()
    n8n.settle()
    told(one, 5)
    let_it_look(n8n)

    assert len(errors(one)) == 5
    assert len({error["signature"] for error in errors(one)}) == 1
    assert [error["repeatCount"] for error in errors(one)] == [1, 2, 3, 4, 5]


def test_workflows_of_nobody_are_left_alone(n8n: HealN8n, healing: Adopt) -> None:
    healing(autonomy="observe")
    strange = n8n.add(workflow("nobodys"))

    n8n.crash(strange, node="Ask")
    let_it_look(n8n)

    assert n8n.sent(strange, "run") == []


def test_a_run_that_is_deleted_meanwhile_is_passed_over(
    home: tuple[BridgeServer, HealN8n, Path], n8n: HealN8n, healing: Adopt
) -> None:
    one, broken_off = healing(autonomy="observe"), home[0].log_lines(chore="poll")
    n8n.calls_back = False
    hold = n8n.hold(one.workflow_id, "run", "before")
    gone = n8n.crash(one.workflow_id, node="Ask")
    assert hold.reached.wait(LIMIT_S)

    n8n.remove_run(gone)
    hold.release()
    kept = n8n.crash(one.workflow_id, node="Ask")

    assert [error["execution"]["id"] for error in told(one)] == [kept]
    assert home[0].log_lines(chore="poll") == broken_off


def test_a_run_that_cannot_be_read_holds_up_no_other_and_is_read_later(n8n: HealN8n, healing: Adopt) -> None:
    bad, good = healing(autonomy="observe"), healing(autonomy="observe")
    n8n.calls_back = False
    spoil = n8n.spoil(bad.workflow_id, "run", "status", times=1_000)

    n8n.crash(bad.workflow_id, node="Ask")
    n8n.crash(good.workflow_id, node="Ask")
    told(good)
    let_it_look(n8n)
    assert not errors(bad)
    spoil.times = 0

    assert len(told(bad)) == 1


def test_a_key_that_may_not_list_runs_is_said_once(
    home: tuple[BridgeServer, HealN8n, Path], n8n: HealN8n, healing: Adopt
) -> None:
    one = healing(autonomy="observe")
    n8n.calls_back = False
    n8n.scopes = {scope for _, _, scope, _, _ in _ROUTES} - {"execution:list"}
    n8n.crash(one.workflow_id, node="Ask")
    refused = n8n.count("GET", "/executions$")
    soon(lambda: n8n.count("GET", "/executions$") > refused + 3, what="several rounds")
    n8n.scopes = None

    assert len(told(one)) == 1
    lines = [line for line in home[0].log_lines() if "cannot be looked for" in line["message"]]
    assert len(lines) == 1 and "scopes" in lines[0]["message"] and lines[0]["level"] == "warning"


def test_n8n_is_asked_again_when_it_is_back(
    home: tuple[BridgeServer, HealN8n, Path], n8n: HealN8n, healing: Adopt
) -> None:
    one = healing(autonomy="observe")
    n8n.calls_back = False
    n8n.go_down()
    try:
        n8n.crash(one.workflow_id, node="Ask")
        failed = len(home[0].log_lines(chore="poll"))
        soon(lambda: len(home[0].log_lines(chore="poll")) > failed, what="a round without n8n")
    finally:
        n8n.come_back()

    assert len(told(one)) == 1


def test_a_restart_goes_on_where_the_last_round_ended(tmp_path: Path) -> None:
    with (
        healing_n8n() as n8n,
        planned_bridge(n8n, tmp_path, N8N_POLL_INTERVAL_SECONDS=INTERVAL_S) as server,
    ):
        one = Healing(server, n8n, tmp_path).adopt(autonomy="observe")
        n8n.calls_back = False
        n8n.crash(one.workflow_id, node="Ask")
        stopped = n8n.cancel(one.workflow_id, node="Ask", ran_s=1.0)
        told(one)
        let_it_look(n8n, 4)
        reads = read_whole(n8n, one.workflow_id)
        server.stop()

        server.start()
        let_it_look(n8n)

        assert read_whole(n8n, one.workflow_id) == reads
        assert stopped not in {error["execution"]["id"] for error in errors(one)}
        n8n.crash(one.workflow_id, node="Ask")
        assert len(told(one, 2)) == 2


@pytest.mark.parametrize("death", ["before workflow_error 2", "after workflow_error 2", "before put:poll_cursor 1"])
def test_a_worker_killed_in_the_middle_of_a_round_leaves_the_rest_to_the_next(tmp_path: Path, death: str) -> None:
    # The interval is an hour: it is the round at the next worker's start that goes on.
    with healing_n8n() as n8n, planned_bridge(n8n, tmp_path, N8N_POLL_INTERVAL_SECONDS=3600) as server:
        ones = [Healing(server, n8n, tmp_path).adopt(to(FIXED)) for _ in range(3)]
        server.stop()
        n8n.calls_back = False
        for one in ones:
            one.fail()
        die = tmp_path / "die"
        die.write_text(death)
        server.start()

        soon(lambda: not die.exists(), what="its death")
        soon(lambda: len(server.log_lines("worker started")) == 3, what="the one that follows it")
        for one in ones:
            told(one)
            one.wait_state("published")
            assert len(errors(one)) == len(one.repairs()) == 1


def test_two_workers_tell_each_failure_once(tmp_path: Path) -> None:
    with (
        healing_n8n() as n8n,
        planned_bridge(n8n, tmp_path, N8N_POLL_INTERVAL_SECONDS=INTERVAL_S, WEB_CONCURRENCY=2) as server,
    ):
        ones = [Healing(server, n8n, tmp_path).adopt(autonomy="observe") for _ in range(4)]
        for _ in range(5):
            for one in ones:
                n8n.fail(one.workflow_id, node="Ask", message="boom")
                n8n.fail_trigger(one.workflow_id, message="the feed is gone")
        n8n.settle()
        let_it_look(n8n, 4)

        for one in ones:
            runs = [run["id"] for run in n8n.runs(one.workflow_id) if run["startedAt"]]
            assert sorted(e["execution"]["id"] for e in errors(one) if e.get("execution")) == sorted(runs)
            assert len([e for e in errors(one) if e.get("trigger")]) == 5


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    with healing_n8n() as n8n, planned_bridge(n8n, tmp_path, N8N_POLL_INTERVAL_SECONDS=0) as server:
        one = Healing(server, n8n, tmp_path).adopt(autonomy="observe")
        n8n.calls_back = False
        one.fail()
        n8n.calls_back = True
        n8n.fail_trigger(one.workflow_id, message="the feed is gone")
        n8n.settle()

        assert len(errors(one)) == 1
        assert n8n.count("GET", "/executions") == 0
