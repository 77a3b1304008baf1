"""A bridge between a fake n8n and an agent that acts by plans, shared by a module's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.heal.rig import Healing, HealN8n, healing_n8n, install, settings_for
from tests.support.projects import copy_project
from tests.support.server import BridgeServer


@contextmanager
def planned_bridge(n8n: HealN8n, folder: Path, *, prelude: str = "", **settings: Any) -> Iterator[BridgeServer]:
    """A started server with our ``wsgi.py``, its error workflow installed. It may leave no bug in its log.

    :param prelude: Python that is run before that, to shorten a pause for instance.
    """
    project = copy_project(folder / "project")
    here = Path(__file__).parent
    for path in (here / "wsgi.py", here.parent / "support" / "mortal_journal.py"):
        shutil.copy(path, project / path.name)
    if prelude:
        (project / "wsgi.py").rename(project / "planned_wsgi.py")
        (project / "wsgi.py").write_text(f"{prelude}\nfrom planned_wsgi import app\n")
    with BridgeServer(settings_for(n8n, TEST_FOLDER=folder, **settings), project=project) as server:
        install(n8n, server)
        yield server
        bugs = [line for line in server.raw_lines() if "by a bug" in line or "Traceback" in line]
        assert not bugs, bugs[:3]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, HealN8n, Path]]:
    folder = tmp_path_factory.mktemp("heal")
    with healing_n8n() as n8n, planned_bridge(n8n, folder) as server:
        yield server, n8n, folder


@pytest.fixture
def healing(home: tuple[BridgeServer, HealN8n, Path]) -> Iterator[Callable[..., Healing]]:
    """Makes sessions that have adopted a workflow; see ``Healing.adopt``."""
    made: list[Healing] = []

    def begin(*proposals: Any, **options: Any) -> Healing:
        made.append(Healing(*home))
        return made[-1].adopt(*proposals, **options)

    yield begin
    for one in made:
        one.close()
