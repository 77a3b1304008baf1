"""How the Claude agent's child ends: stopped in time, silent for too long, or with the worker that was killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.subprocess import PIPE, Popen

from app.agents import TextDelta, ToolStarted
from app.agents import claude_errors as errors
from app.agents.claude_child import Child
from app.errors import ClaudeExecutionError, ClaudeTimeoutError
from app.tools.server import ToolResult, ToolsServer
from tests.agents.claude_rig import KEY, Collector, Rig, alive, by_step, end, finals, until
from tests.fakes.messages_api import MessagesApi, say, use
from tests.fakes.turn_tools import FakeTurnTools

HELLO = "Hello! What shall we automate today?"
LONG = "A longer answer that comes in many small pieces. " * 40
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def rig(tmp_path: Path, server: ToolsServer) -> Iterator[Rig]:
    rig = Rig(tmp_path, server)
    yield rig
    left = rig.processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    gevent.get_hub().loop.reset_sigchld()
    assert left == []
    assert not any(alive(pid) for pid in rig.pids)


def hanging_tool() -> FakeTurnTools:
    def hang(_: object) -> ToolResult:
        gevent.sleep(60)
        return ToolResult("late")

    return FakeTurnTools(get_workflow=hang)


# -- stopped


def test_stopping_in_text_leaves_no_process_and_no_file(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with MessagesApi([say(LONG, fault="stall")]) as api:
        running = Collector(rig.agent(api), rig.turn())
        running.until(TextDelta)
        assert len(rig.processes()) == 1
        assert running.stop() < 2.0
    assert rig.processes() == []
    assert list((rig.work_dir / "turns").iterdir()) == []
    assert [r.__dict__["outcome"] for r in caplog.records if "complete" in r.getMessage()] == ["stopped"]


def test_stopping_in_a_tool_leaves_no_process(rig: Rig) -> None:
    rig.tools = hanging_tool()
    with MessagesApi([use("get_workflow")]) as api:
        running = Collector(rig.agent(api), rig.turn())
        running.until(ToolStarted)
        until(lambda: rig.tools.calls)
        assert running.stop() < 2.0
    assert rig.processes() == []


def test_closing_the_iterator_is_enough(rig: Rig) -> None:
    with MessagesApi([say(LONG, fault="stall")]) as api:
        events = rig.agent(api).run(rig.turn())
        assert isinstance(next(events), TextDelta)
        assert len(rig.processes()) == 1
        events.close()  # type: ignore[attr-defined]
    assert rig.processes() == []


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.1])
def test_stopping_while_it_starts_leaves_no_process(rig: Rig, after_s: float) -> None:
    # As in a worker, which ignores SIGINT: its children must not.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with MessagesApi([say(HELLO)]) as api:
            running = Collector(rig.agent(api), rig.turn())
            gevent.sleep(after_s)
            assert running.stop() < 1.0
            gevent.sleep(0.1)
            assert rig.processes() == []
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_turn_that_waits_for_its_start_can_be_stopped(rig: Rig) -> None:
    with MessagesApi(lambda _: say(HELLO)) as api:
        agent = rig.agent(api, starts_at_once=1)
        first = Collector(agent, rig.turn())
        other = Collector(agent, rig.turn(session_id="00000000-0000-4000-8000-000000000000"))
        gevent.sleep(0.01)
        assert other.stop() < 0.5
        first.greenlet.join(timeout=10)
        assert finals(first.events) == [HELLO]
        third = rig.run(api)
    assert finals(third) == [HELLO]


def test_a_program_that_ignores_signals_is_killed_with_its_children(rig: Rig) -> None:
    program = rig.folder / "claude"
    program.write_text('#!/bin/sh\ntrap "" INT TERM\nsleep 60 &\nsleep 60 &\necho "{}"\nwait; wait; sleep 60\n')
    program.chmod(0o700)
    running = Collector(rig.agent("http://127.0.0.1:9", binary=str(program)), rig.turn())
    until(lambda: len(rig.processes()) == 3)
    assert running.stop() < 2.2
    until(lambda: rig.processes() == [], limit_s=0.5)


def test_what_a_program_leaves_in_its_group_ends_with_the_turn(rig: Rig) -> None:
    program = rig.folder / "claude"
    program.write_text("#!/bin/sh\nsleep 60 >/dev/null 2>&1 &\nexit 3\n")
    program.chmod(0o700)
    with pytest.raises(ClaudeExecutionError):
        list(rig.agent("http://127.0.0.1:9", binary=str(program)).run(rig.turn()))
    until(lambda: rig.processes() == [], limit_s=0.5)


def test_a_session_goes_on_after_it_was_stopped(rig: Rig) -> None:
    with MessagesApi([say(LONG, fault="stall"), say("Where were we?")]) as api:
        running = Collector(rig.agent(api), rig.turn("tell me a lot"))
        running.until(TextDelta)
        running.stop()
        assert finals(rig.run(api, "go on")) == ["Where were we?"]
    assert "tell me a lot" in [text for _, text in api.requests[1].messages]


# -- silence


def test_a_model_that_says_nothing_is_stopped(rig: Rig) -> None:
    with MessagesApi([say(HELLO, delay_s=30)]) as api:
        began = time.monotonic()
        with pytest.raises(ClaudeTimeoutError, match=r"silent for 1\.5 s"):
            rig.run(api, silence_s=1.5)
        assert time.monotonic() - began < 25, "before the model would have answered"


def test_a_tool_may_be_silent_for_longer_than_the_model(rig: Rig) -> None:
    def slow(_: object) -> ToolResult:
        gevent.sleep(7)
        return ToolResult("{}")

    rig.tools = FakeTurnTools(get_workflow=slow)
    with MessagesApi(by_step(use("get_workflow"), say("Done."))) as api:
        assert finals(rig.run(api, silence_s=6)) == ["Done."]


def test_a_tool_that_never_answers_is_given_up_and_the_model_is_told(rig: Rig) -> None:
    rig.tools = hanging_tool()
    with MessagesApi(by_step(use("get_workflow"), say("It takes too long."))) as api:
        events = rig.run(api, tool_silence_s=2)
    assert finals(events) == ["It takes too long."]
    assert end(events).outcome == "completed"


# -- a reader that is slow


def test_a_slow_reader_does_not_hold_the_program_back(rig: Rig) -> None:
    text = "".join(f"{n:06d} " for n in range(30_000))
    with MessagesApi([say(text, piece=2_000)]) as api:
        events = rig.agent(api, budget_usd=100).run(rig.turn())
        seen = [next(events)]
        until(lambda: rig.processes() == [])  # it wrote all, and ended, while nobody took an event
        seen += events
    assert finals(seen) == [text]
    assert end(seen).outcome == "completed"


def test_lines_over_their_cap_end_the_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.agents.claude_child.MAX_LINE_BYTES", 20_000)
    with MessagesApi([say("x" * 50_000, piece=5_000)]) as api, pytest.raises(ClaudeExecutionError) as raised:
        list(rig.agent(api).run(rig.turn()))
    assert raised.value.detail == errors.TOO_LARGE


def test_unread_lines_over_their_cap_end_the_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.agents.claude_child.MAX_UNREAD_BYTES", 100_000)
    with MessagesApi([say("x" * 200_000, piece=5_000)]) as api:
        events = rig.agent(api).run(rig.turn())
        next(events)
        until(lambda: rig.processes() == [])
        with pytest.raises(ClaudeExecutionError) as raised:
            list(events)
    assert raised.value.detail == errors.TOO_LARGE


# -- a worker that is gone


WORKER = """
from gevent import monkey; monkey.patch_all()
import sys, uuid
from pathlib import Path
from app.agents import ToolsAccess, TurnRequest
from app.agents.claude import ClaudeAgent, ClaudeOptions
from tests.agents.claude_rig import MemoryTranscripts
folder, api, tools, token = sys.argv[1:]
agent = ClaudeAgent(ClaudeOptions(work_dir=Path(folder), api_key="KEY", base_url=api), MemoryTranscripts())
turn = TurnRequest(str(uuid.uuid4()), "t", "chat", "Hello", "", ToolsAccess(tools, token))
for event in agent.run(turn):
    print(type(event).__name__, flush=True)
""".replace("KEY", KEY)


def test_a_killed_worker_takes_its_child_along(rig: Rig) -> None:
    with MessagesApi([say(LONG, fault="stall")]) as api:
        access = rig.server.open(rig.tools)
        argv = [sys.executable, "-c", WORKER, str(rig.work_dir), api.url, access.url, access.token]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
        worker = Popen(argv, env=environment, cwd=str(PROJECT), stdout=PIPE)
        try:
            assert worker.stdout.readline() == b"TextDelta\n"
            [pid] = rig.processes()
        finally:
            worker.kill()
            worker.wait()
            worker.stdout.close()
        until(lambda: not alive(pid), limit_s=2)
        assert rig.processes() == []


def test_a_child_is_not_started_by_a_thread(rig: Rig) -> None:
    def start() -> None:
        with (rig.folder / "stdin").open("w+b") as stdin:
            Child(["true"], env={}, cwd=rig.folder, stdin=stdin)

    with pytest.raises(RuntimeError, match="main thread"):
        gevent.get_hub().threadpool.apply(start)
