"""How many repairs an agent may begin, whatever else there is of the workflow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.journal import Change
from app.journal.records import Repair
from app.journal.sqlite import SqliteJournal
from app.repairs.pace import LOOKED_AT, Pace
from app.repairs.states import moved


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(tmp_path / "journal.db")
    yield journal
    journal.close()


def queued(journal: SqliteJournal, number: int) -> Repair:
    repair = Repair(
        repair_id=f"r{number}",
        session_id="s",
        workflow_id="w",
        workflow_name="W",
        signature=f"{number:016x}",
        attempt=1,
        times={"queued": time.time()},
    )
    journal.commit(Change(puts=[repair.put()]))
    found = Repair.get(journal, repair.repair_id)
    assert found is not None
    return found


def test_a_flood_of_other_errors_does_not_hide_what_has_begun(journal: SqliteJournal) -> None:
    pace = Pace(per_workflow=1, in_all=0)
    journal.commit(Change(puts=[moved(queued(journal, 0), "running")]))
    for number in range(1, LOOKED_AT + 2):
        last = queued(journal, number)

    wait_s, why = pace.wait_s(journal, last)

    assert wait_s > 0
    assert "within a day" in why


def test_what_was_begun_a_day_ago_does_not_count(journal: SqliteJournal) -> None:
    pace = Pace(per_workflow=1, in_all=0)
    first = queued(journal, 0)
    journal.commit(Change(puts=[first.put(state="failed", times={"running": time.time() - 86_401})]))

    assert pace.wait_s(journal, queued(journal, 1)) == (0.0, "")
