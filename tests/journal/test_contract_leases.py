"""The contract of leases and claims: one holder at a time, epochs that only grow, fences that refuse the paused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from app.errors import LeaseLostError
from app.journal import Change, Claim, Journal, Lease, Put, StartInput

from .steps import (
    acquired,
    answer,
    append,
    ask,
    claimed,
    message,
    new_id,
    open_session,
    start,
    taken_over,
    texts,
    together,
    until,
)

SHORT_S = 0.2
CLOCK_SLACK_S = 0.02


def serve(journal: Journal) -> str:
    """Answer the next input; the session it was of."""
    claim = claimed(journal)
    answer(journal, claim)
    return claim.input.session_id


def write(journal: Journal, *fences: Lease) -> None:
    journal.commit(Change(fences=fences, puts=[Put("note", "k", {})]))


# Acquire, renew, release


def test_a_lease_has_one_holder(journal: Journal, other: Journal) -> None:
    lease = acquired(journal, "sweep", "a")

    assert (lease.name, lease.holder) == ("sweep", "a")
    assert journal.acquire("sweep", "b", ttl_s=60) is None
    assert other.acquire("sweep", "b", ttl_s=60) is None
    assert journal.held("sweep")
    assert other.held("sweep")


def test_a_lease_that_nobody_took_is_not_held(journal: Journal) -> None:
    assert not journal.held("sweep")


def test_leases_of_other_names_are_free(journal: Journal) -> None:
    acquired(journal, "sweep", "a")

    for name in ("poll", "sweep:1", "Sweep", "sweep "):
        assert journal.acquire(name, "b", ttl_s=60) is not None


def test_one_of_many_workers_gets_a_lease(journal: Journal, other: Journal) -> None:
    outcomes = together(partial((journal, other)[n % 2].acquire, "sweep", f"worker {n}", ttl_s=60) for n in range(30))

    (won,) = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(won, Lease)
    assert outcomes.index(won) == int(won.holder.split()[1])


def test_a_lease_runs_out_by_itself(journal: Journal, other: Journal) -> None:
    began = time.monotonic()
    first = acquired(journal, "sweep", "a", ttl_s=SHORT_S)

    second = until(lambda: other.acquire("sweep", "b", ttl_s=60))

    assert time.monotonic() - began > SHORT_S - CLOCK_SLACK_S
    assert second.epoch > first.epoch
    assert journal.acquire("sweep", "a", ttl_s=60) is None


def test_a_lease_that_has_run_out_is_not_held(journal: Journal, other: Journal) -> None:
    acquired(journal, "sweep", ttl_s=SHORT_S)

    until(lambda: not other.held("sweep"))
    assert not journal.held("sweep")


def test_a_holder_takes_its_own_lease_anew_once_it_has_run_out(journal: Journal) -> None:
    first = acquired(journal, "sweep", "a", ttl_s=0.05)
    until(lambda: not journal.held("sweep"))

    second = acquired(journal, "sweep", "a")

    assert second.epoch > first.epoch
    with pytest.raises(LeaseLostError):
        write(journal, first)
    write(journal, second)


def test_a_renewed_lease_outlives_its_first_time(journal: Journal, other: Journal) -> None:
    lease = acquired(journal, "sweep", ttl_s=1)
    assert journal.renew([lease], ttl_s=60) == set()
    acquired(journal, "clock", ttl_s=1.1)

    until(lambda: not other.held("clock"))

    assert other.held("sweep")
    assert other.acquire("sweep", "b", ttl_s=60) is None
    write(journal, lease)


def test_a_lease_that_is_renewed_in_time_is_never_lost(journal: Journal, other: Journal) -> None:
    lease = acquired(journal, "sweep", ttl_s=1)
    acquired(journal, "clock", ttl_s=1.5)

    while other.held("clock"):
        assert journal.renew([lease], ttl_s=1) == set()
        assert other.acquire("sweep", "b", ttl_s=60) is None

    write(journal, lease)


def test_renewing_tells_which_leases_were_lost(journal: Journal, other: Journal) -> None:
    kept = acquired(journal, "kept")
    lost = taken_over(other, "lost")
    released = acquired(journal, "released")
    other.release(released)
    never = Lease("never", "worker", 1)

    assert journal.renew([kept, lost, released, never], ttl_s=60) == {lost, released, never}
    assert journal.renew([kept], ttl_s=60) == set()
    assert journal.renew([], ttl_s=60) == set()


def test_renewing_a_lost_lease_does_not_take_it_back(journal: Journal) -> None:
    lost = taken_over(journal, "sweep")
    released = acquired(journal, "poll", "a")
    journal.release(released)

    journal.renew([lost, released], ttl_s=60)

    assert not journal.held("poll")
    for lease in (lost, released):
        with pytest.raises(LeaseLostError):
            write(journal, lease)


def test_a_lease_taken_anew_is_not_renewed_by_its_former_epoch(journal: Journal, other: Journal) -> None:
    former = acquired(journal, "sweep", "a", ttl_s=0.05)
    until(lambda: not journal.held("sweep"))
    current = acquired(other, "sweep", "a", ttl_s=60)

    assert journal.renew([former, current], ttl_s=60) == {former}
    write(journal, current)


def test_a_released_lease_is_free_at_once(journal: Journal, other: Journal) -> None:
    first = acquired(journal, "sweep", "a")

    journal.release(first)

    assert not other.held("sweep")
    assert acquired(other, "sweep", "b").epoch > first.epoch


def test_releasing_what_is_not_held_does_nothing(journal: Journal) -> None:
    lost = taken_over(journal, "sweep")
    mine = acquired(journal, "poll", "a")

    journal.release(lost)
    journal.release(replace(mine, holder="b"))
    journal.release(replace(mine, epoch=mine.epoch + 1))
    journal.release(Lease("never", "worker", 1))

    assert journal.held("sweep")
    assert journal.held("poll")
    write(journal, mine)


def test_a_lease_can_be_released_twice(journal: Journal) -> None:
    lease = acquired(journal, "sweep", "a")
    journal.release(lease)
    journal.release(lease)
    second = acquired(journal, "sweep", "a")
    journal.release(lease)

    assert journal.held("sweep")
    write(journal, second)


def test_epochs_only_grow(open_journal: Callable[[], Journal]) -> None:
    session_id = open_session(open_journal())
    name = f"session:{session_id}"
    ask(open_journal(), session_id)

    def epochs(handle: Journal) -> Iterator[int]:
        lease = acquired(handle, name)
        yield lease.epoch
        handle.release(lease)
        claim = claimed(handle)
        yield claim.lease.epoch
        handle.release(claim.lease)
        yield acquired(handle, name, ttl_s=0.05).epoch
        until(lambda: not handle.held(name))
        yield claimed(handle, ttl_s=0.05).lease.epoch
        until(lambda: not handle.held(name))
        handle.close()

    given = [epoch for _ in range(3) for epoch in epochs(open_journal())]

    assert given == sorted(set(given))


# Claims


def test_where_nothing_waits_there_is_nothing_to_claim(journal: Journal, session_id: str) -> None:
    append(journal, session_id)

    assert journal.claim("worker", ttl_s=60) is None


def test_a_claim_is_an_input_and_the_lease_of_its_session(journal: Journal, other: Journal, session_id: str) -> None:
    asked = ask(journal, session_id, kind="repair", key="r1")

    claim = claimed(other, "worker 7")

    assert claim.input == asked
    assert (claim.lease.name, claim.lease.holder) == (f"session:{session_id}", "worker 7")
    assert journal.held(f"session:{session_id}")
    journal.commit(Change(session_id, events=[message("from the turn")], fences=[claim.lease]))


def test_a_session_has_one_claim_at_a_time(journal: Journal, other: Journal, session_id: str) -> None:
    for _ in range(3):
        ask(journal, session_id)

    claimed(journal)

    for handle in (journal, other):
        assert handle.claim("worker", ttl_s=60) is None
        assert handle.claim("another worker", ttl_s=60) is None


def test_sessions_that_are_not_wanted_are_left_to_others(journal: Journal, other: Journal) -> None:
    """Also where the leases of one's own have run out, and nobody has taken them."""
    first, second, third = (open_session(journal) for _ in range(3))
    for session_id in (first, second, third):
        ask(journal, session_id)
    paused = [claimed(journal, ttl_s=0.05) for _ in range(2)]
    assert [claim.input.session_id for claim in paused] == [first, second]
    until(lambda: not journal.held(f"session:{first}") and not journal.held(f"session:{second}"))

    claim = journal.claim("worker", ttl_s=60, but={first, second})

    assert claim is not None and claim.input.session_id == third
    assert journal.claim("worker", ttl_s=60, but={first, second}) is None
    assert journal.renew([paused[0].lease], ttl_s=60) == set()
    taken = other.claim("another worker", ttl_s=60)
    assert taken is not None and taken.input.session_id == second


def test_the_oldest_input_of_a_session_comes_first(journal: Journal, session_id: str) -> None:
    asked = [ask(journal, session_id, kind=("chat", "repair")[n % 2], key=str(n)).input_id for n in range(4)]

    for expected in asked:
        claim = claimed(journal)
        assert claim.input.input_id == expected
        answer(journal, claim)


def test_a_released_session_is_claimed_again_while_something_waits(
    journal: Journal, other: Journal, session_id: str
) -> None:
    asked = ask(journal, session_id)
    first = claimed(journal, "a")
    journal.release(first.lease)

    second = claimed(other, "b")

    assert second.input.input_id == asked.input_id
    assert second.lease.epoch > first.lease.epoch


def test_each_of_many_sessions_is_claimed_by_one_of_many_workers(journal: Journal, other: Journal) -> None:
    sessions = [open_session(journal) for _ in range(12)]
    for session_id in sessions:
        ask(journal, session_id)
        ask(journal, session_id)

    outcomes = together(partial((journal, other)[n % 2].claim, f"worker {n}", ttl_s=60) for n in range(30))

    claims = [outcome for outcome in outcomes if outcome is not None]
    assert all(isinstance(claim, Claim) for claim in claims)
    assert sorted(claim.input.session_id for claim in claims) == sorted(sessions)  # type: ignore[union-attr]


def test_a_session_whose_lease_is_held_for_another_reason_is_not_claimed(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    lease = acquired(journal, f"session:{session_id}", "a person's command")

    assert journal.claim("worker", ttl_s=60) is None

    journal.release(lease)
    assert claimed(journal).input.session_id == session_id


def test_an_input_is_not_claimed_before_it_is_due(journal: Journal, other: Journal, session_id: str) -> None:
    began = time.monotonic()
    asked = ask(journal, session_id, delay_s=SHORT_S)

    claim = until(lambda: other.claim("worker", ttl_s=60))

    assert time.monotonic() - began > SHORT_S - CLOCK_SLACK_S
    assert claim.input.input_id == asked.input_id


def test_an_input_that_is_not_due_holds_up_nobody(journal: Journal, session_id: str) -> None:
    ask(journal, session_id, "later", delay_s=3600)
    due = ask(journal, session_id, "now")

    assert claimed(journal).input.input_id == due.input_id
    assert journal.claim("worker", ttl_s=60) is None


def test_a_session_with_many_inputs_does_not_starve_one_with_a_single_one(journal: Journal) -> None:
    busy, quiet = open_session(journal), open_session(journal)
    for _ in range(20):
        ask(journal, busy)
    assert serve(journal) == busy

    ask(journal, quiet)

    assert serve(journal) == quiet
    assert [serve(journal) for _ in range(19)] == [busy] * 19


def test_busy_sessions_are_served_in_turn(journal: Journal, other: Journal) -> None:
    sessions = [open_session(journal) for _ in range(4)]
    for session_id in sessions:
        for _ in range(5):
            ask(journal, session_id)

    served = [serve((journal, other)[n % 2]) for n in range(20)]

    rounds = [served[n : n + 4] for n in range(0, 20, 4)]
    assert [sorted(each) for each in rounds] == [sorted(sessions)] * 5
    assert rounds == [rounds[0]] * 5


def test_the_least_recently_served_session_goes_first(journal: Journal) -> None:
    first, second, third = (open_session(journal) for _ in range(3))
    for session_id in (second, first, third):
        ask(journal, session_id)
        assert serve(journal) == session_id

    for session_id in (third, first, second):
        ask(journal, session_id)

    assert [serve(journal) for _ in range(3)] == [second, first, third]


def test_what_a_lost_worker_had_begun_is_claimed_by_another(journal: Journal, other: Journal, session_id: str) -> None:
    asked = ask(journal, session_id)
    lost = claimed(journal, "lost worker", ttl_s=SHORT_S)
    started_seq = start(journal, lost, "t1", takeovers=1)

    claim = until(lambda: other.claim("next worker", ttl_s=60))

    assert claim.lease.epoch > lost.lease.epoch
    assert claim.input.input_id == asked.input_id
    assert (claim.input.turn_id, claim.input.started_seq, claim.input.takeovers) == ("t1", started_seq, 1)


def test_a_claim_shows_that_its_turn_was_cancelled(journal: Journal, other: Journal, session_id: str) -> None:
    ask(journal, session_id)
    start(journal, claimed(journal, ttl_s=SHORT_S), "t1")
    journal.commit(Change(session_id, cancel_turn="t1"))

    claim = until(lambda: other.claim("next worker", ttl_s=60))

    assert (claim.input.turn_id, claim.input.cancelled) == ("t1", True)


def test_a_claim_is_renewed_as_any_lease(journal: Journal, other: Journal, session_id: str) -> None:
    ask(journal, session_id)
    claim = claimed(journal, ttl_s=1)
    assert journal.renew([claim.lease], ttl_s=60) == set()
    acquired(journal, "clock", ttl_s=1.1)

    until(lambda: not other.held("clock"))

    assert other.claim("next worker", ttl_s=60) is None
    answer(journal, claim)


# Fences


def test_a_fenced_change_is_written_while_its_lease_is_held(journal: Journal, other: Journal) -> None:
    lease = acquired(journal, "sweep")

    write(journal, lease)
    write(other, lease)

    document = journal.get("note", "k")
    assert document is not None
    assert document.version == 2


def test_a_worker_that_was_paused_writes_nothing(journal: Journal, other: Journal, session_id: str) -> None:
    ask(journal, session_id)
    paused = claimed(journal, "paused worker", ttl_s=SHORT_S)
    start(journal, paused, "t1")
    current = until(lambda: other.claim("next worker", ttl_s=60))
    start(other, current, "t2", takeovers=1)

    late: list[Change] = [
        Change(session_id, events=[message("from the paused worker")], fences=[paused.lease]),
        Change(session_id, answer=paused.input.input_id, fences=[paused.lease]),
        Change(session_id, start=StartInput(paused.input.input_id, "t3"), fences=[paused.lease]),
        Change(puts=[Put("note", "k", {})], fences=[paused.lease]),
    ]
    for handle in (journal, other):
        for change in late:
            with pytest.raises(LeaseLostError):
                handle.commit(change)

    assert texts(journal, session_id) == ["hello"]
    assert [i.turn_id for i in journal.pending(session_id)] == ["t2"]
    assert journal.get("note", "k") is None
    answer(other, current)


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(lambda lease: replace(lease, epoch=lease.epoch - 1), id="an older epoch"),
        pytest.param(lambda lease: replace(lease, epoch=lease.epoch + 1), id="a newer epoch"),
        pytest.param(lambda lease: replace(lease, holder="b"), id="another holder"),
        pytest.param(lambda lease: replace(lease, name=new_id()), id="another name"),
    ],
)
def test_a_fence_is_held_with_its_epoch_by_its_holder(journal: Journal, forged: Callable[[Lease], Lease]) -> None:
    lease = acquired(journal, "sweep", "a")

    with pytest.raises(LeaseLostError):
        write(journal, forged(lease))

    assert journal.get("note", "k") is None
    write(journal, lease)


def test_a_released_lease_fences_nothing_in(journal: Journal) -> None:
    lease = acquired(journal, "sweep")
    journal.release(lease)

    with pytest.raises(LeaseLostError):
        write(journal, lease)

    acquired(journal, "sweep", lease.holder)
    with pytest.raises(LeaseLostError):
        write(journal, lease)
    assert journal.get("note", "k") is None


def test_every_fence_of_a_change_must_be_held(journal: Journal) -> None:
    lost, held, also_held = taken_over(journal, "lost"), acquired(journal, "held"), acquired(journal, "also held")

    for fences in ((lost, held), (held, lost)):
        with pytest.raises(LeaseLostError):
            write(journal, *fences)
    assert journal.get("note", "k") is None

    write(journal, held, also_held)
    assert journal.get("note", "k") is not None
