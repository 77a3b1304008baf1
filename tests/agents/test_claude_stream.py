"""Lines of the CLI as events, from output that was recorded; and what a ``result`` line means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.agents import AgentEvent, TextDelta, TextFinal, TextReset, ToolFinished, ToolRefused, ToolStarted
from app.agents import claude_errors as errors
from app.agents.claude_command import ClaudeOptions
from app.agents.claude_stream import NO_SUCH_TOOL, NOT_ALLOWED, NOT_RUN, Stream, turn_cost_usd
from app.errors import ClaudeExecutionError
from tests.agents.claude_rig import finals, streamed

RECORDED = Path(__file__).parent / "transcripts"
OPTIONS = ClaudeOptions(work_dir=Path("unused"), api_key="k", max_turns=7, budget_usd=0.25)


def lines(name: str) -> list[dict[str, Any]]:
    # Not splitlines(): U+2028 may stand in a text.
    text = (RECORDED / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def translated(name: str, *more: dict[str, Any]) -> tuple[list[AgentEvent], Stream]:
    stream = Stream()
    return [event for line in [*lines(name), *more] for event in stream.feed(line)], stream


def shown(events: list[AgentEvent]) -> dict[str, str]:
    """What a person sees in the end: by message, finals over pieces, without what was voided."""
    seen: dict[str, str] = {}
    final: set[str] = set()
    for event in events:
        match event:
            case TextDelta(message, text):
                assert message not in final
                seen[message] = seen.get(message, "") + text
            case TextFinal(message, text):
                assert message not in final
                final.add(message)
                seen[message] = text
            case TextReset(message):
                del seen[message]
    return seen


def test_text_around_a_tool_call_is_two_messages() -> None:
    events, stream = translated("recommended_1_tool")
    assert list(shown(events).values()) == [
        "I will make that workflow. ",
        "The workflow **Daily report** (wf_123) is ready.",
    ]
    assert streamed(events) == "".join(finals(events))
    [started] = [event for event in events if isinstance(event, ToolStarted)]
    assert started.tool == "n8n_create_workflow"
    assert started.input["name"] == "Daily report"
    [finished] = [event for event in events if isinstance(event, ToolFinished)]
    assert (finished.tool_use_id, finished.ok) == (started.tool_use_id, True)
    assert stream.ready and not stream.without_tools and not stream.slow_step
    assert stream.result is not None
    assert turn_cost_usd(stream.result) == pytest.approx(0.001306)
    assert errors.finished(stream.result, OPTIONS).outcome == "completed"


def test_a_tool_is_waited_for_from_its_call_to_its_result() -> None:
    stream, waits = Stream(), []
    for line in lines("two_tools_in_one_turn"):
        list(stream.feed(line))
        waits.append(stream.slow_step)
    first, last = waits.index(True), len(waits) - waits[::-1].index(True)
    assert all(waits[first:last])
    assert lines("two_tools_in_one_turn")[first]["type"] == "assistant"
    assert lines("two_tools_in_one_turn")[last]["type"] == "user"


def test_thinking_is_not_shown_and_text_after_it_is_one_message() -> None:
    events, _ = translated("thinking_then_text")
    assert list(shown(events).values()) == ["Hello! What shall we automate today?"]
    assert not any("They want" in str(event) for event in events)


def test_every_stream_that_was_given_up_is_void() -> None:
    events, stream = translated("error_drop_always_max_retries_2")
    assert sum(isinstance(event, TextReset) for event in events) == 3
    [text] = shown(events).values()
    assert stream.result is not None and text == stream.result["result"]


def test_a_long_silence_is_expected_where_an_answer_comes_as_a_whole() -> None:
    stream, recorded = Stream(), lines("error_drop_always_max_retries_2")
    for line in recorded:
        list(stream.feed(line))
        given_up = bool(line.get("abandoned_blocks"))
        assert stream.slow_step is given_up
        assert (stream.retry_delay_s > 0) is (line.get("subtype") == "api_retry")


def test_a_stream_that_was_given_up_for_good_leaves_nothing() -> None:
    events, stream = translated("error_malformed_no_fallback")
    assert shown(events) == {}
    assert finals(events) == []
    assert stream.result is not None
    with pytest.raises(ClaudeExecutionError):
        errors.finished(stream.result, OPTIONS)


def test_what_was_said_before_an_interruption_stays() -> None:
    events, stream = translated("recommended_3_interrupted")
    assert list(shown(events).values()) == ["A longer answer that comes in many s"]
    assert stream.result is not None
    assert errors.failure(stream.result).detail == errors.INTERRUPTED


def test_text_that_nobody_confirmed_or_gave_up_is_void_when_another_message_begins() -> None:
    recorded = lines("error_drop_always_max_retries_2")
    unsaid = [line for line in recorded if not line.get("abandoned_blocks")]
    stream = Stream()
    events = [event for line in unsaid for event in stream.feed(line)]
    assert len(shown(events)) == 1
    assert sum(isinstance(event, TextReset) for event in events) == 3


def test_a_call_that_was_given_up_with_its_stream_is_finished() -> None:
    recorded = lines("error_drop_in_tool_json")
    called = next(n for n, line in enumerate(recorded) if line["type"] == "assistant" and n > 12)
    message = recorded[called]["message"]["id"]
    stream = Stream()
    for line in recorded[: called + 1]:
        list(stream.feed(line))
    given_up = {
        "type": "stream_event",
        "event": {"type": "message_stop"},
        "abandoned_blocks": {"api_message_id": message, "from_block_index": 0},
    }
    void, tool = list(stream.feed(given_up))
    assert isinstance(void, TextReset)
    assert isinstance(tool, ToolFinished) and not tool.ok


@pytest.mark.parametrize(
    ("name", "reason"), [("flag_max_turns", "more than 7 steps"), ("flag_max_budget", "more than 0.25 USD")]
)
def test_a_cap_is_over_budget_and_leaves_no_call_open(name: str, reason: str) -> None:
    events, stream = translated(name)
    assert stream.result is not None
    end = errors.finished(stream.result, OPTIONS)
    assert (end.outcome, reason in (end.error or "")) == ("budget_exceeded", True)
    assert (end.cost_usd or 0) > 0
    started = [event.tool_use_id for event in events if isinstance(event, ToolStarted)]
    assert [event.tool_use_id for event in events if isinstance(event, ToolFinished)] == started


def test_a_call_that_was_never_run_says_so() -> None:
    events, _ = translated("flag_max_budget")
    assert [event.summary for event in events if isinstance(event, ToolFinished)] == [NOT_RUN]


def test_a_call_that_timed_out_is_not_ok() -> None:
    events, _ = translated("mcp_call_timeout")
    [finished] = [event for event in events if isinstance(event, ToolFinished)]
    assert not finished.ok
    assert "timed out" in finished.summary


@pytest.mark.parametrize(
    ("name", "tool", "rule"),
    [
        ("builtin_tool_disabled", "Bash", NO_SUCH_TOOL),
        ("mcp_tool_disallowed_one", "n8n_create_workflow", NO_SUCH_TOOL),
        ("mcp_tool_not_allowed_dontask", "n8n_create_workflow", NOT_ALLOWED),
    ],
)
def test_a_call_that_the_cli_refuses_is_told_between_its_begin_and_its_end(name: str, tool: str, rule: str) -> None:
    events, _ = translated(name)
    started, refused, finished = (
        event for event in events if isinstance(event, ToolStarted | ToolRefused | ToolFinished)
    )
    assert isinstance(started, ToolStarted) and isinstance(finished, ToolFinished) and not finished.ok
    assert refused == ToolRefused(tool, started.tool_use_id, rule)


def test_a_tool_that_fails_by_itself_was_not_refused() -> None:
    assert not any(isinstance(event, ToolRefused) for event in translated("mcp_call_timeout")[0])


def test_a_tools_server_that_is_missing_is_noticed() -> None:
    assert translated("mcp_server_missing")[1].without_tools


def test_whole_messages_without_pieces_are_final() -> None:
    events, _ = translated("plain_text_without_partial")
    assert finals(events) == ["Hello! What shall we automate today?"]


def test_separators_within_a_text_are_kept() -> None:
    assert "\u2028" in finals(translated("unicode_text")[0])[0]


def test_the_clis_own_words_for_a_failure_are_not_the_models() -> None:
    for name in ("error_no_api_key", "stop_reason_refusal", "error_slow_headers_api_timeout"):
        assert not any("API Error" in text or "log" in text for text in finals(translated(name)[0]))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("error_no_api_key", errors.KEY),
        ("error_slow_headers_api_timeout", errors.NETWORK),
        ("error_sse_overloaded_no_fallback", errors.OVERLOADED),
        ("stop_reason_refusal", errors.REFUSED),
        ("stop_SIGINT_in_tool", errors.INTERRUPTED),
        ("resume_unknown", errors.OTHER),
    ],
)
def test_a_failure_has_one_sentence(name: str, sentence: str) -> None:
    result = lines(name)[-1]
    error = errors.failure(result)
    assert error.detail == sentence
    assert errors.can_begin_again(result) is (name == "resume_unknown")


@pytest.mark.parametrize(
    ("status", "words", "sentence"),
    [
        (400, "Credit balance is too low", errors.CREDIT),
        (400, "API Error: 400 messages.0: unexpected", errors.BAD_REQUEST),
        (403, "Failed to authenticate. API Error: 403 no permission", errors.KEY),
        (404, "There's an issue with the selected model", errors.MODEL),
        (413, "Request too large", errors.TOO_LONG),
        (503, "API Error: 503", errors.SERVER),
        (None, "unable to verify the first certificate", errors.NETWORK),
        (None, "something new", errors.OTHER),
    ],
)
def test_a_status_has_one_sentence(status: int | None, words: str, sentence: str) -> None:
    result = {"is_error": True, "subtype": "success", "api_error_status": status, "result": words}
    assert errors.failure(result).detail == sentence


def test_lines_that_are_not_known_say_nothing() -> None:
    stream = Stream()
    for line in (
        {},
        {"type": "new"},
        {"type": "system", "subtype": "new"},
        {"type": "user", "message": {"content": "x"}},
    ):
        assert list(stream.feed(line)) == []
    assert not stream.spoke


def test_a_long_tool_result_is_cut() -> None:
    stream = Stream()
    use = {"type": "tool_use", "id": "t1", "name": "mcp__n8n__get_workflow", "input": {}}
    list(stream.feed({"type": "assistant", "message": {"id": "m", "content": [use]}}))
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "a  b\n" * 10_000}
    [finished] = stream.feed({"type": "user", "message": {"content": [result, result]}})
    assert isinstance(finished, ToolFinished)
    assert len(finished.summary) == 200 and finished.summary.startswith("a b a b")
