"""The contract of inputs: what a session waits to have answered."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest

from app.errors import BaseError, StaleDocumentError, TooManyPendingError
from app.journal import Change, Input, Journal, NewEvent, NewInput, Put, StartInput

from .steps import (
    answer,
    append,
    ask,
    claimed,
    message,
    open_session,
    start,
    texts,
    together,
    turn_started,
)


def only(journal: Journal, session_id: str) -> Input:
    (waiting,) = journal.pending(session_id)
    return waiting


def cancel(journal: Journal, session_id: str, turn_id: str) -> None:
    journal.commit(Change(session_id, cancel_turn=turn_id))


# Adding


def test_a_new_session_waits_for_nothing(journal: Journal, session_id: str) -> None:
    append(journal, session_id)

    assert journal.pending(session_id) == []


def test_an_input_is_born_with_the_event_it_answers(journal: Journal, other: Journal, session_id: str) -> None:
    seq = journal.commit(Change(session_id, events=[message()], add=NewInput("chat"))).seq

    waiting = only(other, session_id)
    assert (waiting.session_id, waiting.kind, waiting.seq, waiting.key) == (session_id, "chat", seq, "")
    assert (waiting.turn_id, waiting.takeovers, waiting.cancelled) == (None, 0, False)


def test_an_input_can_answer_any_event_of_its_change(journal: Journal, session_id: str) -> None:
    committed = journal.commit(
        Change(session_id, events=[message("a"), message("b"), message("c")], add=NewInput("repair", event=1, key="r1"))
    )

    waiting = only(journal, session_id)
    assert (waiting.kind, waiting.seq, waiting.key) == ("repair", committed.seqs[1], "r1")


def test_an_input_can_answer_an_older_event(journal: Journal, session_id: str) -> None:
    old, _ = append(journal, session_id, "old", "newer").seqs

    journal.commit(Change(session_id, add=NewInput("repair", event=None, seq=old, key="r1")))

    assert (only(journal, session_id).seq, only(journal, session_id).key) == (old, "r1")
    assert claimed(journal).input.seq == old


def test_inputs_wait_oldest_first_each_under_its_own_id(journal: Journal, other: Journal, session_id: str) -> None:
    neighbour = open_session(journal)
    seqs, ids = [], []
    for n in range(6):
        waiting = ask((journal, other)[n % 2], session_id, kind=("chat", "repair")[n % 2], key=str(n))
        seqs.append(waiting.seq)
        ids += [waiting.input_id, ask(journal, neighbour).input_id]

    assert [i.seq for i in other.pending(session_id)] == seqs
    assert [i.key for i in other.pending(session_id)] == [str(n) for n in range(6)]
    assert len(set(ids)) == 12


def test_an_input_that_is_not_due_yet_is_pending(journal: Journal, session_id: str) -> None:
    waiting = ask(journal, session_id, delay_s=3600)

    assert only(journal, session_id) == waiting


# How many may wait


def test_no_more_inputs_wait_than_allowed(journal: Journal, other: Journal, session_id: str) -> None:
    for handle in (journal, other, journal):
        ask(handle, session_id, max_pending=3)

    with pytest.raises(TooManyPendingError):
        ask(other, session_id, "one too many", max_pending=3)

    assert len(journal.pending(session_id)) == 3
    assert "one too many" not in texts(journal, session_id)


def test_inputs_are_counted_by_kind(journal: Journal, session_id: str) -> None:
    ask(journal, session_id, kind="repair", key="r1")
    ask(journal, session_id, kind="repair", key="r2")

    ask(journal, session_id, kind="chat", max_pending=1)

    with pytest.raises(TooManyPendingError):
        ask(journal, session_id, kind="chat", max_pending=1)
    with pytest.raises(TooManyPendingError):
        ask(journal, session_id, kind="repair", key="r3", max_pending=2)
    ask(journal, session_id, kind="repair", key="r3", max_pending=3)


def test_the_inputs_of_other_sessions_are_not_counted(journal: Journal, session_id: str) -> None:
    neighbour = open_session(journal)
    for _ in range(3):
        ask(journal, neighbour)

    ask(journal, session_id, max_pending=1)


def test_an_input_that_is_being_answered_counts_until_it_is(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    claim = claimed(journal)
    start(journal, claim, "t1")

    with pytest.raises(TooManyPendingError):
        ask(journal, session_id, max_pending=1)
    answer(journal, claim)

    ask(journal, session_id, max_pending=1)


def test_what_counts_is_how_many_wait_after_the_change(journal: Journal, session_id: str) -> None:
    first = ask(journal, session_id, max_pending=1)

    change = Change(session_id, events=[message("next")], answer=first.input_id, add=NewInput("chat"), max_pending=1)
    seq = journal.commit(change).seq

    assert only(journal, session_id).seq == seq


def test_without_a_bound_any_number_waits(journal: Journal, session_id: str) -> None:
    for _ in range(30):
        ask(journal, session_id)

    assert len(journal.pending(session_id)) == 30


def test_workers_that_add_at_once_stay_within_the_bound_together(
    journal: Journal, other: Journal, session_id: str
) -> None:
    def add(handle: Journal) -> None:
        handle.commit(Change(session_id, events=[message()], add=NewInput("chat"), max_pending=20))

    outcomes = together(partial(add, (journal, other)[n % 2]) for n in range(40))

    assert outcomes.count(None) == 20
    assert all(isinstance(outcome, TooManyPendingError) for outcome in outcomes if outcome is not None)
    assert len(journal.pending(session_id)) == len(texts(journal, session_id)) == 20


# Starting, parking, answering


def test_a_started_input_shows_its_turn_to_every_worker(journal: Journal, other: Journal, session_id: str) -> None:
    asked = ask(journal, session_id)
    started_seq = start(journal, claimed(journal), "t1")

    waiting = only(other, session_id)
    assert (waiting.input_id, waiting.seq) == (asked.input_id, asked.seq)
    assert (waiting.turn_id, waiting.started_seq, waiting.takeovers) == ("t1", started_seq, 0)


def test_a_started_input_knows_the_number_of_its_turn_started(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    claim = claimed(journal)
    start(journal, claim, "t1")

    interrupted = NewEvent("turn_finished", {"outcome": "interrupted", "durationMs": 0}, turn_id="t1")
    committed = journal.commit(
        Change(
            session_id,
            events=[interrupted, turn_started("t2")],
            fences=[claim.lease],
            start=StartInput(claim.input.input_id, "t2", 1),
        )
    )

    waiting = only(journal, session_id)
    assert (waiting.turn_id, waiting.started_seq, waiting.takeovers) == ("t2", committed.seqs[1], 1)


def test_takeovers_are_written_as_given(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    claim = claimed(journal)

    for takeovers in (0, 2, 1):
        start(journal, claim, f"t{takeovers}", takeovers=takeovers)
        assert only(journal, session_id).takeovers == takeovers


def test_starting_one_input_leaves_the_others_of_its_session(journal: Journal, session_id: str) -> None:
    for _ in range(3):
        ask(journal, session_id)

    start(journal, claimed(journal), "t1")

    assert [i.turn_id for i in journal.pending(session_id)] == ["t1", None, None]


def test_a_parked_input_is_free_for_anyone(journal: Journal, other: Journal, session_id: str) -> None:
    asked = ask(journal, session_id)
    claim = claimed(journal)
    start(journal, claim, "t1", takeovers=1)

    journal.commit(Change(session_id, fences=[claim.lease], start=StartInput(asked.input_id, None, takeovers=1)))
    journal.release(claim.lease)

    assert (only(other, session_id).turn_id, only(other, session_id).takeovers) == (None, 1)
    again = claimed(other, "another worker")
    assert (again.input.input_id, again.input.turn_id, again.input.takeovers) == (asked.input_id, None, 1)


def test_an_answered_input_is_gone_for_good(journal: Journal, other: Journal, session_id: str) -> None:
    first, second = ask(journal, session_id, "first"), ask(journal, session_id, "second")

    journal.commit(Change(session_id, answer=first.input_id))

    assert [i.input_id for i in other.pending(session_id)] == [second.input_id]
    assert claimed(other).input.input_id == second.input_id


def test_an_answered_input_does_not_come_back(journal: Journal, session_id: str) -> None:
    asked = ask(journal, session_id)
    claim = claimed(journal)
    answer(journal, claim)

    for late in (Change(session_id, start=StartInput(asked.input_id, "t9")), Change(session_id, answer=asked.input_id)):
        with suppress(BaseError):
            journal.commit(late)

    assert journal.pending(session_id) == []
    assert journal.claim("worker", ttl_s=60) is None
    assert ask(journal, session_id).input_id != asked.input_id


def test_a_change_can_answer_one_input_and_say_so(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    claim = claimed(journal)
    start(journal, claim, "t1")

    finished = NewEvent("turn_finished", {"outcome": "completed", "durationMs": 1}, turn_id="t1")
    journal.commit(Change(session_id, events=[finished], fences=[claim.lease], answer=claim.input.input_id))

    assert journal.pending(session_id) == []
    assert journal.events(session_id)[-1].type == "turn_finished"


# Cancelling


def test_a_cancelled_turn_is_flagged_for_the_worker_that_runs_it(
    journal: Journal, other: Journal, session_id: str
) -> None:
    ask(journal, session_id)
    ask(journal, session_id)
    start(journal, claimed(journal), "t1")

    cancel(other, session_id, "t1")

    assert [(i.turn_id, i.cancelled) for i in journal.pending(session_id)] == [("t1", True), (None, False)]


def test_a_cancelled_turn_stays_flagged_until_it_ends(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    claim = claimed(journal)
    start(journal, claim, "t1")
    cancel(journal, session_id, "t1")

    append(journal, session_id, "meanwhile")
    assert only(journal, session_id).cancelled

    answer(journal, claim)
    assert journal.pending(session_id) == []


def test_a_turn_that_is_not_running_cannot_be_cancelled(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    with pytest.raises(StaleDocumentError):
        cancel(journal, session_id, "t1")

    claim = claimed(journal)
    start(journal, claim, "t1")
    with pytest.raises(StaleDocumentError):
        cancel(journal, session_id, "another turn")
    assert not only(journal, session_id).cancelled

    answer(journal, claim)
    with pytest.raises(StaleDocumentError):
        cancel(journal, session_id, "t1")


def test_a_parked_turn_cannot_be_cancelled(journal: Journal, session_id: str) -> None:
    asked = ask(journal, session_id)
    start(journal, claimed(journal), "t1")
    journal.commit(Change(session_id, start=StartInput(asked.input_id, None)))

    with pytest.raises(StaleDocumentError):
        cancel(journal, session_id, "t1")

    assert not only(journal, session_id).cancelled


def test_the_turn_after_a_cancelled_one_is_not_cancelled(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    claim = claimed(journal)
    start(journal, claim, "t1")
    cancel(journal, session_id, "t1")

    start(journal, claim, "t2", takeovers=1)

    assert (only(journal, session_id).turn_id, only(journal, session_id).cancelled) == ("t2", False)
    with pytest.raises(StaleDocumentError):
        cancel(journal, session_id, "t1")


def test_a_session_cannot_cancel_the_turn_of_another(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    start(journal, claimed(journal), "t1")
    stranger = open_session(journal)

    with pytest.raises(StaleDocumentError):
        cancel(journal, stranger, "t1")

    assert not only(journal, session_id).cancelled


def test_a_cancel_that_comes_too_late_writes_nothing(journal: Journal, session_id: str) -> None:
    with pytest.raises(StaleDocumentError):
        journal.commit(Change(session_id, cancel_turn="t1", events=[message("cancelled")], puts=[Put("note", "k", {})]))

    assert texts(journal, session_id) == []
    assert journal.get("note", "k") is None
