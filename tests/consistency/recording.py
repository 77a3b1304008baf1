"""What was seen in a run: one list of records, each a JSON object with a ``kind``, in the order of their arrival.

``opened``    a reader begins: ``reader``, ``session``, ``after``
``read``      a reader got an event: ``reader``, ``session``, ``event``
``caught_up`` a reader was given time to see everything: ``reader``, ``session``, ``last`` (its last number)
``said``      a message is about to be sent for the first time: ``session``, ``key``, ``text``
``told``      an answer: ``what`` (``message``, ``callback``, ``command``), ``status``, and what it was about:
              ``session`` and ``key``, ``seq``, ``routed``, ``duplicate``, or ``command``, ``repair``, ``workflow``
``write``     n8n has done a ``put``, ``publish`` or ``retry`` (``step``): ``workflow``, ``turn`` (empty: no turn's),
              ``sent_at``, ``active`` and ``draft`` before and after (versions)
``disturbed`` what the run did to the server: for people
``final``     a session at the end: ``session``, ``events`` (all of them), ``repairs``
``workflow``  a workflow in n8n at the end: ``workflow``, ``clean`` (its draft is what runs)
``run``       a run in n8n at the end: ``run``, ``workflow``, ``version``, ``retry_of``
``unsettled`` what was not at rest when the time to settle was over: ``what``
``bug``       a line of the server's log that tells of a bug: ``line``
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Recorder:
    """Takes records from all threads."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._lock = threading.Lock()

    def add(self, kind: str, **fields: Any) -> None:
        with self._lock:
            self._records.append({"kind": kind, "t": round(time.time(), 4), **fields})

    @property
    def records(self) -> list[Record]:
        with self._lock:
            return list(self._records)


def save(records: list[Record], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def load(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]
