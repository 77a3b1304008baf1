"""A bridge that runs, an n8n with its error workflow, and ``flask doctor`` beside both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.cli.doctor_rig import SECRET, UNLIMITED, Doctor, install
from tests.fakes.n8n import FakeN8n
from tests.support.server import BridgeServer

Register = Callable[[str], str]
NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def bridge() -> Iterator[BridgeServer]:
    """Without an n8n of its own, so that it takes any workflow's id; callbacks reach it all the same."""
    with BridgeServer({"N8N_CALLBACK_SECRET": SECRET, **UNLIMITED}) as server:
        yield server


@pytest.fixture
def n8n(bridge: BridgeServer) -> Iterator[FakeN8n]:
    with FakeN8n() as n8n:
        n8n.first_run_id = 1000 * next(NUMBERS)
        install(n8n, bridge.url)
        n8n.requests.clear()
        yield n8n


@pytest.fixture
def doctor(bridge: BridgeServer, n8n: FakeN8n) -> Doctor:
    return Doctor(bridge, n8n)


@pytest.fixture
def register(bridge: BridgeServer) -> Iterator[Register]:
    """Registers a workflow in a session of this test; gives the session's id."""
    opened = bridge.post("/sessions").json
    path, headers = f"/sessions/{opened['sessionId']}", {"Authorization": f"Bearer {opened['token']}"}

    def register(workflow_id: str) -> str:
        answer = bridge.post(f"{path}/workflows", json={"workflowId": workflow_id}, headers=headers)
        assert answer.status == 201, answer
        return str(opened["sessionId"])

    yield register
    bridge.request("DELETE", path, headers=headers)
