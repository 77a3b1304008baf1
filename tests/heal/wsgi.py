"""The ``wsgi.py`` of the server that these tests use: an agent that acts by plans, and a journal that can die.

Files in ``TEST_FOLDER`` tell it what to do; ``die`` and ``record`` are the journal's (``mortal_journal.py``).
``<workflow id>.json``, else ``any.json``, holds the proposals for a repair, each a change of the workflow as it is;
while ``<workflow id>.hold`` is there none is made. A chat message is a JSON list of tool calls; ``$id`` in their
arguments is the workflow that the turn has created. Any other message is answered with itself. With ``AGENT=claude`` it
is the real agent.
"""

import json
import os
from collections.abc import Generator, Iterator
from typing import Any

import gevent
from mortal_journal import FOLDER, MortalJournal, MortalRedisJournal

from app import create_app
from app.agents import AgentEvent, Finished, TextFinal, ToolFinished, ToolStarted, TurnRequest
from app.agents.mcp_client import McpClient, ToolAnswer
from app.journal import backends, redis


class PlannedAgent:
    """See the module."""

    name = "offline"

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        steps = _Steps(turn)
        text = yield from (steps.repair() if turn.kind == "repair" else steps.chat())
        yield TextFinal(f"{turn.turn_id}-m", text)
        yield Finished("completed")


class _Steps:
    def __init__(self, turn: TurnRequest) -> None:
        self.turn = turn
        self.client = McpClient(turn.tools)
        self.calls = 0

    def use(self, tool: str, arguments: Any) -> Generator[AgentEvent, None, ToolAnswer]:
        self.calls += 1
        tool_use_id = f"{self.turn.turn_id}-t{self.calls}"
        yield ToolStarted(tool, tool_use_id, arguments)
        answer = self.client.call(tool, arguments, tool_use_id=tool_use_id)
        yield ToolFinished(tool, tool_use_id, answer.ok, answer.text[:400])
        return answer

    def chat(self) -> Generator[AgentEvent, None, str]:
        if not self.turn.prompt.startswith("["):
            return self.turn.prompt
        results, created = [], ""
        for tool, arguments in json.loads(self.turn.prompt):
            given = {key: created if value == "$id" else value for key, value in arguments.items()}
            answer = yield from self.use(tool, given)
            results.append({"ok": answer.ok, "text": answer.text})
            if tool == "create_workflow" and answer.ok:
                created = json.loads(answer.text)["workflowId"]
        return json.dumps(results)

    def repair(self) -> Generator[AgentEvent, None, str]:
        workflow_id = self.turn.facts["workflowId"]
        while (FOLDER / f"{workflow_id}.hold").exists():
            gevent.sleep(0.02)
        plan = FOLDER / f"{workflow_id}.json"
        plan = plan if plan.exists() else FOLDER / "any.json"
        proposals = json.loads(plan.read_text())["proposals"] if plan.exists() else []
        said = "nothing to propose"
        for proposal in proposals:
            shown = yield from self.use("get_workflow", {})
            yield from self.use("get_execution", {})
            if not shown.ok:
                return shown.text
            body = _changed(json.loads(shown.text), proposal)
            answer = yield from self.use("propose_repair", {"workflow": body, "summary": "It asks elsewhere."})
            said = answer.text
            if answer.ok and not said.startswith("The trial failed"):
                break
        return said


def _changed(workflow: dict[str, Any], proposal: dict[str, Any]) -> dict[str, Any]:
    body = {key: workflow[key] for key in ("name", "nodes", "connections", "settings")}
    for node in body["nodes"]:
        change = proposal.get("nodes", {}).get(node["name"], {})
        node["parameters"] = {**node["parameters"], **change.get("parameters", {})}
        for old, new in change.get("replace", {}).items():
            node["parameters"] = json.loads(json.dumps(node["parameters"]).replace(old, new))
        node.update({key: value for key, value in change.items() if key not in ("parameters", "replace")})
    body["nodes"] = [*body["nodes"], *proposal.get("add", [])]
    body["settings"] = {**body["settings"], **proposal.get("settings", {})}
    return {**body, **proposal.get("workflow", {})}


# Where the factory looks for them: SQLite is imported at the start, Redis only where it is used.
backends.SqliteJournal = MortalJournal  # type: ignore[misc]
redis.RedisJournal = MortalRedisJournal  # type: ignore[misc]
app = create_app(agent=None if os.environ.get("AGENT") == "claude" else PlannedAgent())
