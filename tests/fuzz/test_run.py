"""A short run with a fixed seed; ``make fuzz`` has longer ones."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.run import fuzz


def test_random_input_finds_nothing(tmp_path: Path) -> None:
    report = fuzz(seconds=4, seed=1, into=tmp_path)

    assert report.found == {}, [path.read_text()[:3_000] for path in tmp_path.iterdir()]
    done = report.counts
    assert all(done[what] for what in ("callback", "route", "raw", "frame", "tool call"))
    assert done["callback 202"] and done["route 200"] and done["tool ok"] and report.acknowledged
