"""Of what repeats, the first in an interval is told, with the number of those that were not."""

from __future__ import annotations

from app.telemetry.sampling import Sampler


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_is_told_and_the_next_interval_says_how_many_were_not() -> None:
    clock = Clock()
    sampler = Sampler(60, clock=clock)
    assert [sampler.take("a") for _ in range(4)] == [0, None, None, None]
    clock.now = 59.9
    assert sampler.take("a") is None
    clock.now = 60.0
    assert [sampler.take("a"), sampler.take("a")] == [4, None]


def test_kinds_are_counted_apart() -> None:
    sampler = Sampler(60, clock=Clock())
    assert [sampler.take(("/a", 429)), sampler.take(("/a", 503)), sampler.take(("/b", 429))] == [0, 0, 0]


def test_kinds_are_bounded_and_the_one_longest_not_met_goes() -> None:
    sampler = Sampler(60, max_kinds=2, clock=Clock())
    for kind in ("a", "b", "a", "c"):
        sampler.take(kind)
    assert sampler.take("a") is None
    assert sampler.take("b") == 0
