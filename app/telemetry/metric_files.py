"""The files that workers keep their metrics in: which of them count, and how those of dead workers become one.

Each worker writes ``counter_<pid>.db``, ``histogram_<pid>.db`` and ``gauge_livesum_<pid>.db`` (prometheus-client's
multiprocess mode) in a folder that gunicorn's master made and that outlives reloads. The library never removes counters
and histograms, which must not fall when a worker ends; over the reloads of months they would fill the folder and make
every scrape longer. So each new worker, before it has files itself, folds those of dead ones into one of each type.

``folded.json`` says which fold counts and which files are in it already; it is replaced in one step, so a worker that
is killed while it folds has either done it or not. A scrape holds the lock shared, a fold holds it alone: no scrape
sees a value twice, or misses one. A file is a live worker's as long as there is a process with its pid; a worker whose
pid was somebody's before finds that file dead, since it folds before it has one of its own.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gevent import monkey
from prometheus_client.mmap_dict import MmapedDict

LOCK_WAIT_S = 2.0
LOCK_LOOK_S = 0.005
_LOCK, _STATE = "lock", "folded.json"
_SUMMED = ("counter", "histogram")

log = logging.getLogger(__name__)
_read: Callable[[str], Iterable[tuple[str, float, float, int]]] = MmapedDict.read_all_values_from_file
_sleep_for_real: Callable[[float], None] = monkey.get_original("time", "sleep")


class FolderBusyError(Exception):
    """Another process held the lock all the time."""


@dataclass(frozen=True, slots=True)
class _State:
    """What was folded. ``number``: of the fold that counts; 0: none. ``sources``: files that are in it already."""

    number: int = 0
    sources: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def read(cls, folder: Path) -> _State:
        try:
            found = json.loads((folder / _STATE).read_bytes())
        except FileNotFoundError:
            return cls()
        return cls(int(found["number"]), frozenset(found["sources"]))

    def write(self, folder: Path) -> None:
        new = folder / f"{_STATE}.new"
        new.write_text(json.dumps({"number": self.number, "sources": sorted(self.sources)}))
        new.replace(folder / _STATE)

    def counts(self, name: str) -> bool:
        """Whether this file's values are to be added."""
        return name not in self.sources and (not _is_fold(name) or name.endswith(f"_fold-{self.number}.db"))


def folder() -> Path | None:
    """Where this process and the other workers keep their metrics; ``None`` where it keeps them in memory.

    The variable is prometheus-client's own, set by ``gunicorn.conf.py`` for whoever imports the library afterwards; no
    setting of the bridge.
    """
    path = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(path) if path else None


def tidy(folder: Path) -> None:
    """Fold what dead workers left. Called in a new worker before it makes a metric; blocks, briefly.

    :raises FolderBusyError: not now; the next worker does it. :raises OSError: the folder cannot be written.
    """
    with _locked(folder, fcntl.LOCK_EX, sleep=_sleep_for_real):
        state = _State.read(folder)
        for path in folder.glob("*.db"):
            # Left by one that was killed while it folded; and the gauges of whoever was killed with the master.
            if not state.counts(path.name) or (path.name.startswith("gauge_") and _is_dead(path)):
                path.unlink(missing_ok=True)
        dead = [path for path in folder.glob("*_*.db") if not _is_fold(path.name) and _is_dead(path)]
        if not dead and not state.sources:
            return
        new = _State(state.number + 1, frozenset(path.name for path in dead))
        for kind in _SUMMED:
            old = folder / f"{kind}_fold-{state.number}.db"
            sources = [path for path in (*dead, old) if path.name.startswith(f"{kind}_") and path.exists()]
            _write(folder / f"{kind}_fold-{new.number}.db", totals(sources))
        new.write(folder)  # from here on it has happened
        for path in (*dead, *(folder / f"{kind}_fold-{state.number}.db" for kind in _SUMMED)):
            path.unlink(missing_ok=True)
        _State(new.number).write(folder)


@contextmanager
def counting(folder: Path) -> Iterator[list[Path]]:
    """The files that count now, for as long as the block lasts; waits a moment for a fold.

    :raises FolderBusyError: the fold took too long.
    """
    with _locked(folder, fcntl.LOCK_SH, sleep=time.sleep):
        state = _State.read(folder)
        yield [path for path in folder.glob("*.db") if state.counts(path.name)]


def totals(paths: list[Path]) -> dict[str, float]:
    """The files' values, added up by the library's key (JSON: metric, sample, labels, help). Gauges too."""
    found: dict[str, float] = {}
    for path in paths:
        try:
            for key, value, _, _ in _read(str(path)):
                found[key] = found.get(key, 0.0) + value
        except FileNotFoundError:
            continue  # gauges go with their worker, without a lock
        except (struct.error, RuntimeError, ValueError):
            if path.stat().st_size:  # else it is being made just now
                log.warning("a metrics file cannot be read", extra={"file": path.name})
    return found


def live_workers(folder: Path) -> list[int]:
    """Pids of the workers that keep their metrics here and have not ended."""
    pids = (_pid(path) for path in folder.glob("gauge_live*_*.db"))
    return sorted({pid for pid in pids if pid is not None and _exists(pid)})


def dropped_by_master(folder: Path) -> int:
    """Log lines that gunicorn's master could not write; see ``logs.DirectHandler``."""
    try:
        return int.from_bytes((folder / "master-dropped").read_bytes()[:8], "little")
    except FileNotFoundError:
        return 0


@contextmanager
def _locked(folder: Path, how: int, *, sleep: Callable[[float], None]) -> Iterator[None]:
    """A lock that ends with its process. Asked for again and again: waiting in the kernel would stop the loop."""
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, how | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FolderBusyError from None
            sleep(LOCK_LOOK_S)
        yield
    finally:
        os.close(fd)


def _write(path: Path, values: dict[str, float]) -> None:
    path.unlink(missing_ok=True)
    made: Any = MmapedDict(str(path))  # type: ignore[no-untyped-call]  # the library has no type for it
    try:
        for key, value in values.items():
            made.write_value(key, value, 0.0)
    finally:
        made.close()


def _is_fold(name: str) -> bool:
    return "_fold-" in name


def _pid(path: Path) -> int | None:
    tail = path.stem.rpartition("_")[2]
    return int(tail) if tail.isdecimal() else None


def _is_dead(path: Path) -> bool:
    """Whether its worker has ended. This process has no files yet: one under its pid was another's."""
    pid = _pid(path)
    return pid is not None and (pid == os.getpid() or not _exists(pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # there is one; somebody else's
    return True
