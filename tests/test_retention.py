"""What is too old goes, and nothing that something open needs: on a real journal, with a retention of no time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.callbacks.copies import Copy, copies, with_copies
from app.journal import Change, Delete, NewEvent, Once, OpenSession, Put
from app.journal.records import Case, DeadLetter, Registration, Repair, RepairState, Rollback, Snapshot
from app.journal.sqlite import SqliteJournal
from app.n8n import drafts
from app.outbox import Answer
from app.retention import EVENTS_AT_ONCE, Retention
from app.turns import transcripts


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        yield journal


def forget(journal: SqliteJournal, *, keep_s: float = -60) -> None:
    """A whole pass; by default everything there is counts as too old."""
    retention = Retention(journal, keep_s=keep_s)
    while retention.round():
        pass


def say(journal: SqliteJournal, session_id: str, *, times: int = 1) -> None:
    journal.commit(Change(session_id, events=[NewEvent("user_message", {"text": "hi"})] * times))


def close(journal: SqliteJournal, session_id: str) -> None:
    journal.commit(Change(session_id, events=[NewEvent("session_closed", {"reason": "done"})], close_session=True))


def session(journal: SqliteJournal, session_id: str, *workflow_ids: str) -> None:
    """A session with something of everything."""
    journal.commit(Change(session_id, open_session=OpenSession("hash", 100)))
    say(journal, session_id, times=3)
    puts = [Put(transcripts.KIND, session_id, {"data": "x"})]
    for workflow_id in workflow_ids:
        owned = Registration(workflow_id=workflow_id, session_id=session_id, name="W", autonomy="auto")
        puts += [owned.put(), Put(drafts.KIND, workflow_id, {"id": workflow_id})]
        for n in range(25):
            kept = {"snapshot_id": f"{workflow_id}-{n}", "workflow_id": workflow_id, "version_id": "1", "hash": "h"}
            puts.append(Snapshot(**kept, cause="chat", workflow={"id": workflow_id}).put())
    journal.commit(Change(puts=puts))
    for workflow_id in workflow_ids:
        repair(journal, session_id, workflow_id, "failed", case="closed")


def repair(
    journal: SqliteJournal, session_id: str, workflow_id: str, state: RepairState, *, case: Any, error_seq: int = 0
) -> str:
    """A repair and its case; gives the repair's id."""
    repair_id = f"{workflow_id}-{state}-{case}"
    made = Repair(
        repair_id=repair_id,
        session_id=session_id,
        workflow_id=workflow_id,
        workflow_name="W",
        signature=repair_id,
        attempt=1,
        state=state,
        error_seq=error_seq,
    )
    its_case = Case(workflow_id=workflow_id, signature=repair_id, state=case, repair_id=repair_id)
    journal.commit(Change(puts=[made.put(), its_case.put()]))
    return repair_id


def everything(journal: SqliteJournal) -> dict[str, int]:
    """Rows by table, and documents by kind."""
    tables = ("sessions", "events", "inputs", "labels", "once")
    read = journal._reader.execute
    counts = {table: read(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    kinds = dict(read("SELECT kind, count(*) FROM documents GROUP BY kind").fetchall())
    sessions = read("SELECT count(*) FROM leases WHERE name LIKE 'session:%'").fetchone()[0]
    return {name: n for name, n in {**counts, **kinds, "leases": sessions}.items() if n}


def test_nothing_is_left_of_a_session_that_was_closed_long_ago(journal: SqliteJournal) -> None:
    session(journal, "gone", "W1", "W2")
    lease = journal.acquire("session:gone", "worker", ttl_s=60)
    assert lease is not None
    journal.release(lease)
    close(journal, "gone")
    repair(journal, "gone", "W1", "published", case="closed")

    forget(journal)

    assert everything(journal) == {}


def test_what_is_young_enough_stays(journal: SqliteJournal) -> None:
    session(journal, "closed", "W1")
    close(journal, "closed")
    session(journal, "open", "W2")
    journal.commit(Change(once=Once("k"), puts=[DeadLetter(dead_letter_id="d", reason="no_session").put()]))
    before = everything(journal)

    forget(journal, keep_s=3600)

    assert everything(journal) == before


def test_an_open_session_keeps_what_it_owns_and_loses_what_it_said(journal: SqliteJournal) -> None:
    session(journal, "open", "W1")

    forget(journal)

    found = journal.session("open")
    assert found is not None
    assert (found.first_seq, found.last_seq) == (4, 3)
    assert [r.workflow_id for r in Registration.find(journal, "session:open")] == ["W1"]
    assert len(Snapshot.find(journal, "workflow:W1")) == 25
    assert journal.get(drafts.KIND, "W1") and journal.get(transcripts.KIND, "open")
    assert Repair.find(journal) == [] and Case.find(journal) == []


def test_what_waits_is_blocked_or_unfinished_stays_with_what_it_needs(journal: SqliteJournal) -> None:
    session(journal, "open", "W1")
    say(journal, "open", times=6)
    kept = {
        repair(journal, "open", "W1", "waiting", case="open", error_seq=5),
        repair(journal, "open", "W1", "publishing", case="open", error_seq=7),
        repair(journal, "open", "W1", "restoring", case="closed", error_seq=6),
        repair(journal, "open", "W1", "trying", case="open"),
        repair(journal, "open", "W1", "failed", case="blocked"),
    }
    repair(journal, "open", "W1", "rejected", case="closed")

    forget(journal)

    assert {r.repair_id for r in Repair.find(journal)} == kept
    assert {c.repair_id for c in Case.find(journal) if c.state == "open"} <= kept
    assert journal.events("open")[0].seq == 5


def test_a_closed_session_stays_until_its_drafts_are_put_back(journal: SqliteJournal) -> None:
    session(journal, "restoring", "W1")
    session(journal, "undoing", "W2")
    repair_id = repair(journal, "restoring", "W1", "restoring", case="closed")
    undo = Rollback(workflow_id="W2", session_id="undoing", snapshot_id="W2-1", by="person")
    journal.commit(Change(puts=[undo.put()]))
    close(journal, "restoring")
    close(journal, "undoing")

    forget(journal)

    assert journal.session("restoring") and journal.session("undoing")
    assert len(Snapshot.find(journal)) == 50
    restored = Repair.get(journal, repair_id)
    assert restored is not None
    journal.commit(Change(puts=[restored.put(state="failed")], deletes=[Delete(Rollback.KIND, "W2")]))
    forget(journal)
    assert everything(journal) == {}


def test_a_repair_that_was_begun_as_its_session_closed_keeps_nothing(journal: SqliteJournal) -> None:
    session(journal, "gone", "W1")
    repair(journal, "gone", "W1", "queued", case="open")
    close(journal, "gone")

    forget(journal)

    assert journal.session("gone") is None
    assert Repair.find(journal) == [] and Case.find(journal) == []


def test_a_workflow_that_another_session_took_over_is_its_own(journal: SqliteJournal) -> None:
    session(journal, "closed", "W1")
    close(journal, "closed")
    journal.commit(Change("heir", open_session=OpenSession("hash", 100)))
    owned = Registration.get(journal, "W1")
    assert owned is not None
    journal.commit(Change(puts=[owned.put(session_id="heir")]))

    forget(journal)

    assert journal.session("closed") is None
    assert [r.workflow_id for r in Registration.find(journal, "session:heir")] == ["W1"]
    assert len(Snapshot.find(journal, "workflow:W1")) == 25 and journal.get(drafts.KIND, "W1")


def test_dead_letters_and_idempotency_keys_go(journal: SqliteJournal) -> None:
    for n in range(45):
        letter = DeadLetter(dead_letter_id=f"d{n}", reason="bad_schema", state="replayed" if n % 2 else "kept")
        journal.commit(Change(once=Once(f"letter:{n}"), puts=[letter.put()]))

    forget(journal)

    assert everything(journal) == {}


def test_a_letter_whose_copy_is_owed_stays_until_that_is_taken_or_given_up(journal: SqliteJournal) -> None:
    """A store may be away for longer than a short retention."""
    letter = DeadLetter(dead_letter_id="d", reason="no_session")
    journal.commit(with_copies(Change(puts=[letter.put()])))
    forget(journal)
    assert DeadLetter.get(journal, "d") is not None

    store = Store()
    copies(journal, store).round()
    assert store.kept == ["d"]
    forget(journal)

    assert everything(journal) == {}


class Store:
    """Takes every copy."""

    limit_s = 1.0

    def __init__(self) -> None:
        self.kept: list[str] = []

    def open(self) -> None:
        """It is."""

    def keep(self, copy: Copy) -> Answer:
        self.kept.append(copy.id)
        return Answer()


def test_long_logs_go_in_steps_that_are_small(journal: SqliteJournal) -> None:
    for name in ("closed", "open"):
        session(journal, name)
        for _ in range(5):
            say(journal, name, times=EVENTS_AT_ONCE)
    close(journal, "closed")
    before = journal.transactions

    forget(journal)

    assert everything(journal) == {"sessions": 1, transcripts.KIND: 1}
    assert journal.transactions - before >= 10


def test_a_pass_that_was_broken_off_is_begun_anew(journal: SqliteJournal, tmp_path: Path) -> None:
    session(journal, "gone", "W1")
    close(journal, "gone")
    steps = Retention(journal, keep_s=-60)._steps()
    for _ in range(4):
        next(steps)

    forget(journal)

    assert everything(journal) == {}


def test_a_pass_says_what_it_removed_in_one_line(journal: SqliteJournal, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "app.retention")
    session(journal, "gone")
    close(journal, "gone")
    session(journal, "open")
    journal.commit(Change(once=Once("callback:1", {})))

    forget(journal)
    forget(journal)

    [told] = [record for record in caplog.records if record.name == "app.retention"]
    assert told.getMessage() == "what is too old was removed"
    assert {name: getattr(told, name) for name in ("keys", "documents", "sessions", "events")} == {
        "keys": 1,
        "documents": 1,
        "sessions": 1,
        "events": 3,
    }
