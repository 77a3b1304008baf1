"""The contract of hits: a sliding window that counts exactly, says truly when one more fits, and forgets by itself."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial

import gevent
import pytest

from app.errors import LeaseLostError, RateLimitError, SessionNotFoundError, StaleDocumentError, TooManyPendingError
from app.journal import Change, Expect, Journal, Limit, NewInput, Once, Put

from .backends import Backend
from .steps import (
    DEADLINE_S,
    ask,
    let_the_clock_move,
    message,
    new_id,
    open_session,
    start_python,
    taken_over,
    texts,
    together,
    until,
)


def limit(count: int, *, key: str | None = None, window_s: float = 60.0) -> Limit:
    return Limit(key or new_id(), count, window_s)


def fill(journal: Journal, full: Limit, hits: int | None = None) -> None:
    assert [journal.hit(full) for _ in range(full.limit if hits is None else hits)] == [0] * (hits or full.limit)


def test_hits_pass_up_to_the_limit_and_no_further(journal: Journal, other: Journal) -> None:
    three = limit(3)

    assert [handle.hit(three) for handle in (journal, other, journal)] == [0, 0, 0]

    for handle in (journal, other):
        assert 0 < handle.hit(three) <= 60


def test_each_key_has_hits_of_its_own(journal: Journal) -> None:
    fill(journal, limit(2, key="a"))

    fill(journal, limit(2, key="b"))
    assert journal.hit(limit(2, key="a")) > 0


def test_a_hit_counts_for_the_window_and_not_longer(journal: Journal) -> None:
    two = limit(2, window_s=0.3)
    began = time.time()
    fill(journal, two, 1)
    first = time.time()
    gevent.sleep(0.1)
    fill(journal, two, 1)

    refused_until = until(lambda: journal.hit(two) == 0 and time.time())

    assert refused_until >= began + 0.3
    # The second hit slides on by itself: only one place was freed.
    assert journal.hit(two) > 0 or time.time() >= first + 0.4


def test_waiting_for_as_long_as_was_said_is_enough_and_less_is_not(journal: Journal, other: Journal) -> None:
    one = limit(1, window_s=0.25)
    fill(journal, one)

    said_s = other.hit(one)
    asked_at = time.monotonic()
    gevent.sleep(said_s / 2)
    assert journal.hit(one) > 0 or time.monotonic() >= asked_at + said_s
    gevent.sleep(max(0.0, asked_at + said_s - time.monotonic()))

    assert other.hit(one) == 0


def test_a_refused_change_says_whole_seconds_that_are_enough(journal: Journal) -> None:
    one = limit(1, window_s=0.5)
    journal.commit(Change(limit=one))
    began = time.monotonic()

    with pytest.raises(RateLimitError) as refused:
        journal.commit(Change(limit=one))

    assert refused.value.retry_after_s == 1
    gevent.sleep(max(0.0, began + 1 - time.monotonic()))
    journal.commit(Change(limit=one))


def test_many_at_once_count_exactly(journal: Journal, other: Journal) -> None:
    wanted = limit(25)

    outcomes = together([partial(handle.hit, wanted) for handle in (journal, other) for _ in range(50)])

    assert sorted(outcomes, key=float)[:25] == [0] * 25  # type: ignore[arg-type]
    assert all(0 < wait <= 60 for wait in sorted(outcomes, key=float)[25:])  # type: ignore[arg-type, operator]


def test_two_processes_at_once_count_exactly(backend: Backend, journal: Journal) -> None:
    wanted = limit(40)
    source = (
        "import gevent, sys\nfrom app.journal import Limit\n"
        f"{backend.source}\n"
        f"wanted = Limit({wanted.key!r}, {wanted.limit}, {wanted.window_s})\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "jobs = [gevent.spawn(journal.hit, wanted) for _ in range(60)]\n"
        "gevent.joinall(jobs, raise_error=True)\n"
        "print(sum(job.value == 0 for job in jobs), flush=True)\njournal.close()\n"
    )
    processes = [start_python(source, stdin=-1) for _ in range(2)]
    try:
        assert [process.stdout.readline().strip() for process in processes] == ["ready"] * 2
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        passed = sum(int(process.stdout.readline()) for process in processes)
        assert [process.wait(DEADLINE_S) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()

    assert passed == 40
    assert journal.hit(wanted) > 0


def test_a_raised_limit_lets_as_many_more_pass(journal: Journal) -> None:
    fill(journal, limit(2, key="k"))

    fill(journal, limit(5, key="k"), 3)

    assert journal.hit(limit(5, key="k")) > 0


def test_a_lowered_limit_counts_what_was_there_before(journal: Journal) -> None:
    fill(journal, limit(5, key="k"))

    assert journal.hit(limit(2, key="k")) > 0
    assert journal.hit(limit(6, key="k")) == 0


def test_a_refused_hit_is_no_hit(journal: Journal) -> None:
    two = limit(2, window_s=0.4)
    fill(journal, two, 1)
    gevent.sleep(0.2)
    fill(journal, two, 1)
    until(lambda: journal.hit(two) == 0)  # many were refused meanwhile

    until(lambda: journal.hit(two) == 0, deadline_s=2)


def test_a_hit_that_is_taken_back_makes_room(journal: Journal, other: Journal) -> None:
    two = limit(2)
    fill(journal, two)

    assert other.take_hit(two) is True

    assert journal.hit(two) == 0
    assert journal.hit(two) > 0


def test_there_is_nothing_to_take_back_where_nothing_counts(journal: Journal) -> None:
    brief = limit(2, window_s=0.1)
    assert journal.take_hit(brief) is False
    fill(journal, brief, 1)
    gevent.sleep(0.11)

    assert journal.take_hit(brief) is False


def test_each_hit_is_taken_back_once(journal: Journal, other: Journal) -> None:
    five = limit(5)
    fill(journal, five)

    outcomes = together([partial(handle.take_hit, five) for handle in (journal, other) for _ in range(10)])

    assert sorted(outcomes) == [False] * 15 + [True] * 5


def test_no_window_ever_has_more_than_the_limit(journal: Journal, other: Journal) -> None:
    wanted = limit(5, window_s=0.05)
    asked: list[tuple[float, float]] = []

    def knock(handle: Journal) -> None:
        while len(asked) < 60:
            before = time.time()
            wait_s = handle.hit(wanted)
            if wait_s == 0:
                asked.append((before, time.time()))
            gevent.sleep(wait_s)

    together([partial(knock, handle) for handle in (journal, other) for _ in range(4)])

    answered = sorted(after for _, after in asked)
    for later, (before, _) in zip(answered[5:], sorted(asked), strict=False):
        assert later - before >= 0.05


# -- with a change


def test_a_change_is_a_hit(journal: Journal, session_id: str) -> None:
    two = limit(2)
    change = Change(session_id, events=[message()], limit=two)
    journal.commit(change)
    journal.commit(change)

    with pytest.raises(RateLimitError):
        journal.commit(change)

    assert len(texts(journal, session_id)) == 2
    assert journal.hit(two) > 0


def test_a_change_over_the_limit_writes_nothing(journal: Journal, session_id: str) -> None:
    one = limit(1)
    fill(journal, one)

    with pytest.raises(RateLimitError):
        journal.commit(
            Change(
                session_id,
                events=[message()],
                once=Once("key"),
                limit=one,
                add=NewInput("chat"),
                puts=[Put("note", "n", {})],
            )
        )

    assert texts(journal, session_id) == []
    assert journal.pending(session_id) == []
    assert journal.get("note", "n") is None
    assert not journal.commit(Change(once=Once("key"))).duplicate


def test_a_duplicate_is_told_before_the_limit_and_is_no_hit(journal: Journal, session_id: str) -> None:
    two = limit(2)
    change = Change(session_id, events=[message()], once=Once("key"), limit=two)
    first = journal.commit(change)

    assert [journal.commit(change).duplicate for _ in range(3)] == [True] * 3
    assert journal.hit(two) == 0, "one place was left"
    again = journal.commit(change)

    assert (again.duplicate, again.seq) == (True, first.seq)


def test_a_change_that_is_refused_for_another_reason_is_no_hit(journal: Journal, session_id: str) -> None:
    one = limit(1)
    ask(journal, session_id)
    lost = taken_over(journal, "some lease")

    with pytest.raises(LeaseLostError):
        journal.commit(Change(fences=[lost], limit=one))
    with pytest.raises(StaleDocumentError):
        journal.commit(Change(expects=[Expect("note", "n", 7)], limit=one))
    with pytest.raises(SessionNotFoundError):
        journal.commit(Change("no session", events=[message()], limit=one))
    with pytest.raises(TooManyPendingError):
        journal.commit(Change(session_id, events=[message()], add=NewInput("chat"), max_pending=1, limit=one))

    assert journal.hit(one) == 0


def test_the_rate_is_looked_at_before_what_waits(journal: Journal, session_id: str) -> None:
    one = limit(1)
    fill(journal, one)
    ask(journal, session_id)

    with pytest.raises(RateLimitError):
        journal.commit(Change(session_id, events=[message()], add=NewInput("chat"), max_pending=1, limit=one))


def test_changes_and_hits_of_one_key_count_together(journal: Journal, other: Journal) -> None:
    wanted = limit(10)
    ids = [open_session(journal) for _ in range(20)]
    calls = [partial(journal.commit, Change(i, events=[message()], limit=wanted)) for i in ids]

    outcomes = together([*calls, *(partial(other.hit, wanted) for _ in range(20))])

    committed = sum(not isinstance(o, float | int | Exception) for o in outcomes)
    assert committed + sum(o == 0 for o in outcomes if isinstance(o, float | int)) == 10
    assert committed == sum(len(texts(journal, i)) for i in ids)


def test_hits_survive_their_handle(backend: Backend) -> None:
    two = limit(2)
    first = backend.open()
    fill(first, two)
    first.close()

    second = backend.open()
    try:
        assert second.hit(two) > 0
    finally:
        second.close()


def test_forgetting_leaves_the_hits_that_count(journal: Journal) -> None:
    two = limit(2)
    fill(journal, two)
    let_the_clock_move()

    journal.forget(before=datetime.now(UTC))

    assert journal.hit(two) > 0
