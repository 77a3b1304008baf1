"""What a worker is at, as its master sees it; which signals wait for their handlers; whether anything has served."""

from __future__ import annotations

import os
import signal

RETRY_START_S = 1.0
COMING_UP, SERVING, DRAINING = range(3)  # what a worker is at, as the length of the file that it shares with the master
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
EARLY_SIGNALS = {*STOP_SIGNALS, signal.SIGHUP}


def has_served(served_fd: int) -> bool:
    """Whether any worker, of any generation, has come up: it has written to this file, which all share."""
    return os.fstat(served_fd).st_size > 0
