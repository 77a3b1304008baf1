"""A ``wsgi.py`` whose agent can be held: the offline agent, but a prompt ``hold NAME`` is answered once the file
``HOLD_FOLDER/NAME`` exists, and no repair goes on while ``HOLD_FOLDER/repairs`` does."""

import os
from collections.abc import Iterator
from pathlib import Path

import gevent

from app import create_app
from app.agents import AgentEvent, Finished, TextDelta, TextFinal, TurnRequest
from app.agents.offline import OfflineAgent

FOLDER = Path(os.environ["HOLD_FOLDER"])


class HeldAgent:
    """See the module."""

    name = "offline"

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        if turn.kind == "repair":
            while (FOLDER / "repairs").exists():
                gevent.sleep(0.02)
            yield from OfflineAgent().run(turn)
            return
        words = turn.prompt.split()
        if len(words) != 2 or words[0] != "hold":
            yield from OfflineAgent().run(turn)
            return
        message_id = f"{turn.turn_id}-m1"
        yield TextDelta(message_id, "holding ")
        while not (FOLDER / words[1]).exists():
            gevent.sleep(0.02)
        yield TextDelta(message_id, words[1])
        yield TextFinal(message_id, f"held {words[1]}")
        yield Finished("completed")


app = create_app(agent=HeldAgent())
