"""What a lock pins: names and versions, whatever machine they are for."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
RUN, DEV = PROJECT / "requirements.lock", PROJECT / "requirements-dev.lock"
ALL = sorted(PROJECT.glob("requirements*.lock"))
"""Those of the tools that check terraform/ and ansible/, too."""
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)", re.MULTILINE)


def pins(lock: Path) -> list[tuple[str, str]]:
    """Names and versions, in the lock's order; a name comes twice where versions of Python get different ones."""
    return _PIN.findall(lock.read_text())


def names(lock: Path) -> list[str]:
    """Each name once."""
    return list(dict(pins(lock)))
