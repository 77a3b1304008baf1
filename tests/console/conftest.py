"""One Chromium and one bridge without n8n for each test process; a fresh profile for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.console.rig import Console, chromium
from tests.heal.conftest import planned_bridge
from tests.heal.rig import Healing, HealN8n, healing_n8n
from tests.support.projects import copy_project
from tests.support.server import UNLIMITED, BridgeServer


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the answers that the agent plays; see ``wsgi.py``."""
    return tmp_path_factory.mktemp("plays")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project with our ``wsgi.py``."""
    project = copy_project(tmp_path_factory.mktemp("console") / "project")
    shutil.copy(Path(__file__).parent / "wsgi.py", project / "wsgi.py")
    return project


@pytest.fixture(scope="session")
def bridge(project: Path, plays: Path) -> Iterator[BridgeServer]:
    """As a newcomer has it: no key, no n8n, no secrets. Shared, and as it was once its reloads are over."""
    with BridgeServer({**UNLIMITED, "PLAY_FOLDER": plays}, project=project) as server:
        yield server


@pytest.fixture
def open_console(browser: Browser) -> Iterator[Callable[..., Console]]:
    """Opens the page of a bridge in a profile of its own: ``open_console(server, **context_options)``."""
    opened: list[Console] = []

    def begin(server: BridgeServer, **options: Any) -> Console:
        opened.append(Console(browser, server, **options))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


@pytest.fixture
def console(open_console: Callable[..., Console], bridge: BridgeServer) -> Console:
    return open_console(bridge)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, HealN8n, Path]]:
    """A bridge between a fake n8n and an agent that acts by plans; see ``tests/heal``."""
    folder = tmp_path_factory.mktemp("healing")
    with healing_n8n() as n8n, planned_bridge(n8n, folder, N8N_EDITOR_URL="https://n8n.example/flows/") as server:
        yield server, n8n, folder


@pytest.fixture
def healing(home: tuple[BridgeServer, HealN8n, Path]) -> Iterator[Callable[..., Healing]]:
    """As ``tests/heal`` has it: sessions that have adopted a workflow."""
    made: list[Healing] = []

    def begin(*proposals: Any, **options: Any) -> Healing:
        made.append(Healing(*home))
        return made[-1].adopt(*proposals, **options)

    yield begin
    for one in made:
        one.close()
