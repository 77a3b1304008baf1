"""The contract of idempotency keys: the first change that carries one happens, later ones are told of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from app.errors import StaleDocumentError
from app.journal import (
    Change,
    Committed,
    Delete,
    Expect,
    Journal,
    NewInput,
    Once,
    OpenSession,
    Put,
    find_once,
)

from .steps import (
    append,
    ask,
    claimed,
    close_session,
    message,
    new_id,
    open_session,
    start,
    taken_over,
    texts,
    together,
)


def report(session_id: str, key: str, text: str = "failed", *, result: dict[str, Any] | None = None) -> Change:
    return Change(
        session_id,
        events=[message(text), message("and more")],
        once=Once(key, {"said": text} if result is None else result),
        add=NewInput("repair", key=text),
        puts=[Put("note", text, {})],
    )


def test_the_first_change_with_a_key_happens(journal: Journal, session_id: str) -> None:
    committed = journal.commit(report(session_id, "execution 1"))

    assert not committed.duplicate
    assert [e.seq for e in journal.events(session_id)] == list(committed.seqs)
    assert len(journal.pending(session_id)) == 1


def test_a_second_change_with_a_key_is_told_of_the_first(journal: Journal, other: Journal, session_id: str) -> None:
    first = journal.commit(report(session_id, "execution 1", "first"))

    for handle in (journal, other):
        again = handle.commit(report(session_id, "execution 1", "second"))
        assert again == Committed(seqs=first.seqs[:1], duplicate=True, result={"said": "first"})
        assert again.seq == first.seq


def test_a_second_change_with_a_key_writes_nothing(journal: Journal, session_id: str) -> None:
    journal.commit(report(session_id, "execution 1", "first"))
    journal.commit(Change(puts=[Put("note", "stays", {}, groups=("g",))]))
    waiting = journal.pending(session_id)

    journal.commit(report(session_id, "execution 1", "second"))
    journal.commit(
        Change(
            session_id,
            once=Once("execution 1"),
            answer=waiting[0].input_id,
            puts=[Put("note", "stays", {"n": 2})],
            deletes=[Delete("note", "first")],
            close_session=True,
        )
    )

    session = journal.session(session_id)
    assert session is not None
    assert session.state == "live"
    assert texts(journal, session_id) == ["first", "and more"]
    assert journal.pending(session_id) == waiting
    assert [(d.key, d.version) for d in journal.find("note")] == [("stays", 1), ("first", 1)]


def test_a_second_change_with_a_key_cancels_no_turn_and_drops_no_delta(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    start(journal, claimed(journal), "t1")
    journal.commit(Change(once=Once("command 1")))
    events = journal.events(session_id)

    journal.commit(Change(session_id, once=Once("command 1"), cancel_turn="t1", drop_deltas=["m1"]))

    assert [i.cancelled for i in journal.pending(session_id)] == [False]
    assert journal.events(session_id) == events


def test_a_second_opening_with_a_key_opens_nothing(journal: Journal) -> None:
    first, second = new_id(), new_id()
    for session_id in (first, second):
        opening = OpenSession("hash", 10)
        committed = journal.commit(Change(session_id, open_session=opening, once=Once("k", {"sessionId": session_id})))

    assert (committed.duplicate, committed.result) == (True, {"sessionId": first})
    assert journal.session(second) is None
    assert journal.live_sessions() == 1


def test_a_key_is_taken_for_all_sessions(journal: Journal, session_id: str) -> None:
    first = journal.commit(report(session_id, "execution 1", "first"))
    neighbour = open_session(journal)
    append(journal, neighbour, "something", "else")

    again = journal.commit(report(neighbour, "execution 1", "second"))

    assert (again.duplicate, again.seq, again.result) == (True, first.seq, {"said": "first"})
    assert texts(journal, neighbour) == ["something", "else"]


def test_other_keys_are_free(journal: Journal, session_id: str) -> None:
    for key in ("a", "A", "a ", "b", "a:b", "", "ü", "u\u0308"):
        assert not journal.commit(Change(session_id, events=[message(key)], once=Once(key))).duplicate

    assert len(texts(journal, session_id)) == 8


def test_a_change_without_a_key_happens_each_time(journal: Journal, session_id: str) -> None:
    change = Change(session_id, events=[message("again")])

    assert [journal.commit(change).duplicate for _ in range(3)] == [False] * 3
    assert texts(journal, session_id) == ["again"] * 3


def test_a_key_without_events_has_no_number(journal: Journal) -> None:
    change = Change(puts=[Put("note", "k", {})], once=Once("k", {"n": 1}))
    assert journal.commit(change).seq == 0

    again = journal.commit(change)

    assert (again.duplicate, again.seqs, again.seq, again.result) == (True, (), 0, {"n": 1})


@pytest.mark.parametrize(
    "result",
    [{}, {"list": [1, None, True, 0.5], "deep": {"er": []}}, {"text": "Grüße 🎉 \x00 \ud83d"}],
    ids=["empty", "nested", "any text"],
)
def test_a_result_comes_back_as_it_was_given(journal: Journal, session_id: str, result: dict[str, Any]) -> None:
    journal.commit(report(session_id, "k", result=result))

    assert journal.commit(report(session_id, "k", result={"other": 1})).result == result


def test_a_key_is_kept_when_its_session_is_closed(journal: Journal, session_id: str) -> None:
    first = journal.commit(report(session_id, "execution 1"))
    close_session(journal, session_id)

    again = journal.commit(report(session_id, "execution 1", "late"))

    assert (again.duplicate, again.seq) == (True, first.seq)


def test_a_key_is_known_after_a_restart(journal: Journal, open_journal: Callable[[], Journal], session_id: str) -> None:
    first = journal.commit(report(session_id, "execution 1", "first"))
    journal.close()

    again = open_journal().commit(report(session_id, "execution 1", "second"))

    assert (again.duplicate, again.seq, again.result) == (True, first.seq, {"said": "first"})


def test_one_of_many_changes_with_a_key_happens(journal: Journal, other: Journal, session_id: str) -> None:
    outcomes = together(
        partial((journal, other)[n % 2].commit, report(session_id, "execution 1", str(n))) for n in range(40)
    )

    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    done = [outcome for outcome in outcomes if isinstance(outcome, Committed)]
    (winner,) = [n for n, outcome in enumerate(done) if not outcome.duplicate]
    assert {outcome.seq for outcome in done} == {done[winner].seq}
    assert all(outcome.result == {"said": str(winner)} for outcome in done if outcome.duplicate)
    assert texts(journal, session_id) == [str(winner), "and more"]
    assert len(journal.pending(session_id)) == 1


def test_a_refused_change_does_not_take_its_key(journal: Journal, session_id: str) -> None:
    with pytest.raises(StaleDocumentError):
        journal.commit(Change(session_id, events=[message("early")], once=Once("k"), expects=[Expect("note", "n", 1)]))

    assert not journal.commit(Change(session_id, events=[message("now")], once=Once("k"))).duplicate
    assert texts(journal, session_id) == ["now"]


def test_where_the_key_is_known_nothing_else_is_looked_at(journal: Journal, session_id: str) -> None:
    first = journal.commit(report(session_id, "execution 1", "first"))
    lost = taken_over(journal, "sweep")
    append(journal, session_id, "more")

    refused_otherwise = [
        Change(session_id, once=Once("execution 1"), fences=[lost]),
        Change(session_id, once=Once("execution 1"), expects=[Expect("note", "missing", 3)]),
        Change(session_id, once=Once("execution 1"), puts=[Put("note", "missing", {}, expect=3)]),
        Change(session_id, once=Once("execution 1"), deletes=[Delete("note", "missing", expect=3)]),
        Change(new_id(), once=Once("execution 1"), events=[message()]),
        Change(new_id(), once=Once("execution 1"), open_session=OpenSession("hash", 1)),
        Change(session_id, once=Once("execution 1"), events=[message()], add=NewInput("repair"), max_pending=1),
        Change(session_id, once=Once("execution 1"), cancel_turn="no such turn"),
    ]
    for change in refused_otherwise:
        again = journal.commit(change)
        assert (again.duplicate, again.seq, again.result) == (True, first.seq, {"said": "first"})


def test_a_key_is_looked_up_without_taking_it(journal: Journal, other: Journal, session_id: str) -> None:
    assert find_once(journal, "execution 1") is None
    first = journal.commit(report(session_id, "execution 1"))

    found = find_once(other, "execution 1")

    assert not first.duplicate
    assert found == Committed(first.seqs[:1], True, {"said": "failed"})
