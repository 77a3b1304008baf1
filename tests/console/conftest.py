"""One Chromium for each test process; a bridge without n8n for each file; a fresh profile for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.console.rig import Console, chromium
from tests.support.server import UNLIMITED, BridgeServer


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def bridge() -> Iterator[BridgeServer]:
    """As a newcomer has it: the offline agent, no n8n, no secrets."""
    with BridgeServer(UNLIMITED) as server:
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
