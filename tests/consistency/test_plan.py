"""What a seed stands for."""

from __future__ import annotations

from tests.consistency.plan import plan


def test_a_seed_is_a_plan() -> None:
    assert plan(7, seconds=5) == plan(7, seconds=5) != plan(8, seconds=5)
