"""Programs that the master runs and waits for: within a time, and never beyond its own end."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[2]  # the project
SETTINGS_LIMIT_S = 20.0
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def run_child(
    *argv: str, limit_s: float, wanted: Callable[[], bool] = lambda: True, folder: Path = HERE
) -> tuple[int, str, str]:
    """Run a program in ``folder``; gives its exit code, stdout and stderr.

    It ends early, with code -1, when the time is up or it is not ``wanted`` any more.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        child = subprocess.Popen(argv, cwd=folder, process_group=0, preexec_fn=end_with_parent, **streams)
        deadline = time.monotonic() + limit_s
        while child.poll() is None:
            if time.monotonic() > deadline or not wanted():
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return -1, "", f"took more than {limit_s:g} s"
            time.sleep(0.01)
        for stream in (out, err):
            stream.seek(0)
        return child.returncode, out.read().decode(), err.read().decode(errors="replace")


def end_with_parent() -> None:
    """In a child: be killed when the parent is, for nobody else would know of it."""
    if libc is not None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
