"""Turns, one worker: which one runs when, what it appends, and every way in which it ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from app.agents import AgentEvent, Finished, TextDelta, TextFinal, TextReset, ToolFinished, ToolStarted, TurnRequest
from app.errors import ClaudeExecutionError, JournalUnavailableError
from app.turns import turn_end
from app.turns.takeover import MAX_TAKEOVERS
from tests.journal.steps import until
from tests.support.agents import ScriptedAgent, never, raises, says, use, waits, yields
from tests.turns.bench import Bench, PausableJournal, elapsed_ms, two_nodes


def test_a_message_is_answered_in_order(bench: Bench) -> None:
    session_id = bench.session()
    script = yields(
        TextDelta("m", "I "),
        ToolStarted("list_workflows", "t1", {}),
        ToolFinished("list_workflows", "t1", True, "none"),
        TextDelta("m", "see"),
        TextFinal("m", "I see"),
        Finished(cost_usd=0.25),
    )
    bench.worker(ScriptedAgent(script))

    seq = bench.say(session_id)
    bench.idle(session_id)

    log = bench.log(session_id)
    assert [event.type for event in log if event.type != "assistant_delta"] == [
        "user_message",
        "turn_started",
        "tool_started",
        "tool_finished",
        "assistant_message",
        "turn_finished",
    ]
    assert log[0].seq == seq
    assert [event.seq for event in log] == sorted({event.seq for event in log})
    assert len({event.body.get("turnId") for event in log[1:]}) == 1
    assert log[-1].data["outcome"] == "completed"
    assert log[-1].data["costUsd"] == 0.25


def test_one_turn_at_a_time_in_a_session(bench: Bench) -> None:
    session_id, gate = bench.session(), Event()
    agent = ScriptedAgent(waits(gate))
    bench.worker(agent)
    for text in ("one", "two", "three"):
        bench.say(session_id, text)
    bench.wait(session_id, "turn_started")

    gate.set()
    bench.idle(session_id)

    assert agent.most == 1
    assert [turn.prompt for turn in agent.turns] == ["one", "two", "three"]
    ends = [kind for kind in bench.types(session_id) if kind in ("turn_started", "turn_finished")]
    assert ends == ["turn_started", "turn_finished"] * 3


def test_sessions_run_side_by_side_up_to_the_limit(bench: Bench) -> None:
    sessions, gate = [bench.session() for _ in range(5)], Event()
    agent = ScriptedAgent(waits(gate))
    worker = bench.worker(agent, concurrent_turns=3)
    for session_id in sessions:
        bench.say(session_id)

    until(lambda: len(agent.running) == 3, deadline_s=15)
    assert worker.runner.active_turns == 3
    gate.set()
    for session_id in sessions:
        bench.idle(session_id)

    assert agent.most == 3
    assert sorted(turn.session_id for turn in agent.turns) == sorted(sessions)


def test_many_messages_of_one_session_do_not_starve_another(bench: Bench) -> None:
    busy, quiet, gate = bench.session(), bench.session(), Event()
    agent = ScriptedAgent(waits(gate), says("done"))
    bench.worker(agent, concurrent_turns=1)
    for number in range(20):
        bench.say(busy, str(number))
    until(lambda: agent.turns, deadline_s=15)
    bench.say(quiet)

    gate.set()
    bench.idle(quiet)
    bench.idle(busy)

    assert [turn.session_id for turn in agent.turns].index(quiet) <= 2
    assert bench.outcomes(busy) == ["completed"] * 20


def test_an_agent_that_fails_says_why(bench: Bench) -> None:
    session_id = bench.session()
    bench.worker(ScriptedAgent(raises(ClaudeExecutionError("The child ended with 1.")), says("better")))

    bench.say(session_id)
    bench.say(session_id)
    bench.idle(session_id)

    first, second = bench.data(session_id, "turn_finished")
    assert (first["outcome"], first["error"]) == ("failed", "The child ended with 1.")
    assert second["outcome"] == "completed"
    # What it had said stays, as it stood.
    assert bench.data(session_id, "assistant_message")[0]["text"] == "I will "


@pytest.mark.parametrize("error", [ValueError("secret text"), gevent.Timeout(1, False)], ids=["error", "timeout"])
def test_a_bug_in_an_agent_fails_its_turn_alone(bench: Bench, error: BaseException) -> None:
    session_id = bench.session()
    bench.worker(ScriptedAgent(raises(error), says("better")))

    bench.say(session_id)
    bench.say(session_id)
    bench.idle(session_id)

    first, second = bench.data(session_id, "turn_finished")
    assert (first["outcome"], first["error"]) == ("failed", "internal error")
    assert second["outcome"] == "completed"


@pytest.mark.parametrize("events", [[], [TextDelta("m", "hm")]], ids=["nothing", "half a message"])
def test_an_agent_that_just_stops_has_failed(bench: Bench, events: list[AgentEvent]) -> None:
    session_id = bench.session()
    bench.worker(ScriptedAgent(yields(*events)))

    bench.say(session_id)
    bench.idle(session_id)

    (end,) = bench.data(session_id, "turn_finished")
    assert end["outcome"] == "failed"
    assert end["error"]
    assert "assistant_delta" not in bench.types(session_id)


def test_a_used_up_budget_is_an_outcome_of_its_own(bench: Bench) -> None:
    session_id = bench.session()
    bench.worker(ScriptedAgent(yields(Finished("budget_exceeded", cost_usd=0.51, error="0.50 USD are used up."))))

    bench.say(session_id)
    bench.idle(session_id)

    (end,) = bench.data(session_id, "turn_finished")
    assert (end["outcome"], end["costUsd"], end["error"]) == ("budget_exceeded", 0.51, "0.50 USD are used up.")


def test_an_agent_is_closed_before_its_turn_ends(bench: Bench) -> None:
    """A child must not outlive its turn, so its ``finally`` is not left to the garbage collector."""
    session_id, order = bench.session(), []

    class Stream:
        def __init__(self) -> None:
            self._events = iter([TextDelta("m", "hi"), Finished(), TextDelta("m", "too late")])

        def __iter__(self) -> Iterator[AgentEvent]:
            return self

        def __next__(self) -> AgentEvent:
            return next(self._events)

        def close(self) -> None:
            order.append(bench.types(session_id)[-1])

    agent = ScriptedAgent(says("unused"))
    agent.run = lambda turn: Stream()  # type: ignore[method-assign]
    bench.worker(agent)

    bench.say(session_id)
    bench.idle(session_id)

    assert order
    assert order[0] != "turn_finished"


# -- stopping ---------------------------------------------------------------------------------------


def test_a_running_turn_can_be_cancelled(bench: Bench) -> None:
    session_id, stopped = bench.session(), Event()

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        try:
            yield from never(shown="Let me ")(turn)
        finally:
            stopped.set()

    bench.worker(ScriptedAgent(script, says("next")))
    bench.say(session_id)
    bench.wait(session_id, "assistant_delta")

    bench.cancel(session_id)
    bench.wait(session_id, "turn_finished")

    assert stopped.is_set()
    (end,) = bench.data(session_id, "turn_finished")
    assert end["outcome"] == "cancelled"
    assert "error" not in end
    assert [data["text"] for data in bench.data(session_id, "assistant_message")] == ["Let me "]
    bench.say(session_id)
    bench.idle(session_id)
    assert bench.outcomes(session_id) == ["cancelled", "completed"]


def test_a_cancel_that_comes_with_the_start_is_not_late(bench: Bench) -> None:
    """Between a turn's start in the journal and the moment in which its worker begins to listen."""
    session_id = bench.session()
    worker = bench.worker(ScriptedAgent(never()), lease_s=300)
    commit = worker.journal.commit

    def cancelled_at_once(change):  # type: ignore[no-untyped-def]
        committed = commit(change)
        if change.start is not None and change.start.turn_id:
            bench.cancel(session_id)
        return committed

    worker.journal.commit = cancelled_at_once  # type: ignore[method-assign]
    bench.say(session_id)
    bench.wait(session_id, "turn_finished")  # long before the look by time, which the lease of 300 s sets

    assert bench.outcomes(session_id) == ["cancelled"]


def test_a_turn_that_takes_too_long_has_failed(bench: Bench) -> None:
    session_id = bench.session()
    bench.worker(ScriptedAgent(never(shown="Hm")), turn_timeout_s=0.3)

    bench.say(session_id)
    bench.idle(session_id)

    (end,) = bench.data(session_id, "turn_finished")
    assert end["outcome"] == "failed"
    assert "0.3 s" in end["error"]


def test_an_agent_that_does_not_want_to_end_cannot_speak_after_the_end(bench: Bench) -> None:
    session_id, freed = bench.session(), Event()

    class Deaf:
        """Shows tools without end, and is not impressed by being killed."""

        def __iter__(self) -> Iterator[AgentEvent]:
            return self

        def __next__(self) -> AgentEvent:
            while not freed.is_set():
                with contextlib.suppress(gevent.GreenletExit):
                    gevent.sleep(0.002)
                    return ToolStarted("get_workflow", "t", {})
            raise StopIteration

    agent = ScriptedAgent(never())
    agent.run = lambda turn: Deaf()  # type: ignore[method-assign]
    bench.worker(agent, turn_timeout_s=0.3)
    bench.say(session_id)
    bench.idle(session_id)
    bench.say(session_id, "next")
    bench.wait(session_id, "turn_started", times=2)
    freed.set()
    bench.idle(session_id)

    bodies = [event.body for event in bench.log(session_id)]
    ended = next(body["turnId"] for body in bodies if body["type"] == "turn_finished")
    last = max(index for index, body in enumerate(bodies) if body.get("turnId") == ended)
    assert bodies[last]["type"] == "turn_finished"


def test_a_closed_session_stops_its_turn(bench: Bench) -> None:
    session_id, other, stopped = bench.session(), bench.session(), Event()

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        try:
            yield from never(shown="Let me ")(turn)
        finally:
            stopped.set()

    worker = bench.worker(ScriptedAgent(script, says("hello")))
    bench.say(session_id)
    bench.wait(session_id, "assistant_delta")

    bench.close_session(session_id)

    assert stopped.wait(5)
    until(lambda: worker.runner.active_turns == 0, deadline_s=15)
    assert bench.types(session_id)[-1] == "session_closed"
    bench.say(other)
    bench.idle(other)


def away_at(journal, event_type: str, *, times: int) -> None:  # type: ignore[no-untyped-def]
    """Let the journal refuse so many changes with an event of this type."""
    commit, left = journal.commit, [None] * times

    def once_away(change):  # type: ignore[no-untyped-def]
        if left and any(event.type == event_type for event in change.events):
            left.pop()
            raise JournalUnavailableError("The journal did not answer in time.")
        return commit(change)

    journal.commit = once_away


def test_a_turn_that_meets_a_journal_that_is_away_is_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often: nothing is wrong with the input, and no worker was lost."""
    monkeypatch.setattr(turn_end, "AWAY_S", 0.0)
    session_id, times = bench.session(), MAX_TAKEOVERS + 2
    worker = bench.worker(ScriptedAgent(says("hello")))
    away_at(worker.journal, "assistant_message", times=times)
    bench.say(session_id)
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["interrupted"] * times + ["completed"]


def test_a_turn_that_the_journal_has_broken_off_lets_others_go_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes only what is small would have its agent asked, and paid, without a pause."""
    monkeypatch.setattr(turn_end, "AWAY_S", 3_600.0)
    session_id, agent = bench.session(), ScriptedAgent(says("hello"))
    away_at(bench.worker(agent, concurrent_turns=1).journal, "assistant_message", times=1)
    bench.say(session_id)
    bench.wait(session_id, "turn_finished")

    bench.say(session_id, "and?")
    bench.wait(session_id, "turn_finished", times=2)

    assert bench.outcomes(session_id) == ["interrupted", "completed"]
    assert [asked.prompt for asked in agent.turns] == ["hello", "and?"]


def test_a_turns_end_waits_for_a_journal_that_is_away(bench: Bench) -> None:
    """Its agent is not asked again."""
    session_id, agent = bench.session(), ScriptedAgent(says("hello"))
    away_at(bench.worker(agent).journal, "turn_finished", times=2)
    bench.say(session_id)
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["completed"]
    assert len(agent.turns) == 1


def test_a_cancel_that_comes_while_a_turns_end_waits_for_the_journal_is_kept(bench: Bench) -> None:
    session_id, agent = bench.session(), ScriptedAgent(says("hello"))
    journal = bench.worker(agent).journal
    away_at(journal, "assistant_message", times=1)
    commit = journal.commit

    def cancelled_meanwhile(change):  # type: ignore[no-untyped-def]
        if any(event.type == "turn_finished" for event in change.events):
            journal.commit = commit
            bench.cancel(session_id)
            raise JournalUnavailableError("The journal did not answer in time.")
        return commit(change)

    journal.commit = cancelled_meanwhile
    bench.say(session_id)
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["cancelled"]
    assert len(agent.turns) == 1


def test_a_turn_that_is_broken_off_ends_once_however_late_the_journal_writes_it(bench: Bench) -> None:
    """A write that was not answered in time may still be done: after the turn has looked, and before it asks again."""
    session_id = bench.session()
    journal = bench.worker(ScriptedAgent(says("hello"))).journal
    away_at(journal, "assistant_message", times=1)
    commit, late = journal.commit, []

    def slow(change):  # type: ignore[no-untyped-def]
        if any(event.data.get("outcome") == "interrupted" for event in change.events):
            if not late:
                late.append(change)
                raise JournalUnavailableError("The journal did not answer in time.")
            commit(late[0])
        return commit(change)

    journal.commit = slow
    bench.say(session_id)
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["interrupted", "completed"]


def test_a_drain_waits_for_a_journal_that_cannot_say_what_was_cancelled(bench: Bench) -> None:
    """Else the turn would be taken for one whose worker was lost."""
    session_id = bench.session()
    worker = bench.worker(ScriptedAgent(never()))
    bench.say(session_id)
    bench.wait(session_id, "turn_started")
    pending, refused = worker.journal.pending, []

    def away(session_id):  # type: ignore[no-untyped-def]
        if not refused:
            refused.append(session_id)
            raise JournalUnavailableError
        return pending(session_id)

    worker.journal.pending = away  # type: ignore[method-assign]
    worker.runner.stop()

    assert bench.outcomes(session_id) == ["interrupted"]
    (parked,) = bench.pending(session_id)
    assert (parked.turn_id, parked.takeovers) == (None, 0)


# -- tools ------------------------------------------------------------------------------------------


def test_a_turns_token_dies_with_the_turn(bench: Bench) -> None:
    session_id, answers = bench.session(), []

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        answers.append(use(turn, "list_workflows"))
        yield from says("done")(turn)

    agent = ScriptedAgent(script)
    bench.worker(agent)
    bench.say(session_id)
    bench.idle(session_id)
    until(lambda: not agent.running, deadline_s=5)

    assert answers[0].ok
    with pytest.raises(ClaudeExecutionError, match="401"):
        use(agent.turns[0], "list_workflows")


def test_a_tool_call_that_is_repeated_is_done_once(bench: Bench) -> None:
    session_id = bench.session()

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        first = use(turn, "create_workflow", two_nodes(), call_id="t1")
        again = use(turn, "create_workflow", two_nodes(), call_id="t1")
        other = use(turn, "create_workflow", two_nodes(), call_id="t2")
        assert first == again != other
        yield from says("done")(turn)

    bench.worker(ScriptedAgent(script))
    bench.say(session_id)
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["completed"]
    assert len(bench.data(session_id, "workflow_registered")) == 2


def test_a_tool_call_that_is_repeated_while_it_runs_is_done_once(bench: Bench) -> None:
    session_id = bench.session()

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        calls = [gevent.spawn(use, turn, "create_workflow", two_nodes(), call_id="t1") for _ in range(3)]
        gevent.joinall(calls, timeout=10, raise_error=True)
        assert calls[0].value == calls[1].value == calls[2].value
        yield from says("done")(turn)

    bench.worker(ScriptedAgent(script))
    bench.say(session_id)
    bench.idle(session_id)

    assert bench.outcomes(session_id) == ["completed"]
    assert len(bench.data(session_id, "workflow_registered")) == 1


def test_tools_of_one_session_do_not_reach_another(bench: Bench) -> None:
    session_id, owner, answers = bench.session(), bench.session(), []
    workflow = bench.workflow(owner)

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        answers.append(use(turn, "get_workflow", {"workflowId": workflow["id"]}))
        answers.append(use(turn, "update_workflow", {"workflowId": workflow["id"], "name": "Mine"}))
        answers.append(use(turn, "list_workflows"))
        yield from says("done")(turn)

    bench.worker(ScriptedAgent(script))
    bench.say(session_id)
    bench.idle(session_id)

    assert [answer.ok for answer in answers] == [False, False, True]
    assert answers[2].text == "[]"
    assert bench.workflows.get(workflow["id"])["name"] == workflow["name"]


# -- text in pieces ---------------------------------------------------------------------------------


def test_pieces_are_gathered_and_leave_when_the_message_is_final(bench: Bench) -> None:
    session_id, gate = bench.session(), Event()

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        for number in range(200):
            yield TextDelta("m", f"{number} ")
            gevent.sleep(0.001)
        gate.wait()
        yield TextFinal("m", "all of it")
        yield Finished()

    bench.worker(ScriptedAgent(script))
    began = time.monotonic()
    bench.say(session_id)
    whole = "".join(f"{number} " for number in range(200))
    until(lambda: "".join(d["text"] for d in bench.data(session_id, "assistant_delta")) == whole, deadline_s=15)
    took_ms = elapsed_ms(began)

    assert 1 < len(bench.data(session_id, "assistant_delta")) <= took_ms / 50 + 1
    gate.set()
    bench.idle(session_id)
    assert "assistant_delta" not in bench.types(session_id)
    assert [data["text"] for data in bench.data(session_id, "assistant_message")] == ["all of it"]


def test_a_pause_does_not_hold_back_what_was_said(bench: Bench) -> None:
    session_id, gate = bench.session(), Event()

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        yield TextDelta("m", "one ")
        yield TextDelta("m", "two ")
        gate.wait()
        yield TextFinal("m", "one two three")
        yield Finished()

    bench.worker(ScriptedAgent(script))
    bench.say(session_id)

    until(lambda: "".join(d["text"] for d in bench.data(session_id, "assistant_delta")) == "one two ", deadline_s=5)
    gate.set()
    bench.idle(session_id)


def test_a_message_that_is_taken_back_is_void(bench: Bench) -> None:
    session_id = bench.session()
    script = yields(
        TextDelta("m", "wrong "),
        TextDelta("m", "still held back"),
        TextReset("m"),
        TextDelta("n", "right"),
        TextFinal("n", "right"),
        Finished(),
    )
    bench.worker(ScriptedAgent(script))

    bench.say(session_id)
    bench.idle(session_id)

    assert bench.data(session_id, "assistant_reset") == [{"messageId": "m"}]
    assert bench.data(session_id, "assistant_message") == [{"messageId": "n", "text": "right"}]
    assert "assistant_delta" not in bench.types(session_id)


def test_text_stands_before_the_tool_that_came_after_it(bench: Bench) -> None:
    session_id = bench.session()
    script = yields(
        TextDelta("m", "a"),
        TextDelta("m", "b"),
        ToolStarted("list_workflows", "t1", {}),
        Finished("failed", error="no"),
    )
    worker = bench.worker(ScriptedAgent(script))
    seen: list[list[str]] = []
    commit = worker.journal.commit

    def spied(change):  # type: ignore[no-untyped-def]
        seen.append([event.type for event in change.events])
        return commit(change)

    worker.journal.commit = spied  # type: ignore[method-assign]
    bench.say(session_id)
    bench.idle(session_id)

    assert ["assistant_delta", "tool_started"] in seen
    assert [data["text"] for data in bench.data(session_id, "assistant_message")] == ["ab"]


def test_what_is_said_during_a_commit_is_not_held_back(bench: Bench) -> None:
    session_id, gate = bench.session(), Event()

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        yield TextDelta("m", "one ")
        yield TextDelta("m", "two ")
        until(lambda: slow, deadline_s=5)
        yield TextDelta("m", "three ")
        gate.wait()
        yield Finished()

    worker = bench.worker(ScriptedAgent(script))
    slow: list[bool] = []
    commit = worker.journal.commit

    def slowed(change):  # type: ignore[no-untyped-def]
        if any(event.data.get("text") == "two " for event in change.events):
            slow.append(True)
            gevent.sleep(0.02)
        return commit(change)

    worker.journal.commit = slowed  # type: ignore[method-assign]
    bench.say(session_id)

    whole = "one two three "
    until(lambda: "".join(d["text"] for d in bench.data(session_id, "assistant_delta")) == whole, deadline_s=5)
    gate.set()
    bench.idle(session_id)


# -- several workers


def test_work_goes_to_whoever_has_less_of_it(bench: Bench) -> None:
    busy, idle = ScriptedAgent(never()), ScriptedAgent(never())
    sessions = [bench.session() for _ in range(6)]
    bench.worker(busy, concurrent_turns=6)
    for session_id in sessions[:3]:
        bench.say(session_id)
    until(lambda: len(busy.running) == 3, deadline_s=15)
    bench.worker(idle, concurrent_turns=6)

    for number, session_id in enumerate(sessions[3:], start=4):
        bench.say(session_id)
        until(lambda number=number: len(busy.running) + len(idle.running) == number, deadline_s=15)

    assert idle.running, "the one that was busy has them all"
    for session_id in sessions:
        bench.close_session(session_id)


def nth(order: list[str], session_id: str, number: int) -> int:
    return [place for place, claimed in enumerate(order) if claimed == session_id][number - 1]


def test_a_burst_is_worked_off_by_all_and_in_turn(bench: Bench) -> None:
    agents = [ScriptedAgent(says("done")) for _ in range(3)]
    sessions = [bench.session() for _ in range(10)]
    for session_id in sessions:
        for number in range(5):
            bench.say(session_id, f"message {number}")
    for agent in agents:
        bench.worker(agent, concurrent_turns=2)

    for session_id in sessions:
        bench.idle(session_id)

    assert [bench.outcomes(session_id) for session_id in sessions] == [["completed"] * 5] * 10
    assert all(agent.turns for agent in agents)
    assert all(agent.most <= 2 for agent in agents)
    # Each session had its first before any had its last.
    order = [session_id for session_id in PausableJournal.claimed if session_id in sessions]
    last = min(nth(order, session_id, 5) for session_id in sessions)
    assert all(nth(order, session_id, 1) < last for session_id in sessions)
