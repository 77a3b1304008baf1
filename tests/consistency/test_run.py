"""A run on each backend; ``make consistency`` has longer ones."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.consistency.__main__ import INTO, enough, summary
from tests.consistency.backends import BACKENDS
from tests.consistency.checker import check
from tests.consistency.plan import plan
from tests.consistency.recording import save
from tests.consistency.run import run

SECONDS = float(os.environ.get("CONSISTENCY_SECONDS") or 20)


def test_a_seed_is_a_plan() -> None:
    assert plan(7, seconds=5) == plan(7, seconds=5) != plan(8, seconds=5)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_whatever_is_killed_paused_and_repeated_everybody_was_told_the_truth(backend: str) -> None:
    seed = int(os.environ.get("CONSISTENCY_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed {seed} on {backend}")

    records = run(seed=seed, seconds=SECONDS, backend=backend)

    found = check(records)
    path = Path(INTO) / f"{seed}-{backend}.jsonl"
    if found:
        save(records, path)
    assert not found, f"seed {seed} on {backend}: {found[0]}, and {len(found) - 1} more; recording: {path}"
    assert enough(records), summary(records)
