"""The offline agent: a few fixed rules instead of a model, so that the bridge works without a key, and says so."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Literal

from app.agents import AgentEvent, Finished, TextDelta, TextFinal, ToolFinished, ToolStarted, TurnRequest
from app.agents.mcp_client import McpClient, ToolAnswer
from app.agents.offline_build import build
from app.agents.offline_chat import asks_for_list, read_request
from app.agents.offline_repair import find_fix

LABEL = "[offline agent] "
HELP = (
    'By fixed rules I can build workflows like "every 10 minutes get URL and post it to URL" or "a webhook that '
    'answers TEXT", list workflows, and give retries to an HTTP Request that fails. For anything else, '
    "Claude answers here instead of me, once ANTHROPIC_API_KEY is set."
)
NO_RULE = "no rule of the offline agent fits this error"
_PIECE = re.compile(r"(?:\s*\S+){1,4}\s*")
_SUMMARY_CHARS = 200
_ANSWER_CHARS = 4000


class OfflineAgent:
    """See :class:`app.agents.Agent`. The same turn always gets the same answer."""

    name: Literal["claude", "offline"] = "offline"

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        """:raises ClaudeExecutionError: the tools server did not answer."""
        answer = _Answer(turn)
        if turn.kind == "repair":
            return _repair(turn, answer)
        return _list(answer) if asks_for_list(turn.prompt) else _build(turn, answer)


class _Answer:
    """One turn's tool calls and its one message, with ids that are the same in every run of the turn."""

    def __init__(self, turn: TurnRequest) -> None:
        self._turn_id = turn.turn_id
        self._tools = McpClient(turn.tools)
        self._calls = 0

    def use(self, tool: str, arguments: Mapping[str, Any]) -> Generator[AgentEvent, None, ToolAnswer]:
        self._calls += 1
        tool_use_id = f"{self._turn_id}-t{self._calls}"
        yield ToolStarted(tool, tool_use_id, arguments)
        answer = self._tools.call(tool, arguments, tool_use_id=tool_use_id)
        summary = " ".join(answer.text[: 4 * _SUMMARY_CHARS].split())
        yield ToolFinished(tool, tool_use_id, answer.ok, summary[:_SUMMARY_CHARS])
        return answer

    def end(self, text: str, *, error: str | None = None) -> Iterator[AgentEvent]:
        message_id, text = f"{self._turn_id}-m1", LABEL + text
        for piece in _PIECE.findall(text):
            yield TextDelta(message_id, piece)
        yield TextFinal(message_id, text)
        yield Finished("completed") if error is None else Finished("failed", error=error)


def _build(turn: TurnRequest, answer: _Answer) -> Iterator[AgentEvent]:
    wanted = read_request(turn.prompt)
    if wanted is None:
        yield from answer.end(HELP)
        return
    workflow = build(wanted, prompt=turn.prompt, session_id=turn.session_id)
    created = yield from answer.use("create_workflow", workflow)
    if not created.ok:
        text = f"The workflow could not be created: {created.text[:_ANSWER_CHARS]}"
        yield from answer.end(text, error="create_workflow was refused")
        return
    facts = _decoded(created.text)
    steps = " → ".join(node["name"] for node in workflow["nodes"])
    text = f'I built the workflow "{facts.get("name", workflow["name"])}" ({facts.get("workflowId", "")}): {steps}.'
    if wanted.interval is None:
        text += f" Once it is published, its webhook is at /webhook/{workflow['nodes'][0]['parameters']['path']}."
    yield from answer.end(text)


def _list(answer: _Answer) -> Iterator[AgentEvent]:
    listed = yield from answer.use("list_workflows", {})
    if listed.ok:
        yield from answer.end(f"These are the workflows:\n{listed.text[:_ANSWER_CHARS]}")
    else:
        text = f"The workflows could not be listed: {listed.text[:_ANSWER_CHARS]}"
        yield from answer.end(text, error="list_workflows was refused")


def _repair(turn: TurnRequest, answer: _Answer) -> Iterator[AgentEvent]:
    present = yield from answer.use("get_workflow", {})
    if not present.ok:
        text = f"The workflow could not be read: {present.text[:_ANSWER_CHARS]}"
        yield from answer.end(text, error="get_workflow was refused")
        return
    error = turn.facts.get("error")
    known = error if isinstance(error, Mapping) else {}
    fix = find_fix(_decoded(present.text), known, turn.facts.get("node"))
    if fix is None:
        text = "I have no rule for this error, so I propose nothing. With a Claude key, Claude would look into it."
        yield from answer.end(text, error=NO_RULE)
        return
    verdict = yield from answer.use("propose_repair", {"workflow": fix.workflow, "summary": fix.summary})
    text = f"I proposed a repair: {fix.summary}. The bridge says: {verdict.text[:_ANSWER_CHARS]}"
    yield from answer.end(text, error=None if verdict.ok else "propose_repair was refused")


def _decoded(text: str) -> dict[str, Any]:
    """The JSON object that a tool answered; empty where it is something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
