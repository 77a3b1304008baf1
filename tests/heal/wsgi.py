"""The ``wsgi.py`` of the server that these tests use: an agent that acts by plans, and a journal that can die.

Files in ``TEST_FOLDER`` tell it what to do. ``die`` is as in the kill tests: ``WHEN WHAT NTH``, where WHAT may also be
a document with the state it gets (``put:repair:trying``) or an intent (``put:intent:trial``, ``done:intent:trial``).
``<workflow id>.json``, else ``any.json``, holds the proposals for a repair, each a change of the workflow as it is;
while ``<workflow id>.hold`` is there none is made. A chat message is a JSON list of tool calls; ``$id`` in their
arguments is the workflow that the turn has created. Any other message is answered with itself. With ``AGENT=claude`` it
is the real agent. While ``record`` is there, what each change carries is written to it, a line each.
"""

import json
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import gevent

from app import create_app, lifecycle
from app.agents import AgentEvent, Finished, TextFinal, ToolFinished, ToolStarted, TurnRequest
from app.agents.mcp_client import McpClient, ToolAnswer
from app.journal import Change, Claim, Committed
from app.journal.sqlite import SqliteJournal

FOLDER = Path(os.environ["TEST_FOLDER"])
DIE, RECORD = FOLDER / "die", FOLDER / "record"


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class MortalJournal(SqliteJournal):
    """See the module."""

    _seen = 0

    def commit(self, change: Change) -> Committed:
        if RECORD.exists() and (change.events or change.puts or change.deletes):
            with RECORD.open("a") as record:
                record.write(json.dumps(sorted(_carried(change))) + "\n")
        when = self._fatal(_carried(change))
        if when == "before":
            end()
        committed = super().commit(change)
        if when == "after":
            end()
        return committed

    def claim(self, holder: str, *, ttl_s: float) -> Claim | None:
        claim = super().claim(holder, ttl_s=ttl_s)
        if claim is not None and self._fatal({"claim"}):
            end()
        return claim

    def _fatal(self, carried: set[str]) -> str:
        try:
            when, what, nth = DIE.read_text().split()
        except (OSError, ValueError):
            return ""
        if what not in carried:
            return ""
        self._seen += 1
        if self._seen < int(nth):
            return ""
        DIE.unlink()
        return when


def _carried(change: Change) -> set[str]:
    found = {event.type for event in change.events}
    found |= {f"{event.type}:{event.data['tool']}" for event in change.events if "tool" in event.data}
    for put in change.puts:
        found |= {f"put:{put.kind}", f"put:{put.kind}:{put.body.get('state', '')}"}
        if put.kind == "intent":
            step = "done" if put.body["result_id"] else "put"
            found.add(f"{step}:intent:{put.body['name'].partition(':')[0]}")
        if put.kind == "repair" and put.body["trial_version_id"]:
            found.add(f"put:repair:{put.body['state']}:drafted")
    return found


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
        node.update({key: value for key, value in change.items() if key != "parameters"})
    body["nodes"] = [*body["nodes"], *proposal.get("add", [])]
    body["settings"] = {**body["settings"], **proposal.get("settings", {})}
    return {**body, **proposal.get("workflow", {})}


lifecycle.SqliteJournal = MortalJournal  # type: ignore[misc]
app = create_app(agent=None if os.environ.get("AGENT") == "claude" else PlannedAgent())
