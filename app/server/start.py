"""The start: the settings as a child has checked them, and how a start that cannot be is refused."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, NoReturn

from .children import SETTINGS_LIMIT_S, last_line, run_child
from .kept import Kept

CHECKING = bool({"--check-config", "--print-config"} & set(sys.argv))  # for a person: nothing is served or logged


def refuse_start(reason: str) -> NoReturn:
    if CHECKING:
        print(reason, file=sys.stderr)
    else:
        logging.getLogger("app.settings").critical("%s", reason)
    sys.exit(1)


def checked_settings(kept: Kept) -> dict[str, Any]:
    """The checked settings, as ``python -m app.settings`` prints them; where they are wrong the start ends here."""
    code, out, err = run_child(sys.executable, "-m", "app.settings", limit_s=SETTINGS_LIMIT_S)
    if code == 0:
        kept.settings = json.loads(out)
    elif not hasattr(kept, "settings"):
        refuse_start(last_line(err))
    # else: they went bad between a reload's check and the reload; the master goes on with the last good ones.
    return kept.settings
