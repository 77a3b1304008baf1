"""Whatever comes in is taken, or refused with a complaint in our own words: frames, bodies, callbacks, calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.callbacks.report import ErrorReport, parse_error_report
from app.callbacks.routes import DeadLettersQuery, ReplayBody
from app.errors import ValidationError
from app.ops.routes import AutonomyBody
from app.sessions.frames import (
    AdoptBody,
    EventsQuery,
    MessageBody,
    SessionsQuery,
    VersionQuery,
    read_command,
    read_frame,
    read_hello,
)
from app.shapes import MAX_DEPTH, decode_json, read_body, read_query
from app.tools.mcp import ToolResult, answer
from tests.fakes.turn_tools import FakeTurnTools
from tests.properties.values import BOUNDED, PAYLOADS, has_our_words, keys, mutated, texts, values

FRAMES: list[dict[str, Any]] = [
    {"type": "hello", "sessionId": "s", "token": "t", "after": 1},
    {"type": "message", "text": "hi", "clientMessageId": "c"},
    {"type": "ping"},
    {"type": "cancel"},
    {"type": "approve", "repairId": "r"},
    {"type": "retry_repair", "workflowId": "w", "signature": "s"},
    {"type": "rollback", "workflowId": "w", "snapshotId": "s"},
    {"type": "set_autonomy", "workflowId": "w", "autonomy": "ask"},
]
BODIES = [MessageBody, AdoptBody, ReplayBody, AutonomyBody]
QUERIES = [EventsQuery, SessionsQuery, VersionQuery, DeadLettersQuery]


def taken(read: Any, *arguments: Any) -> Any:
    """What was read, or ``None`` where it was refused as it should be; any other exception is the test's failure."""
    try:
        return read(*arguments)
    except ValidationError as exc:
        refusal = exc
    assert has_our_words(refusal.errors), refusal.errors
    return None


@BOUNDED
@given(st.one_of(values, st.sampled_from(FRAMES).flatmap(mutated)), st.booleans())
def test_any_json_is_a_frame_or_a_complaint(value: Any, plain: bool) -> None:
    text = json.dumps(value, ensure_ascii=plain)
    for read in (read_hello, read_frame, read_command):
        found = taken(read, text)
        if found is not None:
            assert found.type == value["type"]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame["type"])
def test_every_valid_frame_is_taken(frame: dict[str, Any]) -> None:
    read = read_hello if frame["type"] == "hello" else read_frame
    assert taken(read, json.dumps(frame)).model_dump(exclude_unset=True) == frame


@BOUNDED
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes_are_a_body_or_a_complaint(data: bytes) -> None:
    taken(decode_json, data)
    for model in BODIES:
        taken(read_body, model, data)


@BOUNDED
@given(values)
def test_any_json_is_a_body_or_a_complaint(value: Any) -> None:
    data = json.dumps(value).encode()
    for model in BODIES:
        taken(read_body, model, data)


@BOUNDED
@given(st.integers(1, 2 * MAX_DEPTH), st.lists(st.sampled_from(['"[[{"', '"\\\\"', '"\\""', "1", "[]"]), max_size=5))
def test_depth_is_counted_as_the_parser_would(depth: int, beside: list[str]) -> None:
    flat = depth == 1
    inner = ",".join(beside if not flat else [one for one in beside if one != "[]"])
    text = "[" * depth + inner + "]" * depth
    deepest = depth + (1 if "[]" in beside and not flat else 0)
    found = taken(decode_json, text.encode())
    assert (found is None) is (deepest > MAX_DEPTH)


@BOUNDED
@given(st.dictionaries(st.one_of(st.sampled_from(["after", "limit", "reason", "version"]), texts), texts, max_size=5))
def test_any_parameters_are_a_query_or_a_complaint(parameters: dict[str, str]) -> None:
    for model in QUERIES:
        found = taken(read_query, model, parameters)
        if found is not None and hasattr(found, "limit"):
            assert 1 <= found.limit <= 1_000


# -- callbacks


@BOUNDED
@given(st.one_of(st.sampled_from(PAYLOADS).flatmap(mutated), values), texts)
def test_a_callback_is_a_report_or_a_complaint(body: Any, header_key: str) -> None:
    report: ErrorReport | None = taken(parse_error_report, body)
    if report is None:
        return
    assert 0 < len(report.workflow_id) <= 128
    kept = json.dumps(report.as_body(), allow_nan=False)
    assert len(kept) < 200_000
    again = parse_error_report(json.loads(kept))
    assert again == report
    keyed = parse_error_report(body, header_key=header_key)
    assert keyed.idempotency_key in (report.idempotency_key, f"key:{header_key}")


# -- tool calls

CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "tool", "arguments": {"a": 1}, "_meta": {"claudecode/toolUseId": "t"}},
}


@BOUNDED
@given(st.one_of(st.just(CALL).flatmap(mutated), values, keys.map(lambda method: {**CALL, "method": method})))
def test_any_message_to_the_tools_has_an_answer_or_needs_none(message: Any) -> None:
    tools = FakeTurnTools(tool=ToolResult("done"))
    found = answer(message, tools)
    assert found is None or ("result" in found) != ("error" in found)
    json.dumps(found)
    for _, arguments, tool_use_id in tools.calls:
        assert isinstance(arguments, dict) and len(tool_use_id) <= 128
