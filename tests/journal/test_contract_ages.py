"""The contract of what is too old to keep: found without a search, removed in bounded steps, never what is needed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from app.errors import SessionNotFoundError
from app.journal import Change, Document, Journal, Put, Session, StartInput

from .steps import (
    answer,
    append,
    ask,
    claimed,
    close_session,
    fall_asleep,
    let_the_clock_move,
    open_session,
    start,
    texts,
    whole_log,
)

HOUR = timedelta(hours=1)


def now() -> datetime:
    """A time after all that was done, and before all that will be."""
    let_the_clock_move()
    moment = datetime.now(UTC)
    let_the_clock_move()
    return moment


def later() -> datetime:
    return datetime.now(UTC) + HOUR


def session_of(journal: Journal, session_id: str) -> Session:
    session = journal.session(session_id)
    assert session is not None
    return session


# Open sessions


def test_events_older_than_a_time_go_and_the_rest_keeps_its_numbers(
    journal: Journal, other: Journal, open_journal: Callable[[], Journal], session_id: str
) -> None:
    append(journal, session_id, "one", "two", "three")
    moment = now()
    append(journal, session_id, "four", "five")

    assert journal.aged_sessions(before=moment) == [session_id]
    assert journal.trim(session_id, before=moment, limit=100) == 3

    assert texts(other, session_id) == ["four", "five"]
    assert (session_of(other, session_id).first_seq, session_of(other, session_id).last_seq) == (4, 5)
    assert [e.seq for e in other.events(session_id, after=1)] == [4, 5]
    assert append(journal, session_id, "six").seq == 6
    assert session_of(open_journal(), session_id).first_seq == 4


def test_a_trimmed_session_is_looked_at_again_only_when_more_is_old(journal: Journal, session_id: str) -> None:
    append(journal, session_id, "one")
    moment = now()
    append(journal, session_id, "two")
    assert journal.aged_sessions(before=moment) == [session_id]

    journal.trim(session_id, before=moment, limit=100)

    assert journal.aged_sessions(before=moment) == []
    assert journal.aged_sessions(before=now()) == [session_id]


def test_a_session_without_events_is_soon_not_looked_at_any_more(journal: Journal, session_id: str) -> None:
    journal.trim(session_id, before=later(), limit=100)

    assert journal.aged_sessions(before=later()) == []
    append(journal, session_id)
    assert journal.aged_sessions(before=later()) == [session_id]


def test_all_events_may_go_and_numbers_go_on(journal: Journal, session_id: str) -> None:
    append(journal, session_id, "one", "two")
    fall_asleep(journal, session_id)

    assert journal.trim(session_id, before=later(), limit=100) == 2

    session = session_of(journal, session_id)
    assert (session.first_seq, session.last_seq, session.state) == (3, 2, "asleep")
    assert append(journal, session_id).seq == 3
    assert session_of(journal, session_id).first_seq == 3


def test_trimming_goes_on_where_its_limit_ended_it(journal: Journal, session_id: str) -> None:
    append(journal, session_id, *"abcdefg")

    steps = []
    while journal.aged_sessions(before=later()):
        steps.append(journal.trim(session_id, before=later(), limit=3))
        assert session_of(journal, session_id).first_seq == sum(steps) + 1

    assert steps == [3, 3, 1]


def test_what_an_unanswered_input_needs_stays(journal: Journal, session_id: str) -> None:
    append(journal, session_id, "old")
    asked = ask(journal, session_id, "asked")
    append(journal, session_id, "after it")
    moment = now()

    journal.trim(session_id, before=later(), limit=100)

    assert [e.seq for e in whole_log(journal, session_id)] == [asked.seq, asked.seq + 1]
    assert session_of(journal, session_id).first_seq == asked.seq
    assert journal.aged_sessions(before=moment) == []


def test_what_a_running_turn_has_said_stays(journal: Journal, session_id: str) -> None:
    append(journal, session_id, "old")
    asked = ask(journal, session_id, "asked")
    claim = claimed(journal)
    started = start(journal, claim, "t1")
    append(journal, session_id, "said in the turn")

    journal.trim(session_id, before=later(), limit=100)
    assert whole_log(journal, session_id)[0].seq == asked.seq

    answer(journal, claim)
    newer = ask(journal, session_id, "newer")
    assert newer.seq > started
    journal.trim(session_id, before=later(), limit=100)
    assert whole_log(journal, session_id)[0].seq == newer.seq


def test_a_turn_that_was_parked_needs_no_more_than_its_input(journal: Journal, session_id: str) -> None:
    asked = ask(journal, session_id, "asked")
    claim = claimed(journal)
    start(journal, claim, "t1")
    journal.commit(Change(session_id, start=StartInput(asked.input_id, None), fences=[claim.lease]))

    journal.trim(session_id, before=later(), limit=100)

    assert whole_log(journal, session_id)[0].seq == asked.seq


def test_what_the_caller_needs_stays(journal: Journal, session_id: str) -> None:
    append(journal, session_id, *"abcde")

    journal.trim(session_id, before=later(), keep_from=4, limit=100)

    assert texts(journal, session_id) == ["d", "e"]


def test_the_sessions_with_the_oldest_events_come_first(journal: Journal) -> None:
    names = [open_session(journal) for _ in range(3)]
    for name in (names[2], names[0], names[1]):
        let_the_clock_move()
        append(journal, name)
        # What is known of an empty log is only when it began.
        journal.trim(name, before=datetime.now(UTC) - HOUR, limit=1)
    close_session(journal, names[0])

    assert journal.aged_sessions(before=later(), limit=1) == [names[2]]
    assert journal.aged_sessions(before=later()) == [names[2], names[1]]


def test_a_closed_session_is_not_trimmed(journal: Journal, session_id: str) -> None:
    append(journal, session_id, "one")
    close_session(journal, session_id)

    assert journal.aged_sessions(before=later()) == []
    assert journal.trim(session_id, before=later(), limit=100) == 0
    assert journal.trim("unknown", before=later(), limit=100) == 0
    assert len(whole_log(journal, session_id)) == 2


# Closed sessions


def test_a_closed_session_is_removed_in_steps(journal: Journal, other: Journal, session_id: str) -> None:
    neighbour = open_session(journal)
    append(journal, neighbour, "mine")
    append(journal, session_id, *"abcdef")
    close_session(journal, session_id)

    assert journal.remove(session_id, limit=3) is False
    assert [e.seq for e in other.events(session_id)] == [4, 5, 6, 7]
    assert session_of(other, session_id).first_seq == 4
    assert journal.remove(session_id, limit=3) is False
    assert journal.remove(session_id, limit=3) is True

    assert other.session(session_id) is None
    assert other.events(session_id) == []
    assert journal.remove(session_id, limit=3) is True
    assert texts(journal, neighbour) == ["mine"]
    assert journal.live_sessions() == 1
    with pytest.raises(SessionNotFoundError):
        append(journal, session_id)


def test_a_new_session_inherits_nothing_of_a_removed_one(journal: Journal, session_id: str) -> None:
    append(journal, session_id, "secret")
    ask(journal, session_id)
    close_session(journal, session_id)
    while not journal.remove(session_id, limit=100):
        pass

    new = open_session(journal)

    assert journal.events(new) == []
    assert journal.pending(new) == []
    assert append(journal, new).seq == 1


def test_an_open_session_cannot_be_removed(journal: Journal, session_id: str) -> None:
    append(journal, session_id, "one")
    assert journal.remove(session_id, limit=100) is False
    fall_asleep(journal, session_id)
    assert journal.remove(session_id, limit=100) is False

    assert texts(journal, session_id) == ["one"]


def test_closed_sessions_are_found_by_their_age_in_pages(journal: Journal) -> None:
    names = [open_session(journal) for _ in range(5)]
    for name in names[:3]:
        let_the_clock_move()
        close_session(journal, name)
    moment = now()
    close_session(journal, names[3])

    found: list[Session] = []
    while page := journal.closed_sessions(before=moment, limit=2, after=found[-1] if found else None):
        found += page

    assert [s.session_id for s in found] == names[:3]


# Documents


def test_documents_are_found_by_their_last_write_in_pages(journal: Journal, other: Journal) -> None:
    for n in range(5):
        journal.commit(Change(puts=[Put("note", f"n{n}", {"n": n}, (f"group:{n % 2}",))]))
    let_the_clock_move()
    journal.commit(Change(puts=[Put("note", "n1", {"n": "again"}), Put("other", "o", {})]))
    moment = now()
    journal.commit(Change(puts=[Put("note", "n2", {"n": "too late"})]))

    found: list[Document] = []
    while page := other.find_stale("note", before=moment, limit=2, after=found[-1] if found else None):
        found += page

    assert [d.key for d in found] == ["n0", "n3", "n4", "n1"]
    assert found[0] == other.get("note", "n0")
    assert other.find_stale("nothing", before=later()) == []
