"""The ``wsgi.py`` of the server in these runs: the planned agent (``tests/heal/wsgi.py``, here ``planned_wsgi``), but
slower and with pieces of text; and each request to n8n says for which turn it is, and when it left.

A message ``slow …`` is answered in a few pieces, ``long …`` in so many that a turn outlives a lease.
"""

import time
from collections.abc import Iterator
from random import Random
from typing import Any

import gevent
import planned_wsgi

from app import create_app
from app.agents import AgentEvent, TextDelta, TextFinal, TurnRequest
from app.n8n.client import N8nClient
from app.telemetry import context

PIECES, PIECE_S = {"slow": (1, 8), "long": (20, 30)}, 0.08
THINKS_S = 0.15


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


_send = N8nClient._send


def send(self: N8nClient, pool: Any, request: Any, url: str, headers: dict[str, str], body: bytes | None) -> Any:
    told = {"X-Turn": context.current().get("turnId", ""), "X-Sent": repr(time.time())}
    return _send(self, pool, request, url, {**headers, **told}, body)


N8nClient._send = send  # type: ignore[method-assign]
app = create_app(agent=SlowAgent())
