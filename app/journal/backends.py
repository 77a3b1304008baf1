"""Which journal the settings name: SQLite on one machine, Redis or Valkey on several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from app.journal import Change, Journal
from app.journal.sqlite import SqliteJournal
from app.settings import Settings


class OpenableJournal(Journal, Protocol):
    """A journal as it is before it is opened.

    :ivar warnings: known once it is open: what may lose what it acknowledges, a sentence each.
    """

    warnings: Sequence[str]

    def open(self) -> None:
        """Begin.

        :raises ConfigError: its place cannot be used. :raises JournalUnavailableError: not now.
        """


def make_journal(settings: Settings, *, complete: Callable[[Change], Change] | None = None) -> OpenableJournal:
    """The journal, which touches nothing before it is opened.

    :param complete: gives each change to commit what else belongs into it.
    """
    if settings.redis_url:
        from app.journal.redis import RedisJournal  # its client takes an eighth of a worker's start to load

        return RedisJournal(settings.redis_url, prefix=settings.redis_prefix, opened=False, complete=complete)
    return SqliteJournal(settings.journal_path, opened=False, complete=complete)
