"""A ``wsgi.py`` whose agent keeps a turn open on request: ``open tools``, and each repair while ``FUZZ_FOLDER/repairs``
exists, hands its tools to the file ``FUZZ_FOLDER/<turn>.json`` and waits until that file is gone."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import gevent

from app import create_app
from app.agents import AgentEvent, Finished, TextDelta, TurnRequest
from app.agents.offline import OfflineAgent

FOLDER = Path(os.environ["FUZZ_FOLDER"])


class OpenAgent:
    """See the module."""

    name = "offline"

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        asked = (FOLDER / "repairs").exists() if turn.kind == "repair" else "open tools" in turn.prompt
        if not asked:
            yield from OfflineAgent().run(turn)
            return
        path = FOLDER / f"{turn.turn_id}.json"
        path.with_suffix(".part").write_text(json.dumps({"url": turn.tools.url, "token": turn.tools.token}))
        path.with_suffix(".part").rename(path)
        while path.exists():
            gevent.sleep(0.05)
            yield TextDelta(f"{turn.turn_id}-m", ".")
        yield Finished("completed")


app = create_app(agent=OpenAgent())
