"""The journal in Redis or Valkey, for several machines: each write is one function call there, with Redis' clock.

What the functions do is in ``redis_functions.lua``, how they are reached in :mod:`app.journal.redis_link`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from app.errors import JournalUnavailableError
from app.journal import (
    PAGE_BYTES,
    Change,
    Claim,
    Committed,
    Document,
    Event,
    Hold,
    Input,
    Lease,
    Limit,
    Session,
    Watch,
    Watcher,
    redis_health,
    tally,
)
from app.journal.encoded import prepare
from app.journal.redis_change import (
    change_args,
    committed,
    lease_args,
    limit_args,
    microseconds,
    moment,
    optional,
    several,
    text,
    texts,
    time_of,
)
from app.journal.redis_link import TIMEOUT_S, Arg, RedisLink
from app.journal.redis_wakeups import RedisWakeups

SEQ_MAX = 2**53


class RedisJournal:
    """See :class:`app.journal.Journal`. Belongs to the loop that opened it; one per worker process."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "bridge",
        opened: bool = True,
        complete: Callable[[Change], Change] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """
        :param prefix: of all keys; journals with others do not see each other.
        :param opened: ``False`` touches nothing before :meth:`open`. Raises as that does.
        :param complete: gives each change to commit what else belongs into it.
        :param timeout_s: for a connection, and for an answer.
        """
        self._link = RedisLink(url, prefix, timeout_s=timeout_s)
        self._wakeups = RedisWakeups(self._link)
        self._complete = complete
        self._closed = True
        self.warnings: Sequence[str] = ()
        if opened:
            self.open()

    def open(self) -> None:
        """Connect and begin.

        :raises ConfigError: ``REDIS_URL`` cannot be used. :raises JournalUnavailableError: not now.
        """
        self.warnings = redis_health.warnings(self._link.open())
        self._wakeups.start()
        self._closed = False

    @property
    def groups(self) -> int:
        """How many groups of writes this process has sent."""
        return self._link.groups

    # -- writes

    def commit(self, change: Change) -> Committed:
        if self._complete is not None:
            change = self._complete(change)
        result = committed(change, self._write("commit", *change_args(prepare(change))))
        if not result.duplicate:
            tally.count(change)
        return result

    def claim(self, holder: str, *, ttl_s: float, but: Collection[str] = ()) -> Claim | None:
        unwanted = several(list(but), lambda session_id: [text(session_id)])
        outcome, *told = self._write("claim", text(holder), microseconds(ttl_s), *unwanted)
        if outcome != b"ok":
            return None
        found = _input(told[1:])
        return Claim(found, Lease(f"session:{found.session_id}", holder, int(told[0])))

    def acquire(self, name: str, holder: str, *, ttl_s: float) -> Lease | None:
        outcome, *told = self._write("acquire", text(name), text(holder), microseconds(ttl_s))
        return Lease(name, holder, int(told[0])) if outcome == b"ok" else None

    def renew(self, leases: Iterable[Lease], *, ttl_s: float) -> set[Lease]:
        wanted = list(leases)
        if not wanted:
            return set()
        _, *lost = self._write("renew", microseconds(ttl_s), *several(wanted, lease_args))
        return {wanted[int(index)] for index in lost}

    def release(self, lease: Lease) -> None:
        self._write("release", *lease_args(lease))

    def hit(self, limit: Limit) -> float:
        return int(self._write("hit", *limit_args(limit))[1]) / 1_000_000

    def take_hit(self, limit: Limit) -> bool:
        return self._write("take_hit", *limit_args(limit))[0] == b"ok"

    def sleep(
        self, session_ids: Sequence[str], *, idle_before: datetime, unless: Sequence[Hold] = (), at_most: int = 1000
    ) -> list[str]:
        holds = several(unless, lambda hold: [text(hold.kind), text(hold.prefix)])
        _, *slept = self._write("sleep", *texts(session_ids), moment(idle_before), *holds, at_most)
        return [_text(session_id) for session_id in slept]

    def forget(self, *, before: datetime) -> int:
        return int(self._write("forget", moment(before))[1])

    def remove(self, session_id: str, *, limit: int) -> bool:
        return self._write("remove", text(session_id), limit)[1] == b"1"

    def trim(self, session_id: str, *, before: datetime, keep_from: int | None = None, limit: int) -> int:
        return int(self._write("trim", text(session_id), moment(before), *optional(keep_from), limit)[1])

    # -- reads

    def events(self, session_id: str, *, after: int = 0, limit: int = 200, types: Sequence[str] = ()) -> list[Event]:
        behind = min(max(after, 0), SEQ_MAX)
        rows = self._link.read("events", text(session_id), behind, limit, PAGE_BYTES, *texts(types))
        return [
            Event(session_id, int(seq), kind.decode(), frame.decode())
            for seq, kind, frame in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        ]

    def session(self, session_id: str) -> Session | None:
        row = self._link.read("session", text(session_id))
        return _session(row) if row else None

    def sessions(self, *, limit: int = 100, state: str | None = None) -> list[Session]:
        return [_session(row) for row in self._link.read("sessions", limit, *optional(state))]

    def idle_sessions(
        self, *, limit: int, before: datetime | None = None, after: Session | None = None
    ) -> list[Session]:
        return [_session(row) for row in self._link.read("idle_sessions", limit, *_page(before, after))]

    def live_sessions(self) -> int:
        return int(self._link.read("live_sessions")[0])

    def pending(self, session_id: str) -> list[Input]:
        return [_input(row) for row in self._link.read("pending", text(session_id))]

    def get(self, kind: str, key: str) -> Document | None:
        row = self._link.read("get", text(kind), text(key))
        return _document(kind, row) if row else None

    def find(self, kind: str, group: str = "", *, limit: int = 100, before: datetime | None = None) -> list[Document]:
        bound = optional(moment(before) if before else None)
        rows = self._link.read("find", text(kind), text(group), limit, *bound)
        return [_document(kind, row) for row in rows]

    def held(self, name: str) -> bool:
        return bool(self._link.read("held", text(name))[0] == b"1")

    def find_stale(
        self, kind: str, *, before: datetime, limit: int = 100, after: Document | None = None
    ) -> list[Document]:
        since = optional(moment(after.updated_at) if after else None)
        past = optional(after.key if after else None)
        rows = self._link.read("find_stale", text(kind), moment(before), limit, *since, *past)
        return [_document(kind, row) for row in rows]

    def closed_sessions(self, *, before: datetime, limit: int = 100, after: Session | None = None) -> list[Session]:
        return [_session(row) for row in self._link.read("closed_sessions", limit, *_page(before, after))]

    def aged_sessions(self, *, before: datetime, limit: int = 100) -> list[str]:
        return [_text(session_id) for session_id in self._link.read("aged_sessions", limit, moment(before))]

    # -- the rest

    def watch(self, *topics: str) -> AbstractContextManager[Watch]:
        return self._wakeups.watch(*topics)

    def add_watcher(self, watcher: Watcher, *topics: str) -> None:
        self._wakeups.add_watcher(watcher, *topics)

    def remove_watcher(self, watcher: Watcher, *topics: str) -> None:
        self._wakeups.remove_watcher(watcher, *topics)

    def check(self) -> None:
        self._write("check")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._link.close()
            self._wakeups.stop()

    def _write(self, operation: str, *args: Arg) -> list[bytes]:
        try:
            topics, reply = self._link.write(operation, *args)
        except JournalUnavailableError:
            self._wakeups.doubt()
            raise
        self._wakeups.wake_local(topics)
        return reply


def _page(before: datetime | None, after: Session | None) -> list[Any]:
    since = optional(moment(after.last_active_at) if after else None)
    return [*optional(moment(before) if before else None), *since, *optional(after.session_id if after else None)]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def _session(row: list[bytes]) -> Session:
    session_id, token_hash, state, created_at, last_active_at, first_seq, last_seq = row
    known: Any = _text(state)
    began, used = time_of(created_at), time_of(last_active_at)
    return Session(_text(session_id), _text(token_hash), known, began, used, int(first_seq), int(last_seq))


def _input(row: list[bytes]) -> Input:
    input_id, session_id, kind, seq, key, turn_id, started_seq, takeovers, cancelled = row
    known: Any = _text(kind)
    return Input(
        input_id=int(input_id),
        session_id=_text(session_id),
        kind=known,
        seq=int(seq),
        key=_text(key),
        turn_id=_text(turn_id) or None,
        started_seq=int(started_seq),
        takeovers=int(takeovers),
        cancelled=cancelled == b"1",
    )


def _document(kind: str, row: list[bytes]) -> Document:
    key, version, created_at, updated_at, body = row
    return Document(kind, _text(key), int(version), json.loads(body), time_of(created_at), time_of(updated_at))
