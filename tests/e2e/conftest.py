"""One bridge with secrets, shared by most files here, and clients that are closed after each test."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.projects import copy_project
from tests.support.server import UNLIMITED, BridgeServer

ACCESS, OLD_ACCESS = "access-token-now", "access-token-before"
SECRET, OLD_SECRET = "callback-secret-now", "callback-secret-before"
POLLING_URLS = "Every 10 minutes get http://127.0.0.1:9/a and post it to http://127.0.0.1:9/b"
WEBHOOK = "a webhook that answers hello"


def held_project(to: Path) -> Path:
    """A copy of this project whose agent can be held; see ``tests.support.held_wsgi``."""
    copy_project(to)
    shutil.copy(Path(__file__).parents[1] / "support" / "held_wsgi.py", to / "wsgi.py")
    return to


class Holds:
    """The held agent's switches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self) -> str:
        """A fresh name for ``hold NAME``."""
        return f"h{uuid.uuid4().hex}"

    def release(self, name: str) -> None:
        (self.folder / name).touch()

    def repairs(self) -> None:
        (self.folder / "repairs").touch()

    def release_repairs(self) -> None:
        (self.folder / "repairs").unlink(missing_ok=True)


@pytest.fixture(scope="package")
def _held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return held_project(tmp_path_factory.mktemp("held") / "project"), tmp_path_factory.mktemp("holds")


@pytest.fixture(scope="package")
def _bridge(_held: tuple[Path, Path]) -> Iterator[BridgeServer]:
    settings = {
        **UNLIMITED,
        "WEB_CONCURRENCY": 2,
        "ACCESS_TOKEN": f"{ACCESS},{OLD_ACCESS}",
        "N8N_CALLBACK_SECRET": f"{SECRET},{OLD_SECRET}",
        "MAX_SESSIONS": 10_000,
        "MAX_CONCURRENT_TURNS": 8,
        "WS_HELLO_TIMEOUT_SECONDS": 2,
        "HOLD_FOLDER": _held[1],
    }
    with BridgeServer(settings, project=_held[0]) as server:
        yield server


@pytest.fixture
def bridge(_bridge: BridgeServer) -> Iterator[BridgeServer]:
    """Two workers, an access token, two callback secrets, no rate limits. No test may leave a bug in its log."""
    seen = len(_bridge.raw_lines())
    yield _bridge
    assert not bugs(_bridge, seen)


@pytest.fixture
def holds(_held: tuple[Path, Path]) -> Iterator[Holds]:
    holds = Holds(_held[1])
    yield holds
    holds.release_repairs()


@pytest.fixture
def client(bridge: BridgeServer) -> Iterator[Callable[..., Client]]:
    """Makes clients that are connected (a new session, unless ``hello`` says otherwise) and closed afterwards."""
    made: list[Client] = []

    def connect(**hello: Any) -> Client:
        made.append(Client(bridge))
        return made[-1].connect(**(hello or {"accessToken": ACCESS}))

    yield connect
    for one in made:
        one.disconnect()


@pytest.fixture
def user(client: Callable[..., Client]) -> Client:
    """A client with a new session."""
    return client()


def tab(of: Client, *, after: int = 0) -> Client:
    """Another socket of the same session, in a client of its own. To be closed by the test."""
    return Client(of.server).connect(sessionId=of.session_id, token=of.token, after=after)


def new_id(prefix: str = "W") -> str:
    return f"{prefix}{uuid.uuid4().hex[:12]}"


def adopt(user: Client, workflow_id: str | None = None, **more: Any) -> str:
    """Register a workflow by its id alone; gives the id."""
    workflow_id = workflow_id or new_id()
    answer = user.http("POST", "/sessions/{sid}/workflows", {"workflowId": workflow_id, **more})
    assert answer.status in (200, 201), answer
    return workflow_id


def history(user: Client) -> list[dict[str, Any]]:
    """All events of the session, by HTTP, in pages."""
    found: list[dict[str, Any]] = []
    while page := user.http(
        "GET", f"/sessions/{{sid}}/events?limit=1000&after={found[-1]['seq'] if found else 0}"
    ).json["events"]:
        found += page
    return found


def is_problem(answer: Any, status: int, code: str | None = None) -> dict[str, Any]:
    """Assert that an HTTP answer is a problem document of this kind; gives it."""
    assert answer.status == status, (answer.status, answer.body[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json
    assert {"type", "title", "status", "detail", "code", "correlationId"} <= body.keys()
    assert body["status"] == status
    assert body["correlationId"] == answer.headers["x-request-id"]
    if code is not None:
        assert body["code"] == code, body
    return body


def bugs(server: BridgeServer, since: int = 0) -> list[str]:
    """Log lines that tell of a mistake in the code."""
    lines = server.raw_lines()[since:]
    return [line for line in lines if "by a bug" in line or "unexpected error" in line or "Traceback" in line]
