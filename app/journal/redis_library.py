"""The functions that Redis runs for the journal, under a name that is their text's own.

Workers of two versions of the bridge may be at work at once: each calls the library that it was written for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

_TEXT = Path(__file__).with_name("redis_functions.lua").read_text(encoding="utf-8")
PREFIX = "bridge_"
NAME = PREFIX + hashlib.sha256(_TEXT.encode()).hexdigest()[:12]
KEPT_MAX = 8
"""Libraries that may stay; beyond it all others go, and a worker that still needs one loads it again."""


def source(name: str = NAME, text: str = _TEXT) -> str:
    return f"#!lua name={name}\nlocal NAME = '{name}'\n{text}"


def load(client: Any) -> None:
    """Load it, and see to it that old ones do not pile up."""
    client.function_load(source(), replace=True)
    known = client.execute_command("FUNCTION", "LIST", "LIBRARYNAME", PREFIX + "*")
    names = _names(known)
    if len(names) > KEPT_MAX:
        for name in names - {NAME}:
            try:
                client.function_delete(name)
            except ResponseError:
                continue  # another worker has


def is_missing(error: ResponseError) -> bool:
    return "Function not found" in str(error)


def _names(listed: Any) -> set[str]:
    """The names in a ``FUNCTION LIST``: a list of flat lists or of maps, or one per node."""
    found: set[str] = set()
    if isinstance(listed, dict) and not ({b"library_name", "library_name"} & listed.keys()):
        return found.union(*(_names(one) for one in listed.values()))
    for one in listed:
        pairs = one if isinstance(one, dict) else dict(zip(one[::2], one[1::2], strict=True))
        name = pairs.get(b"library_name", pairs.get("library_name"))
        found.add(name.decode() if isinstance(name, bytes) else str(name))
    return found
