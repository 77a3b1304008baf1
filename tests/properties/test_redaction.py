"""Redaction of any value: its result is bounded JSON, and redacting it again changes nothing, unless it was cut."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.redaction import MAX_DEPTH, MAX_ITEMS, redact, redact_text
from tests.properties.values import BOUNDED, texts, values

CUT = " characters in all]"
NOTE_CHARS = 64  # how long the remark on what was cut may be


@BOUNDED
@given(texts, st.sampled_from((64, 512, 8_192)))
def test_a_text_stays_within_its_bound_and_is_redacted_once(text: str, limit: int) -> None:
    once = redact_text(text, limit=limit)
    assert len(once) <= limit + NOTE_CHARS
    if CUT not in once:
        assert redact_text(once, limit=limit) == once


@BOUNDED
@given(values, st.sampled_from((64, 512, 8_192)))
def test_a_value_becomes_json_and_is_redacted_once(value: Any, limit: int) -> None:
    once = redact(value, limit=limit)
    text = json.dumps(once, allow_nan=False)
    assert json.loads(text) == once
    if CUT not in text:
        assert redact(once, limit=limit) == once


@BOUNDED
@given(st.integers(0, 3 * MAX_ITEMS), st.integers(0, 3 * MAX_DEPTH))
def test_lists_objects_and_depth_are_cut(width: int, depth: int) -> None:
    deep: Any = "end"
    for level in range(depth):
        deep = [deep] if level % 2 else {"a": deep}
    found = redact({"list": [0] * width, "object": {str(n): n for n in range(width)}, "deep": deep})
    assert len(found["list"]) <= MAX_ITEMS and len(found["object"]) <= MAX_ITEMS
    text = json.dumps(found["deep"])
    assert text.count("[") + text.count("{") <= MAX_DEPTH + 1
