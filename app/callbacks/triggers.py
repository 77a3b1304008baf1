"""Failures of triggers, which come by two ways that share no id: told once.

n8n saves a run for such a failure, then calls back without naming it. So whichever comes first, the callback or the
poll that finds the run, leaves a note, and the other uses it up. All notes of a workflow are one document: of two that
come at once, one is refused and looks again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from app.callbacks.report import ErrorReport
from app.journal import Journal, Put
from app.journal.records import Record

KEPT_S = 25 * 3600.0
"""The error workflow tries for 24 hours."""
GAP_MAX = 100
"""n8n begins the run of the error workflow right after it has saved the failed one: so few others come in between."""
LATE_MAX_S = 600.0
"""Where the error workflow's run is not known: another one than ours, which does not try for long."""
SKEW_S = 10.0
NOTES_MAX = 1_000

_NUMBER = re.compile(r"callback:(?:exec:|key:trigger-)([0-9]{1,20})")


@dataclass(frozen=True, slots=True)
class Note:
    """One failure, told.

    :ivar number: of the failed run, or, where a callback told it, of the error workflow's run; 0: not known.
    :ivar at_s: when it failed, or when its callback came; epoch seconds.
    """

    by_poll: bool
    number: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerNotes(Record):
    """A workflow's notes, oldest first."""

    KIND = "trigger_notes"
    workflow_id: str
    notes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.workflow_id


@dataclass(frozen=True, slots=True)
class Told:
    """``before``: by the other way; ``put`` belongs into the change that says so, or that tells it now."""

    before: bool
    put: Put


def take(journal: Journal, report: ErrorReport, key: str | None, *, by_poll: bool) -> Told | None:
    """Whether this failure was told before; ``None`` where there is no other way for it.

    :param key: idempotency key that it comes under; it holds the run's number.
    """
    if report.trigger is None or (key or "").startswith("replay:"):
        return None  # a letter that is replayed by hand is older than its workflow's registration
    now_s = time.time()
    numbered = _NUMBER.fullmatch(key or "")
    at_s = now_s if report.failed_at_s is None else report.failed_at_s
    known = TriggerNotes.get(journal, report.workflow_id) or TriggerNotes(workflow_id=report.workflow_id)
    new = Note(by_poll, int(numbered[1]) if numbered else 0, at_s)
    before, kept = matched([Note(**note) for note in known.notes], new, now_s=now_s)
    return Told(before, known.put(notes=[asdict(note) for note in kept]))


def matched(notes: Sequence[Note], new: Note, *, now_s: float) -> tuple[bool, list[Note]]:
    """Whether a note of the other way tells of the same failure, and the notes without it, or with the new one."""
    kept = [note for note in notes if now_s - note.at_s < KEPT_S]
    others = [note for note in kept if note.by_poll != new.by_poll]
    partners = [note for note in others if (_is_same(note, new) if note.by_poll else _is_same(new, note))]
    if not partners:
        return False, [*kept, new][-NOTES_MAX:]
    kept.remove(min(partners, key=lambda note: _distance(note, new)))
    return True, kept


def _is_same(run: Note, callback: Note) -> bool:
    late_s = callback.at_s - run.at_s
    if callback.number:
        return run.number < callback.number <= run.number + GAP_MAX and -SKEW_S <= late_s < KEPT_S
    return -SKEW_S <= late_s < LATE_MAX_S


def _distance(one: Note, other: Note) -> tuple[bool, float]:
    numbered = bool(one.number and other.number)
    return not numbered, abs(one.number - other.number if numbered else one.at_s - other.at_s)
