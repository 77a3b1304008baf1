"""Drafts on their way to n8n: who writes one looks at its leases before and after, and notes what may come late.

n8n has no conditional write, and does what it was asked also when nobody waits for it any more. So a write whose worker
is killed, cancelled or paused can come to stand over what others have made of the workflow meanwhile. What is noted
here is how they tell it from a person's edit: see ``repairs/strays.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.errors import LeaseLostError
from app.journal import Change, Delete, Journal, Lease
from app.journal.records import DECISIONS, DraftWrite, retry_stale
from app.n8n import Workflow
from app.n8n.workflows import contents_hash, editable


@dataclass(frozen=True, slots=True)
class DraftWrites:
    """:ivar shown: a workflow of n8n's without its secrets."""

    journal: Journal
    shown: Callable[[Workflow], Workflow]

    def begin(
        self, present: Workflow, wanted: Workflow, *, instead: Mapping[str, Any] | None, fences: Sequence[Lease]
    ) -> DraftWrite | None:
        """Note that ``wanted`` is about to be sent; ``None``: it may stay, whenever it comes.

        :raises LeaseLostError: somebody else is in charge now.
        """
        if not fences:
            return None
        shown = self.shown({**present, **wanted})
        # Of this write, and of those before it that may come still: what is there now is to be there then.
        kept = dict(instead) if instead is not None else editable(shown)
        write = _write(present, kept, hash=contents_hash(shown))

        def note() -> DraftWrite | None:
            known = {one.key: one for one in DraftWrite.find(self.journal, write.labels[0])}
            same = known.pop(write.key, None)
            puts = [other.put(instead=kept) for other in known.values() if other.instead != kept]
            if instead is None:
                self.journal.commit(Change(puts=puts, fences=fences))
                return None
            new = replace(write, repeated=same is not None, version=same.version if same else 0)
            self.journal.commit(Change(puts=[new.put(), *puts], fences=fences))
            return new

        noted: DraftWrite | None = retry_stale(note)
        return noted

    def end(self, write: DraftWrite | None, present: Workflow, version_id: str, *, fences: Sequence[Lease]) -> None:
        """Look at the leases again: this worker may have been paused right before it sent what n8n has done now.

        :raises LeaseLostError: it was, and another has taken over; the note stays, for others to take it back.
        """
        if not fences:
            return
        try:
            gone = [Delete(write.KIND, write.key)] if write and not write.repeated else ()
            self.journal.commit(Change(deletes=gone, fences=fences))
        except LeaseLostError:
            stray = write or _write(present, editable(self.shown(present)))
            put = replace(stray.put(version_id=version_id), expect=None)
            self.journal.commit(Change(puts=[put], wake=[DECISIONS]))
            raise


def _write(present: Workflow, instead: dict[str, Any], *, hash: str = "") -> DraftWrite:
    return DraftWrite(workflow_id=str(present["id"]), instead=instead, sent_at_s=time.time(), hash=hash)
