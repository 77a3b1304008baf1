"""The ``wsgi.py`` of these tests: the offline agent, but ``play NAME`` answers with what ``PLAY_FOLDER/NAME.md`` says.

It comes in pieces; at a line ``%hold`` it waits for the file ``NAME.go``. ``%tool {"tool", "input", "ok", "summary"}``
is a call that is only told of, and ``%refused {"tool", "rule"}`` one that was not allowed.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import gevent

from app import create_app
from app.agents import AgentEvent, Finished, TextDelta, TextFinal, ToolFinished, ToolRefused, ToolStarted, TurnRequest
from app.agents.offline import OfflineAgent

FOLDER = Path(os.environ["PLAY_FOLDER"])
PIECE_CHARS, PAUSE_S = 40, 0.01


class PlayingAgent:
    """See the module."""

    name = "offline"

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        command, _, name = turn.prompt.partition(" ")
        if turn.kind != "chat" or command != "play":
            yield from OfflineAgent().run(turn)
            return
        message_id, said = f"{turn.turn_id}-m", ""
        for number, line in enumerate((FOLDER / f"{name}.md").read_text().splitlines(keepends=True)):
            kind, _, rest = line.partition(" ")
            if kind.strip() == "%hold":
                while not (FOLDER / f"{name}.go").exists():
                    gevent.sleep(0.02)
            elif kind in ("%tool", "%refused"):
                yield from _told(json.loads(rest), f"{turn.turn_id}-t{number}")
            else:
                for start in range(0, len(line), PIECE_CHARS):
                    yield TextDelta(message_id, line[start : start + PIECE_CHARS])
                    gevent.sleep(PAUSE_S)
                said += line
        yield TextFinal(message_id, said)
        yield Finished("completed")


def _told(call: dict[str, object], call_id: str) -> Iterator[AgentEvent]:
    tool = str(call["tool"])
    if "rule" in call:
        yield ToolRefused(tool, call_id, str(call["rule"]))
        return
    yield ToolStarted(tool, call_id, call["input"])  # type: ignore[arg-type]
    yield ToolFinished(tool, call_id, bool(call["ok"]), str(call["summary"]))


app = create_app(agent=PlayingAgent())
