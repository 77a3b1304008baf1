"""What is counted of a committed change: each fact once, and nothing of what was refused or had been done before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from app.errors import LeaseLostError, StaleDocumentError
from app.journal import Change, Lease, NewEvent, Once, OpenSession, events
from app.journal.records import Case, DeadLetter, Repair
from app.journal.sqlite import SqliteJournal
from app.telemetry import metrics

UNDONE = {"waiting": 1, "published": 1, "rolled_back": 1}
SESSION = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.commit(Change(session_id=SESSION, open_session=OpenSession("hash", 10)))
    yield journal
    journal.close()


class Counts:
    """How much the series of a metric have grown since this was made."""

    def __init__(self, metric: Any, values: Any) -> None:
        self._series = {value: metric.labels(value) for value in get_args(values)}
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {value: one._value.get() for value, one in self._series.items()}

    @property
    def grown(self) -> dict[str, float]:
        return {value: now - self._before[value] for value, now in self._now().items() if now != self._before[value]}


def repair(**more: Any) -> Repair:
    return Repair(
        repair_id="r1", session_id=SESSION, workflow_id="w1", workflow_name="W", signature="s", attempt=1, **more
    )


def walk(journal: SqliteJournal, *states: str, told: tuple[NewEvent, ...] = ()) -> None:
    """Write the repair in one state after the other."""
    for state in states:
        known = Repair.get(journal, "r1") or repair()
        journal.commit(Change(session_id=SESSION, events=told, puts=[known.put(state=state, entered=True)]))
        # What is written of it later is no second repair.
        known = Repair.get(journal, "r1") or known
        journal.commit(Change(puts=[known.put(costs={"turn": 0.1})]))


@pytest.mark.parametrize(
    ("states", "outcomes"),
    [
        (("queued", "running", "trying", "publishing", "published"), {"published": 1}),
        (("running", "trying", "running", "trying", "running", "failed"), {"failed": 1}),
        (("running", "trying", "waiting", "publishing", "published", "rolled_back"), UNDONE),
        (("running", "trying", "restoring", "failed"), {"failed": 1}),
        (("publishing", "restoring", "failed"), {"failed": 1}),
        (("queued", "running", "unverified"), {"unverified": 1}),
        (("queued", "not_a_bug"), {"not_a_bug": 1}),
        (("waiting", "rejected"), {"waiting": 1, "rejected": 1}),
        (("waiting", "expired"), {"waiting": 1, "expired": 1}),
    ],
)
def test_a_repair_is_counted_as_what_it_became(
    journal: SqliteJournal, states: tuple[str, ...], outcomes: dict[str, int]
) -> None:
    counts = Counts(metrics.repairs, metrics.Outcome)

    walk(journal, *states, told=(events.repair_unverified("r1", "a trial that failed"),))

    assert counts.grown == outcomes


def test_a_case_is_counted_and_logged_when_it_becomes_blocked_and_not_at_its_later_errors(
    journal: SqliteJournal, caplog: pytest.LogCaptureFixture
) -> None:
    counts = Counts(metrics.repairs, metrics.Outcome)
    told = [events.repair_blocked("w1", "s", "It came back.")]
    journal.commit(
        Change(session_id=SESSION, events=told, puts=[Case(workflow_id="w1", signature="s").put(state="blocked")])
    )

    for _ in range(3):
        case = Case.get(journal, "w1:s")
        assert case is not None
        journal.commit(Change(session_id=SESSION, puts=[case.put(count=case.count + 1)]))

    assert counts.grown == {"blocked": 1}
    (line,) = (record for record in caplog.records if record.getMessage() == "repair blocked")
    assert line.levelname == "WARNING"
    assert {name: line.__dict__[name] for name in ("workflowId", "signature", "reason")} == told[0].data


def test_what_was_refused_or_done_before_is_not_counted(journal: SqliteJournal) -> None:
    repairs, callbacks = Counts(metrics.repairs, metrics.Outcome), Counts(metrics.error_callbacks, metrics.Routed)
    error = NewEvent("workflow_error", {"source": "callback"})
    change = Change(
        session_id=SESSION,
        events=[error],
        once=Once("callback:1", {}),
        puts=[repair().put(state="failed", entered=True)],
    )

    for _ in range(3):
        journal.commit(change)
    with pytest.raises(StaleDocumentError):
        journal.commit(replace(change, once=Once("callback:2", {})))
    with pytest.raises(LeaseLostError):
        journal.commit(Change(session_id=SESSION, events=[error], fences=[Lease("session:x", "nobody", 1)]))

    assert (repairs.grown, callbacks.grown) == ({"failed": 1}, {"true": 1})


def test_only_what_n8n_called_about_is_a_callback(journal: SqliteJournal) -> None:
    callbacks = Counts(metrics.error_callbacks, metrics.Routed)

    for source in ("callback", "poll", "replay"):
        journal.commit(Change(session_id=SESSION, events=[NewEvent("workflow_error", {"source": source})]))

    assert callbacks.grown == {"true": 1}


@pytest.mark.parametrize("reason", get_args(metrics.Reason))
def test_a_dead_letter_counts_when_it_is_kept_and_not_when_it_is_replayed(journal: SqliteJournal, reason: Any) -> None:
    letters, callbacks = Counts(metrics.dead_letters, metrics.Reason), Counts(metrics.error_callbacks, metrics.Routed)
    journal.commit(Change(puts=[DeadLetter(dead_letter_id="d1", reason=reason).put()]))

    letter = DeadLetter.get(journal, "d1")
    assert letter is not None
    journal.commit(Change(puts=[letter.put(state="replayed")]))

    assert (letters.grown, callbacks.grown) == ({reason: 1}, {"false": 1})


@pytest.mark.parametrize("outcome", ["completed", "cancelled", "failed", "interrupted", "budget_exceeded"])
def test_a_turn_that_finally_failed_is_an_error(journal: SqliteJournal, outcome: str) -> None:
    errors = Counts(metrics.errors, metrics.ErrorType)

    journal.commit(Change(session_id=SESSION, events=[events.turn_finished(outcome, turn_id="t", duration_ms=1)]))

    assert errors.grown == ({"claude": 1} if outcome == "failed" else {})
