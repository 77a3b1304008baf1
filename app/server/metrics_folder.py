"""Where the workers keep their metrics: found or made by the master, and locked for as long as any of them lives."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from .kept import Kept
from .start import refuse_start

METRICS_PREFIX = "bridge-metrics-"
METRICS_ROOM_BYTES = 32 * 1024**2  # a full tmpfs would kill whoever writes to a mapped file of it


def open_locked(folder: Path) -> int | None:
    """A descriptor that keeps ``folder`` ours until the last process that has it ends; ``None``: it is another's."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(folder)):  # else it was removed in between
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def make_metrics_folder(kept: Kept) -> Path:
    """Where the workers keep their metrics, over reloads: an operator's PROMETHEUS_MULTIPROC_DIR, else one of our own.

    Its lock is held by this master and its workers. Pids would not tell: other containers have their own.
    """
    given = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
    if given and not Path(given).name.startswith(METRICS_PREFIX):  # else it is that of a server that started this one
        folder = Path(given).absolute()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            kept.metrics_lock_fd = open_locked(folder)
            if kept.metrics_lock_fd is not None:
                for left in (
                    *folder.glob("*.db"),
                    *folder.glob("folded.json*"),
                    *folder.glob("vitals"),
                    *folder.glob("task-protection"),
                ):
                    left.unlink()
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            refuse_start("PROMETHEUS_MULTIPROC_DIR: must be the path of a folder that can be written")
        return folder
    memory = Path("/dev/shm")  # noqa: S108 - what is made in it is mkdtemp's, ours alone
    parent = memory if has_room(memory) else Path(tempfile.gettempdir())
    for left in parent.glob(f"{METRICS_PREFIX}*"):  # of a master that was killed
        with suppress(OSError):
            if left.lstat().st_uid == os.geteuid() and (fd := open_locked(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(fd)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=METRICS_PREFIX, dir=parent))
        kept.metrics_lock_fd = open_locked(folder)
        if kept.metrics_lock_fd is not None:
            kept.own_metrics_folder = folder
            return folder


def has_room(folder: Path) -> bool:
    try:
        there = os.statvfs(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK) and there.f_bavail * there.f_frsize >= METRICS_ROOM_BYTES
