"""Reports that come after a repair was published, of runs that began before it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.callbacks.report import parse_error_report
from app.callbacks.routing import Router
from app.journal import Change, OpenSession
from app.journal.records import Case, Registration, Repair
from app.journal.sqlite import SqliteJournal
from app.repairs import policy


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    made = SqliteJournal(tmp_path / "journal.db")
    made.commit(Change(session_id="s", open_session=OpenSession("hash", 10)))
    registration = Registration(workflow_id="w", session_id="s", name="W", autonomy="auto")
    made.commit(Change(puts=[registration.put()]))
    yield made
    made.close()


def report(execution_id: str):
    failed = {"id": execution_id, "error": {"message": "boom"}, "lastNodeExecuted": "Code", "mode": "webhook"}
    return parse_error_report({"execution": failed, "workflow": {"id": "w", "name": "W"}})


def publish(journal: SqliteJournal, *, ago_s: float, proven_by: str) -> None:
    signature = policy.signature("w", "Code", {"message": "boom"})
    repair = Repair(
        repair_id="r",
        session_id="s",
        workflow_id="w",
        workflow_name="W",
        signature=signature,
        attempt=1,
        state="published",
        trial_run_id=proven_by,
    )
    case = Case(
        workflow_id="w",
        signature=signature,
        repair_id="r",
        attempts=1,
        outcome="published",
        closed_at_s=time.time() - ago_s,
    )
    journal.commit(Change(puts=[repair.put(), case.put()]))


@pytest.mark.parametrize(
    ("run", "ago_s", "settles_s", "verdict"),
    [
        ("19", 3600.0, 2.0, "coalesced"),
        ("21", 3600.0, 2.0, "blocked"),
        ("21", 0.0, 60.0, "coalesced"),
        ("21", 0.0, 0.0, "blocked"),
        ("not-a-number", 3600.0, 2.0, "blocked"),
    ],
)
def test_only_a_run_that_met_the_repair_tells_that_the_error_came_back(
    journal: SqliteJournal, run: str, ago_s: float, settles_s: float, verdict: str
) -> None:
    publish(journal, ago_s=ago_s, proven_by="20")

    routed = Router(journal, settles_s).route(report(run), source="callback", request_id="r")

    assert routed.repair == verdict
