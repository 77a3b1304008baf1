"""One failure of a trigger, told by its callback and by the poll: which is which."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from app.callbacks.triggers import GAP_MAX, KEPT_S, LATE_MAX_S, NOTES_MAX, SETTLED_S, SKEW_S, Note, paired

NOW_S = 1_000_000.0


def run(number: int, ago_s: float = 0.0) -> Note:
    return Note(True, number, NOW_S - ago_s)


def callback(number: int = 0, ago_s: float = 0.0) -> Note:
    return Note(False, number, NOW_S - ago_s)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (run(7), callback(8), True),
        (run(7, ago_s=90.0), callback(8), True),
        (run(7, ago_s=23 * 3600.0), callback(8), True),
        (run(7), callback(6), False),
        (run(7), callback(7), False),
        (run(7), callback(7 + GAP_MAX), True),
        (run(7), callback(8 + GAP_MAX), False),
        (run(7), callback(8, ago_s=SKEW_S), True),
        (run(7), callback(8, ago_s=SKEW_S + 1), False),
        (run(7), callback(), True),
        (run(7, ago_s=90.0), callback(), True),
        (run(7, ago_s=LATE_MAX_S + 1), callback(), False),
        (run(7), callback(ago_s=SKEW_S + 1), False),
        (run(7), run(8), False),
        (callback(7), callback(8), False),
    ],
)
def test_a_callback_belongs_to_the_run_that_its_error_workflow_followed(one: Note, other: Note, same: bool) -> None:
    for first, second in ((one, other), (other, one)):
        before, notes = paired([first], second, now_s=NOW_S)

        assert before is same
        assert notes == [replace(note, pair=int(same)) for note in (first, second)]


def test_each_note_is_used_once() -> None:
    notes = [run(7), run(9)]
    for number, expected in ((10, True), (8, True), (8, False)):
        before, notes = paired(notes, callback(number), now_s=NOW_S)
        assert before is expected
    assert [note.pair for note in notes] == [1, 2, 2, 1, 0]


def test_a_numbered_callback_is_preferred() -> None:
    assert [note.pair for note in paired([callback(), callback(9)], run(7), now_s=NOW_S)[1]] == [0, 2, 2]


def test_a_pair_is_made_anew_where_that_makes_one_more() -> None:
    # The callback of run 25 came before the poll had found that, and was taken for the late one of run 23.
    before, notes = paired([run(23)], callback(26), now_s=NOW_S)
    assert before
    before, notes = paired(notes, callback(24), now_s=NOW_S)
    assert not before

    before, notes = paired(notes, run(25), now_s=NOW_S)

    assert before
    assert {frozenset(n.number for n in notes if n.pair == pair) for pair in (1, 2)} == {
        frozenset({23, 24}),
        frozenset({25, 26}),
    }


def test_what_is_too_old_is_forgotten() -> None:
    old = callback(3, ago_s=KEPT_S)
    assert paired([old, callback(5)], run(7), now_s=NOW_S) == (False, [callback(5), run(7)])

    settled = [run(3, ago_s=2 * SETTLED_S), callback(4, ago_s=SETTLED_S)]
    going = [run(5, ago_s=2 * SETTLED_S), callback(6, ago_s=SETTLED_S - 1)]
    notes = [*(replace(note, pair=1) for note in settled), *(replace(note, pair=2) for note in going)]
    assert [note.number for note in paired(notes, run(9), now_s=NOW_S)[1]] == [5, 6, 9]

    many = [run(number) for number in range(NOTES_MAX)]
    assert paired(many, run(NOTES_MAX), now_s=NOW_S) == (False, [*many[1:], run(NOTES_MAX)])

    # Never half a pair: the other half would be taken for one that waits.
    pair = [replace(run(1), pair=1), *many[2:], replace(callback(2), pair=1)]
    assert [note.number for note in paired(pair, run(NOTES_MAX), now_s=NOW_S)[1]] == [*range(2, NOTES_MAX + 1)]


def tellings(arrivals: Iterable[tuple[float, Note]]) -> int:
    notes: list[Note] = []
    told = 0
    for now_s, note in arrivals:
        before, notes = paired(notes, note, now_s=now_s)
        told += not before
    return told


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_five_failures_a_minute_are_told_once_each_in_any_order(seed: int, numbered: bool) -> None:
    """Callbacks come up to 90 s late or never; the poll's rounds are somewhere between."""
    order = random.Random(seed)
    count = 50
    failed_at = [number * 12.0 for number in range(count)]
    arrivals: list[tuple[float, Note]] = []
    for number, at_s in enumerate(failed_at):
        comes_at = at_s + order.uniform(0.1, 90.0)
        if order.random() < 0.9:
            arrivals.append((comes_at, Note(False, 2 * number + 2 if numbered else 0, comes_at)))
        found_at = (at_s // 300.0 + 1) * 300.0
        arrivals.append((found_at, Note(True, 2 * number + 1, at_s)))
    arrivals.sort(key=lambda arrival: arrival[0])

    assert tellings(arrivals) == count
