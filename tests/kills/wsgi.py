"""The ``wsgi.py`` of the server that these tests kill: its journal can end the worker at a change that is named.

Files in ``TEST_FOLDER`` tell it what to do; ``die`` is the journal's (``tests/support/mortal_journal.py``, which stands
beside this file in the server's project). The agent is the offline one, but a message ``hold NAME`` is answered once
the file NAME exists, ``stream NAME`` too, with a piece of text all the while, the message ``die`` kills its worker, and
no repair goes on while the file ``hold-repairs`` exists.
"""

from collections.abc import Iterator

import gevent
from mortal_journal import FOLDER, MortalJournal, end

from app import create_app
from app.agents import AgentEvent, Finished, TextDelta, TextFinal, TurnRequest
from app.agents.offline import OfflineAgent
from app.journal import backends


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


backends.SqliteJournal = MortalJournal  # type: ignore[misc]
app = create_app(agent=HeldAgent())
