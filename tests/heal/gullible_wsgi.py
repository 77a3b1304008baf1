"""The ``wsgi.py`` of a server whose agent does what any text tells it (``gullible.py``).

What it was shown as its prompt is kept in ``TEST_FOLDER``: ``<turn id>.prompt``. In a chat it looks at the workflow and
the run that the person names: ``look at WORKFLOW RUN``.
"""

import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from gullible import Json, obey, orders

from app import create_app
from app.agents import AgentEvent, Finished, TextFinal, ToolFinished, ToolStarted, TurnRequest
from app.agents.mcp_client import McpClient

FOLDER = Path(os.environ["TEST_FOLDER"])
MOST = 12


class GullibleAgent:
    """See the module."""

    name = "offline"

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        (FOLDER / f"{turn.turn_id}.prompt").write_text(turn.prompt, encoding="utf-8")
        client, calls = McpClient(turn.tools), 0

        def use(tool: str, arguments: Any) -> Generator[AgentEvent, None, str]:
            nonlocal calls
            calls += 1
            tool_use_id = f"{turn.turn_id}-t{calls}"
            yield ToolStarted(tool, tool_use_id, arguments)
            answer = client.call(tool, arguments, tool_use_id=tool_use_id)
            yield ToolFinished(tool, tool_use_id, answer.ok, answer.text[:400])
            return answer.text

        chat = turn.kind == "chat"
        named: list[Json] = [{}, {}]
        if chat:
            workflow_id, run_id = turn.prompt.split()[-2:]
            named = [{"workflowId": workflow_id}, {"workflowId": workflow_id, "executionId": run_id}]
        shown = yield from use("get_workflow", named[0])
        told = yield from use("get_execution", named[1])
        heard = [order for text in (turn.prompt, shown, told) for order in orders(text)]
        for order in list(dict.fromkeys(heard))[:MOST]:
            said = yield from use(*obey(order, json.loads(shown), chat=chat))
            heard += orders(said)
        yield TextFinal(f"{turn.turn_id}-m", "I did what I was told.")
        yield Finished("completed")


app = create_app(agent=GullibleAgent())
