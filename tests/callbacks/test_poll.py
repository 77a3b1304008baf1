"""What a round of the poll looks at, and how it goes on with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.callbacks import poll as polling
from app.callbacks.poll import Poll, PollCursor
from app.callbacks.report import parse_error_report
from app.callbacks.routing import Router
from app.errors import N8nError
from app.journal import Change, OpenSession
from app.journal.records import Registration
from app.journal.sqlite import SqliteJournal
from app.n8n.client import N8nClient
from tests.fakes.n8n import API_KEY, FakeN8n
from tests.heal.rig import workflow

Json = dict[str, Any]


@pytest.fixture
def n8n() -> Iterator[FakeN8n]:
    with FakeN8n() as fake:
        yield fake


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    made = SqliteJournal(tmp_path / "journal.db")
    made.commit(Change(session_id="s", open_session=OpenSession("hash", 10)))
    yield made
    made.close()


@pytest.fixture
def owned(n8n: FakeN8n, journal: SqliteJournal) -> str:
    """A workflow of the session's."""
    workflow_id = n8n.add(workflow("orders"))
    registration = Registration(workflow_id=workflow_id, session_id="s", name="Orders", autonomy="observe")
    journal.commit(Change(puts=[registration.put()]))
    return workflow_id


@pytest.fixture
def begin(n8n: FakeN8n, journal: SqliteJournal) -> Iterator[Callable[..., Poll]]:
    client = N8nClient(n8n.url, API_KEY, timeout_s=2.0)

    def start(*, interval_s: float = 0.0, keep_s: float = 86_400.0) -> Poll:
        router = Router(journal, polled=True)
        return Poll(journal, client, router, n8n_url=n8n.url, editor_url=None, interval_s=interval_s, keep_s=keep_s)

    yield start
    client.close()


def told(journal: SqliteJournal) -> list[str]:
    """Runs of the session's errors, in order."""
    return [event.data["execution"]["id"] for event in journal.events("s", types=["workflow_error"], limit=1000)]


def cursor(journal: SqliteJournal) -> PollCursor:
    (found,) = PollCursor.find(journal)
    return found


def listed(n8n: FakeN8n) -> int:
    return n8n.count("GET", "/executions$")


def failed(n8n: FakeN8n, workflow_id: str, **more: Any) -> str:
    run_id = n8n.crash(workflow_id, node="Ask")
    n8n.executions[run_id].update(more)
    return run_id


def at(later_s: float) -> str:
    return datetime.fromtimestamp(time.time() + later_s, UTC).isoformat()


def test_nothing_is_asked_where_nobody_has_a_workflow(n8n: FakeN8n, begin: Callable[..., Poll]) -> None:
    assert begin().round() is None

    assert not n8n.requests


def test_only_failures_of_production_in_open_sessions_are_read(
    n8n: FakeN8n, journal: SqliteJournal, owned: str, begin: Callable[..., Poll]
) -> None:
    for more in ({"mode": "manual"}, {"mode": "error"}, {"mode": "retry", "retryOf": "1"}, {"status": "success"}):
        failed(n8n, owned, **more)
    journal.commit(Change(session_id="t", open_session=OpenSession("hash", 10)))
    closed = n8n.add(workflow("closed"))
    registration = Registration(workflow_id=closed, session_id="t", name="Closed", autonomy="observe")
    journal.commit(Change(puts=[registration.put()]))
    journal.commit(Change(session_id="t", close_session=True))
    failed(n8n, closed)
    run_id = failed(n8n, owned)

    begin().round()

    assert told(journal) == [run_id]
    assert n8n.count("GET", "/executions/") == 1


@pytest.mark.parametrize(
    ("later_s", "keep_s", "is_told"), [(-9.0, 86_400.0, True), (-12.0, 86_400.0, False), (-6.0, 15.0, False)]
)
def test_what_is_older_than_registration_or_journal_is_left(
    n8n: FakeN8n,
    journal: SqliteJournal,
    owned: str,
    begin: Callable[..., Poll],
    later_s: float,
    keep_s: float,
    is_told: bool,
) -> None:
    failed(n8n, owned, stoppedAt=at(later_s))

    begin(keep_s=keep_s).round()

    assert bool(told(journal)) is is_told


def test_a_callback_that_came_costs_no_reading(
    n8n: FakeN8n, journal: SqliteJournal, owned: str, begin: Callable[..., Poll]
) -> None:
    run_id = failed(n8n, owned)
    body = {"execution": {"id": run_id, "error": {"message": "x"}}, "workflow": {"id": owned}}
    Router(journal, polled=True).route(parse_error_report(body), source="callback", request_id="r")

    begin().round()

    assert told(journal) == [run_id]
    assert n8n.count("GET", "/executions/") == 0


def test_many_failures_take_several_rounds_oldest_first(
    n8n: FakeN8n, journal: SqliteJournal, owned: str, begin: Callable[..., Poll], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "RUNS_AT_ONCE", 2)
    monkeypatch.setattr(polling, "PAGE", 2)
    runs = [failed(n8n, owned) for _ in range(5)]
    poll = begin(interval_s=3600.0)

    assert [poll.round() for _ in range(4)] == [polling.NEXT_S, polling.NEXT_S, None, None]

    assert told(journal) == runs
    assert n8n.count("GET", "/executions/") == 5
    assert cursor(journal).begun_at_s > 0


def test_what_the_bound_cuts_is_said_once_and_not_of_n8ns_past(
    n8n: FakeN8n,
    journal: SqliteJournal,
    owned: str,
    begin: Callable[..., Poll],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(polling, "PAGE", 2)
    monkeypatch.setattr(polling, "PAGES", 2)
    poll = begin()
    first = [failed(n8n, owned) for _ in range(6)]
    poll.round()
    assert told(journal) == first[2:]
    assert not caplog.records

    poll.round()
    second = [failed(n8n, owned) for _ in range(6)]
    poll.round()
    poll.round()

    assert told(journal) == first[2:] + second[2:]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "more than 4 runs" in caplog.records[0].getMessage()


def test_a_run_is_looked_at_until_it_has_ended(
    n8n: FakeN8n, journal: SqliteJournal, owned: str, begin: Callable[..., Poll]
) -> None:
    failed(n8n, owned)
    waits, goes_on, succeeds, vanishes = [
        failed(n8n, owned, status=status) for status in ("waiting", "running", "waiting", "running")
    ]
    last = failed(n8n, owned)
    poll = begin()
    for _ in range(3):
        poll.round()
    assert cursor(journal).after == int(last)
    assert cursor(journal).unfinished == [int(waits), int(goes_on), int(succeeds), int(vanishes)]
    before = told(journal)

    n8n.executions[waits].update(status="error", stoppedAt=at(0))
    n8n.executions[succeeds].update(status="success")
    n8n.remove_run(vanishes)
    poll.round()
    assert told(journal) == [*before, waits]
    assert cursor(journal).unfinished == [int(goes_on)]

    n8n.executions[goes_on].update(status="crashed", stoppedAt=at(0))
    poll.round()
    assert told(journal) == [*before, waits, goes_on]
    assert cursor(journal).unfinished == []


def test_the_cursor_follows_a_round_later(
    n8n: FakeN8n, journal: SqliteJournal, owned: str, begin: Callable[..., Poll]
) -> None:
    """A run may be shown after others with higher ids."""
    hidden, shown = failed(n8n, owned), failed(n8n, owned)
    n8n.executions[hidden]["status"] = "new"
    poll = begin()
    poll.round()
    assert (told(journal), cursor(journal).after, cursor(journal).seen) == ([shown], 0, int(shown))

    n8n.executions[hidden]["status"] = "error"
    poll.round()

    assert told(journal) == [shown, hidden]
    assert cursor(journal).after == int(shown)


def test_workers_share_one_interval_and_each_new_one_looks_at_once(
    n8n: FakeN8n, owned: str, begin: Callable[..., Poll]
) -> None:
    one, other = begin(interval_s=3600.0), begin(interval_s=3600.0)
    one.round()
    looked = listed(n8n)

    other.round()
    one.round()
    assert listed(n8n) == looked

    begin(interval_s=3600.0).round()
    assert listed(n8n) == 2 * looked


def test_a_round_that_n8n_breaks_off_is_made_again_without_a_second_report(
    n8n: FakeN8n, journal: SqliteJournal, owned: str, begin: Callable[..., Poll]
) -> None:
    first, second = failed(n8n, owned), failed(n8n, owned)
    n8n.misbehave("drop", times=3, path=f"/executions/{second}")
    poll = begin(interval_s=3600.0)

    with pytest.raises(N8nError):
        poll.round()
    assert told(journal) == [first]
    poll.round()

    assert told(journal) == [first, second]
    assert n8n.count("GET", f"/executions/{first}$") == 1


def test_a_run_too_large_to_read_is_told_without_its_data(
    n8n: FakeN8n, journal: SqliteJournal, owned: str, begin: Callable[..., Poll]
) -> None:
    run_id = failed(n8n, owned)
    n8n.misbehave("huge", path=f"/executions/{run_id}")

    begin().round()

    assert told(journal) == [run_id]
