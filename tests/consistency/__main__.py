"""``python -m tests.consistency``: see ``docs/consistency.md``; exit code 1 at the first violation."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from tests.consistency.backends import BACKENDS
from tests.consistency.checker import check
from tests.consistency.recording import Record, load, save
from tests.consistency.run import run

INTO = Path("var/consistency")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.consistency", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long new rounds are begun")
    parser.add_argument("--round", type=float, default=20, help="how long a round disturbs")
    parser.add_argument("--seed", type=int, help="one round with this seed")
    parser.add_argument("--backend", choices=sorted(BACKENDS), help="all, in turn, unless one is named")
    parser.add_argument("--check", type=Path, metavar="FILE", help="check a recording, and run nothing")
    options = parser.parse_args(arguments)
    if options.check:
        return _tell(check(load(options.check)), options.check)
    backends = [options.backend] if options.backend else sorted(BACKENDS)
    began, rounds = time.monotonic(), 0
    while True:
        seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
        for backend in backends:
            print(f"seed {seed} on {backend}:", end=" ", flush=True)
            started = time.monotonic()
            records = run(seed=seed, seconds=options.round, backend=backend)
            rounds += 1
            found = check(records)
            print(f"{summary(records)}; {time.monotonic() - started:.0f} s", flush=True)
            if found:
                path = INTO / f"{seed}-{backend}.jsonl"
                save(records, path)
                return _tell(found, path)
            if not enough(records):
                print("too little has happened to say anything")
                return 1
        if options.seed is not None or time.monotonic() - began >= options.seconds:
            print(f"{rounds} rounds in {time.monotonic() - began:.0f} s, nothing found")
            return 0


def summary(records: list[Record]) -> str:
    events = Counter(e["type"] for r in records if r["kind"] == "final" for e in r["events"])
    blows = Counter(r["what"] for r in records if r["kind"] == "disturbed")
    told = Counter(r["what"] for r in records if r["kind"] == "told" and r["status"] in (200, 202))
    parts = {
        "messages": events["user_message"],
        "failures": events["workflow_error"],
        "published": events["repair_published"],
        "undone": events["rolled_back"],
        "interrupted": sum(
            e["type"] == "turn_finished" and e["data"]["outcome"] == "interrupted"
            for r in records
            if r["kind"] == "final"
            for e in r["events"]
        ),
        "answers": told.total(),
        **blows,
    }
    return ", ".join(f"{count} {what}" for what, count in parts.items())


def enough(records: list[Record]) -> bool:
    """Whether so much has happened that a run in which nothing was found says something."""
    events = {e["type"] for r in records if r["kind"] == "final" for e in r["events"]}
    blows = {r["what"] for r in records if r["kind"] == "disturbed"}
    return {"turn_finished", "workflow_error"} <= events and {"kill", "pause"} <= blows


def _tell(found: list[str], path: Path) -> int:
    if found:
        print(f"VIOLATION: {found[0]}\n{len(found)} in all; recording: {path}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
