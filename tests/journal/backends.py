"""The stores that the contract tests run on; another backend is one more entry in ``BACKENDS``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.journal import Journal
from app.journal.sqlite import SqliteJournal


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


BACKENDS: dict[str, Callable[[Path], AbstractContextManager[Backend]]] = {"sqlite": sqlite}
