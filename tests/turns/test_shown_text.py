"""A message that comes in pieces shows no secret, and no piece of one that tells it."""

from __future__ import annotations

import pytest

from app.turns.shown_text import ShownText
from tests.telemetry.test_redaction import SECRETS


def shown(text: str, size: int) -> str:
    message = ShownText()
    return "".join(message.take(text[at : at + size]) for at in range(0, len(text), size))


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_in_pieces_is_not_shown(text: str, secret: str, size: int) -> None:
    told = shown(f"Here it is:\n{text}\nand that was it, as far as I know.\n", size)
    assert secret not in told
    if "PRIVATE KEY" not in text:  # one without an end goes on for all we know
        assert told.startswith("Here it is:\n")
        assert told.endswith("as far as I know.\n")


def test_ordinary_text_is_shown_as_it_comes() -> None:
    message = ShownText()
    for piece in ("The work", "flow gets ", "a page", "; posts it.\n", "It runs every 5 ", "min", "utes"):
        assert message.take(piece) == piece
    assert message.take(" at 10:0") + message.take("0 ") == " at 10:00 "


def test_a_word_that_stands_before_secrets_holds_back_a_few_words_only() -> None:
    assert shown("The token has expired, so make a new one in the settings", 4).startswith(
        "The token has expired, so make"
    )


def test_what_is_held_back_is_bounded() -> None:
    message = ShownText()
    told = "".join(message.take("password=hunter22 and so on ") for _ in range(2_000))
    assert "hunter22" not in told and len(told) > 20_000
