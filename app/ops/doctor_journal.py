"""Whether the journal opens, takes a write, is whole, and has room."""

from __future__ import annotations

from collections.abc import Iterator

from app.errors import BaseError
from app.journal.backends import OpenableJournal, make_journal
from app.journal.sqlite_health import look
from app.ops.doctor_findings import Examination, Finding
from app.settings import GIB, check_place

NAME = "journal"
LOOK_S = 10.0
FREE_NEEDED, FREE_WANTED = 100 * 1024**2, GIB
_PLACE = "Correct JOURNAL_PATH, or the rights of its folder and the space of its disk."
_REDIS = "Correct REDIS_URL, or look at the server: its memory, its disk, its rights for this user."
_BROKEN = "Stop the bridge, keep a copy of the file, and put back a copy of before (or let it make a new one)."


def check_journal(examination: Examination) -> Iterator[Finding]:
    settings = examination.settings
    journal, path = make_journal(settings), settings.journal_path
    if settings.redis_url:
        yield from _check_redis(examination, journal)
        return
    try:
        check_place(path)
        if not path.exists():
            examination.lacks["journal"] = "there is no journal yet"
            yield Finding(NAME, "note", f"none yet at {path}; the bridge makes it when it starts")
            return
        journal.open()
    except BaseError as exc:
        examination.lacks["journal"] = "the journal cannot be opened"
        yield Finding(NAME, "problem", exc.detail, _PLACE)
        return
    examination.journal = journal
    try:
        journal.check()
    except BaseError as exc:
        examination.lacks["journal"] = "the journal takes no writes"
        yield Finding(NAME, "problem", f"it opens and takes no write: {exc.detail}", _PLACE)
        return
    health = look(path, limit_s=LOOK_S)
    if health.wrong:
        examination.lacks["journal"] = "the journal's file is damaged"
        yield Finding(NAME, "problem", f"its file is damaged: {health.wrong}", _BROKEN)
        return
    free = f"{_text(health.free_bytes)} free on its disk"
    if health.free_bytes < FREE_NEEDED:
        yield Finding(NAME, "problem", free, "Make room: a bridge that cannot write takes nothing.")
    elif health.free_bytes < FREE_WANTED:
        yield Finding(NAME, "note", free, "Make room, or lower JOURNAL_RETENTION_DAYS.")
    whole = "whole" if health.whole else f"no fault found within {LOOK_S:g} s"
    yield Finding(NAME, "ok", f"{path}: {_text(health.size_bytes)}, takes writes, {whole}, {free}")


def _check_redis(examination: Examination, journal: OpenableJournal) -> Iterator[Finding]:
    place = examination.settings.journal_place
    try:
        journal.open()
    except BaseError as exc:
        examination.lacks["journal"] = "the journal cannot be opened"
        yield Finding(NAME, "problem", f"{place}: {exc.detail}", _REDIS)
        return
    examination.journal = journal
    try:
        journal.check()
    except BaseError as exc:
        examination.lacks["journal"] = "the journal takes no writes"
        yield Finding(NAME, "problem", f"{place} answers and takes no write: {exc.detail}", _REDIS)
        return
    for warning in journal.warnings:
        yield Finding(NAME, "note", warning, "Correct the server's configuration; docs/journal.md says how.")
    yield Finding(NAME, "ok", f"{place} takes writes")


def _text(size_bytes: int) -> str:
    for unit, size in (("GiB", GIB), ("MiB", 1024**2)):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes // 1024} KiB"
