"""A real tools server, and a way to run an agent against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.agents import AgentEvent, TurnRequest
from app.agents.offline import OfflineAgent
from app.tools.server import ToolsServer
from tests.fakes.turn_tools import FakeTurnTools, off_loop

Run = Callable[..., list[AgentEvent]]


@pytest.fixture
def server() -> Iterator[ToolsServer]:
    server = ToolsServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def run(server: ToolsServer) -> Run:
    def run(
        tools: FakeTurnTools, prompt: str = "", *, facts: dict[str, Any] | None = None, turn_id: str = "turn-1"
    ) -> list[AgentEvent]:
        """A chat turn for ``prompt``; with ``facts`` a repair turn."""
        kind = "chat" if facts is None else "repair"
        turn = TurnRequest("session-1", turn_id, kind, prompt, "", server.open(tools), facts or {})
        return off_loop(lambda: list(OfflineAgent().run(turn)))

    return run
