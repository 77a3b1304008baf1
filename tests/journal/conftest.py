"""Journals to test: each contract test runs once per backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.journal import Journal

from .backends import BACKENDS, Backend
from .steps import open_session


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with BACKENDS[request.param](tmp_path) as store:
        yield store


@pytest.fixture
def open_journal(backend: Backend) -> Iterator[Callable[[], Journal]]:
    """Opens further handles on the test's store, as other workers would; closed after the test."""
    handles: list[Journal] = []

    def open_() -> Journal:
        handles.append(backend.open())
        return handles[-1]

    yield open_
    for handle in handles:
        handle.close()


@pytest.fixture
def journal(open_journal: Callable[[], Journal]) -> Journal:
    return open_journal()


@pytest.fixture
def other(open_journal: Callable[[], Journal]) -> Journal:
    """A second worker's handle on the same store."""
    return open_journal()


@pytest.fixture
def session_id(journal: Journal) -> str:
    return open_session(journal)
