"""Each idle socket has its turn, few at a time, and none that has gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import gevent
import pytest

from app.sessions.rounds import AT_ONCE, Rounds


def until(done: Callable[[], bool]) -> None:
    with gevent.Timeout(20):
        while not done():
            gevent.sleep(0.005)


def test_each_is_visited_again_and_again_in_the_order_in_which_they_came() -> None:
    visited: list[str] = []
    rounds = Rounds[str](0.03, visited.append)
    for name in "abc":
        rounds.add(name)
    assert not visited, "an interval first"

    until(lambda: len(visited) >= 9)

    assert visited[:9] == list("abc" * 3)


def test_who_was_discarded_is_visited_no_more_even_by_a_visit() -> None:
    visited: Counter[str] = Counter()

    def visit(name: str) -> None:
        visited[name] += 1
        rounds.discard("b")

    rounds = Rounds[str](0.03, visit)
    for name in "ab":
        rounds.add(name)

    until(lambda: visited["a"] == 3)
    assert visited["b"] == 0
    rounds.discard("a")
    rounds.discard("a")
    rounds.add("c")
    until(lambda: visited["c"] == 2)
    assert visited["a"] == 3


def test_others_have_their_turn_while_many_are_due_at_once() -> None:
    seen = 0
    visited: list[int] = []
    rounds = Rounds[int](0.05, visited.append)
    for number in range(10 * AT_ONCE):
        rounds.add(number)

    with gevent.Timeout(20):
        while len(visited) < 10 * AT_ONCE:
            before = len(visited)
            gevent.sleep(0)
            assert len(visited) - before <= AT_ONCE
            seen += before < len(visited)

    assert visited[: 10 * AT_ONCE] == list(range(10 * AT_ONCE))
    assert seen >= 10


def test_a_visit_that_fails_is_not_the_end_of_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    visited: Counter[str] = Counter()

    def visit(name: str) -> None:
        visited[name] += 1
        if name == "a":
            raise ValueError("a bug")

    rounds = Rounds[str](0.03, visit)
    for name in "ab":
        rounds.add(name)

    until(lambda: visited["a"] >= 2 and visited["b"] >= 2)

    assert "a bug" in capfd.readouterr().err, "the loop reports it"
    rounds.discard("a")
    rounds.discard("b")
