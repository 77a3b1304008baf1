"""Is a recorded run what was promised? Pure functions; each gives sentences, one for each thing that is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tests.consistency import check_inputs, check_numbers, check_repairs, check_writes
from tests.consistency.history import History, history_of
from tests.consistency.recording import Record


def _rest(history: History) -> Iterator[str]:
    for record in history.by_kind["unsettled"]:
        yield f"not at rest in time: {record['what']}"
    for record in history.by_kind["bug"]:
        yield f"the server's log tells of a bug: {record['line'][:300]}"


CHECKS: tuple[Callable[[History], Iterator[str]], ...] = (
    check_numbers.numbers,
    check_inputs.messages,
    check_inputs.callbacks,
    check_inputs.turns,
    check_repairs.repairs,
    check_repairs.ends,
    check_writes.stale,
    check_writes.trials,
    check_writes.publications,
    check_writes.left_behind,
    _rest,
)


def check(records: Sequence[Record]) -> list[str]:
    """:returns: the violations, those first that say most about what went wrong."""
    history = history_of(records)
    return [sentence for one in CHECKS for sentence in one(history)]
