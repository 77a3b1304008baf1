"""``python -m tests.fuzz [SECONDS] [SEED]``: one run; prints seed and counts, exit code 1 where it finds something."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.fuzz.run import fuzz

INTO = Path("var/fuzz")


def main(arguments: list[str]) -> int:
    seconds = float(arguments[0] if arguments else os.environ.get("FUZZ_SECONDS") or 60)
    seed = int(arguments[1]) if len(arguments) > 1 else int(os.environ.get("FUZZ_SEED") or time.time())
    print(f"seed {seed}, {seconds:g} s", flush=True)
    report = fuzz(seconds=seconds, seed=seed, into=INTO)
    for what, count in sorted(report.counts.items()):
        print(f"{count:8} {what}")
    for was, now in report.growth:
        print(f"a worker's memory: {was / 2**20:.0f} MiB before, {now / 2**20:.0f} MiB after")
    print(f"slowest /healthz {report.slowest_health_s * 1000:.0f} ms")
    print(f"{report.acknowledged} acknowledged callbacks are in the journal, unless said otherwise below")
    for kind, path in report.found.items():
        print(f"FOUND {kind}: {path}")
    print(f"seed {seed}: {len(report.found)} finding(s)")
    return 1 if report.found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
