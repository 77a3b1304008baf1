"""The contract of a session's log: numbers, frames, reading, trimming of deltas."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import gevent
import pytest

from app.errors import SessionNotFoundError
from app.journal import Change, Journal, NewEvent, OpenSession

from .steps import append, close_session, message, new_id, open_session, texts, together, whole_log


def delta(message_id: str, text: str = "piece") -> NewEvent:
    return NewEvent("assistant_delta", {"messageId": message_id, "text": text})


def final(message_id: str) -> NewEvent:
    return NewEvent("assistant_message", {"messageId": message_id, "text": "whole"})


# Numbers


def test_a_new_session_has_an_empty_log(journal: Journal, session_id: str) -> None:
    session = journal.session(session_id)

    assert session is not None
    assert (session.first_seq, session.last_seq) == (1, 0)
    assert journal.events(session_id) == []


def test_a_change_returns_the_numbers_of_its_events_in_their_order(journal: Journal, session_id: str) -> None:
    committed = append(journal, session_id, "one", "two", "three")

    assert len(committed.seqs) == 3
    assert committed.seq == committed.seqs[0] > 0
    assert not committed.duplicate
    assert [(e.seq, e.data["text"]) for e in journal.events(session_id)] == [
        (committed.seqs[0], "one"),
        (committed.seqs[1], "two"),
        (committed.seqs[2], "three"),
    ]


def test_numbers_strictly_increase_from_change_to_change(journal: Journal, session_id: str) -> None:
    seqs = [seq for n in range(10) for seq in append(journal, session_id, *"abc"[: n % 3 + 1]).seqs]

    assert seqs == sorted(set(seqs))


def test_a_session_knows_its_lowest_and_highest_number(journal: Journal, other: Journal, session_id: str) -> None:
    last = append(journal, session_id, "one", "two").seqs[-1]

    session = other.session(session_id)
    assert session is not None
    assert (session.first_seq, session.last_seq) == (1, last)


def test_each_session_has_a_log_of_its_own(journal: Journal, session_id: str) -> None:
    neighbour = open_session(journal)
    for n in range(5):
        append(journal, session_id, f"mine {n}")
        append(journal, neighbour, f"theirs {n}")

    assert texts(journal, session_id) == [f"mine {n}" for n in range(5)]
    assert texts(journal, neighbour) == [f"theirs {n}" for n in range(5)]
    assert {e.session_id for e in journal.events(neighbour)} == {neighbour}


def test_a_change_without_events_has_no_number(journal: Journal, session_id: str) -> None:
    committed = journal.commit(Change(session_id))

    assert (committed.seqs, committed.seq) == ((), 0)
    assert journal.events(session_id) == []


def test_what_one_handle_was_told_another_reads_at_once(journal: Journal, other: Journal, session_id: str) -> None:
    for n in range(20):
        seq = append(journal, session_id, str(n)).seq
        assert [e.seq for e in other.events(session_id, after=seq - 1)] == [seq]


def test_workers_that_write_at_once_share_one_numbering(journal: Journal, other: Journal, session_id: str) -> None:
    def write(handle: Journal, name: str) -> list[tuple[int, str]]:
        return [(seq, f"{name} {n}") for n in range(10) for seq in append(handle, session_id, f"{name} {n}").seqs]

    written = together(partial(write, (journal, other)[n % 2], f"greenlet {n}") for n in range(40))

    for own in written:
        assert not isinstance(own, Exception), own
        assert own == sorted(own), "an append that came after an acknowledged one has the higher number"
    log = [(event.seq, event.data["text"]) for event in whole_log(journal, session_id)]
    assert log == sorted(pair for own in written for pair in own)  # type: ignore[union-attr]
    assert len({seq for seq, _ in log}) == len(log) == 400


def test_a_reader_that_follows_by_its_cursor_misses_nothing(
    open_journal: Callable[[], Journal], session_id: str
) -> None:
    writers, reader = [open_journal(), open_journal()], open_journal()
    seen: list[str] = []

    def follow() -> None:
        cursor = 0
        while len(seen) < 200:
            for event in reader.events(session_id, after=cursor, limit=7):
                seen.append(event.data["text"])
                cursor = event.seq
            gevent.sleep(0)

    def write(handle: Journal, name: str) -> None:
        for n in range(10):
            append(handle, session_id, f"{name} {n}")

    calls: list[Callable[[], None]] = [partial(write, writers[n % 2], f"greenlet {n}") for n in range(20)]
    assert together([follow, *calls]) == [None] * 21
    assert sorted(seen) == sorted(f"greenlet {n} {m}" for n in range(20) for m in range(10))


def test_the_events_of_one_change_are_seen_together_or_not_at_all(
    journal: Journal, other: Journal, session_id: str
) -> None:
    counts: list[int] = []

    def write() -> None:
        for _ in range(50):
            append(journal, session_id, "one", "two", "three")

    writer = gevent.spawn(write)
    while not writer.ready():
        counts.append(len(other.events(session_id, limit=1000)))
        gevent.sleep(0)
    writer.get()

    assert [count for count in counts if count % 3] == []
    assert len(other.events(session_id, limit=1000)) == 150


def test_a_number_that_was_given_is_never_given_again(
    journal: Journal, open_journal: Callable[[], Journal], session_id: str
) -> None:
    append(journal, session_id)
    dropped = journal.commit(Change(session_id, events=[delta("m"), delta("m")])).seqs
    journal.commit(Change(session_id, drop_deltas=["m"]))
    journal.close()

    reopened = open_journal()
    session = reopened.session(session_id)

    assert session is not None
    assert session.last_seq == dropped[-1]
    assert append(reopened, session_id).seq > dropped[-1]


# Frames


def test_a_frame_is_the_event_as_clients_get_it(journal: Journal, session_id: str) -> None:
    seq = append(journal, session_id, "hello").seq

    (event,) = journal.events(session_id)
    frame = json.loads(event.frame)

    assert set(frame) == {"type", "seq", "at", "data"}
    assert (event.type, event.seq) == (frame["type"], frame["seq"]) == ("user_message", seq)
    assert frame["data"] == {"text": "hello"} == event.data
    assert event.body == frame


def test_a_frame_says_when_in_utc_with_milliseconds(journal: Journal, session_id: str) -> None:
    append(journal, session_id)

    at = journal.events(session_id)[0].body["at"]

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    assert abs(datetime.fromisoformat(at) - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("given", "on_the_wire"),
    [
        ({}, {}),
        ({"turn_id": "t1"}, {"turnId": "t1"}),
        ({"request_id": "q1"}, {"requestId": "q1"}),
        ({"repair_id": "r1"}, {"repairId": "r1"}),
        (
            {"turn_id": "t1", "request_id": "q1", "repair_id": "r1"},
            {"turnId": "t1", "requestId": "q1", "repairId": "r1"},
        ),
    ],
)
def test_a_frame_has_those_ids_that_apply(
    journal: Journal, session_id: str, given: dict[str, str], on_the_wire: dict[str, str]
) -> None:
    journal.commit(Change(session_id, events=[message(**given)]))

    body = journal.events(session_id)[0].body

    assert {key: body[key] for key in body if key.endswith("Id")} == on_the_wire


def test_a_frame_is_made_once(journal: Journal, other: Journal, session_id: str) -> None:
    append(journal, session_id, "hello")

    assert journal.events(session_id) == journal.events(session_id) == other.events(session_id)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Grüße, 世界 🎉 e\u0301 \u202e", id="unicode"),
        pytest.param("\x00 in the \x00 middle\x00", id="nul"),
        pytest.param("half an emoji: \ud83d, the other: \udf89", id="lone surrogates"),
        pytest.param("\r\n\t\x08\x1b[31m\x7f\u2028\u2029\ufeff\uffff", id="control characters"),
        pytest.param('"quotes" \'and\' \\ \\u0000 \\" {}%s%(x)s', id="quotes and escapes"),
        pytest.param("", id="empty"),
        pytest.param("x" * 1_000_000, id="a megabyte"),
        pytest.param("🎉" * 100_000, id="many wide characters"),
    ],
)
def test_any_text_comes_back_as_it_was_given(journal: Journal, other: Journal, session_id: str, text: str) -> None:
    append(journal, session_id, "before", text, "after")

    events = other.events(session_id)

    assert [event.data["text"] for event in events] == ["before", text, "after"]
    for event in events:
        assert json.loads(event.frame.encode("utf-8")) == event.body, "a socket sends it as UTF-8"
        assert "\n" not in event.frame, "one frame is one line"


def test_any_json_value_comes_back_as_it_was_given(journal: Journal, session_id: str) -> None:
    data = {
        "nothing": None,
        "yes": True,
        "no": False,
        "integer": 2**63,
        "negative": -1,
        "fraction": 0.1,
        "list": [1, [2, [3, {"deep": []}]]],
        "object": {"": {}, "a b": 1, "Ü": 2, "\x00": 3},
        "seq": 1,
        "type": "not the type",
    }
    journal.commit(Change(session_id, events=[NewEvent("notice", data)]))

    assert journal.events(session_id)[0].data == data


def test_a_frame_is_strict_json_whatever_was_given(journal: Journal, session_id: str) -> None:
    with suppress(ValueError):
        journal.commit(Change(session_id, events=[NewEvent("notice", {"n": [math.nan, math.inf]})]))

    def refuse(constant: str) -> None:
        raise AssertionError(f"no browser reads {constant}")

    for event in journal.events(session_id):
        json.loads(event.frame, parse_constant=refuse)


# Reading


def test_events_are_read_from_behind_a_number_oldest_first(journal: Journal, session_id: str) -> None:
    seqs = append(journal, session_id, *"abcde").seqs

    assert [e.seq for e in journal.events(session_id, after=0)] == list(seqs)
    assert [e.seq for e in journal.events(session_id, after=seqs[1])] == list(seqs[2:])
    assert journal.events(session_id, after=seqs[-1]) == []
    for beyond in (seqs[-1] + 1000, 2**32, 2**63, 2**70):
        assert journal.events(session_id, after=beyond) == []


def test_all_events_come_after_a_number_below_the_first(journal: Journal) -> None:
    sessions = [open_session(journal) for _ in range(3)]
    for each in sessions:
        append(journal, each, "one", "two")

    for below in (0, -1, -10, -(2**33), -(2**70)):
        assert [[e.data["text"] for e in journal.events(each, after=below)] for each in sessions] == [
            ["one", "two"]
        ] * 3


def test_a_page_has_at_most_limit_events_and_they_are_the_oldest(journal: Journal, session_id: str) -> None:
    seqs = append(journal, session_id, *"abcde").seqs

    assert [e.seq for e in journal.events(session_id, limit=2)] == list(seqs[:2])
    assert [e.seq for e in journal.events(session_id, after=seqs[1], limit=2)] == list(seqs[2:4])
    assert [e.seq for e in journal.events(session_id, limit=50)] == list(seqs)


def test_a_page_is_bounded_when_nobody_says_how(journal: Journal, session_id: str) -> None:
    append(journal, session_id, *(str(n) for n in range(250)))

    assert [e.data["text"] for e in journal.events(session_id)] == [str(n) for n in range(200)]


def test_types_narrow_what_is_read_and_the_limit_counts_what_is_left(journal: Journal, session_id: str) -> None:
    for n in range(5):
        journal.commit(
            Change(session_id, events=[message(str(n)), delta("m"), NewEvent("notice", {"level": "info", "text": "n"})])
        )
    seqs = [e.seq for e in journal.events(session_id) if e.type != "assistant_delta"]

    both = journal.events(session_id, types=["notice", "user_message"])
    page = journal.events(session_id, types=["user_message"], after=seqs[0], limit=3)

    assert [e.seq for e in both] == seqs
    assert [(e.type, e.data["text"]) for e in page] == [("user_message", str(n)) for n in (1, 2, 3)]
    assert journal.events(session_id, types=["repair_started"]) == []


def test_an_unknown_session_has_no_events(journal: Journal) -> None:
    assert journal.events(new_id()) == []


# Refusals


def test_an_unknown_session_takes_no_events(journal: Journal) -> None:
    unknown = new_id()

    with pytest.raises(SessionNotFoundError):
        append(journal, unknown)

    assert journal.session(unknown) is None
    assert journal.events(unknown) == []


def test_a_closed_session_takes_no_events_and_keeps_those_it_has(
    journal: Journal, other: Journal, session_id: str
) -> None:
    append(journal, session_id, "hello")
    close_session(journal, session_id)

    for handle in (journal, other):
        with pytest.raises(SessionNotFoundError):
            append(handle, session_id, "too late")

    assert [e.type for e in other.events(session_id)] == ["user_message", "session_closed"]


def test_a_session_can_begin_with_events(journal: Journal) -> None:
    session_id = new_id()

    committed = journal.commit(
        Change(session_id, open_session=OpenSession("hash", 10), events=[message("first"), message("second")])
    )

    assert [e.seq for e in journal.events(session_id)] == list(committed.seqs)
    assert texts(journal, session_id) == ["first", "second"]


# Deltas


def test_deltas_leave_the_log_once_their_message_is_final(journal: Journal, other: Journal, session_id: str) -> None:
    journal.commit(Change(session_id, events=[message("hello"), delta("m1"), delta("m2"), delta("m1")]))

    journal.commit(Change(session_id, events=[final("m1")], drop_deltas=["m1"]))

    log = [(e.type, e.data.get("messageId")) for e in other.events(session_id)]
    assert log == [("user_message", None), ("assistant_delta", "m2"), ("assistant_message", "m1")]


def test_dropping_deltas_touches_no_other_event_and_no_other_session(journal: Journal, session_id: str) -> None:
    neighbour = open_session(journal)
    reset = NewEvent("assistant_reset", {"messageId": "m1"})
    for each in (session_id, neighbour):
        journal.commit(Change(each, events=[delta("m1"), reset, delta("m2"), final("m1"), delta("m3")]))

    journal.commit(Change(session_id, drop_deltas=["m1", "m3", "no such message"]))

    kept = [(e.type, e.data["messageId"]) for e in journal.events(session_id)]
    assert kept == [("assistant_reset", "m1"), ("assistant_delta", "m2"), ("assistant_message", "m1")]
    assert len(journal.events(neighbour)) == 5


def test_the_numbers_of_kept_events_stay_when_deltas_go(journal: Journal, session_id: str) -> None:
    before = journal.commit(Change(session_id, events=[message("a"), delta("m"), message("b")])).seqs

    after = journal.commit(Change(session_id, events=[final("m")], drop_deltas=["m"])).seq

    assert [e.seq for e in journal.events(session_id)] == [before[0], before[2], after]
    assert [e.seq for e in journal.events(session_id, after=before[0])] == [before[2], after]
