"""The ``wsgi.py`` of the server that these tests kill: its journal can end the worker at a change that is named.

Files in ``TEST_FOLDER`` tell it what to do. ``die`` holds ``WHEN WHAT NTH``: the worker SIGKILLs itself ``before`` or
``after`` the NTH change that carries WHAT, an event (``tool_started``), an event of a tool (``tool_started:NAME``), a
document (``put:draft``), or after an input was claimed (``claim``). It is the journal that dies, for nothing else sees
each moment between two commits. The agent is the offline one, but a message ``hold NAME`` is answered once the file
NAME exists, ``stream NAME`` too, with a piece of text all the while, the message ``die`` kills its worker, and no
repair goes on while the file ``hold-repairs`` exists.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import gevent

from app import create_app, lifecycle
from app.agents import AgentEvent, Finished, TextDelta, TextFinal, TurnRequest
from app.agents.offline import OfflineAgent
from app.journal import Change, Claim, Committed
from app.journal.sqlite import SqliteJournal

FOLDER = Path(os.environ["TEST_FOLDER"])
DIE = FOLDER / "die"


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class MortalJournal(SqliteJournal):
    """See the module."""

    _seen = 0

    def commit(self, change: Change) -> Committed:
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
    return found | {f"put:{put.kind}" for put in change.puts}


class HeldAgent:
    """See the module."""

    name = "offline"

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        word, _, name = turn.prompt.partition(" ")
        if turn.prompt == "die":
            end()
        if word not in ("hold", "stream"):
            while turn.kind == "repair" and (FOLDER / "hold-repairs").exists():
                gevent.sleep(0.02)
            yield from OfflineAgent().run(turn)
            return
        message_id = f"{turn.turn_id}-m1"
        yield TextDelta(message_id, "holding ")
        while not (FOLDER / name).exists():
            gevent.sleep(0.02)
            if word == "stream":
                yield TextDelta(message_id, "and ")
        yield TextDelta(message_id, name)
        yield TextFinal(message_id, f"held {name}")
        yield Finished("completed")


lifecycle.SqliteJournal = MortalJournal  # type: ignore[misc]
app = create_app(agent=HeldAgent())
