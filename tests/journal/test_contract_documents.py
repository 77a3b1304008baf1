"""The contract of documents: versions, expectations, groups."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from app.errors import StaleDocumentError
from app.journal import Change, Delete, Document, Expect, Journal, Put

from .steps import close_session, let_the_clock_move, together


def put(journal: Journal, key: str = "k", body: dict[str, Any] | None = None, **options: Any) -> None:
    journal.commit(Change(puts=[Put("note", key, body if body is not None else {"n": 1}, **options)]))


def read(journal: Journal, key: str = "k", kind: str = "note") -> Document:
    document = journal.get(kind, key)
    assert document is not None
    return document


def keys(documents: list[Document]) -> list[str]:
    return [document.key for document in documents]


# Writing and reading


def test_there_is_no_document_before_it_is_written(journal: Journal) -> None:
    assert journal.get("note", "k") is None
    assert journal.find("note") == []


def test_a_document_is_read_as_it_was_written_by_every_worker(journal: Journal, other: Journal) -> None:
    put(journal, body={"list": [1, None, {"deep": True}], "text": "Grüße"})

    document = read(other)
    assert (document.kind, document.key, document.version) == ("note", "k", 1)
    assert document.body == {"list": [1, None, {"deep": True}], "text": "Grüße"}
    assert document == read(journal)


@pytest.mark.parametrize(
    "text", ["\x00", "half an emoji: \ud83d", "🎉 \u2028", "x" * 1_000_000, ""], ids=lambda text: ascii(text[:12])
)
def test_any_text_in_a_document_comes_back_as_it_was_given(journal: Journal, text: str) -> None:
    put(journal, body={"text": text, "in a list": [text]})

    assert read(journal).body == {"text": text, "in a list": [text]}


def test_a_version_counts_the_writes_from_one(journal: Journal, other: Journal) -> None:
    for n in range(1, 5):
        put((journal, other)[n % 2], body={"n": n})
        assert (read(journal).version, read(journal).body) == (n, {"n": n})


def test_a_write_replaces_the_whole_body(journal: Journal) -> None:
    put(journal, body={"a": 1, "b": 2})
    put(journal, body={"b": 3})

    assert read(journal).body == {"b": 3}


def test_a_document_keeps_the_time_it_was_made_and_of_its_last_write(journal: Journal) -> None:
    put(journal)
    first = read(journal)
    let_the_clock_move()

    put(journal)

    second = read(journal)
    assert first.created_at.utcoffset() == timedelta(0)
    assert abs(first.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at >= first.created_at


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (("note", "k"), ("memo", "k")),
        (("a", "b:c"), ("a:b", "c")),
        (("a", "b/c"), ("a/b", "c")),
        (("a", "k"), ("a", "K")),
        (("a", "k"), ("a", "k ")),
        (("a", "1"), ("a", "01")),
        (("a", "ü"), ("a", "u\u0308")),
        (("a", "k"), ("a", "k*")),
    ],
)
def test_a_document_is_named_by_kind_and_key_exactly(
    journal: Journal, one: tuple[str, str], another: tuple[str, str]
) -> None:
    journal.commit(Change(puts=[Put(*one, {"which": "one"}), Put(*another, {"which": "another"})]))
    journal.commit(Change(deletes=[Delete(*one)]))

    assert journal.get(*one) is None
    assert read(journal, another[1], another[0]).body == {"which": "another"}
    assert keys(journal.find(another[0])) == [another[1]]


def test_documents_outlive_the_session_they_were_written_with(journal: Journal, session_id: str) -> None:
    journal.commit(Change(session_id, puts=[Put("note", "k", {"n": 1})]))
    close_session(journal, session_id)

    assert read(journal).body == {"n": 1}


def test_several_documents_are_written_by_one_change(journal: Journal) -> None:
    put(journal, "gone")

    journal.commit(
        Change(
            puts=[Put("note", "a", {"n": 1}), Put("memo", "b", {"n": 2})],
            deletes=[Delete("note", "gone"), Delete("note", "never there")],
        )
    )

    assert keys(journal.find("note")) == ["a"]
    assert keys(journal.find("memo")) == ["b"]


# Expectations


def test_expecting_none_takes_whatever_is_there(journal: Journal) -> None:
    for _ in range(3):
        put(journal, expect=None)

    assert read(journal).version == 3


def test_expecting_zero_writes_only_what_does_not_exist(journal: Journal) -> None:
    put(journal, body={"n": 1}, expect=0)

    with pytest.raises(StaleDocumentError):
        put(journal, body={"n": 2}, expect=0)

    assert (read(journal).version, read(journal).body) == (1, {"n": 1})


def test_expecting_a_version_writes_only_on_that_version(journal: Journal) -> None:
    put(journal, body={"n": 1})
    put(journal, body={"n": 2}, expect=1)

    for wrong in (0, 1, 3):
        with pytest.raises(StaleDocumentError):
            put(journal, body={"n": 3}, expect=wrong)

    assert (read(journal).version, read(journal).body) == (2, {"n": 2})


def test_expecting_a_version_of_what_does_not_exist_is_stale(journal: Journal) -> None:
    with pytest.raises(StaleDocumentError):
        put(journal, expect=1)

    assert journal.get("note", "k") is None


def test_a_deleted_document_is_gone_and_may_be_made_anew(journal: Journal, other: Journal) -> None:
    put(journal, body={"n": 1}, groups=("old",))
    journal.commit(Change(deletes=[Delete("note", "k")]))

    assert other.get("note", "k") is None
    assert other.find("note") == other.find("note", "old") == []

    put(other, body={"n": 2}, expect=0)
    assert read(journal).body == {"n": 2}
    assert journal.find("note", "old") == []


def test_deleting_what_is_not_there_is_no_error(journal: Journal) -> None:
    journal.commit(Change(deletes=[Delete("note", "k"), Delete("note", "k", expect=0)]))


def test_a_delete_expects_a_version_as_a_write_does(journal: Journal) -> None:
    put(journal)
    put(journal)

    for wrong in (0, 1, 3):
        with pytest.raises(StaleDocumentError):
            journal.commit(Change(deletes=[Delete("note", "k", expect=wrong)]))
    with pytest.raises(StaleDocumentError):
        journal.commit(Change(deletes=[Delete("note", "another", expect=1)]))
    assert read(journal).version == 2

    journal.commit(Change(deletes=[Delete("note", "k", expect=2)]))
    assert journal.get("note", "k") is None


def test_a_change_may_rest_on_a_document_that_it_does_not_write(journal: Journal) -> None:
    put(journal, "brake")

    def write(version: int, key: str = "brake") -> None:
        journal.commit(Change(expects=[Expect("note", key, version)], puts=[Put("note", "k", {"n": 1})]))

    for version, key in ((0, "brake"), (2, "brake"), (1, "missing")):
        with pytest.raises(StaleDocumentError):
            write(version, key)
    assert journal.get("note", "k") is None

    write(1)
    write(0, "missing")
    assert read(journal).version == 2
    assert read(journal, "brake").version == 1


def test_every_expectation_of_a_change_must_hold(journal: Journal) -> None:
    put(journal, "a")
    put(journal, "b")

    with pytest.raises(StaleDocumentError):
        journal.commit(
            Change(
                expects=[Expect("note", "a", 1), Expect("note", "b", 2)],
                puts=[Put("note", "a", {"n": 2}), Put("note", "c", {"n": 2})],
            )
        )

    assert read(journal, "a").version == 1
    assert journal.get("note", "c") is None


def test_expectations_look_at_what_was_there_before_the_change(journal: Journal) -> None:
    put(journal)

    journal.commit(Change(expects=[Expect("note", "k", 1)], puts=[Put("note", "k", {"n": 2}, expect=1)]))

    assert read(journal).version == 2


def test_one_of_many_creates_a_document(journal: Journal, other: Journal) -> None:
    outcomes = together(partial(put, (journal, other)[n % 2], body={"n": n}, expect=0) for n in range(30))

    assert outcomes.count(None) == 1
    assert all(isinstance(outcome, StaleDocumentError) for outcome in outcomes if outcome is not None)
    assert (read(journal).version, read(journal).body) == (1, {"n": outcomes.index(None)})


def test_no_increment_of_many_is_lost(journal: Journal, other: Journal) -> None:
    put(journal, body={"n": 0})

    def increment(handle: Journal) -> None:
        while True:
            document = read(handle)
            try:
                return put(handle, body={"n": document.body["n"] + 1}, expect=document.version)
            except StaleDocumentError:
                continue

    assert together(partial(increment, (journal, other)[n % 2]) for n in range(20)) == [None] * 20

    assert read(journal).body == {"n": 20}


# Finding


def test_documents_are_found_newest_created_first(journal: Journal, other: Journal) -> None:
    for key in ("a", "b", "c"):
        put(journal, key)
        let_the_clock_move()
    put(journal, "a", {"n": 2})
    journal.commit(Change(puts=[Put("memo", "z", {})]))

    assert keys(journal.find("note")) == keys(other.find("note")) == ["c", "b", "a"]
    assert journal.find("note")[2] == read(journal, "a")


def test_documents_are_found_by_each_of_their_groups(journal: Journal) -> None:
    put(journal, "a", groups=("red", "round"))
    let_the_clock_move()
    put(journal, "b", groups=("red",))
    let_the_clock_move()
    put(journal, "c")

    assert keys(journal.find("note", "red")) == ["b", "a"]
    assert keys(journal.find("note", "round")) == ["a"]
    assert keys(journal.find("note")) == ["c", "b", "a"]
    assert journal.find("note", "blue") == journal.find("memo", "red") == []


@pytest.mark.parametrize("group", ["a:b", "a b", "ü🎉", "a*", "a%", "A"])
def test_a_group_is_named_exactly(journal: Journal, group: str) -> None:
    for n, label in enumerate([group, "a", "ab", "a:", "b", "axb"]):
        put(journal, str(n), groups=(label,))

    assert keys(journal.find("note", group)) == ["0"]


def test_the_groups_of_a_write_replace_the_former_ones(journal: Journal) -> None:
    put(journal, groups=("red", "round"))
    put(journal, groups=("round", "blue"))

    assert journal.find("note", "red") == []
    assert keys(journal.find("note", "round")) == keys(journal.find("note", "blue")) == ["k"]

    put(journal)
    assert journal.find("note", "round") == journal.find("note", "blue") == []
    assert keys(journal.find("note")) == ["k"]


def test_a_refused_write_leaves_the_groups(journal: Journal) -> None:
    put(journal, groups=("red",))

    with pytest.raises(StaleDocumentError):
        put(journal, groups=("blue",), expect=5)

    assert keys(journal.find("note", "red")) == ["k"]
    assert journal.find("note", "blue") == []


def test_a_page_of_documents_has_the_newest(journal: Journal) -> None:
    for n in range(6):
        put(journal, str(n), groups=(("even", "odd")[n % 2],))
        let_the_clock_move()

    assert keys(journal.find("note", limit=2)) == ["5", "4"]
    assert keys(journal.find("note", "even", limit=2)) == ["4", "2"]


def test_pages_join_by_the_time_of_the_last_document(journal: Journal, other: Journal) -> None:
    for n in range(20):
        put(journal, str(n), groups=(("even", "odd")[n % 2],))
        let_the_clock_move()

    for group, expected in (
        ("", [str(n) for n in range(19, -1, -1)]),
        ("odd", [str(n) for n in range(19, 0, -2)]),
        ("even", [str(n) for n in range(18, -1, -2)]),
    ):
        found: list[str] = []
        before: datetime | None = None
        while (page := other.find("note", group, limit=3, before=before)) and len(found) <= len(expected):
            found += keys(page)
            before = page[-1].created_at
        assert found == expected
