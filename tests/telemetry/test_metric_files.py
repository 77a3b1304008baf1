"""The workers' metric files: the dead ones' become one, nothing is lost or counted twice, whoever is killed when."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from app.telemetry import metric_files

COUNTED = mmap_key("n", "n_total", ["kind"], ["a"], "help")
OBSERVED = mmap_key("h", "h_bucket", ["le"], ["1.0"], "help")
NO_PID = 4_194_304  # the kernel's highest is one less
LEFT = {"lock", "folded.json"}


def write(folder: Path, pid: int, amount: float, *, kinds: tuple[str, ...] = ("counter", "histogram")) -> None:
    for kind in kinds:
        values = MmapedDict(str(folder / f"{kind}_{pid}.db"))
        values.write_value(OBSERVED if kind == "histogram" else COUNTED, amount, 0.0)
        values.close()


def seen(folder: Path) -> tuple[float, float]:
    """What a scrape sees of the counter, and of the histogram."""
    with metric_files.counting(folder) as paths:
        found = metric_files.totals([path for path in paths if not path.name.startswith("gauge")])
    return found.get(COUNTED, 0.0), found.get(OBSERVED, 0.0)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def neighbour() -> Iterator[int]:
    """Pid of a process that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate(b"\n")


def test_two_hundred_deaths_leave_two_files_and_every_count(tmp_path: Path, neighbour: int) -> None:
    write(tmp_path, neighbour, 0.5)
    for number in range(200):
        write(tmp_path, NO_PID + number, 1.0)
        if number % 20 == 0:
            metric_files.tidy(tmp_path)
            assert seen(tmp_path) == (number + 1.5, number + 1.5)

    metric_files.tidy(tmp_path)

    assert seen(tmp_path) == (200.5, 200.5)
    folds = {path.name for path in tmp_path.glob("*_fold-*.db")}
    assert len(folds) == 2
    assert names(tmp_path) == LEFT | folds | {f"counter_{neighbour}.db", f"histogram_{neighbour}.db"}


def test_a_live_workers_files_are_left_alone(tmp_path: Path, neighbour: int) -> None:
    write(tmp_path, neighbour, 1.0, kinds=("counter", "histogram", "gauge_livesum"))
    before = names(tmp_path)

    metric_files.tidy(tmp_path)

    assert names(tmp_path) == before | {"lock"}
    assert metric_files.live_workers(tmp_path) == [neighbour]


def test_a_worker_does_not_go_on_with_the_files_of_one_that_had_its_pid(tmp_path: Path) -> None:
    write(tmp_path, os.getpid(), 3.0, kinds=("counter", "histogram", "gauge_livesum"))

    metric_files.tidy(tmp_path)

    assert not [name for name in names(tmp_path) if str(os.getpid()) in name]
    assert seen(tmp_path) == (3.0, 3.0)


def test_the_gauges_of_the_dead_go(tmp_path: Path) -> None:
    write(tmp_path, NO_PID, 3.0, kinds=("gauge_livesum", "gauge_all"))

    metric_files.tidy(tmp_path)

    assert names(tmp_path) == {"lock"}
    assert metric_files.live_workers(tmp_path) == []


def test_a_fold_that_was_broken_off_anywhere_changes_no_total(tmp_path: Path) -> None:
    """Each state that a killed worker can leave: the next scrape is right, and so is the next fold."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    write(before, NO_PID, 1.0)
    metric_files.tidy(before)
    write(before, NO_PID + 1, 2.0)
    shutil.copytree(before, after)
    metric_files.tidy(after)
    state = json.loads((after / "folded.json").read_text())
    sources = [name for name in names(before) if name.endswith(f"_{NO_PID + 1}.db")]
    told = json.dumps({**state, "sources": sources})

    states = {
        "half written": ([f"counter_fold-{state['number']}.db"], None),
        "not told": ([f"{kind}_fold-{state['number']}.db" for kind in ("counter", "histogram")], None),
        "told": ([f"{kind}_fold-{state['number']}.db" for kind in ("counter", "histogram")], told),
    }
    for name, (made, text) in states.items():
        folder = tmp_path / name
        shutil.copytree(before, folder)
        for file in made:
            shutil.copy(after / file, folder / file)
        if text is not None:
            (folder / "folded.json").write_text(text)
        assert seen(folder) == (3.0, 3.0), name
        metric_files.tidy(folder)
        assert seen(folder) == (3.0, 3.0), name
        assert len(list(folder.glob("*.db"))) == 2, name

        # A later worker may get that pid; what it counts is new.
        write(folder, NO_PID + 1, 4.0)
        assert seen(folder) == (7.0, 7.0), name


def test_a_file_that_cannot_be_read_takes_nothing_else_along(tmp_path: Path) -> None:
    write(tmp_path, NO_PID, 1.0)
    (tmp_path / f"counter_{NO_PID + 1}.db").write_bytes(b"\xff" * 64)
    (tmp_path / f"counter_{NO_PID + 2}.db").touch()

    assert seen(tmp_path) == (1.0, 1.0)
    metric_files.tidy(tmp_path)

    assert seen(tmp_path) == (1.0, 1.0)


def test_a_scrape_and_a_fold_do_not_meet(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from app.telemetry import metric_files\n"
        "try: metric_files.tidy(Path(sys.argv[1]))\n"
        "except metric_files.FolderBusyError: print('busy')"
    )
    write(tmp_path, NO_PID, 1.0)

    def fold() -> str:
        argv = [sys.executable, "-c", script, str(tmp_path)]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    with metric_files.counting(tmp_path):
        assert fold() == "busy"
        assert (tmp_path / f"counter_{NO_PID}.db").exists()
    assert fold() == ""
    assert seen(tmp_path) == (1.0, 1.0)
    assert not (tmp_path / f"counter_{NO_PID}.db").exists()
