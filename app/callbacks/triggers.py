"""Failures of triggers, which come by two ways that share no id: told once.

n8n saves a run for such a failure, then calls back without naming it. So the callback and the poll that finds the run
each leave a note, and notes that may be of one failure are paired; what finds a partner was told before. One that comes
late may have lost its partner to another: pairs are made anew where that makes one more, so there are as many tellings
as failures, in whatever order they come. All notes of a workflow are one document: of two that come at once, one is
refused and looks again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
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
SETTLED_S = 1_200.0
"""So long a pair may still be made anew."""
NOTES_MAX = 1_000

_NUMBER = re.compile(r"callback:(?:exec:|key:trigger-)([0-9]{1,20})")


@dataclass(frozen=True, slots=True)
class Note:
    """One failure, told.

    :ivar number: of the failed run, or, where a callback told it, of the error workflow's run; 0: not known.
    :ivar at_s: when it failed, or when its callback came; epoch seconds.
    :ivar pair: equal in the two notes of a failure; 0: the other has not come.
    """

    by_poll: bool
    number: int
    at_s: float
    pair: int = 0


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
    before, notes = paired([Note(**note) for note in known.notes], new, now_s=now_s)
    return Told(before, known.put(notes=[asdict(note) for note in notes]))


def paired(notes: Sequence[Note], new: Note, *, now_s: float) -> tuple[bool, list[Note]]:
    """Whether the other note of the new one's failure was there, and all notes as they are now."""
    everything = [*_kept(notes, now_s)[1 - NOTES_MAX :], new]
    first: dict[int, int] = {}
    mates: dict[int, int] = {}
    for index, note in enumerate(everything):
        if note.pair and note.pair in first:
            mates |= {index: first[note.pair], first[note.pair]: index}
        elif note.pair:
            first[note.pair] = index
    found = _pair(everything, mates, len(everything) - 1, set())
    pairs = {index: min(index, mate) + 1 for index, mate in mates.items()}
    return found, [replace(note, pair=pairs.get(index, 0)) for index, note in enumerate(everything)]


def _kept(notes: Sequence[Note], now_s: float) -> list[Note]:
    """Those that may be of use, without halves of pairs where there are too many."""
    newest: dict[int, float] = {}
    for note in notes:
        newest[note.pair] = max(newest.get(note.pair, 0.0), note.at_s)
    young = [note for note in notes if now_s < (newest[note.pair] + SETTLED_S if note.pair else note.at_s + KEPT_S)]
    cut = {note.pair for note in young[: 1 - NOTES_MAX] if note.pair}
    return [note for note in young if note.pair not in cut]


def _pair(notes: Sequence[Note], mates: dict[int, int], index: int, tried: set[int]) -> bool:
    """Find that note a partner, and another one for whose partner that was; changes ``mates`` where there is one."""
    note = notes[index]
    partners = [at for at, other in enumerate(notes) if at not in tried and _may_be_one(note, other)]
    for partner in sorted(partners, key=lambda at: (at in mates, _distance(note, notes[at]))):
        if partner in tried:
            continue
        tried.add(partner)
        if partner not in mates or _pair(notes, mates, mates[partner], tried):
            mates[partner], mates[index] = index, partner
            return True
    return False


def _may_be_one(one: Note, other: Note) -> bool:
    if one.by_poll == other.by_poll:
        return False
    return _is_same(one, other) if one.by_poll else _is_same(other, one)


def _is_same(run: Note, callback: Note) -> bool:
    late_s = callback.at_s - run.at_s
    if callback.number:
        return run.number < callback.number <= run.number + GAP_MAX and -SKEW_S <= late_s < KEPT_S
    return -SKEW_S <= late_s < LATE_MAX_S


def _distance(one: Note, other: Note) -> tuple[bool, float]:
    numbered = bool(one.number and other.number)
    return not numbered, abs(one.number - other.number if numbered else one.at_s - other.at_s)
