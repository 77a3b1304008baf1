"""The stores that the contract tests run on; another backend is one more entry in ``BACKENDS``."""

from __future__ import annotations

import atexit
import functools
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.journal import Journal
from app.journal.redis import RedisJournal
from app.journal.sqlite import SqliteJournal
from tests.support.redis import RedisServer

PATIENCE_S = 5.0
"""For an answer of Redis, where the machine is busy with other tests; what is about the real one does not name it."""


@dataclass(frozen=True)
class Backend:
    """One empty store.

    :ivar open: a new handle on it; several handles are several workers.
    :ivar source: Python statements that bind ``journal`` to a handle, for another process.
    """

    open: Callable[[], Journal]
    source: str


@contextmanager
def sqlite(folder: Path) -> Iterator[Backend]:
    path = folder / "journal.db"
    source = (
        "from pathlib import Path\n"
        "from app.journal.sqlite import SqliteJournal\n"
        f"journal = SqliteJournal(Path({str(path)!r}))\n"
    )
    yield Backend(lambda: SqliteJournal(path), source)


@functools.cache
def redis_server() -> RedisServer:
    """One for all tests of this process; each has a prefix of its own."""
    server = RedisServer(appendfsync="everysec").start()
    atexit.register(server.close)
    return server


@contextmanager
def redis(folder: Path) -> Iterator[Backend]:
    url, prefix = redis_server().url, uuid.uuid4().hex
    made = f"RedisJournal({url!r}, prefix={prefix!r}, timeout_s={PATIENCE_S})"
    source = f"from app.journal.redis import RedisJournal\njournal = {made}\n"
    yield Backend(lambda: RedisJournal(url, prefix=prefix, timeout_s=PATIENCE_S), source)


BACKENDS: dict[str, Callable[[Path], AbstractContextManager[Backend]]] = {"sqlite": sqlite, "redis": redis}
