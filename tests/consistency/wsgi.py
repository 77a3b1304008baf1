"""The ``wsgi.py`` of the server in these runs: the planned agent (``tests/heal/wsgi.py``, here ``planned_wsgi``), but
slower and with pieces of text; and each request to n8n says for which turn it is, and notes when it leaves.

A message ``slow …`` is answered in a few pieces, ``long …`` in so many that a turn outlives a lease.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import gevent
import planned_wsgi

from app import create_app
from app.agents import AgentEvent, TextDelta, TextFinal, TurnRequest
from app.n8n.transport import Transport
from app.telemetry import context

PIECES, PIECE_S = {"slow": (1, 8), "long": (20, 30)}, 0.08
THINKS_S = 0.15
WRITES = Path(os.environ["TEST_FOLDER"]) / "writes"


class SlowAgent(planned_wsgi.PlannedAgent):
    """See the module."""

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        chance = Random(turn.turn_id)
        for event in super().run(turn):
            pieces = PIECES.get(turn.prompt.partition(" ")[0])
            if isinstance(event, TextFinal) and pieces is not None:
                for _ in range(chance.randint(*pieces)):
                    yield TextDelta(event.message_id, "piece ")
                    gevent.sleep(PIECE_S)
            else:
                gevent.sleep(chance.uniform(0, THINKS_S))
            yield event


_send = Transport._send


def send(self: Transport, pool: Any, request: Any, url: str, headers: dict[str, str], body: Any) -> Any:
    if request.confirm is not None:  # a turn's write, which looks at its leases once more before it leaves
        write_id = uuid4().hex
        headers = {**headers, "X-Turn": context.current().get("turnId", ""), "X-Write": write_id}
        body = _noted(body, write_id)
    return _send(self, pool, request, url, headers, body)


def _noted(body: Iterator[bytes], write_id: str) -> Iterator[bytes]:
    for piece in body:
        (WRITES / write_id).write_text(repr(time.time()))
        yield piece


# Under all of its callers, and at each try: what leaves is to be noted, not what is asked for.
Transport._send = send  # type: ignore[method-assign]
app = create_app(agent=SlowAgent())
