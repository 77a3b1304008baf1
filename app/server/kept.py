"""What outlives a reload: ``gunicorn.conf.py`` makes it once, and hands it to whoever needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Kept(Protocol):
    """:ivar settings: the last good ones, as ``python -m app.settings`` prints them.
    :ivar lock_fd: of the file whose lock keeps log lines apart.
    :ivar served_fd: of a file that all workers share; not empty: one of them has come up.
    :ivar dropped_fd: of the file that counts the log lines which the master dropped.
    :ivar metrics_lock_fd: keeps ``metrics_folder`` ours.
    :ivar folder: of the project that is served; a reload may have brought another one.
    :ivar notify_socket: where systemd waits to be told that the bridge serves; empty: nobody waits (any more).
    :ivar own_metrics_folder: the same, where it goes with the server; else it is not there.
    """

    settings: dict[str, Any]
    lock_fd: int
    served_fd: int
    dropped_fd: int
    folder: str
    notify_socket: str
    metrics_folder: Path
    metrics_lock_fd: int | None
    own_metrics_folder: Path
