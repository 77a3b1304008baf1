"""What the journal keeps no longer: what is older than the retention, unless something that is open needs it.

A pass looks at everything that is too old, oldest first, in steps of one bounded write each, so that nobody's write
waits long behind one. Registrations of open sessions stay for ever; so do the sessions.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import gevent

from app.callbacks.copies import LetterCopy
from app.callbacks.triggers import TriggerNotes
from app.errors import StaleDocumentError
from app.journal import Change, Delete, Document, Expect, Journal, Session
from app.journal.records import Case, ChildFailure, DeadLetter, DraftWrite, Registration, Repair, Rollback, Snapshot
from app.n8n import drafts
from app.n8n.intents import Intent
from app.repairs.states import UNSETTLED
from app.turns import transcripts

DOCUMENTS_AT_ONCE = 50
LARGE_AT_ONCE = 4  # dead letters have up to 64 KiB, snapshots are whole workflows
EVENTS_AT_ONCE = 200
SESSIONS_AT_ONCE = 50
PAUSE_S = 0.02
ROUND_S = 3.0
WORK_S = 2 * 86_400.0
"""No turn lasts so long: what one has noted for itself may go after that, however short the retention is."""
# Of a closed session nobody else goes on; one that was begun while it was being closed has lost its input.
_TO_FINISH = ("trying", "publishing", "restoring")

log = logging.getLogger(__name__)


class Retention:
    """:meth:`round` after :meth:`round` makes a pass, and the next begins it anew. A pass that removed something says
    what, in one line at its end."""

    def __init__(self, journal: Journal, *, keep_s: float) -> None:
        self._journal = journal
        self._keep_s = keep_s
        self._pass: Iterator[None] | None = None
        self._removed: Counter[str] = Counter()

    def round(self) -> bool:
        """Go on with the pass for some seconds; returns whether it is not at its end yet.

        :raises JournalUnavailableError: not now; the next round begins a new pass.
        """
        steps, until = self._pass or self._steps(), time.monotonic() + ROUND_S
        self._pass = None
        for _ in steps:
            if time.monotonic() >= until:
                self._pass = steps
                return True
            gevent.sleep(PAUSE_S)
        self._tell()
        return False

    def _tell(self) -> None:
        removed, self._removed = self._removed, Counter()
        if removed.total():
            log.info("what is too old was removed", extra=dict(removed))

    def _steps(self) -> Iterator[None]:
        before = datetime.now(UTC) - timedelta(seconds=self._keep_s)
        work_before = min(before, datetime.now(UTC) - timedelta(seconds=WORK_S))
        while forgotten := self._journal.forget(before=before):
            self._removed["keys"] += forgotten
            yield
        # Of a time with a DEAD_LETTER_URL: without one nobody delivers them, with one each is written anew every hour.
        yield from self._documents(LetterCopy.KIND, work_before, lambda _: True)
        yield from self._documents(DeadLetter.KIND, before, self._is_copied, at_once=LARGE_AT_ONCE)
        yield from self._documents(Intent.KIND, work_before, lambda _: True)
        yield from self._documents(ChildFailure.KIND, work_before, lambda _: True)
        yield from self._documents(DraftWrite.KIND, work_before, lambda _: True)
        yield from self._documents(TriggerNotes.KIND, work_before, lambda _: True)
        yield from self._documents(Repair.KIND, before, self._is_done_with)
        yield from self._documents(Case.KIND, before, lambda found: Case.of(found).state != "open")
        yield from self._closed_sessions(before)
        yield from self._old_events(before)

    # -- documents by their age

    def _documents(
        self, kind: str, before: datetime, may_go: Callable[[Document], bool], *, at_once: int = DOCUMENTS_AT_ONCE
    ) -> Iterator[None]:
        last: Document | None = None
        while found := self._journal.find_stale(kind, before=before, limit=at_once, after=last):
            last = found[-1]
            self._delete([Delete(kind, d.key, d.version) for d in found if may_go(d)])
            yield

    def _is_copied(self, letter: Document) -> bool:
        return LetterCopy.get(self._journal, letter.key) is None

    def _is_done_with(self, document: Document) -> bool:
        repair = Repair.of(document)
        if repair.state in UNSETTLED:
            return False
        case = Case.get(self._journal, repair.case_key)
        # One that is blocked gets its next try from its last repair.
        return case is None or case.state == "closed" or case.repair_id != repair.repair_id

    def _delete(self, gone: list[Delete], *, expects: tuple[Expect, ...] = ()) -> bool:
        """Delete what nobody has written meanwhile; returns whether ``expects`` held."""
        if not gone:
            return True
        try:
            self._journal.commit(Change(deletes=gone, expects=expects))
            self._removed["documents"] += len(gone)
            return True
        except StaleDocumentError:
            if len(gone) == 1:
                return not expects
        done = [self._delete([one], expects=expects) for one in gone]
        return all(done)

    # -- closed sessions, with all that was theirs

    def _closed_sessions(self, before: datetime) -> Iterator[None]:
        last: Session | None = None
        while found := self._journal.closed_sessions(before=before, limit=SESSIONS_AT_ONCE, after=last):
            last = found[-1]
            for session in found:
                yield from self._remove(session.session_id)

    def _remove(self, session_id: str) -> Iterator[None]:
        label = f"session:{session_id}"
        while repairs := Repair.find(self._journal, label, limit=DOCUMENTS_AT_ONCE):
            if any(repair.state in _TO_FINISH for repair in repairs):
                return  # a draft of n8n's is to be put back first
            if not self._delete([repair.delete() for repair in repairs]):
                return
            yield
        for registration in Registration.find(self._journal, label, limit=1000):
            yield from self._remove_workflow(registration)
        if Registration.find(self._journal, label, limit=1):
            return
        self._delete([Delete(transcripts.KIND, session_id)])
        while not self._journal.remove(session_id, limit=EVENTS_AT_ONCE):
            yield
        self._removed["sessions"] += 1
        yield

    def _remove_workflow(self, registration: Registration) -> Iterator[None]:
        """All that is known of a workflow, unless another session adopts it meanwhile."""
        workflow_id, unchanged = registration.workflow_id, (registration.unchanged(),)
        if Rollback.get(self._journal, workflow_id) is not None:
            return
        label = f"workflow:{workflow_id}"
        for kind, at_once in ((Case.KIND, DOCUMENTS_AT_ONCE), (Snapshot.KIND, LARGE_AT_ONCE)):
            while found := self._journal.find(kind, label, limit=at_once):
                if not self._delete([Delete(kind, d.key) for d in found], expects=unchanged):
                    return
                yield
        self._delete([Delete(drafts.KIND, workflow_id), registration.delete()])
        yield

    # -- the beginning of what is open

    def _old_events(self, before: datetime) -> Iterator[None]:
        last: list[str] = []
        # Each was looked at once: where the same come again, the clock was set back.
        while (found := self._journal.aged_sessions(before=before, limit=SESSIONS_AT_ONCE)) and found != last:
            last = found
            for session_id in found:
                needed = self._needed_from(session_id)
                trimmed = EVENTS_AT_ONCE
                while trimmed == EVENTS_AT_ONCE:
                    trimmed = self._journal.trim(session_id, before=before, keep_from=needed, limit=EVENTS_AT_ONCE)
                    self._removed["events"] += trimmed
                    yield

    def _needed_from(self, session_id: str) -> int | None:
        """Where the error is that the oldest open repair answers."""
        labels = (f"{state}:{session_id}" for state in ("waiting", "publishing", "restoring"))
        found = [repair for label in labels for repair in Repair.find(self._journal, label, limit=1000)]
        return min((repair.error_seq for repair in found if repair.error_seq), default=None)
