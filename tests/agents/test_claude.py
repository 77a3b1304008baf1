"""The Claude agent's turns: the real CLI against a scripted Messages API and a real tools server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from app.agents import Agent, Finished, TextDelta, TextFinal, TextReset, ToolFinished, ToolStarted
from app.agents import claude_errors as errors
from app.agents.claude_command import ClaudeOptions
from app.errors import ClaudeExecutionError, ConfigError
from app.tools.server import ToolResult, ToolsServer
from tests.agents.claude_rig import KEY, RULES, Collector, Rig, by_step, end, finals, streamed, tool_results
from tests.fakes.messages_api import MessagesApi, Reply, Request, call, say, use
from tests.fakes.turn_tools import FakeTurnTools

HELLO = "Hello! What shall we automate today? Tell me what should happen, and when."
LONG = "A longer answer that comes in many small pieces. " * 10


@pytest.fixture
def rig(tmp_path: Path, server: ToolsServer) -> Iterator[Rig]:
    yield Rig(tmp_path, server)
    # From here on, the children of other tests are their own to wait for.
    gevent.get_hub().loop.reset_sigchld()


def test_it_is_an_agent_of_that_name(rig: Rig) -> None:
    agent: Agent = rig.agent("http://127.0.0.1:9")
    assert agent.name == "claude"


# -- text and tools


def test_text_is_streamed_and_then_final(rig: Rig) -> None:
    with MessagesApi([say(HELLO)]) as api:
        events = rig.run(api, "Hello")

    pieces = [event for event in events if isinstance(event, TextDelta)]
    [final] = [event for event in events if isinstance(event, TextFinal)]
    assert len(pieces) > 3
    assert streamed(events) == final.text == HELLO
    assert {piece.message_id for piece in pieces} == {final.message_id}
    finished = end(events)
    assert finished.outcome == "completed"
    assert finished.cost_usd is not None and 0 < finished.cost_usd < 0.01
    [request] = api.requests
    assert request.prompt == "Hello"
    assert RULES in request.system
    assert request.body["model"] == "claude-sonnet-5-5"
    assert request.headers["x-api-key"] == KEY
    assert api.others == []


def test_thinking_is_not_shown(rig: Rig) -> None:
    with MessagesApi([say(HELLO, thinking="The person wants a greeting.")]) as api:
        events = rig.run(api)
    assert streamed(events) == HELLO
    assert finals(events) == [HELLO]


def test_a_tool_is_called_with_its_arguments_and_its_answer_goes_to_the_model(rig: Rig) -> None:
    rig.tools = FakeTurnTools(get_workflow=ToolResult('{"id": "wf1"}'))
    script = by_step(use("get_workflow", {"workflowId": "wf1"}, text="Let me look."), say("It is there."))
    with MessagesApi(script) as api:
        events = rig.run(api)

    [started] = [event for event in events if isinstance(event, ToolStarted)]
    [finished] = [event for event in events if isinstance(event, ToolFinished)]
    assert (started.tool, started.input) == ("get_workflow", {"workflowId": "wf1"})
    assert finished == ToolFinished("get_workflow", started.tool_use_id, True, '{"id": "wf1"}')
    assert rig.tools.calls == [("get_workflow", {"workflowId": "wf1"}, started.tool_use_id)]
    assert finals(events) == ["Let me look.", "It is there."]
    assert [result["text"] for result in api.requests[1].results] == ['{"id": "wf1"}']


def test_the_model_is_offered_the_turns_tools_and_no_others(rig: Rig) -> None:
    rig.tools = FakeTurnTools(get_workflow=ToolResult("{}"), propose_repair=ToolResult("verified"))
    with MessagesApi([say(HELLO)]) as api:
        rig.run(api)
    own = [tool for tool in api.requests[0].tools if tool != "DeferredToolPlaceholder"]
    assert sorted(own) == ["mcp__n8n__get_workflow", "mcp__n8n__propose_repair"]


def test_two_tools_in_one_step_and_text_around_them(rig: Rig) -> None:
    rig.tools = FakeTurnTools(list_workflows=ToolResult("[]"), create_workflow=ToolResult('{"id": "wf1"}'))
    both = Reply(text="Two steps.", tools=[call("list_workflows"), call("create_workflow", {"name": "Daily"})])
    with MessagesApi(by_step(both, say("never"), say("Both done."))) as api:
        events = rig.run(api)
    assert tool_results(events) == [("list_workflows", True), ("create_workflow", True)]
    assert finals(events) == ["Two steps.", "Both done."]
    messages = [event.message_id for event in events if isinstance(event, TextFinal)]
    assert len(set(messages)) == 2


def test_a_tool_that_fails_is_told_and_the_turn_goes_on(rig: Rig) -> None:
    rig.tools = FakeTurnTools(create_workflow=ToolResult("n8n refused the key", ok=False))
    with MessagesApi(by_step(use("create_workflow"), say("n8n does not let me."))) as api:
        events = rig.run(api)
    assert tool_results(events) == [("create_workflow", False)]
    assert end(events).outcome == "completed"
    assert "n8n refused the key" in api.requests[1].results[0]["text"]


def test_a_built_in_tool_does_not_exist(rig: Rig, tmp_path: Path) -> None:
    made = tmp_path / "made"
    bash = Reply(tools=[{"name": "Bash", "input": {"command": f"touch {made}", "description": "x"}}])
    with MessagesApi(by_step(bash, say("I cannot."))) as api:
        events = rig.run(api)
    assert tool_results(events) == [("Bash", False)]
    assert not made.exists()


def test_without_its_tools_the_turn_fails_before_the_model_is_asked(rig: Rig) -> None:
    agent, turn = None, rig.turn()
    rig.server.close(turn.tools.token)
    with MessagesApi([say(HELLO)]) as api:
        agent = rig.agent(api)
        with pytest.raises(ClaudeExecutionError, match="tools"):
            list(agent.run(turn))
    assert rig.processes() == []


# -- the person's text


def test_any_text_reaches_the_model_as_text(rig: Rig) -> None:
    texts = ["/clear", "@/etc/hostname what is that", "!id", "# note"]
    with MessagesApi(lambda _: say(HELLO)) as api:
        answers = rig.side_by_side(api, texts)
    assert sorted(request.prompt.strip() for request in api.requests) == sorted(texts)
    assert all(len(request.messages) == 1 for request in api.requests)
    assert all(finals(events) == [HELLO] for events in answers)


def test_characters_of_any_kind_arrive_whole(rig: Rig) -> None:
    text = "Grüße 👋🏽 \u2028 日本語 \x07 \\u0041 \"'\n\n" + "x" * 100_000
    with MessagesApi([say("Grüße 👋🏽 \u2028 日本語")]) as api:
        events = rig.run(api, text)
    assert api.requests[0].prompt == text
    assert finals(events) == ["Grüße 👋🏽 \u2028 日本語"]


def test_a_blank_message_is_answered_without_the_model(rig: Rig) -> None:
    with MessagesApi([]) as api:
        events = rig.run(api, "  ")
    assert len(finals(events)) == 1
    assert api.requests == []


# -- failures


FAILURES: dict[str, tuple[Reply, str, bool]] = {
    "key": (Reply(error=401, message="invalid x-api-key"), errors.KEY, True),
    "credit": (Reply(error=400, message="Your credit balance is too low to access the API."), errors.CREDIT, True),
    "too long": (Reply(error=400, message="prompt is too long: 210000 tokens > 200000"), errors.TOO_LONG, True),
    "rate": (Reply(error=429, headers={"retry-after": "600"}), errors.RATE, False),
    "server": (Reply(error=500), errors.SERVER, False),
    "overloaded": (Reply(error=529), errors.OVERLOADED, False),
    "refused": (say("I can't", stop_reason="refusal"), errors.REFUSED, True),
    "too much": (say("cut sho", stop_reason="max_tokens"), errors.TOO_MUCH, True),
}


def test_every_failure_is_one_sentence_that_says_what_to_do(rig: Rig) -> None:
    with MessagesApi(lambda request: FAILURES[request.messages[0][1]][0]) as api:
        raised = rig.side_by_side(api, list(FAILURES))
    told = {case: (error.detail, error.permanent) for case, error in zip(FAILURES, raised, strict=True)}
    assert told == {case: (sentence, permanent) for case, (_, sentence, permanent) in FAILURES.items()}


def test_an_api_that_is_not_there_is_named(rig: Rig) -> None:
    with pytest.raises(ClaudeExecutionError) as raised:
        list(rig.agent("http://127.0.0.1:9").run(rig.turn()))
    assert raised.value.detail == errors.NETWORK


def test_without_a_key_it_says_so_and_asks_nobody(rig: Rig) -> None:
    with MessagesApi([]) as api, pytest.raises(ClaudeExecutionError) as raised:
        list(rig.agent(api, api_key=None).run(rig.turn()))
    assert raised.value.detail == errors.KEY
    assert api.requests == []


def test_a_program_that_is_not_there_is_named(rig: Rig) -> None:
    with pytest.raises(ClaudeExecutionError, match="CLAUDE_BIN"):
        list(rig.agent("http://127.0.0.1:9", binary=str(rig.folder / "nothing")).run(rig.turn()))


@pytest.mark.parametrize(
    ("script", "sentence"),
    [("exit 3", errors.NO_RESULT), ("kill -9 $$", errors.KILLED), ("echo no json; echo 7; exit 0", errors.NO_RESULT)],
)
def test_a_program_that_ends_without_a_result_fails_the_turn(rig: Rig, script: str, sentence: str) -> None:
    program = rig.folder / "claude"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    with pytest.raises(ClaudeExecutionError) as raised:
        list(rig.agent("http://127.0.0.1:9", binary=str(program)).run(rig.turn()))
    assert raised.value.detail == sentence


def test_a_program_that_floods_is_stopped(rig: Rig) -> None:
    program = rig.folder / "claude"
    program.write_text("#!/bin/sh\nexec /usr/bin/tr '\\0' x </dev/zero\n")
    program.chmod(0o700)
    with pytest.raises(ClaudeExecutionError) as raised:
        list(rig.agent("http://127.0.0.1:9", binary=str(program)).run(rig.turn()))
    assert raised.value.detail == errors.TOO_LARGE
    assert rig.processes() == []


def test_an_overloaded_api_that_recovers_is_waited_for(rig: Rig) -> None:
    with MessagesApi([Reply(error=529), say(HELLO)]) as api:
        assert finals(rig.run(api)) == [HELLO]


# -- streams that break


def test_what_a_broken_stream_showed_is_void_and_the_answer_comes_anew(rig: Rig) -> None:
    faults = ["drop", "truncate", "malformed", "overloaded", "stall"]
    broken: set[str] = set()

    def rule(request: Request) -> Reply:
        first = request.prompt not in broken
        broken.add(request.prompt)
        return say(LONG, fault=request.prompt) if first else say(LONG)

    with MessagesApi(rule) as api:
        answers = rig.side_by_side(api, faults, silence_s=15)  # a stream stands still for 10 s until the CLI asks anew
    for events in answers:
        [reset] = [event for event in events if isinstance(event, TextReset)]
        void = [event for event in events if isinstance(event, TextDelta) and event.message_id == reset.message_id]
        assert 0 < len("".join(event.text for event in void)) < len(LONG)
        assert events.index(void[-1]) < events.index(reset)
        [final] = [event for event in events if isinstance(event, TextFinal)]
        assert final.text == LONG
        assert final.message_id != reset.message_id
    assert len(api.requests) == 2 * len(faults)


def test_what_was_whole_before_a_stream_broke_counts(rig: Rig) -> None:
    rig.tools = FakeTurnTools(create_workflow=ToolResult('{"id": "wf1"}'))
    cut = use("create_workflow", {"name": "Daily"}, text="I will make it.", fault="drop", fault_after=99)
    with MessagesApi([cut, say("Done.")]) as api:
        events = rig.run(api)
    assert [name for name, _, _ in rig.tools.calls] == ["create_workflow"]
    assert tool_results(events) == [("create_workflow", True)]
    assert finals(events) == ["I will make it.", "Done."]
    assert not any(isinstance(event, TextReset) for event in events)


# -- caps


def test_too_many_steps_end_the_turn_as_over_budget(rig: Rig) -> None:
    rig.tools = FakeTurnTools(get_workflow=ToolResult("{}"))
    with MessagesApi(lambda _: use("get_workflow")) as api:
        events = rig.run(api, max_turns=2)
    assert end(events).outcome == "budget_exceeded"
    assert len(api.requests) == 2
    assert (end(events).cost_usd or 0) > 0


def test_money_ends_the_turn_as_over_budget_and_each_turn_has_its_own(rig: Rig) -> None:
    rig.tools = FakeTurnTools(get_workflow=ToolResult("{}"))
    with MessagesApi([say(HELLO, times=3), use("get_workflow"), say("never")]) as api:
        costs = [end(rig.run(api, budget_usd=0.002)).cost_usd or 0 for _ in range(3)]
        over = rig.run(api, budget_usd=0.0001)
    assert sum(costs) > 0.002
    assert all(0 < cost < 0.002 for cost in costs)
    assert end(over).outcome == "budget_exceeded"
    started = [event.tool_use_id for event in over if isinstance(event, ToolStarted)]
    assert [event.tool_use_id for event in over if isinstance(event, ToolFinished)] == started


# -- what it is started with


def test_the_child_gets_a_built_environment_and_no_secret_in_its_arguments(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESS_TOKEN", "not-for-claude")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with MessagesApi([say(LONG, fault="stall")]) as api:
        agent, turn = rig.agent(api), rig.turn("my secret plan")
        running = Collector(agent, turn)
        running.until(TextDelta)
        [pid] = rig.processes()
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        files = {p.name: p.stat().st_mode & 0o777 for p in next((rig.work_dir / "turns").iterdir()).glob("*.*")}
        inside = list((rig.work_dir / "empty").iterdir())
        running.stop()

    names = {entry.partition("=")[0] for entry in environment if entry}
    assert names == {
        "PATH", "LANG", "HOME", "CLAUDE_CONFIG_DIR", "TMPDIR", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING",
        "DISABLE_AUTOUPDATER", "CLAUDE_CODE_MAX_RETRIES", "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS", "MCP_TIMEOUT",
        "MCP_TOOL_TIMEOUT",
    }  # fmt: skip
    for secret in ("my secret plan", KEY, turn.tools.token, RULES):
        assert secret not in argv
    assert turn.tools.token not in "".join(environment)
    assert files == {"mcp.json": 0o600, "system.txt": 0o600}
    assert inside == []
    assert KEY not in repr(agent._options) and turn.tools.token not in json.dumps([r.body for r in api.requests])


def test_a_proxy_is_used_for_the_api_but_not_for_the_tools(rig: Rig) -> None:
    rig.tools = FakeTurnTools(get_workflow=ToolResult("{}"))
    proxied = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "example.org"}
    with MessagesApi(by_step(use("get_workflow"), say("Done."))) as api:
        # The scripted API is on loopback as well, so both go past a proxy that is not there.
        assert finals(rig.run(api, extra_env=proxied)) == ["Done."]
    with pytest.raises(ClaudeExecutionError) as raised:
        list(rig.agent("http://api.invalid", extra_env=proxied).run(rig.turn()))
    assert raised.value.detail == errors.NETWORK


def test_only_known_variables_are_handed_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ACCESS_TOKEN"):
        ClaudeOptions(work_dir=tmp_path, api_key=KEY, extra_env={"ACCESS_TOKEN": "x"})


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(rig: Rig) -> None:
    (rig.folder / "file").write_text("")
    with pytest.raises(ConfigError):
        rig.agent("http://127.0.0.1:9", work_dir=rig.folder / "file" / "work")


def test_a_turn_is_logged_without_its_words(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with MessagesApi([say(HELLO)]) as api:
        rig.run(api, "my secret plan")
    begun, done = [record for record in caplog.records if record.getMessage().startswith("Claude execution")]
    assert begun.getMessage() == "Claude execution started"
    assert done.getMessage() == "Claude execution complete"
    assert done.__dict__["outcome"] == "completed"
    assert isinstance(done.__dict__["duration"], int)
    logged = "".join(str(record.__dict__) for record in caplog.records)
    assert "my secret plan" not in logged and HELLO not in logged and KEY not in logged


# -- many at once


def test_eight_turns_at_once_do_not_mix(rig: Rig) -> None:
    rig.tools = FakeTurnTools(get_workflow=lambda arguments: ToolResult(f"found {arguments['id']}"))

    def rule(request: Request) -> Reply:
        number = request.messages[0][1].rpartition(" ")[2]
        if not request.results:
            return use("get_workflow", {"id": number}, text=f"Looking for {number}.")
        return say(f"{request.results[0]['text']}, as {number} asked")

    with MessagesApi(rule) as api:
        agent = rig.agent(api)
        turns = [rig.turn(f"number {n}", session_id=f"00000000-0000-4000-8000-00000000000{n}") for n in range(8)]
        running = [Collector(agent, turn) for turn in turns]
        gevent.joinall([one.greenlet for one in running], timeout=50)
    for n, one in enumerate(running):
        assert finals(one.events) == [f"Looking for {n}.", f"found {n}, as {n} asked"]
        assert one.events[-1] == Finished("completed", end(one.events).cost_usd)
    assert rig.processes() == []
    assert api.unexpected == []
