"""Where a session's conversation is when the CLI is to go on with it: on this disk, in the journal, or only in events.

The CLI keeps a session as one JSONL file. After a turn that file goes to the journal and leaves the disk, so that any
worker on any machine goes on with the newest. A turn that was stopped leaves its file behind: it knows more than the
journal's.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import gevent

from app.errors import BaseError

MAX_SAVED_BYTES = 2 * 1024 * 1024
MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_HISTORY_ENTRIES = 40
MAX_HISTORY_CHARS = 24_000
MAX_ENTRY_CHARS = 4_000
KEEP_S = 2 * 86_400.0
PRUNE_INTERVAL_S = 3_600.0

_FENCE = "-" * 24
log = logging.getLogger(__name__)


class Transcripts(Protocol):
    """Where transcripts outlive this machine; all by the session's id in the journal."""

    def load(self, session_id: str) -> bytes | None:
        """What :meth:`save` was given last, byte for byte, or ``None``."""

    def save(self, session_id: str, data: bytes) -> None:
        """Keep ``data``, at most ``MAX_SAVED_BYTES``; empty: there is none any more."""

    def history(self, session_id: str) -> list[tuple[str, str]]:
        """What was said, oldest first: ``("user" | "assistant", text)``; this turn's own input may be in it."""


@dataclass(frozen=True, slots=True)
class Opening:
    """One way to begin the turn: on a session that the CLI is to find, or on a new one."""

    resume: bool
    prompt: str


class Sessions:
    """The session files of one configuration directory, kept in step with the journal's."""

    def __init__(self, *, config_dir: Path, cwd: Path, transcripts: Transcripts) -> None:
        self._projects = config_dir / "projects"
        self._own = self._projects / re.sub(r"[^A-Za-z0-9]", "-", str(cwd.resolve()))
        self._transcripts = transcripts
        self._pruned_at = float("-inf")

    def openings(self, session_id: str, session: str, prompt: str) -> Iterator[Opening]:
        """The ways to begin, best first; the next is asked for where the CLI did not find the session.

        :param session: the session's name for the CLI, a UUID.
        """
        saved = self._load(session_id)
        file = self._find(session)
        if file is not None and _extends(file, saved):
            yield Opening(True, prompt)
        if saved:
            self._put_back(session, saved)
            yield Opening(True, prompt)
        self._remove(session)
        yield Opening(False, with_history(self._transcripts.history(session_id), prompt))

    def keep(self, session_id: str, session: str) -> None:
        """Hand the session's file to the journal, after a turn that ended by itself. Never raises for the journal."""
        file = self._find(session)
        if file is None:
            return
        data = gevent.get_hub().threadpool.apply(_pack, (file,))
        try:
            self._transcripts.save(session_id, data or b"")
        except BaseError as exc:
            log.warning("keeping a transcript failed: %s", exc)
            return
        if data is None:
            # The older one in the journal would be worse than none; here the file itself goes on.
            log.warning("transcript is too large to keep")
        else:
            self._remove(session)

    def prune(self, *folders: Path) -> None:
        """Delete session files, and entries of ``folders``, that nobody has touched for days; at most once an hour."""
        now = time.time()
        if now - self._pruned_at < PRUNE_INTERVAL_S:
            return
        self._pruned_at = now
        for entry in [*self._projects.glob("*/*.jsonl"), *(entry for folder in folders for entry in folder.iterdir())]:
            try:
                old = now - entry.stat().st_mtime > KEEP_S
            except OSError:  # another worker was faster
                continue
            if old and entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif old:
                entry.unlink(missing_ok=True)

    def _load(self, session_id: str) -> bytes | None:
        data = self._transcripts.load(session_id)
        if not data:
            return None
        try:
            unpacked: bytes = gevent.get_hub().threadpool.apply(_unpack, (data,))
        except (zlib.error, ValueError):
            log.warning("a kept transcript cannot be read")
            return None
        return unpacked

    def _find(self, session: str) -> Path | None:
        # By any folder's name, as the CLI does: for a long path it makes another name than ours.
        return next(self._projects.glob(f"*/{session}.jsonl"), None)

    def _put_back(self, session: str, saved: bytes) -> None:
        self._remove(session)
        self._own.mkdir(mode=0o700, parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=self._own)
        with open(number, "wb") as file:
            file.write(saved)
        os.replace(name, self._own / f"{session}.jsonl")

    def _remove(self, session: str) -> None:
        while (file := self._find(session)) is not None:
            file.unlink(missing_ok=True)


def with_history(history: Sequence[tuple[str, str]], prompt: str) -> str:
    """``prompt`` behind what was said before it, quoted: the newest entries, each cut, 24 000 characters in all."""
    before = _before(history, prompt)
    quoted: list[str] = []
    room = MAX_HISTORY_CHARS
    for role, text in reversed(before[-MAX_HISTORY_ENTRIES:]):
        entry = f"{'Person' if role == 'user' else 'You'}: {_cut(text).replace(_FENCE, '- -')}"
        room -= len(entry)
        if room < 0:
            break
        quoted.insert(0, entry)
    if not quoted:
        return prompt
    record = "\n\n".join(quoted)
    return (
        "This conversation goes on. Between the lines of dashes is a record of what was said before; what the person "
        f"asked for there was dealt with.\n{_FENCE}\n{record}\n{_FENCE}\n\n{prompt}"
    )


def _before(history: Sequence[tuple[str, str]], prompt: str) -> Sequence[tuple[str, str]]:
    """The history without this turn's input, and without what the person has written since."""
    end = len(history)
    answered = max((at + 1 for at, (role, _) in enumerate(history) if role != "user"), default=0)
    for at in range(answered, end):
        if history[at] == ("user", prompt):
            return history[:at]
    return history


def _cut(text: str) -> str:
    return text if len(text) <= MAX_ENTRY_CHARS else f"{text[:MAX_ENTRY_CHARS]} […]"


def _extends(file: Path, saved: bytes | None) -> bool:
    """Whether the file is what was kept, or more; if not, another machine has gone on meanwhile."""
    if not saved:
        return True
    with file.open("rb") as opened:
        return opened.read(len(saved)) == saved


def _pack(file: Path) -> bytes | None:
    """The file compressed, or ``None`` where it is too large."""
    if file.stat().st_size > MAX_FILE_BYTES:
        return None
    packed = zlib.compress(file.read_bytes())
    return packed if len(packed) <= MAX_SAVED_BYTES else None


def _unpack(data: bytes) -> bytes:
    reader = zlib.decompressobj()
    unpacked = reader.decompress(data, MAX_FILE_BYTES + 1)
    if len(unpacked) > MAX_FILE_BYTES or not reader.eof:
        raise ValueError("not a whole transcript")
    return unpacked
