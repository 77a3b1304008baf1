"""Real servers to be killed, with a journal that can die on demand; see ``wsgi.py``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.projects import copy_project
from tests.support.server import UNLIMITED, BridgeServer

LEASE_S = 1


@contextmanager
def mortal_bridge(folder: Path, **settings: Any) -> Iterator[BridgeServer]:
    """A started server whose project is a copy of this one with our ``wsgi.py``. It may leave no bug in its log."""
    project = copy_project(folder / "project")
    here = Path(__file__).parent
    for path in (here / "wsgi.py", here.parent / "support" / "mortal_journal.py"):
        shutil.copy(path, project / path.name)
    chosen = {
        **UNLIMITED,
        "TEST_FOLDER": folder,
        "LEASE_SECONDS": LEASE_S,
        "MAX_SESSIONS": 10_000,
        "MAX_CONCURRENT_TURNS": 4,
        **settings,
    }
    with BridgeServer(chosen, project=project) as server:
        yield server
        bugs = [line for line in server.raw_lines() if "by a bug" in line or "Traceback" in line]
        assert not bugs, bugs[:3]


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, Path]]:
    """One worker, shared by a module's tests, and the folder of its switches."""
    folder = tmp_path_factory.mktemp("mortal")
    with mortal_bridge(folder) as server:
        yield server, folder
