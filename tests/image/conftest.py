"""Tests of the built image. An engine and a gigabyte are needed: only with IMAGE_TEST=1 (`make image-test`)."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.engine import HARDENED, Container, Engine

HERE = Path(__file__).parent
# Without it no file here is even imported.
collect_ignore_glob = [] if os.environ.get("IMAGE_TEST") == "1" else ["*"]
_figures: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.image)
            # A build is among them.
            item.add_marker(pytest.mark.timeout(300))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _figures:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def engine() -> Engine:
    if shutil.which("jq") is None:
        pytest.fail("jq is needed (on Debian: apt-get install jq)")
    found = Engine()
    found.figures = _figures
    return found


@pytest.fixture(scope="module")
def bare(engine: Engine) -> Iterator[Container]:
    """The image with nothing configured, as a newcomer starts it."""
    with Container(engine) as container:
        yield container


@pytest.fixture(scope="module")
def hardened(engine: Engine) -> Iterator[Container]:
    """The image with everything taken away that it does without, and 1 GiB of memory."""
    with Container(engine, [*HARDENED, "--memory=1g"], {"ACCESS_TOKEN": "access-token-now"}) as container:
        yield container


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    """The name of an empty volume."""
    name = f"bridge-test-{uuid.uuid4().hex[:12]}"
    engine("volume", "create", name)
    yield name
    engine("volume", "rm", name, check=False)
