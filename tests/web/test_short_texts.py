"""Texts in one piece are read and written without wsproto; what comes of it is what wsproto would have made of it."""

from __future__ import annotations

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Ping, Pong, TextMessage

from app.web.framing import medium_text, short_control, short_text, text_frame


def from_client(event: Event) -> bytes:
    return Connection(ConnectionType.CLIENT).send(event)


@pytest.mark.parametrize("text", ["a", "ab", "abc", "abcd", "é", "💡", '{"type":"ping"}', "x" * 125, "\0\0\0\0"])
def test_a_short_text_of_a_client_is_read(text: str) -> None:
    for _ in range(20):  # each with another mask
        assert short_text(from_client(TextMessage(text))) == text


NOT_SHORT_TEXTS = {
    "longer": from_client(TextMessage("x" * 126)),
    "empty": from_client(TextMessage("")),
    "the first fragment": from_client(TextMessage("ab", message_finished=False)),
    "half of it": from_client(TextMessage("abcdef"))[:-1],
    "more than it": from_client(TextMessage("abcdef")) + b"\x81",
    "two at once": from_client(TextMessage("ab")) * 2,
    "not masked": b"\x81\x02ab",
    "compressed": b"\xc1" + from_client(TextMessage("ab"))[1:],
    "a continuation": b"\x80" + from_client(TextMessage("ab"))[1:],
    "not UTF-8": b"\x81\x82\0\0\0\0\xff\xfe",
    "a ping": from_client(Ping(b"ab")),
    "nothing": b"",
}


@pytest.mark.parametrize("data", NOT_SHORT_TEXTS.values(), ids=NOT_SHORT_TEXTS.keys())
def test_all_else_is_left_to_the_library(data: bytes) -> None:
    assert short_text(data) is None


@pytest.mark.parametrize("size", [126, 127, 1000, 65_534, 65_535])
def test_a_longer_text_in_one_piece_is_read(size: int) -> None:
    text = "é" * (size // 2) + "x" * (size % 2)

    assert medium_text(from_client(TextMessage(text))) == text


NOT_MEDIUM_TEXTS = {
    **NOT_SHORT_TEXTS,
    "longer": from_client(TextMessage("x" * 65_536)),
    "short": from_client(TextMessage("x" * 125)),
    "half of it": from_client(TextMessage("x" * 200))[:-1],
    "more than it": from_client(TextMessage("x" * 200)) + b"\x81",
    "two at once": from_client(TextMessage("x" * 200)) * 2,
    "its length written in more bytes than it needs": b"\x81\xfe\0\x02\0\0\0\0ab",
    "the first fragment": from_client(TextMessage("x" * 200, message_finished=False)),
    "not masked": b"\x81\x7e\0\xc8" + b"x" * 200,
    "not UTF-8": b"\x81\xfe\0\xc8\0\0\0\0" + b"\xff" * 200,
    "half of its head": b"\x81\xfe\0",
}


@pytest.mark.parametrize("data", NOT_MEDIUM_TEXTS.values(), ids=NOT_MEDIUM_TEXTS.keys())
def test_all_else_of_that_length_is_left_to_the_library(data: bytes) -> None:
    assert medium_text(data) is None


def test_a_control_frame_gives_what_it_carries() -> None:
    assert short_control(from_client(Ping(b"ab"))) == (0x89, b"ab")
    assert short_control(from_client(Pong())) == (0x8A, b"")


@pytest.mark.parametrize("event", [Ping(), Ping(b"x" * 125), Pong(), Pong(b"x"), CloseConnection(1000, "bye")])
def test_a_control_frame_in_one_piece_leaves_nothing_half_read(event: Event) -> None:
    whole = from_client(event)

    assert short_control(whole) is not None
    assert not short_control(whole[:-1])
    assert not short_control(whole + b"\x81")


def test_a_text_frame_is_not_taken_for_a_control_frame() -> None:
    assert not short_control(from_client(TextMessage("ab")))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_a_text_is_written_as_the_library_writes_it(size: int) -> None:
    text = "é" * (size // 2) + "x" * (size % 2)

    assert text_frame(text) == Connection(ConnectionType.SERVER).send(TextMessage(text))
