"""Turns that their worker did not end: who goes on, what is void, when it is enough, and who may write no more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from gevent.event import Event

from app.agents import AgentEvent, TextDelta, ToolStarted, TurnRequest
from app.journal import Change, Claim, StartInput
from tests.journal.steps import until
from tests.support.agents import ScriptedAgent, never, says, use, waits
from tests.turns.bench import SHORT_LEASE_S, Bench, Worker, paused_past_its_lease, two_nodes


def begun(bench: Bench, session_id: str, agent: ScriptedAgent) -> Worker:
    """A worker that runs the session's turn."""
    worker = bench.worker(agent, lease_s=SHORT_LEASE_S)
    turns = bench.types(session_id).count("turn_started")
    bench.wait(session_id, "turn_started", times=turns + 1)
    until(lambda: agent.turns, deadline_s=15)
    return worker


# -- a worker that was paused -----------------------------------------------------------------------


def test_a_worker_that_was_paused_appends_nothing_more(bench: Bench) -> None:
    session_id, gate, said = bench.session(), Event(), []

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        yield TextDelta("old", "half a ")
        gate.wait()
        for number in range(20):
            said.append(number)
            yield ToolStarted("list_workflows", f"late-{number}", {})

    bench.say(session_id)
    old = begun(bench, session_id, ScriptedAgent(script))
    bench.wait(session_id, "assistant_delta")
    paused_past_its_lease(bench, old, session_id)
    bench.worker(ScriptedAgent(says("again")))
    bench.idle(session_id)

    gate.set()
    until(lambda: said, deadline_s=15)
    old.journal.paused = False
    until(lambda: old.runner.active_turns == 0, deadline_s=15)

    log = [event.body for event in bench.log(session_id)]
    assert [body["type"] for body in log] == [
        "user_message",
        "turn_started",
        "assistant_reset",
        "turn_finished",
        "turn_started",
        "assistant_message",
        "turn_finished",
    ]
    first, second = log[1]["turnId"], log[4]["turnId"]
    assert [body.get("turnId") for body in log[1:]] == [first] * 3 + [second] * 3
    assert log[2]["data"] == {"messageId": "old"}
    assert bench.outcomes(session_id) == ["interrupted", "completed"]
    assert len(said) == 1


def test_a_worker_that_was_paused_changes_no_workflow(bench: Bench) -> None:
    session_id, gate, answers = bench.session(), Event(), []
    workflow = bench.workflow(session_id)

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        yield ToolStarted("update_workflow", "t1", {})
        gate.wait()
        answers.append(use(turn, "update_workflow", {"workflowId": workflow["id"], "name": "Overwritten"}))
        answers.append(use(turn, "create_workflow", two_nodes(name="One too many")))
        answers.append(use(turn, "list_workflows"))

    bench.say(session_id)
    old = begun(bench, session_id, ScriptedAgent(script))
    bench.wait(session_id, "tool_started")
    paused_past_its_lease(bench, old, session_id)
    holding = Event()
    bench.worker(ScriptedAgent(waits(holding)))
    bench.wait(session_id, "turn_started", times=2)

    gate.set()
    until(lambda: len(answers) == 3, deadline_s=15)
    holding.set()
    bench.idle(session_id)

    assert [answer.ok for answer in answers] == [False] * 3
    assert bench.workflows.get(workflow["id"])["name"] == workflow["name"]
    assert len(bench.journal.find("draft")) == 1
    assert bench.snapshots(workflow["id"]) == []


def test_a_paused_worker_stops_its_agent_when_it_wakes_up(bench: Bench) -> None:
    session_id, stopped = bench.session(), Event()

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        try:
            yield from never()(turn)
        finally:
            stopped.set()

    bench.say(session_id)
    old = begun(bench, session_id, ScriptedAgent(script))
    paused_past_its_lease(bench, old, session_id)
    bench.worker(ScriptedAgent(says("again")))
    bench.idle(session_id)

    old.journal.paused = False
    assert stopped.wait(10)


def test_a_lease_that_nobody_took_is_simply_renewed(bench: Bench) -> None:
    """Paused for too long, but alone: the turn goes on."""
    session_id, gate = bench.session(), Event()
    bench.say(session_id)
    begun(bench, session_id, ScriptedAgent(waits(gate)))

    time.sleep(3 * SHORT_LEASE_S)  # blocks the whole loop, as SIGSTOP does
    assert not bench.journal.held(f"session:{session_id}")
    until(lambda: bench.journal.held(f"session:{session_id}"), deadline_s=15)
    gate.set()
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["completed"]


# -- a worker that is gone --------------------------------------------------------------------------


def test_a_turn_whose_worker_was_lost_is_run_again(bench: Bench) -> None:
    session_id = bench.session()
    bench.say(session_id)
    agent = ScriptedAgent(never(shown="half"))
    begun(bench, session_id, agent).vanish()

    bench.worker(ScriptedAgent(says("again")))
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["interrupted", "completed"]


def test_the_third_lost_worker_is_the_last(bench: Bench) -> None:
    session_id = bench.session()
    bench.say(session_id, "kills its worker")
    bench.say(session_id, "does not")
    for _ in range(3):
        begun(bench, session_id, ScriptedAgent(never())).vanish()

    good = ScriptedAgent(says("fine"))
    bench.worker(good)
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["interrupted", "interrupted", "failed", "completed"]
    assert [turn.prompt for turn in good.turns] == ["does not"]
    failed = bench.data(session_id, "turn_finished")[2]
    assert "3 times" in failed["error"]


def test_a_cancel_survives_its_worker(bench: Bench) -> None:
    session_id, asked = bench.session(), ScriptedAgent(says("not asked"))
    bench.say(session_id)
    worker = begun(bench, session_id, ScriptedAgent(never(shown="half")))
    bench.wait(session_id, "assistant_delta")
    worker.vanish()
    bench.cancel(session_id)

    bench.worker(asked)
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["cancelled"]
    assert asked.turns == []
    assert bench.types(session_id)[-2:] == ["assistant_reset", "turn_finished"]


def test_a_claim_that_was_never_begun_counts_for_nothing(bench: Bench) -> None:
    session_id = bench.session()
    bench.say(session_id)
    for _ in range(4):
        assert until(lambda: bench.journal.claim("lost", ttl_s=0.05), deadline_s=15)

    bench.worker(ScriptedAgent(says("hello")))
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["completed"]


@pytest.mark.parametrize("lost_after", ["draft", "registration"])
def test_a_workflow_that_the_lost_turn_made_is_not_made_again(bench: Bench, lost_after: str) -> None:
    session_id, gate = bench.session(), Event()

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        use(turn, "create_workflow", two_nodes())
        yield from waits(gate)(turn)

    bench.say(session_id)
    lost = bench.worker(ScriptedAgent(script), lease_s=SHORT_LEASE_S)
    if lost_after == "draft":
        _vanish_after(lost, "draft")
        until(lambda: bench.journal.find("draft"), deadline_s=15)
    else:
        bench.wait(session_id, "workflow_registered")
        lost.vanish()
    gate.set()
    bench.worker(ScriptedAgent(script))
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["interrupted", "completed"]
    assert len(bench.data(session_id, "workflow_registered")) == 1
    assert len(bench.journal.find("draft")) == 1


def _vanish_after(worker: Worker, kind: str) -> None:
    commit = worker.journal.commit

    def fatal(change: Change):  # type: ignore[no-untyped-def]
        committed = commit(change)
        if any(put.kind == kind for put in change.puts):
            worker.vanish()
        return committed

    worker.journal.commit = fatal  # type: ignore[method-assign]


@pytest.mark.parametrize("lost_after", ["snapshot", "draft"])
def test_an_undo_goes_back_behind_a_change_that_was_run_twice(bench: Bench, lost_after: str) -> None:
    session_id, gate = bench.session(), Event()
    workflow = bench.workflow(session_id)

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        wanted = two_nodes(retryOnFail=True)
        use(turn, "update_workflow", {"workflowId": workflow["id"], "nodes": wanted["nodes"]})
        yield from waits(gate)(turn)

    bench.say(session_id)
    lost = bench.worker(ScriptedAgent(script), lease_s=SHORT_LEASE_S)
    _vanish_after(lost, lost_after)
    until(lambda: bench.snapshots(workflow["id"]), deadline_s=15)
    gate.set()
    last = bench.worker(ScriptedAgent(script))
    bench.idle(session_id)

    assert bench.workflows.get(workflow["id"])["nodes"][1]["retryOnFail"] is True
    assert len(bench.snapshots(workflow["id"])) == 1
    last.decisions.roll_back(session_id, workflow["id"], None)
    assert bench.workflows.get(workflow["id"])["nodes"] == workflow["nodes"]


# -- a worker that goes -----------------------------------------------------------------------------


def test_a_drain_parks_the_turn_and_counts_nothing(bench: Bench) -> None:
    session_id = bench.session()
    bench.say(session_id)
    leaving = bench.worker(ScriptedAgent(never(shown="half")), lease_s=300)
    bench.wait(session_id, "assistant_delta")

    leaving.runner.stop()
    (parked,) = bench.pending(session_id)
    assert (parked.turn_id, parked.takeovers) == (None, 0)
    assert bench.outcomes(session_id) == ["interrupted"]
    assert bench.types(session_id)[-2:] == ["assistant_reset", "turn_finished"]

    assert not bench.journal.held(f"session:{session_id}"), "the next one need not wait for the lease"

    bench.worker(ScriptedAgent(says("again")))
    bench.idle(session_id)
    assert bench.outcomes(session_id) == ["interrupted", "completed"]


def test_any_number_of_drains_is_no_reason_to_give_up(bench: Bench) -> None:
    session_id = bench.session()
    bench.say(session_id)
    for _ in range(4):
        begun(bench, session_id, ScriptedAgent(never())).runner.stop()

    bench.worker(ScriptedAgent(says("at last")))
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["interrupted"] * 4 + ["completed"]


def test_a_drain_does_not_forget_the_workers_that_were_lost(bench: Bench) -> None:
    session_id = bench.session()
    bench.say(session_id)
    begun(bench, session_id, ScriptedAgent(never())).vanish()
    begun(bench, session_id, ScriptedAgent(never())).vanish()
    begun(bench, session_id, ScriptedAgent(never())).runner.stop()
    begun(bench, session_id, ScriptedAgent(never())).vanish()

    bench.worker(ScriptedAgent(says("not asked")))
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["interrupted"] * 3 + ["failed"]


def test_a_drain_does_not_forget_a_cancel(bench: Bench) -> None:
    session_id, worker = bench.session(), None

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        try:
            yield from never()(turn)
        finally:
            bench.cancel(session_id)  # comes while the turn is being stopped

    bench.say(session_id)
    worker = begun(bench, session_id, ScriptedAgent(script))
    worker.runner.stop()

    assert bench.outcomes(session_id) == ["cancelled"]
    assert bench.pending(session_id) == []


def test_a_draining_worker_claims_nothing_more(bench: Bench) -> None:
    session_id, other, gate = bench.session(), bench.session(), Event()
    bench.say(session_id)
    leaving = begun(bench, session_id, ScriptedAgent(waits(gate)))
    leaving.runner.drain()
    bench.say(other)
    bench.say(session_id)

    gate.set()
    until(lambda: leaving.runner.active_turns == 0, deadline_s=15)
    assert bench.outcomes(session_id) == ["completed"]
    assert bench.types(other) == ["user_message"]

    bench.worker(ScriptedAgent(says("hello")))
    bench.idle(other)
    bench.idle(session_id)


def test_a_claim_that_comes_back_during_a_drain_is_given_back(bench: Bench) -> None:
    session_id, asked = bench.session(), ScriptedAgent(never())
    leaving = bench.worker(asked)
    claim = leaving.journal.claim

    def slow(holder: str, **options: Any) -> Claim | None:
        found = claim(holder, **options)
        if found is not None:
            leaving.runner.drain()
        return found

    leaving.journal.claim = slow  # type: ignore[method-assign]
    bench.say(session_id)
    until(lambda: leaving.runner._draining, deadline_s=15)
    until(lambda: not bench.journal.held(f"session:{session_id}"), deadline_s=2)

    assert asked.turns == []
    assert bench.types(session_id) == ["user_message"]


def test_a_parked_input_can_be_started_by_anybody(bench: Bench) -> None:
    """The input itself, as the journal has it: nothing in a worker's memory is needed."""
    session_id = bench.session()
    bench.say(session_id)
    claim = bench.journal.claim("worker", ttl_s=60)
    assert claim is not None
    bench.journal.commit(Change(session_id, start=StartInput(claim.input.input_id, "turn-1"), fences=[claim.lease]))
    bench.journal.commit(Change(session_id, start=StartInput(claim.input.input_id, None), fences=[claim.lease]))
    bench.journal.release(claim.lease)

    bench.worker(ScriptedAgent(says("hello")))
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["completed"]
