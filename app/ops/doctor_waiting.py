"""What waits for a person in the journal, and what one has held back; none of it is a fault of the bridge's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from app.journal.records import HELD, Case, Ceiling, DeadLetter, Repair
from app.ops.doctor_findings import Examination, Finding

NAME = "waiting"
MAX_COUNTED = 1000


def check_waiting(examination: Examination) -> Iterator[Finding]:
    journal = examination.opened
    found = []
    ceiling = Ceiling.get(journal, "all") or Ceiling()
    if ceiling.autonomy != "auto":
        detail = f'the brake is on: no repair goes further than "{ceiling.autonomy}"'
        found.append(Finding(NAME, "note", detail, 'PUT /autonomy with {"autonomy": "auto"} releases it.'))
    waiting = len(Repair.find(journal, "waiting", limit=MAX_COUNTED))
    if waiting:
        detail = f"{_count(waiting)} repair(s) wait for a decision"
        found.append(Finding(NAME, "note", detail, "See `flask repairs`; approve or reject them in their sessions."))
    blocked = sum(case.state == "blocked" for case in Case.find(journal, limit=MAX_COUNTED))
    if blocked:
        detail = f"{_count(blocked)} error(s) are blocked: repairs did not help"
        found.append(Finding(NAME, "note", detail, "Mend the workflow, or allow one more try (retry_repair)."))
    held = len(DeadLetter.find(journal, HELD, limit=MAX_COUNTED))
    if held:
        detail = f"{_count(held)} callback(s) are held back by the rate limit"
        found.append(
            Finding(NAME, "note", detail, "A running bridge routes them as RATE_LIMIT_CALLBACKS_PER_MINUTE allows.")
        )
    kept = Counter(letter.reason for letter in DeadLetter.find(journal, limit=MAX_COUNTED) if _lies(letter))
    if kept:
        reasons = ", ".join(f"{_count(number)} {reason}" for reason, number in sorted(kept.items()))
        todo = "See `flask dead-letters list`; replay those whose workflow a session is to have."
        found.append(Finding(NAME, "note", f"dead letters: {reasons}", todo))
    yield from found or [Finding(NAME, "ok", "nothing waits for a person")]


def _lies(letter: DeadLetter) -> bool:
    return letter.state == "kept" and not letter.held


def _count(number: int) -> str:
    return f"{number} or more" if number >= MAX_COUNTED else str(number)
