"""A run on this backend; ``make consistency`` has longer ones."""

from __future__ import annotations

from tests.consistency.rounds import check_round


def test_whatever_is_killed_paused_and_repeated_everybody_was_told_the_truth() -> None:
    check_round("sqlite")
