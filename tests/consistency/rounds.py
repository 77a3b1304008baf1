"""One round of ``CONSISTENCY_SECONDS`` (20) in ``make test``. A file for each backend, so they run side by side."""

from __future__ import annotations

import os
import random

from tests.consistency.__main__ import INTO, enough, summary
from tests.consistency.checker import check
from tests.consistency.recording import save
from tests.consistency.run import run

SECONDS = float(os.environ.get("CONSISTENCY_SECONDS") or 20)


def check_round(backend: str) -> None:
    """:raises AssertionError: somebody was not told the truth, or too little has happened to say."""
    seed = int(os.environ.get("CONSISTENCY_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed {seed} on {backend}")
    records = run(seed=seed, seconds=SECONDS, backend=backend)
    found = check(records)
    path = INTO / f"{seed}-{backend}.jsonl"
    if found:
        save(records, path)
    assert not found, f"seed {seed} on {backend}: {found[0]}, and {len(found) - 1} more; recording: {path}"
    assert enough(records), summary(records)
