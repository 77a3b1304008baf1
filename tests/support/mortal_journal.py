"""A journal that can end its worker at a change that is named: it is the one to die, for nothing else sees each moment
between two commits.

The file ``die`` in ``TEST_FOLDER`` holds ``WHEN WHAT NTH``: the worker SIGKILLs itself ``before`` or ``after`` the NTH
change that carries WHAT: an event (``tool_started``), an event of a tool (``tool_started:NAME``), a document
(``put:draft``), also with the state it gets (``put:repair:trying``), an intent (``put:intent:trial``,
``done:intent:trial``), or ``claim``: after an input was claimed. While ``record`` is there, what each change carries is
written to it, a line each.
"""

import json
import os
import signal
from collections.abc import Collection
from pathlib import Path

from app.journal import Change, Claim, Committed
from app.journal.redis import RedisJournal
from app.journal.sqlite import SqliteJournal

FOLDER = Path(os.environ["TEST_FOLDER"])
DIE, RECORD = FOLDER / "die", FOLDER / "record"


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Mortal:
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

    def claim(self, holder: str, *, ttl_s: float, but: Collection[str] = ()) -> Claim | None:
        claim = super().claim(holder, ttl_s=ttl_s, but=but)
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


class MortalJournal(_Mortal, SqliteJournal):
    """On one machine."""


class MortalRedisJournal(_Mortal, RedisJournal):
    """On several."""


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
