"""A refusal is told once in the session and once in the audit, whatever else is written meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import LeaseLostError
from app.journal import Change, Lease, OpenSession
from app.journal.records import Repair
from app.journal.sqlite import SqliteJournal
from app.repairs.refusals import MAX_KEPT, MAX_RULE_CHARS, MAX_TOOL_CHARS, Refusals

SESSION = "session"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        journal.commit(Change(SESSION, open_session=OpenSession("hash", 100)))
        repair = Repair(repair_id="r", session_id=SESSION, workflow_id="w", workflow_name="W", signature="s", attempt=1)
        journal.commit(Change(puts=[repair.put()]))
        yield journal


@pytest.fixture
def lease(journal: SqliteJournal) -> Lease:
    lease = journal.acquire(f"session:{SESSION}", "worker", ttl_s=60)
    assert lease is not None
    return lease


def told(journal: SqliteJournal) -> list[str]:
    return [str(event.data["rule"]) for event in journal.events(SESSION, types=("tool_refused",), limit=1000)]


def audited(journal: SqliteJournal) -> list[str]:
    repair = Repair.get(journal, "r")
    assert repair is not None
    return [str(entry["rule"]) for entry in repair.public()["refusals"]]


def test_it_is_in_both_places_and_the_first_ones_are_kept(journal: SqliteJournal, lease: Lease) -> None:
    refusals = Refusals(journal, SESSION, "turn", lease, "r")
    for number in range(MAX_KEPT):
        refusals.record("tool", f"t{number}", [f"Rule {number}.", f"And {number}."])
    assert len(told(journal)) == 2 * MAX_KEPT
    assert audited(journal) == told(journal)[:MAX_KEPT]


def test_in_a_chat_it_is_an_event_alone(journal: SqliteJournal, lease: Lease) -> None:
    Refusals(journal, SESSION, "turn", lease).record("tool", "t", ["No."])
    assert (told(journal), audited(journal)) == (["No."], [])


def test_without_the_lease_nothing_is_written(journal: SqliteJournal, lease: Lease) -> None:
    journal.release(lease)
    with pytest.raises(LeaseLostError):
        Refusals(journal, SESSION, "turn", lease, "r").record("tool", "t", ["No."])
    assert (told(journal), audited(journal)) == ([], [])


def test_what_the_agent_wrote_is_short_printable_and_without_secrets(journal: SqliteJournal, lease: Lease) -> None:
    refusals = Refusals(journal, SESSION, "turn", lease, "r")
    refusals.record("x" * 10_000, "t", [f"\u202e\x1b[2J no sk-ant-{'a' * 40} {'y ' * 5_000}"])
    [rule] = audited(journal)
    [event] = journal.events(SESSION, types=("tool_refused",))
    assert len(rule) <= MAX_RULE_CHARS + 40
    assert len(event.data["tool"]) <= MAX_TOOL_CHARS + 40
    assert rule.isprintable()
    assert "sk-ant" not in rule
