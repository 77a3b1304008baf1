"""Readiness: the journal is asked for a write, but not by each probe."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gevent
import pytest

from app.journal.sqlite import SqliteJournal
from app.ops.checks import KEPT_S, ReadinessCheck


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(path)) as journal:
        yield journal


def writes(path: Path) -> int:
    with closing(sqlite3.connect(path)) as reader:
        row = reader.execute("SELECT value FROM counters WHERE name = 'checks'").fetchone()
        return int(row[0]) if row else 0


def test_probes_of_one_second_share_one_write(journal: SqliteJournal, path: Path) -> None:
    clock = Clock()
    check = ReadinessCheck(journal, clock=clock)

    together = [gevent.spawn(check.ask, draining=False) for _ in range(20)]
    assert all(probe.get(timeout=10).ready for probe in together)
    assert all(check.ask(draining=False).ready for _ in range(20))
    assert writes(path) == 1

    clock.now += KEPT_S
    assert check.ask(draining=False).ready
    assert writes(path) == 2


def test_a_drain_is_told_at_once(journal: SqliteJournal) -> None:
    check = ReadinessCheck(journal, clock=Clock())
    assert check.ask(draining=False).ready

    found = check.ask(draining=True)

    assert (found.ready, dict(found.checks)) == (False, {"journal": "ok", "worker": "draining"})


def test_a_journal_that_fails_and_comes_back_is_told_with_the_next_write(journal: SqliteJournal, path: Path) -> None:
    clock = Clock()
    check = ReadinessCheck(journal, clock=clock)
    assert check.ask(draining=False).ready
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        clock.now += KEPT_S
        together = [gevent.spawn(check.ask, draining=False) for _ in range(5)]
        assert {probe.get(timeout=20).checks["journal"] for probe in together} == {"The journal cannot be written now."}

    clock.now += KEPT_S
    assert check.ask(draining=False).ready
