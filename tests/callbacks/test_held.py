"""Callbacks over the rate limit: kept once, and taken once, whether their caller or the bridge itself tries again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gevent
import pytest

from app.callbacks.dead_letters import DeadLetters
from app.callbacks.report import ErrorReport, parse_error_report
from app.callbacks.routing import Router
from app.errors import RateLimitError
from app.journal import Change, Journal, Limit, OpenSession
from app.journal.records import DeadLetter, Registration
from app.journal.sqlite import SqliteJournal

WINDOW_S = 0.3
ONE = Limit("callbacks", 1, WINDOW_S)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        journal.commit(Change("s", open_session=OpenSession("hash", 10)))
        known = Registration(workflow_id="w", session_id="s", name="w", autonomy="observe")
        journal.commit(Change(puts=[known.put()]))
        yield journal


@pytest.fixture
def letters(journal: Journal) -> DeadLetters:
    return DeadLetters(journal, Router(journal), "observe")


def report(execution_id: str, workflow_id: str = "w") -> ErrorReport:
    execution = {"id": execution_id, "error": {"message": "no"}, "mode": "webhook"}
    return parse_error_report({"execution": execution, "workflow": {"id": workflow_id, "name": "w"}})


def held(letters: DeadLetters, one: ErrorReport) -> str:
    """Fill the window and come once more; gives the letter's id."""
    assert letters.journal.hit(ONE) == 0
    with pytest.raises(RateLimitError) as refused:
        letters.router.route(one, source="callback", request_id="r", limit=ONE)
    return str(letters.hold(one, refused.value, request_id="request-1").fields["deadLetterId"])


def errors(journal: Journal) -> list[dict[str, Any]]:
    return [event.data for event in journal.events("s") if event.type == "workflow_error"]


def test_its_callers_next_try_is_taken_and_settles_the_letter(journal: Journal, letters: DeadLetters) -> None:
    letter_id = held(letters, report("7"))
    gevent.sleep(WINDOW_S)

    routed = letters.router.route(report("7"), source="callback", request_id="r2", limit=ONE)

    assert not routed.duplicate
    assert (letters.get(letter_id).state, letters.get(letter_id).session_id) == ("replayed", "s")
    assert journal.find(DeadLetter.KIND, "held") == []
    assert letters.replay(letter_id, session_id=None, request_id="r3").duplicate
    assert len(errors(journal)) == 1


def test_the_bridges_replay_takes_a_place_and_its_callers_next_try_is_a_duplicate(
    journal: Journal, letters: DeadLetters
) -> None:
    letter_id = held(letters, report("7"))
    with pytest.raises(RateLimitError):
        letters.replay_held(letters.get(letter_id), ONE)
    gevent.sleep(WINDOW_S)

    letters.replay_held(letters.get(letter_id), ONE)

    assert journal.hit(ONE) > 0
    assert letters.router.route(report("7"), source="callback", request_id="r", limit=ONE).duplicate
    assert [error["source"] for error in errors(journal)] == ["replay"]
    assert letters.get(letter_id).state == "replayed"


def test_a_replay_that_finds_it_taken_settles_the_letter(journal: Journal, letters: DeadLetters) -> None:
    letters.router.route(report("7"), source="callback", request_id="r")
    letter_id = letters.hold(report("7"), RateLimitError(), request_id="r").fields["deadLetterId"]

    assert letters.replay_held(letters.get(letter_id), ONE).duplicate

    assert letters.get(letter_id).state == "replayed"
    assert len(errors(journal)) == 1


def test_an_unknown_workflows_next_try_keeps_the_same_letter(journal: Journal, letters: DeadLetters) -> None:
    assert journal.hit(ONE) == 0
    ids = set()
    for _ in range(2):
        with pytest.raises(RateLimitError) as refused:
            letters.keep_report(report("7", "nobody's"), "no_session", request_id="r", limit=ONE)
        ids.add(refused.value.fields["deadLetterId"])
    (letter_id,) = ids
    assert letters.get(letter_id).held
    gevent.sleep(WINDOW_S)

    kept = letters.keep_report(report("7", "nobody's"), "no_session", request_id="r", limit=ONE)

    assert kept.dead_letter_id == letter_id
    assert letters.get(letter_id).reason == "no_session"
    assert letters.keep_report(report("7", "nobody's"), "no_session", request_id="r", limit=ONE).duplicate


def test_what_cannot_be_read_is_kept_once_over_the_limit_too(journal: Journal, letters: DeadLetters) -> None:
    assert journal.hit(ONE) == 0
    ids = set()
    for _ in range(2):
        with pytest.raises(RateLimitError) as refused:
            letters.keep_text(b"?", "bad_schema", request_id="r", size_bytes=1, limit=ONE)
        ids.add(refused.value.fields["deadLetterId"])
    (letter_id,) = ids
    assert letters.get(letter_id).reason == "rate_limited"
    assert not letters.get(letter_id).held
    gevent.sleep(WINDOW_S)

    assert letters.keep_text(b"?", "bad_schema", request_id="r", size_bytes=1, limit=ONE) == letter_id

    assert letters.get(letter_id).reason == "bad_schema"
    assert letters.keep_text(b"?", "bad_schema", request_id="r", size_bytes=1, limit=ONE) == letter_id


def test_a_flood_over_the_limit_is_a_line_and_a_count(letters: DeadLetters, caplog: pytest.LogCaptureFixture) -> None:
    over = RateLimitError("Too many.", retry_after_s=1)

    kept = {letters.hold(report(str(number)), over, request_id="r").fields["deadLetterId"] for number in range(30)}

    assert len(kept) == 30
    lines = [record for record in caplog.records if record.getMessage() == "callback kept as a dead letter"]
    assert len(lines) <= 1, "none, where an earlier test has taken the minute's"
