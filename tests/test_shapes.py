"""What JSON is taken from outside, and how a complaint about it reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import Field

from app.errors import ValidationError
from app.shapes import MAX_DEPTH, MAX_ERRORS, Query, Shape, check_depth, decode_json, read_body, read_query


class Order(Shape):
    name: str = Field(min_length=2, max_length=5)
    count: int = Field(default=0, ge=0, le=9)
    lines: list[int] = Field(default=[], max_length=50)


class Page(Query):
    limit: int = Field(default=10, ge=1, le=99)


def complaints(of: Any, *arguments: Any, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as raised:
        of(*arguments, **options)
    return [(error["path"], error["message"]) for error in raised.value.errors]


TOO_DEEP = [("", f"is nested more than {MAX_DEPTH} levels deep")]


@pytest.mark.parametrize(
    "text",
    [
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH,
        "[" + "[]," * 10_000 + "[]]",
        json.dumps({"text": "[{" * 1_000}),
        json.dumps({"text": '\\"[{"\\' * 1_000, "\\": "\\\\" + "[" * 200}),
        json.dumps(["[" * 200, '"', "{" * 200, '\\"']),
    ],
)
def test_brackets_that_nest_no_deeper_are_taken(text: str) -> None:
    assert decode_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        '{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
        '[{"a":' * 60 + "1" + "}]" * 60,
        '["\\\\",' + "[" * 200 + "]" * 200 + "]",
        '["\\"",' + "[" * 200 + "]" * 200 + "]",
        "[" * 1_000_000,
    ],
)
def test_deeper_ones_are_refused_whatever_reads_them(text: str) -> None:
    assert complaints(check_depth, text) == TOO_DEEP
    assert complaints(decode_json, text.encode()) == TOO_DEEP
    assert complaints(read_body, Order, text.encode()) == TOO_DEEP


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": 1} {}', "is not JSON"),
        (b'"\xff"', "is not UTF-8"),
        ("{}".encode("utf-16"), "is not UTF-8"),
        (b'{"a": NaN}', "has NaN or Infinity, which JSON has not"),
        (b"[-Infinity]", "has NaN or Infinity, which JSON has not"),
        (b"[" + b"9" * 5_000 + b"]", "has a number of too many digits"),
    ],
)
def test_what_is_no_json_is_told_apart(data: bytes, message: str) -> None:
    assert complaints(decode_json, data) == [("", message)]


def test_a_number_beyond_doubles_is_refused_where_it_would_be_written_again() -> None:
    assert decode_json(b"[1e999]") == [float("inf")]
    assert complaints(decode_json, b"[1e999]", finite=True) == [("", "has a number that is too large")]


def test_a_byte_order_mark_is_skipped_and_the_last_of_doubled_keys_counts() -> None:
    assert decode_json(b'\xef\xbb\xbf{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        (b"[]", [("", "must be an object")]),
        (b"{}", [("name", "is missing")]),
        (b'{"name": 1}', [("name", "must be text")]),
        (b'{"name": "x"}', [("name", "must have at least 2 characters")]),
        (b'{"name": "secret"}', [("name", "must have at most 5 characters")]),
        (b'{"name": "ab", "count": 10}', [("count", "must be at most 9")]),
        (b'{"name": "ab", "count": -1}', [("count", "must be at least 0")]),
        (b'{"name": "ab", "count": 1.5}', [("count", "must be a whole number")]),
        (b'{"name": "ab", "count": "1"}', [("count", "must be a whole number")]),
        (b'{"name": "ab", "count": true}', [("count", "must be a whole number")]),
        (b'{"name": "ab", "count": 1e999}', [("count", "must be a whole number")]),
        (b'{"name": "ab", "count": ' + b"9" * 5_000 + b"}", [("", "has a number of too many digits")]),
        (b'{"name": "ab", "lines": {}}', [("lines", "must be a list")]),
        (b'{"name": "ab", "lines": [1, "secret"]}', [("lines.1", "must be a whole number")]),
        (b'{"name": "\\ud800"}', [("", "has a broken escape or half a surrogate pair")]),
        (b'{"name": "ab", "x": NaN}', [("", "has NaN or Infinity, which JSON has not")]),
        (b'\xef\xbb\xbf{"name": "ab"}', [("", "is not JSON")]),
        (b'{"name": "\xff"}', [("", "is not UTF-8")]),
    ],
)
def test_each_complaint_has_its_place_and_plain_words(text: bytes, errors: list[tuple[str, str]]) -> None:
    assert complaints(read_body, Order, text) == errors


def test_words_that_look_like_constants_are_words() -> None:
    assert read_body(Order, b'{"name": "NaN", "x": "Infinity"}').name == "NaN"


def test_no_more_than_twenty_complaints() -> None:
    text = json.dumps({"name": "ab", "lines": ["x"] * 40}).encode()
    assert len(complaints(read_body, Order, text)) == MAX_ERRORS


@pytest.mark.parametrize("value", ["", "x", "0", "100", "1.5", "1e3", "9" * 5_000, "\0", "١"])
def test_a_bad_parameter_is_named_and_not_quoted(value: str) -> None:
    ((path, message),) = complaints(read_query, Page, {"limit": value})
    assert path == "limit"
    assert message in ("must be a whole number", "must be at least 1", "must be at most 99") or "digits" in message


def test_unknown_parameters_are_ignored() -> None:
    assert read_query(Page, {"limit": "7", "x": "y"}) == Page(limit=7)
