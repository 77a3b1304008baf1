"""Tests on a real n8n with data of their own. They take minutes, so they run only with N8N_E2E=1 (`make test-n8n`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.n8n.client import N8nClient
from dev.local_n8n import LocalN8n, installed

HERE = Path(__file__).parent
# Without it no file here is even imported.
collect_ignore_glob = [] if os.environ.get("N8N_E2E") == "1" else ["*"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real_n8n)
            # A first start makes a database; the limit for other tests is too short for that.
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def n8n(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalN8n]:
    """A running n8n with empty data. Whoever stops it starts it again."""
    if not installed():
        pytest.fail("n8n is not installed: run `python -m dev.local_n8n install`")
    local = LocalN8n(tmp_path_factory.mktemp("n8n"), port=0)
    try:
        local.start()
        yield local
    finally:
        local.kill()


@pytest.fixture
def client(n8n: LocalN8n) -> Iterator[N8nClient]:
    made = N8nClient(n8n.url, n8n.api_key)
    yield made
    made.close()
