"""What systemd is told (``Type=notify``): that the bridge serves, and not before."""

from __future__ import annotations

import os
from typing import Any

from gunicorn import systemd

SOCKET = "NOTIFY_SOCKET"


def take_socket() -> str:
    """The address to tell it at, empty where there is none.

    It is taken out of the environment: gunicorn would say ready when it listens, before any worker has come up, and
    children have nothing to say to a service manager.
    """
    return os.environ.pop(SOCKET, "")


def tell_ready(address: str, log: Any) -> None:
    os.environ[SOCKET] = address
    systemd.sd_notify("READY=1\nSTATUS=serving", log, unset_environment=True)
