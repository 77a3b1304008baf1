"""The limits' class on a real journal: what is counted, what is remembered, and what passes when the store is away."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import REGISTRY

from app.errors import AuthenticationError, RateLimitError
from app.factory import create_app
from app.journal.sqlite import SqliteJournal
from app.settings import load
from app.web.limits import Limits, Remembered

LIMITS = {f"RATE_LIMIT_{name}_PER_MINUTE": "2" for name in ("WS", "CALLBACKS", "MESSAGES", "HEALTH", "AUTH_FAILURES")}
HERE: dict[str, Any] = {"REMOTE_ADDR": "192.0.2.1"}


def settings(folder: Path, **more: str) -> Any:
    return load({"JOURNAL_PATH": str(folder / "journal.db"), **LIMITS, **more}, "/dev/null")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        yield journal


@pytest.fixture
def limits(tmp_path: Path, journal: SqliteJournal) -> Limits:
    return Limits(settings(tmp_path), journal)


def counted(metric: str, limit: str) -> float:
    return REGISTRY.get_sample_value(f"n8n_builder_{metric}_total", {"limit": limit}) or 0.0


def test_a_remembered_refusal_asks_the_journal_nothing(tmp_path: Path, limits: Limits, journal: SqliteJournal) -> None:
    for _ in range(2):
        limits.check("health", "a")
    before = counted("rate_limited", "health")
    with pytest.raises(RateLimitError) as first:
        limits.check("health", "a")
    journal.close()  # from here on it would fail, and pass

    with pytest.raises(RateLimitError) as second:
        limits.check("health", "a")

    assert 1 <= (second.value.retry_after_s or 0) <= (first.value.retry_after_s or 0) <= 60
    assert counted("rate_limited", "health") == before + 2


def test_a_refused_handshake_passes_as_soon_as_another_worker_gives_a_place_back(
    tmp_path: Path, limits: Limits, journal: SqliteJournal
) -> None:
    other, environ = Limits(settings(tmp_path), journal), dict(HERE)
    for _ in range(2):
        other.check("ws", other.client(HERE))
    other.counted(environ)
    with pytest.raises(RateLimitError):
        limits.check("ws", limits.client(HERE))

    other.give_back(environ)
    other.give_back(environ)  # once is enough

    limits.check("ws", limits.client(HERE))
    with pytest.raises(RateLimitError):
        limits.check("ws", limits.client(HERE))


def test_a_handshake_by_a_return_has_no_place_to_give_back(limits: Limits) -> None:
    limits.leave_return(HERE)
    for _ in range(2):
        limits.check("ws", limits.client(HERE))
    returning = dict(HERE)

    assert limits.take_return(returning) is True
    limits.give_back(returning)

    assert limits.take_return(dict(HERE)) is False
    with pytest.raises(RateLimitError):
        limits.check("ws", limits.client(HERE))


def test_what_is_off_counts_nothing(tmp_path: Path, journal: SqliteJournal) -> None:
    off = Limits(settings(tmp_path, **dict.fromkeys(LIMITS, "0")), journal)
    for _ in range(5):
        off.check("health", "a")
        off.leave_return(HERE)

    assert off.callbacks is None and off.messages("s") is None
    assert off.take_return(HERE) is False
    assert journal.transactions == 0


def test_requests_pass_and_are_counted_while_the_store_is_away(
    tmp_path: Path, limits: Limits, journal: SqliteJournal
) -> None:
    before = {name: counted("limiter_failures", name) for name in ("health", "auth", "ws")}
    error = AuthenticationError("wrong")
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        for _ in range(4):
            limits.check("health", "a")
            assert limits.failed_authentication(error, HERE) is error
        limits.leave_return(HERE)

    assert {name: counted("limiter_failures", name) - n for name, n in before.items()} == {
        "health": 4,
        "auth": 4,
        "ws": 1,
    }


def test_the_memory_of_refusals_is_bounded_and_ends() -> None:
    remembered = Remembered(3)
    for number in range(10):
        remembered.note(f"k{number}", 60)
    remembered.note("over", -1)

    assert len(remembered) == 3
    assert remembered.left_s("k0") == 0, "forgotten: it is asked again"
    assert 0 < remembered.left_s("k9") <= 60
    assert remembered.left_s("over") == 0
    assert len(remembered) == 2


@pytest.fixture
def health(tmp_path: Path) -> Iterator[FlaskClient]:
    app = create_app(settings(tmp_path))
    bridge = app.extensions["bridge"]
    bridge.journal.open()
    yield app.test_client()
    bridge.journal.close()


def test_every_refusal_is_counted_whoever_answers_it(health: FlaskClient) -> None:
    before = counted("rate_limited", "health")

    answers = [health.open("/health", method=method) for method in ("GET", "HEAD") * 4]

    assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 6
    assert all(answer.data == b"" for answer in answers[1::2]), "HEAD has no body"
    assert counted("rate_limited", "health") == before + 6


def test_only_get_and_head_of_health_are_limited(health: FlaskClient) -> None:
    others = [health.options("/health").status_code for _ in range(4)]
    others += [health.post("/health").status_code for _ in range(4)]
    others += [health.get("/healthz").status_code for _ in range(4)]

    assert others == [200] * 4 + [405] * 4 + [200] * 4
    assert [health.get("/health").status_code for _ in range(3)] == [200, 200, 429]
    assert health.post("/health").status_code == 405
    assert health.options("/health").status_code == 200


def test_a_known_refusal_is_answered_before_flask(health: FlaskClient) -> None:
    dispatched: list[int] = []
    health.application.before_request_funcs.setdefault(None, []).append(lambda: dispatched.append(1))

    assert [health.get("/health").status_code for _ in range(10)] == [200] * 2 + [429] * 8

    assert len(dispatched) == 3, "two that passed, and the first that was refused"
