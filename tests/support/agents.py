"""Agents that do as a test tells them, and the tools as an agent calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from gevent.event import Event

from app.agents import AgentEvent, Finished, TextDelta, TextFinal, TurnRequest
from app.agents.mcp_client import McpClient, ToolAnswer
from tests.fakes.turn_tools import off_loop

Script = Callable[[TurnRequest], Iterator[AgentEvent]]


class ScriptedAgent:
    """Answers each turn by a script; with several the first turn gets the first, and the last one stays.

    :ivar turns: what it was asked, in order. :ivar running: sessions whose turn runs now, one entry for each turn.
    :ivar most: how many ran at once at most.
    """

    name: Literal["claude", "offline"] = "offline"

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.turns: list[TurnRequest] = []
        self.running: list[str] = []
        self.most = 0

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        self.turns.append(turn)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.running.append(turn.session_id)
        self.most = max(self.most, len(self.running))
        try:
            yield from script(turn)
        finally:
            self.running.remove(turn.session_id)


def yields(*events: AgentEvent) -> Script:
    """Just these events; nothing is added, not even an end."""
    return lambda turn: iter(events)


def says(*texts: str) -> Script:
    """One message for each text, in pieces, and then the end."""

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        for number, text in enumerate(texts):
            message_id = f"{turn.turn_id}-m{number}"
            yield TextDelta(message_id, text)
            yield TextFinal(message_id, text)
        yield Finished()

    return script


def waits(until: Event, *, shown: str = "", then: Script | None = None) -> Script:
    """Shows a piece of text (message ``<turn>-m``), waits for the event, goes on as ``then``."""

    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        if shown:
            yield TextDelta(f"{turn.turn_id}-m", shown)
        until.wait()
        yield from (then or says("done"))(turn)

    return script


def never(*, shown: str = "") -> Script:
    """Does not end by itself."""
    return waits(Event(), shown=shown)


def raises(error: BaseException) -> Script:
    def script(turn: TurnRequest) -> Iterator[AgentEvent]:
        yield TextDelta(f"{turn.turn_id}-m", "I will ")
        raise error

    return script


def use(turn: TurnRequest, tool: str, arguments: Mapping[str, Any] | None = None, *, call_id: str = "") -> ToolAnswer:
    """Call one of the turn's tools while the loop serves it."""
    client = McpClient(turn.tools, timeout_s=10)
    return off_loop(lambda: client.call(tool, arguments or {}, tool_use_id=call_id or f"{turn.turn_id}-{tool}"))
