"""Repairs as turns: what an agent may propose, what becomes of it, and when there is no next attempt."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from app.agents import AgentEvent, Finished, ToolFinished, ToolStarted, TurnRequest
from app.agents.mcp_client import ToolAnswer
from app.agents.offline import OfflineAgent
from app.errors import ConflictError
from app.journal import Change, Postpone
from app.journal.records import Ceiling, ChildFailure, Registration, Repair
from app.n8n.errors import N8nFailedError, N8nKeyError
from app.repairs.attempt import MAX_AWAY
from tests.fakes.turn_tools import off_loop
from tests.journal.steps import until
from tests.support.agents import Script, ScriptedAgent, never, says, use, waits
from tests.support.client import failure
from tests.turns.bench import SHORT_LEASE_S, Bench, Worker, two_nodes

Edit = Callable[[dict[str, Any]], None]


def retries(workflow: dict[str, Any]) -> None:
    workflow["nodes"][1]["retryOnFail"] = True


def proposes(*changes: Edit, answers: list[ToolAnswer] | None = None, then: Script | None = None) -> Script:
    """Proposes the workflow with each of these changes in turn."""

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        for number, change in enumerate(changes):
            body = two_nodes()
            change(body)
            yield ToolStarted("propose_repair", f"{turn.turn_id}-{number}", {})
            call_id = f"{turn.turn_id}-{number}"
            answer = use(turn, "propose_repair", {"workflow": body, "summary": "Retries."}, call_id=call_id)
            if answers is not None:
                answers.append(answer)
            yield ToolFinished("propose_repair", call_id, answer.ok, answer.text)
        yield from (then or says("done"))(turn)

    return script


def running(bench: Bench, *, autonomy: Any = "auto") -> tuple[str, str, str]:
    """A session, its workflow, and the repair that its failure began."""
    session_id = bench.session()
    workflow = bench.workflow(session_id, autonomy=autonomy)
    routed = bench.fail(workflow["id"])
    assert routed.repair == ("observed" if autonomy == "observe" else "queued")
    (repair,) = Repair.find(bench.journal, f"workflow:{workflow['id']}") or [None]
    return session_id, workflow["id"], repair.repair_id if repair else ""


def of_repair(bench: Bench, session_id: str) -> list[str]:
    return [kind for kind in bench.types(session_id) if kind.startswith(("repair_", "turn_", "tool_refused"))]


# -- proposals --------------------------------------------------------------------------------------


def test_a_proposal_waits_for_a_person(bench: Bench) -> None:
    session_id, workflow_id, repair_id = running(bench)
    answers: list[ToolAnswer] = []
    bench.worker(ScriptedAgent(proposes(retries, answers=answers)))
    bench.idle(session_id)

    assert of_repair(bench, session_id) == [
        "turn_started",
        "repair_started",
        "repair_diagnosed",
        "repair_proposed",
        "repair_unverified",
        "repair_waiting",
        "turn_finished",
    ]
    of_one = {event.body["repairId"] for event in bench.log(session_id) if event.type in of_repair(bench, session_id)}
    assert of_one == {repair_id}
    assert answers[0].ok
    assert bench.repair(repair_id).state == "waiting"
    assert bench.case(workflow_id).state == "open"
    assert "retryOnFail" not in bench.workflows.get(workflow_id)["nodes"][1]
    assert bench.outcomes(session_id) == ["completed"]


def test_the_offline_agent_proposes_retries(bench: Bench) -> None:
    class Offline:
        """Its HTTP client is not patched here, so it runs beside the loop, to the end."""

        name = "offline"

        def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
            return iter(off_loop(lambda: list(OfflineAgent().run(turn))))

    session_id, _, repair_id = running(bench)
    bench.worker(Offline())
    bench.idle(session_id)

    proposal = bench.repair(repair_id).proposal
    assert proposal is not None
    assert proposal["nodes"][1]["retryOnFail"] is True


def rename(workflow: dict[str, Any]) -> None:
    workflow["name"] = "Mine now"


def settings(workflow: dict[str, Any]) -> None:
    workflow["settings"]["timezone"] = "Europe/Berlin"


def credential(workflow: dict[str, Any]) -> None:
    workflow["nodes"][1]["credentials"] = {"httpBasicAuth": {"id": "1", "name": "Root"}}


def new_host(workflow: dict[str, Any]) -> None:
    workflow["nodes"][1]["parameters"]["url"] = "http://evil.example/a"


def new_node(workflow: dict[str, Any]) -> None:
    node = {**copy.deepcopy(workflow["nodes"][1]), "name": "Code", "type": "n8n-nodes-base.code"}
    workflow["nodes"].append(node)


def lost_node(workflow: dict[str, Any]) -> None:
    del workflow["nodes"][1]
    workflow["connections"] = {}


def switched_off(workflow: dict[str, Any]) -> None:
    workflow["nodes"][1]["disabled"] = True


@pytest.mark.parametrize(
    "change", [rename, settings, credential, new_host, new_node, lost_node, switched_off], ids=lambda c: c.__name__
)
def test_a_proposal_beyond_the_fence_is_refused_and_said_so(bench: Bench, change: Edit) -> None:
    session_id, workflow_id, repair_id = running(bench)
    answers: list[ToolAnswer] = []
    bench.worker(ScriptedAgent(proposes(change, answers=answers)))
    bench.idle(session_id)

    refused = bench.data(session_id, "tool_refused")
    assert refused
    assert {data["tool"] for data in refused} == {"propose_repair"}
    assert all(data["rule"] in answers[0].text for data in refused)
    assert not answers[0].ok
    # When the agent has ended, a person is asked.
    assert of_repair(bench, session_id)[-3:-1] == ["repair_unverified", "repair_waiting"]
    assert bench.repair(repair_id).asked == [data["rule"] for data in refused]
    assert bench.workflows.get(workflow_id)["name"] == two_nodes()["name"]


def test_a_better_proposal_may_follow_a_refused_one(bench: Bench) -> None:
    session_id, _, repair_id = running(bench)
    bench.worker(ScriptedAgent(proposes(rename, retries)))
    bench.idle(session_id)

    assert bench.repair(repair_id).state == "waiting"
    assert len(bench.data(session_id, "repair_proposed")) == 1


@pytest.mark.parametrize("settings", [7, "text", [1], 1e308])
def test_a_proposal_with_odd_settings_is_told_so(bench: Bench, settings: Any) -> None:
    session_id, _, repair_id = running(bench)
    answers: list[ToolAnswer] = []
    bench.worker(ScriptedAgent(proposes(lambda body: body.update(settings=settings), retries, answers=answers)))
    bench.idle(session_id)

    assert "settings" in answers[0].text
    assert bench.repair(repair_id).state == "waiting"


def test_an_attempt_has_three_proposals(bench: Bench) -> None:
    session_id, _, repair_id = running(bench)
    answers: list[ToolAnswer] = []
    bench.worker(ScriptedAgent(proposes(rename, settings, credential, retries, retries, answers=answers)))
    bench.idle(session_id)

    assert [answer.ok for answer in answers] == [False] * 5
    assert "used up" in answers[3].text
    # What a person is asked for is the last of those three.
    (entry,) = bench.data(session_id, "repair_proposed")[0]["diff"]
    assert (entry["node"], entry["path"]) == ("HTTP Request", "credentials")
    assert bench.repair(repair_id).proposals == 3


def test_lost_workers_do_not_bring_back_proposals(bench: Bench) -> None:
    session_id, _, repair_id = running(bench)
    lost = bench.worker(ScriptedAgent(proposes(rename, rename, then=never())), lease_s=SHORT_LEASE_S)
    until(lambda: len(bench.data(session_id, "tool_finished")) == 2, deadline_s=15)
    lost.vanish()

    answers: list[ToolAnswer] = []
    bench.worker(ScriptedAgent(proposes(rename, retries, answers=answers)))
    bench.idle(session_id)

    assert "used up" in answers[1].text
    assert bench.repair(repair_id).proposals == 3


def test_one_proposal_is_taken_however_many_are_made_at_once(bench: Bench) -> None:
    session_id, _, _ = running(bench)
    answers: list[ToolAnswer] = []

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        body = two_nodes()
        retries(body)
        arguments = {"workflow": body, "summary": "Retries."}
        calls = [gevent.spawn(use, turn, "propose_repair", arguments, call_id=f"t{n}") for n in range(4)]
        gevent.joinall(calls, raise_error=True)
        answers.extend(call.value for call in calls)
        yield Finished()

    bench.worker(ScriptedAgent(script))
    bench.idle(session_id)

    assert [answer.ok for answer in answers].count(True) == 1
    assert len(bench.data(session_id, "repair_proposed")) == 1


def broken_connection(workflow: dict[str, Any]) -> None:
    workflow["connections"] = {"Nobody": {"main": [[{"node": "HTTP Request", "type": "main", "index": 0}]]}}


def unknown_key(workflow: dict[str, Any]) -> None:
    workflow["nodes"][1]["color"] = "red"


def no_list(workflow: dict[str, Any]) -> None:
    workflow["nodes"] = "none"


def nothing(workflow: dict[str, Any]) -> None:
    """Leaves it as it is."""


@pytest.mark.parametrize("change", [broken_connection, unknown_key, no_list, nothing], ids=lambda c: c.__name__)
def test_a_proposal_that_is_no_workflow_or_no_change_is_told_why(bench: Bench, change: Edit) -> None:
    session_id, _, repair_id = running(bench)
    answers: list[ToolAnswer] = []
    bench.worker(ScriptedAgent(proposes(change, retries, answers=answers)))
    bench.idle(session_id)

    assert not answers[0].ok
    assert answers[0].text not in ("", "internal error")
    assert answers[1].ok
    assert bench.repair(repair_id).state == "waiting"


# -- autonomy ---------------------------------------------------------------------------------------


def test_the_brake_stops_a_running_repair_before_its_proposal(bench: Bench) -> None:
    session_id, _, repair_id = running(bench)
    gate, answers = Event(), []
    bench.worker(ScriptedAgent(waits(gate, then=proposes(retries, answers=answers))))
    bench.wait(session_id, "repair_started")

    bench.journal.commit(Change(puts=[Ceiling().put(autonomy="observe")]))
    gate.set()
    bench.idle(session_id)

    assert not answers[0].ok
    assert "observed" in answers[0].text
    assert "repair_proposed" not in bench.types(session_id)
    assert bench.repair(repair_id).state == "failed"


def test_a_suggestion_is_shown_and_nothing_waits(bench: Bench) -> None:
    session_id, workflow_id, repair_id = running(bench, autonomy="suggest")
    bench.worker(ScriptedAgent(proposes(retries)))
    bench.idle(session_id)

    assert of_repair(bench, session_id)[-3:] == ["repair_proposed", "repair_unverified", "turn_finished"]
    assert bench.repair(repair_id).state == "unverified"
    assert bench.case(workflow_id).state == "closed"
    assert "repair_waiting" not in bench.types(session_id)


def test_what_is_only_observed_is_not_repaired(bench: Bench) -> None:
    session_id, _, _ = running(bench, autonomy="observe")
    asked = ScriptedAgent(says("not asked"))
    bench.worker(asked)
    bench.say(session_id)
    bench.idle(session_id)

    assert [turn.kind for turn in asked.turns] == ["chat"]
    assert of_repair(bench, session_id) == ["turn_started", "turn_finished"]


# -- attempts ---------------------------------------------------------------------------------------


def test_three_failed_repairs_block_until_a_person_asks_for_one_more(bench: Bench) -> None:
    session_id = bench.session()
    workflow_id = bench.workflow(session_id)["id"]
    worker = bench.worker(ScriptedAgent(says("I do not know.")))
    for _ in range(3):
        assert bench.fail(workflow_id).repair == "queued"
        bench.idle(session_id)
    assert [d["attempt"] for d in bench.data(session_id, "repair_started")] == [1, 2, 3]
    (blocked,) = bench.data(session_id, "repair_blocked")

    assert bench.fail(workflow_id).repair == "blocked"
    assert len(bench.data(session_id, "repair_blocked")) == 1
    assert bench.pending(session_id) == []

    worker.decisions.retry(session_id, workflow_id, blocked["signature"])
    with pytest.raises(ConflictError):
        worker.decisions.retry(session_id, workflow_id, blocked["signature"])
    bench.idle(session_id)

    assert len(bench.data(session_id, "repair_started")) == 4
    assert len(bench.data(session_id, "repair_blocked")) == 2
    assert bench.fail(workflow_id).repair == "blocked"


def test_equal_errors_join_the_open_repair(bench: Bench) -> None:
    session_id, gate = bench.session(), Event()
    workflow_id = bench.workflow(session_id)["id"]
    agent = ScriptedAgent(waits(gate, then=proposes(retries)))
    bench.worker(agent)
    assert bench.fail(workflow_id).repair == "queued"
    bench.wait(session_id, "repair_started")

    assert [bench.fail(workflow_id).repair for _ in range(3)] == ["coalesced"] * 3
    gate.set()
    bench.idle(session_id)
    assert bench.fail(workflow_id).repair == "coalesced"

    assert len(agent.turns) == 1
    assert [data["repeatCount"] for data in bench.data(session_id, "workflow_error")] == [1, 2, 3, 4, 5]


def test_an_error_that_comes_back_after_its_repair_is_for_a_person(bench: Bench) -> None:
    session_id, workflow_id, repair_id = running(bench)
    worker = bench.worker(ScriptedAgent(proposes(retries)))
    bench.idle(session_id)
    worker.decisions.approve(session_id, repair_id)

    assert bench.fail(workflow_id).repair == "blocked"

    (blocked,) = bench.data(session_id, "repair_blocked")
    assert "came back" in blocked["reason"]
    assert bench.pending(session_id) == []


def test_a_cancelled_repair_has_failed(bench: Bench) -> None:
    session_id, workflow_id, repair_id = running(bench)
    bench.worker(ScriptedAgent(never()))
    bench.wait(session_id, "repair_started")

    bench.cancel(session_id)
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["cancelled"]
    assert bench.repair(repair_id).state == "failed"
    assert bench.fail(workflow_id).repair == "queued"


def test_three_lost_workers_end_a_repair(bench: Bench) -> None:
    session_id, workflow_id, repair_id = running(bench)
    for number in range(3):
        lost = bench.worker(ScriptedAgent(never()), lease_s=SHORT_LEASE_S)
        bench.wait(session_id, "repair_started", times=number + 1)
        lost.vanish()
    asked = ScriptedAgent(says("not asked"))
    bench.worker(asked)
    bench.idle(session_id)

    assert asked.turns == []
    assert bench.outcomes(session_id) == ["interrupted", "interrupted", "failed"]
    assert bench.repair(repair_id).state == "failed"
    assert bench.case(workflow_id).state == "closed"


def test_a_proposal_that_was_durable_is_not_made_again(bench: Bench) -> None:
    session_id, _, repair_id = running(bench)
    lost = bench.worker(ScriptedAgent(proposes(retries, then=never())), lease_s=SHORT_LEASE_S)
    bench.wait(session_id, "repair_waiting")
    lost.vanish()

    asked = ScriptedAgent(proposes(retries))
    bench.worker(asked)
    bench.idle(session_id)

    assert asked.turns == []
    assert bench.outcomes(session_id) == ["completed"]
    assert len(bench.data(session_id, "repair_proposed")) == 1
    assert bench.repair(repair_id).state == "waiting"


def test_a_repair_that_was_lost_before_its_proposal_is_begun_again(bench: Bench) -> None:
    session_id, _, repair_id = running(bench)
    lost = bench.worker(ScriptedAgent(never()), lease_s=SHORT_LEASE_S)
    bench.wait(session_id, "repair_started")
    lost.vanish()

    bench.worker(ScriptedAgent(proposes(retries)))
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["interrupted", "completed"]
    assert len(bench.data(session_id, "repair_proposed")) == 1
    assert bench.repair(repair_id).attempt == 1


def test_a_lost_turn_ends_once_where_its_repair_then_waits_for_n8n(bench: Bench) -> None:
    session_id, _, _ = running(bench)
    lost = bench.worker(ScriptedAgent(never(shown="half")), lease_s=SHORT_LEASE_S)
    bench.wait(session_id, "assistant_delta")
    lost.vanish()

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise N8nKeyError  # of which a person is told at once

    heir = bench.worker(ScriptedAgent(proposes(retries)))
    get, heir.workflows.get = heir.workflows.get, refuse  # type: ignore[method-assign]
    bench.wait(session_id, "notice")
    (waiting,) = bench.pending(session_id)
    heir.workflows.get = get  # type: ignore[method-assign]
    bench.journal.commit(Change(session_id, postpone=Postpone(waiting.input_id, 0.0), wake=["inputs"]))
    bench.idle(session_id)

    assert (waiting.turn_id, waiting.takeovers) == (None, 1)
    assert bench.outcomes(session_id) == ["interrupted", "completed"]
    assert len(bench.data(session_id, "assistant_reset")) == 1
    assert bench.data(session_id, "assistant_delta") == []


# -- errors that are odd ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        {"httpCode": "²"},
        {"httpCode": "9" * 5000},
        {"httpCode": {"a": 1}},
        {"message": {"b": 2}},
        {},
        {"node": {"id": 7}},
    ],
    ids=["superscript", "5000 digits", "object", "message object", "nothing", "half a node"],
)
def test_an_odd_error_is_answered_and_not_met_for_ever(bench: Bench, error: dict[str, Any]) -> None:
    session_id = bench.session()
    workflow_id = bench.workflow(session_id)["id"]
    payload = failure(workflow_id)
    payload["execution"]["error"] = error
    assert bench.fail(workflow_id, payload=payload).repair == "queued"

    bench.worker(ScriptedAgent(says("I see")))
    bench.idle(session_id)

    assert bench.case(workflow_id).state == "closed"


def test_a_bug_before_a_turn_begins_fails_its_input(bench: Bench) -> None:
    """Or the same input would be met, and the same bug, once a second, for ever."""
    session_id, workflow_id, repair_id = running(bench)

    def broken(workflow_id: str, *, version: str = "draft") -> Any:
        raise KeyError("a bug")

    worker = bench.worker(ScriptedAgent(says("not asked")))
    worker.journal.paused = True
    worker.workflows.get = broken  # type: ignore[method-assign]
    worker.journal.paused = False
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["failed"]
    assert bench.repair(repair_id).state == "failed"
    assert bench.case(workflow_id).state == "closed"
    ends = [kind for kind in bench.types(session_id) if kind.startswith("turn_")]
    assert ends == ["turn_started", "turn_finished"]


def test_a_closed_session_takes_its_repair_along(bench: Bench) -> None:
    """Whoever adopts the workflow afterwards starts anew."""
    session_id, workflow_id, _ = running(bench)
    worker = bench.worker(ScriptedAgent(never(), proposes(retries)))
    bench.wait(session_id, "repair_started")
    bench.close_session(session_id)
    until(lambda: worker.runner.active_turns == 0, deadline_s=15)

    heir = bench.session()
    former = Registration.get(bench.journal, workflow_id)
    assert former is not None
    bench.journal.commit(Change(puts=[former.put(session_id=heir)]))

    assert bench.fail(workflow_id).repair == "queued"
    bench.wait(heir, "repair_waiting")


def test_no_agent_is_begun_for_what_is_only_observed_by_now(bench: Bench) -> None:
    session_id, workflow_id, repair_id = running(bench)
    bench.journal.commit(Change(puts=[Ceiling(autonomy="observe").put()]))
    agent = ScriptedAgent(says("done"))
    bench.worker(agent)
    bench.idle(session_id)

    assert agent.turns == []
    assert bench.repair(repair_id).state == "failed"
    assert bench.case(workflow_id).state == "closed"
    assert of_repair(bench, session_id) == ["repair_failed"]


def test_an_error_that_is_counted_at_a_turns_end_does_not_ask_its_agent_once_more(bench: Bench) -> None:
    session_id, workflow_id, repair_id = running(bench)
    agent = ScriptedAgent(says("nothing to propose"))
    worker = Worker(bench.path, agent, lease_s=SHORT_LEASE_S, concurrent_turns=1, turn_timeout_s=30)
    bench.workers.append(worker)
    commit, routed = worker.journal.commit, []

    def at_the_end(change: Change) -> Any:
        if change.answer is not None and not routed:
            routed.append(bench.fail(workflow_id).repair)
        return commit(change)

    worker.journal.commit = at_the_end  # type: ignore[method-assign]
    worker.start()
    bench.idle(session_id)

    assert routed == ["coalesced"]
    assert len(agent.turns) == 1
    assert bench.repair(repair_id).state == "failed"
    assert bench.case(workflow_id).count == 2


def test_an_n8n_that_fails_some_requests_does_not_have_an_agent_begun_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.repairs.attempt.AWAY_S", 0.01)
    session_id, _, repair_id = running(bench)
    answers: list[ToolAnswer] = []

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        get = worker.workflows.get
        worker.workflows.get = failing  # type: ignore[method-assign]
        answers.append(use(turn, "get_workflow"))
        worker.workflows.get = get  # type: ignore[method-assign]
        yield from says("I cannot see it")(turn)

    def failing(*arguments: Any, **options: Any) -> Any:
        raise N8nFailedError(500, "")

    worker = bench.worker(ScriptedAgent(script))
    bench.idle(session_id)

    assert not any(answer.ok for answer in answers)
    assert len(answers) == MAX_AWAY + 1
    assert bench.outcomes(session_id) == [*["interrupted"] * MAX_AWAY, "completed"]
    assert bench.repair(repair_id).state == "failed"


def test_a_parents_failure_that_is_its_childs_resets_no_attempts(bench: Bench) -> None:
    session_id = bench.session()
    workflow = bench.workflow(session_id)
    payload = failure(workflow["id"])
    payload["execution"] |= {"lastNodeExecuted": "Call", "error": {"message": "The called one failed"}}
    assert bench.fail(workflow["id"], payload=payload).repair == "queued"
    # As after an attempt that failed.
    bench.journal.commit(Change(puts=[bench.case(workflow["id"]).put(attempts=3, outcome="failed")]))
    (repair,) = Repair.find(bench.journal, f"workflow:{workflow['id']}")
    run_id = repair.report["execution"]["id"]
    child = ChildFailure(parent_run_id=run_id, workflow_id="child", workflow_name="Child")
    bench.journal.commit(Change(puts=[child.put()]))

    bench.worker(ScriptedAgent(never()))
    bench.idle(session_id)

    case = bench.case(workflow["id"])
    assert (case.state, case.attempts, case.outcome) == ("closed", 2, "failed")
