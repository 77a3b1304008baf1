"""The functions that Redis runs for the journal, under a name that is their text's own.

Workers of two versions of the bridge may be at work at once: each calls the library that it was written for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

_TEXT = Path(__file__).with_name("redis_functions.lua").read_text(encoding="utf-8")
PREFIX = "bridge_"
NAME = PREFIX + hashlib.sha256(_TEXT.encode()).hexdigest()[:12]
LOAD = ("FUNCTION", "LOAD", "REPLACE", f"#!lua name={NAME}\nlocal NAME = '{NAME}'\n{_TEXT}")
KEPT_MAX = 8
"""Libraries that may stay; beyond it all others go, and a worker that still needs one loads it again."""


def is_missing(error: ResponseError) -> bool:
    return "Function not found" in str(error)


def tidy(call: Callable[[tuple[str, ...]], Any]) -> None:
    """See to it that those of old versions do not pile up.

    :param call: sends a command and returns its answer.
    """
    listed = call(("FUNCTION", "LIST", "LIBRARYNAME", PREFIX + "*"))
    names = {one[one.index(b"library_name") + 1].decode() for one in listed}
    for name in names - {NAME} if len(names) > KEPT_MAX else ():
        try:
            call(("FUNCTION", "DELETE", name))
        except ResponseError:
            continue  # another worker has
