"""Dead letters whose idempotency keys were forgotten before they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.callbacks.dead_letters import DeadLetters
from app.callbacks.report import parse_error_report
from app.callbacks.routing import Router
from app.journal.sqlite import SqliteJournal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        yield journal


def test_a_letter_that_outlived_its_key_is_kept_once(journal: SqliteJournal) -> None:
    letters = DeadLetters(journal, Router(journal), "auto")
    report = parse_error_report({"workflow": {"id": "W"}, "execution": {"id": "1"}})
    unread = letters.keep_text(b"?", "bad_schema", request_id="r", size_bytes=1)
    kept = letters.keep_report(report, "no_session", request_id="r")

    journal.forget(before=datetime.now(UTC) + timedelta(hours=1))

    assert letters.keep_text(b"?", "bad_schema", request_id="r2", size_bytes=1) == unread
    again = letters.keep_report(report, "no_session", request_id="r2")
    assert (again.dead_letter_id, again.duplicate, again.routed) == (kept.dead_letter_id, True, False)
