"""The contract of sessions: opened within a bound, awake or asleep, closed for good."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from app.errors import SessionNotFoundError, TooManyPendingError, TooManySessionsError
from app.journal import Activity, Change, Delete, Hold, Journal, NewInput, OpenSession, Put, Session

from .steps import (
    answer,
    append,
    ask,
    claimed,
    close_session,
    fall_asleep,
    let_the_clock_move,
    message,
    new_id,
    open_session,
    start,
    texts,
    together,
    use,
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
    fall_asleep(journal, session_id)

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

    fall_asleep(journal, first)
    close_session(other, second)
    assert journal.live_sessions() == other.live_sessions() == 1

    use(other, first)
    close_session(journal, third)
    assert journal.live_sessions() == other.live_sessions() == 1


def test_a_session_counts_once_however_often_it_is_used(journal: Journal, session_id: str) -> None:
    open_session(journal)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for live, count in [(True, 2), (True, 2), (False, 1), (False, 1), (True, 2)]:
        if live:
            use(journal, session_id)
        else:
            journal.sleep([session_id], idle_before=tomorrow)
        assert journal.live_sessions() == count


def test_a_sleeping_session_that_is_closed_is_not_taken_off_twice(journal: Journal, session_id: str) -> None:
    open_session(journal)
    fall_asleep(journal, session_id)

    close_session(journal, session_id)

    assert journal.live_sessions() == 1


def test_a_session_that_is_closed_again_is_not_taken_off_twice(journal: Journal, session_id: str) -> None:
    open_session(journal)
    close_session(journal, session_id)

    with suppress(SessionNotFoundError):
        journal.commit(Change(session_id, close_session=True))

    assert journal.live_sessions() == 1


def test_use_is_noted_as_activity(journal: Journal, session_id: str) -> None:
    before = known(journal, session_id)
    let_the_clock_move()

    use(journal, session_id)

    after = known(journal, session_id)
    assert after.last_active_at > before.last_active_at
    assert (after.created_at, after.state) == (before.created_at, "live")


def test_a_session_falls_asleep_and_wakes_by_use(journal: Journal, other: Journal, session_id: str) -> None:
    fall_asleep(journal, session_id)
    assert known(other, session_id).state == "asleep"

    use(journal, session_id)
    assert known(other, session_id).state == "live"


def test_a_sleeping_session_takes_events_and_inputs(journal: Journal, session_id: str) -> None:
    fall_asleep(journal, session_id)

    asked = ask(journal, session_id, "are you there?")

    assert texts(journal, session_id) == ["are you there?"]
    assert claimed(journal).input.input_id == asked.input_id


def test_a_closed_session_neither_wakes_nor_sleeps(journal: Journal, session_id: str) -> None:
    close_session(journal, session_id)
    closed = known(journal, session_id)
    let_the_clock_move()

    with pytest.raises(SessionNotFoundError):
        use(journal, session_id)
    journal.commit(Change(session_id, activity=Activity(1000), puts=[Put("note", "n", {})]))
    assert journal.sleep([session_id], idle_before=datetime.now(UTC) + timedelta(days=1)) == []

    assert journal.get("note", "n") is not None
    assert known(journal, session_id) == closed
    assert journal.live_sessions() == 0


def test_no_more_than_the_bound_wake(journal: Journal, other: Journal) -> None:
    names = [open_session(journal) for _ in range(20)]
    for name in names:
        fall_asleep(journal, name)

    outcomes = together(
        partial(use, (journal, other)[n % 2], name, max_live=6) for n, name in enumerate([*names, *names])
    )

    awake = ids(journal.sessions(state="live"))
    assert len(awake) == journal.live_sessions() == 6
    assert sum(outcome is None for outcome in outcomes) == 12
    assert all(outcome is None or isinstance(outcome, TooManySessionsError) for outcome in outcomes)


def test_a_change_that_may_find_its_session_asleep_is_never_refused(journal: Journal, session_id: str) -> None:
    fall_asleep(journal, session_id)
    open_session(journal)
    change = Change(session_id, events=[message("a callback")], add=NewInput("repair", key="r"), activity=Activity(1))

    journal.commit(change)

    assert (known(journal, session_id).state, journal.live_sessions()) == ("asleep", 1)
    assert texts(journal, session_id) == ["a callback"]
    assert [i.key for i in journal.pending(session_id)] == ["r"]

    journal.commit(Change(session_id, activity=Activity(2)))
    assert (known(journal, session_id).state, journal.live_sessions()) == ("live", 2)


def test_a_refused_change_wakes_nobody(journal: Journal, session_id: str) -> None:
    ask(journal, session_id)
    sleeper = open_session(journal)
    fall_asleep(journal, sleeper)

    waking = Activity(9, must_wake=True)
    with pytest.raises(TooManyPendingError):
        journal.commit(Change(sleeper, activity=waking, events=[message()], add=NewInput("chat"), max_pending=0))

    assert (known(journal, sleeper).state, journal.live_sessions()) == ("asleep", 1)


# Falling asleep


def test_only_what_was_idle_for_so_long_falls_asleep(journal: Journal, other: Journal) -> None:
    names = [open_session(journal) for _ in range(3)]
    let_the_clock_move()
    now = datetime.now(UTC)
    use(other, names[1])

    assert journal.sleep(names, idle_before=now) == [names[0], names[2]]

    assert ids(journal.sessions(state="live")) == [names[1]]
    assert journal.live_sessions() == 1


def test_no_more_fall_asleep_than_are_wanted_in_their_order(journal: Journal) -> None:
    names = [open_session(journal) for _ in range(4)]
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    assert journal.sleep([names[2], "unknown", *names], idle_before=tomorrow, at_most=2) == [names[2], names[0]]
    assert journal.live_sessions() == 2


def test_an_unanswered_input_keeps_a_session_awake(journal: Journal, session_id: str) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    ask(journal, session_id, delay_s=3600)
    assert journal.sleep([session_id], idle_before=tomorrow) == []

    ask(journal, open_session(journal))
    assert journal.live_sessions() == 2


def test_a_document_keeps_a_session_awake_while_it_is_there(journal: Journal, other: Journal, session_id: str) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    holds = [Hold("socket", "session:"), Hold("approval", "waiting:")]
    neighbour = open_session(journal)
    journal.commit(Change(puts=[Put("socket", "s1", {}, (f"session:{session_id}",))]))
    journal.commit(Change(puts=[Put("approval", "a1", {}, (f"waiting:{session_id}", "waiting"))]))

    assert other.sleep([session_id, neighbour], idle_before=tomorrow, unless=holds) == [neighbour]
    journal.commit(Change(deletes=[Delete("socket", "s1")]))
    assert other.sleep([session_id], idle_before=tomorrow, unless=holds) == []
    journal.commit(Change(puts=[Put("approval", "a1", {}, ("decided",))]))
    assert other.sleep([session_id], idle_before=tomorrow, unless=holds) == [session_id]


def test_whoever_comes_as_a_session_falls_asleep_is_never_left_with_a_sleeping_one(
    journal: Journal, other: Journal
) -> None:
    tomorrow, hold = datetime.now(UTC) + timedelta(days=1), Hold("socket", "session:")
    names = [open_session(journal) for _ in range(40)]

    def come(name: str) -> None:
        socket = Put("socket", name, {}, (f"session:{name}",))
        other.commit(Change(name, activity=Activity(1000, must_wake=True), puts=[socket]))

    def fall(name: str) -> None:
        journal.sleep([name], idle_before=tomorrow, unless=[hold])

    together(partial(step, name) for name in names for step in (fall, come, fall))

    assert set(ids(journal.sessions(state="live"))) == set(names)
    assert journal.live_sessions() == 40


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
    use(journal, names[0])
    let_the_clock_move()
    fall_asleep(journal, names[2])
    close_session(journal, names[1])

    expected = [names[0], names[3], names[2]]
    assert ids(journal.sessions()) == ids(other.sessions()) == expected
    assert ids(journal.sessions(limit=2)) == expected[:2]


def test_the_list_of_sessions_can_be_narrowed_to_a_state(journal: Journal) -> None:
    live, asleep, closed = (open_session(journal) for _ in range(3))
    fall_asleep(journal, asleep)
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
    use(journal, names[1])

    expected = [names[0], names[2], names[3], names[1]]
    assert ids(journal.idle_sessions(limit=10)) == expected
    assert ids(journal.idle_sessions(limit=2)) == expected[:2]


def test_only_live_sessions_are_idle(journal: Journal) -> None:
    live, asleep, closed = (open_session(journal) for _ in range(3))
    fall_asleep(journal, asleep)
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


def test_idle_sessions_are_read_in_pages(journal: Journal) -> None:
    names = [open_session(journal) for _ in range(7)]
    let_the_clock_move()
    now = datetime.now(UTC)
    use(journal, names[3])

    found: list[Session] = []
    while page := journal.idle_sessions(limit=2, before=now, after=found[-1] if found else None):
        fall_asleep(journal, page[0].session_id)
        found += page

    assert ids(found) == [name for name in names if name != names[3]]
