"""The contract of sessions: opened within a bound, awake or asleep, closed for good."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from app.errors import SessionNotFoundError, TooManySessionsError
from app.journal import Change, Journal, NewInput, OpenSession, Put, Session

from .steps import (
    answer,
    append,
    ask,
    claimed,
    close_session,
    let_the_clock_move,
    message,
    new_id,
    open_session,
    start,
    texts,
    together,
)


def known(journal: Journal, session_id: str) -> Session:
    session = journal.session(session_id)
    assert session is not None
    return session


def ids(sessions: list[Session]) -> list[str]:
    return [session.session_id for session in sessions]


# Opening


def test_an_opened_session_is_live_and_known_to_every_worker(journal: Journal, other: Journal) -> None:
    session_id = new_id()

    journal.commit(Change(session_id, open_session=OpenSession("the hash of its token", 10)))

    session = known(other, session_id)
    assert (session.session_id, session.token_hash, session.state) == (session_id, "the hash of its token", "live")
    assert session == known(journal, session_id)


def test_a_session_knows_since_when_it_is_there(journal: Journal, session_id: str) -> None:
    session = known(journal, session_id)

    assert session.created_at.utcoffset() == session.last_active_at.utcoffset() == timedelta(0)
    assert abs(session.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert session.last_active_at >= session.created_at


def test_nobody_knows_a_session_that_was_never_opened(journal: Journal) -> None:
    assert journal.session(new_id()) is None


def test_no_more_sessions_are_live_than_allowed(journal: Journal, other: Journal) -> None:
    open_session(journal, max_live=2)
    open_session(other, max_live=2)
    refused = new_id()

    for handle in (journal, other):
        with pytest.raises(TooManySessionsError):
            open_session(handle, refused, max_live=2)

    assert journal.session(refused) is None
    assert journal.live_sessions() == 2


def test_a_refused_session_leaves_nothing_behind(journal: Journal, session_id: str) -> None:
    refused = new_id()

    with pytest.raises(TooManySessionsError):
        journal.commit(
            Change(
                refused, open_session=OpenSession("hash", 1), events=[message()], puts=[Put("note", refused, {"a": 1})]
            )
        )

    assert journal.events(refused) == []
    assert journal.get("note", refused) is None
    assert ids(journal.sessions()) == [session_id]


def test_a_closed_session_makes_room_for_another(journal: Journal, session_id: str) -> None:
    with pytest.raises(TooManySessionsError):
        open_session(journal, max_live=1)

    close_session(journal, session_id)

    open_session(journal, max_live=1)


def test_a_sleeping_session_makes_room_for_another(journal: Journal, session_id: str) -> None:
    journal.touch(session_id, live=False)

    open_session(journal, max_live=1)


def test_workers_that_open_at_once_stay_within_the_bound_together(journal: Journal, other: Journal) -> None:
    outcomes = together(partial(open_session, (journal, other)[n % 2], max_live=7) for n in range(30))

    opened = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(opened) == journal.live_sessions() == 7
    assert all(isinstance(outcome, (str, TooManySessionsError)) for outcome in outcomes)
    assert set(ids(journal.sessions())) == set(opened)


# Live and asleep


def test_live_sessions_are_counted_alike_by_every_worker(journal: Journal, other: Journal) -> None:
    assert journal.live_sessions() == other.live_sessions() == 0

    first, second, third = (open_session(handle) for handle in (journal, other, journal))
    assert journal.live_sessions() == other.live_sessions() == 3

    journal.touch(first, live=False)
    close_session(other, second)
    assert journal.live_sessions() == other.live_sessions() == 1

    other.touch(first, live=True)
    close_session(journal, third)
    assert journal.live_sessions() == other.live_sessions() == 1


def test_a_session_counts_once_however_often_it_is_touched(journal: Journal, session_id: str) -> None:
    open_session(journal)
    for live, count in [(True, 2), (True, 2), (False, 1), (False, 1), (True, 2)]:
        journal.touch(session_id, live=live)
        assert journal.live_sessions() == count


def test_a_sleeping_session_that_is_closed_is_not_taken_off_twice(journal: Journal, session_id: str) -> None:
    open_session(journal)
    journal.touch(session_id, live=False)

    close_session(journal, session_id)

    assert journal.live_sessions() == 1


def test_a_session_that_is_closed_again_is_not_taken_off_twice(journal: Journal, session_id: str) -> None:
    open_session(journal)
    close_session(journal, session_id)

    with suppress(SessionNotFoundError):
        journal.commit(Change(session_id, close_session=True))

    assert journal.live_sessions() == 1


def test_a_touch_is_noted_as_activity(journal: Journal, session_id: str) -> None:
    before = known(journal, session_id)
    let_the_clock_move()

    journal.touch(session_id, live=True)

    after = known(journal, session_id)
    assert after.last_active_at > before.last_active_at
    assert (after.created_at, after.state) == (before.created_at, "live")


def test_a_session_falls_asleep_and_wakes_by_a_touch(journal: Journal, other: Journal, session_id: str) -> None:
    journal.touch(session_id, live=False)
    assert known(other, session_id).state == "asleep"

    journal.touch(session_id, live=True)
    assert known(other, session_id).state == "live"


def test_a_sleeping_session_takes_events_and_inputs(journal: Journal, session_id: str) -> None:
    journal.touch(session_id, live=False)

    asked = ask(journal, session_id, "are you there?")

    assert texts(journal, session_id) == ["are you there?"]
    assert claimed(journal).input.input_id == asked.input_id


def test_a_closed_session_is_left_as_it_is_by_a_touch(journal: Journal, session_id: str) -> None:
    close_session(journal, session_id)
    closed = known(journal, session_id)
    let_the_clock_move()

    for live in (True, False):
        journal.touch(session_id, live=live)

    assert known(journal, session_id) == closed
    assert journal.live_sessions() == 0


# Closing


def test_a_closed_session_is_closed_for_every_worker(journal: Journal, other: Journal, session_id: str) -> None:
    seq = append(journal, session_id).seq
    close_session(journal, session_id)

    session = known(other, session_id)
    assert session.state == "closed"
    assert session.last_seq > seq
    assert session.token_hash == "hash of its token"


def test_the_inputs_of_a_closed_session_are_gone(journal: Journal, other: Journal, session_id: str) -> None:
    ask(journal, session_id)
    ask(journal, session_id, kind="repair", key="r1")
    ask(journal, session_id, delay_s=0.01)

    close_session(journal, session_id)

    assert journal.pending(session_id) == other.pending(session_id) == []
    assert other.claim("worker", ttl_s=60) is None


def test_a_closed_session_gets_no_new_input(journal: Journal, session_id: str) -> None:
    seq = append(journal, session_id).seq
    close_session(journal, session_id)

    with pytest.raises(SessionNotFoundError):
        ask(journal, session_id)
    with suppress(SessionNotFoundError):
        journal.commit(Change(session_id, add=NewInput("repair", event=None, seq=seq, key="r1")))

    assert journal.pending(session_id) == []
    assert journal.claim("worker", ttl_s=60) is None


def test_the_turn_of_a_session_that_was_closed_cannot_go_on(journal: Journal, other: Journal, session_id: str) -> None:
    ask(journal, session_id)
    claim = claimed(journal)
    start(journal, claim, "t1")
    close_session(other, session_id)

    with pytest.raises(SessionNotFoundError):
        journal.commit(Change(session_id, events=[message("from the turn")], fences=[claim.lease]))

    assert texts(journal, session_id) == ["hello"]


def test_a_session_must_be_open_only_where_something_is_appended(journal: Journal, session_id: str) -> None:
    close_session(journal, session_id)

    journal.commit(Change(session_id, puts=[Put("note", "n", {"kept": True})]))

    document = journal.get("note", "n")
    assert document is not None
    assert document.body == {"kept": True}


# Lists


def test_open_sessions_are_listed_the_most_recently_active_first(journal: Journal, other: Journal) -> None:
    names = [new_id() for _ in range(4)]
    for name in names:
        open_session(journal, name)
        let_the_clock_move()
    journal.touch(names[0], live=True)
    let_the_clock_move()
    journal.touch(names[2], live=False)
    close_session(journal, names[1])

    expected = [names[2], names[0], names[3]]
    assert ids(journal.sessions()) == ids(other.sessions()) == expected
    assert ids(journal.sessions(limit=2)) == expected[:2]


def test_the_list_of_sessions_can_be_narrowed_to_a_state(journal: Journal) -> None:
    live, asleep, closed = (open_session(journal) for _ in range(3))
    journal.touch(asleep, live=False)
    close_session(journal, closed)

    assert ids(journal.sessions(state="live")) == [live]
    assert ids(journal.sessions(state="asleep")) == [asleep]


def test_a_listed_session_is_told_as_it_is_told_alone(journal: Journal, session_id: str) -> None:
    append(journal, session_id, "one", "two")

    assert journal.sessions() == [known(journal, session_id)]


def test_idle_sessions_are_listed_the_longest_idle_first(journal: Journal) -> None:
    names = [new_id() for _ in range(4)]
    for name in names:
        open_session(journal, name)
        let_the_clock_move()
    journal.touch(names[1], live=True)

    expected = [names[0], names[2], names[3], names[1]]
    assert ids(journal.idle_sessions(limit=10)) == expected
    assert ids(journal.idle_sessions(limit=2)) == expected[:2]


def test_only_live_sessions_are_idle(journal: Journal) -> None:
    live, asleep, closed = (open_session(journal) for _ in range(3))
    journal.touch(asleep, live=False)
    close_session(journal, closed)

    assert ids(journal.idle_sessions(limit=10)) == [live]


def test_a_session_with_an_unanswered_input_is_not_idle(
    journal: Journal, open_journal: Callable[[], Journal], session_id: str
) -> None:
    idle = open_session(journal)
    ask(journal, session_id)
    assert ids(journal.idle_sessions(limit=10)) == [idle]

    claim = claimed(journal)
    start(journal, claim, "t1")
    assert ids(open_journal().idle_sessions(limit=10)) == [idle]

    answer(journal, claim)
    assert set(ids(journal.idle_sessions(limit=10))) == {idle, session_id}


def test_a_session_whose_input_is_not_due_yet_is_not_idle(journal: Journal, session_id: str) -> None:
    ask(journal, session_id, delay_s=3600)

    assert journal.idle_sessions(limit=10) == []


def test_busy_sessions_take_no_place_among_the_idle_ones(journal: Journal) -> None:
    for _ in range(5):
        ask(journal, open_session(journal))
    let_the_clock_move()
    idle = open_session(journal)

    assert ids(journal.idle_sessions(limit=1)) == [idle]
