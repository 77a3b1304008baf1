"""What an agent is: it answers one turn by yielding what happens, and acts only through the tools server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class ToolsAccess:
    """Where this turn's tools are served (MCP over HTTP, loopback) and the token that opens them for this turn only."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One input, ready for an agent.

    :ivar prompt: what the person wrote, or the repair prompt (the error stands in it as quoted data).
    :ivar system_prompt: the rules for this kind of turn.
    :ivar facts: the same things as structured data, for an agent that does not read prose: for a repair
        ``{"workflowId", "error", "node"}``.
    """

    session_id: str
    turn_id: str
    kind: Literal["chat", "repair"]
    prompt: str
    system_prompt: str
    tools: ToolsAccess
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextDelta:
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class TextReset:
    """What was shown of this message is void."""

    message_id: str


@dataclass(frozen=True, slots=True)
class TextFinal:
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    tool: str
    tool_use_id: str
    input: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolFinished:
    tool: str
    tool_use_id: str
    ok: bool
    summary: str


@dataclass(frozen=True, slots=True)
class ToolRefused:
    """The agent's own program refused a call, which never came to the tools server. ``rule`` says why."""

    tool: str
    tool_use_id: str
    rule: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The turn's end, always the last thing yielded; an agent that fails raises ``ClaudeExecutionError`` instead."""

    outcome: Literal["completed", "failed", "budget_exceeded"] = "completed"
    cost_usd: float | None = None
    error: str | None = None


AgentEvent = TextDelta | TextReset | TextFinal | ToolStarted | ToolFinished | ToolRefused | Finished


class Agent(Protocol):
    """``name`` is what ``welcome`` says. ``run`` may block its greenlet; closing the iterator (or killing the greenlet)
    stops the agent and all that it started within 2 s."""

    name: Literal["claude", "offline"]

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]: ...
