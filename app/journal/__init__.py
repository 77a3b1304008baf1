"""The journal's interface: every session's events, and what is kept beside them; the only state that matters.

One write, :meth:`Journal.commit`, takes one :class:`Change` and makes all of it durable or none of it. Reads never wait
for a write. Both backends (``sqlite``, ``redis``) hold exactly this, and one contract test suite runs on both.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from app.errors import StaleDocumentError

Json = Mapping[str, Any]
InputKind = Literal["chat", "repair"]
PAGE_BYTES = 4 * 1_048_576


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event before it has a number. ``type`` and ``data`` are those of ``events.py``."""

    type: str
    data: Json
    turn_id: str | None = None
    request_id: str | None = None
    repair_id: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A durable event. ``frame`` is its wire form, made once, when it was journalled."""

    session_id: str
    seq: int
    type: str
    frame: str

    @property
    def body(self) -> dict[str, Any]:
        """The frame, decoded: ``type``, ``seq``, ``at``, ``data`` and the ids that apply."""
        decoded: dict[str, Any] = json.loads(self.frame)
        return decoded

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.body["data"]
        return data


@dataclass(frozen=True, slots=True)
class Session:
    """A chat that builds and owns workflows.

    :ivar state: ``live``; ``asleep`` (idle, out of the live set; wakes when used); ``closed`` (for good).
    :ivar first_seq: lowest number still kept (1 before any trimming).
    :ivar last_seq: highest number given; 0 for a new session.
    """

    session_id: str
    token_hash: str
    state: Literal["live", "asleep", "closed"]
    created_at: datetime
    last_active_at: datetime
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class NewInput:
    """Something a turn must answer.

    :ivar kind: which sort of turn.
    :ivar event: index into the change's events of the event that is answered, or ``None`` with ``seq`` set.
    :ivar seq: number of an older event that is answered (a person's ``retry_repair``).
    :ivar key: what the turn works on: a repair id; empty for chat.
    :ivar delay_s: not before so many seconds from now.
    """

    kind: InputKind
    event: int | None = 0
    seq: int | None = None
    key: str = ""
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Input:
    """An unanswered input.

    :ivar turn_id: the turn that was begun for it and has not ended, else ``None``.
    :ivar started_seq: number of that turn's ``turn_started``.
    :ivar takeovers: how many turns for it were lost with their worker.
    :ivar cancelled: a person has asked to stop the turn in ``turn_id``.
    """

    input_id: int
    session_id: str
    kind: InputKind
    seq: int
    key: str
    turn_id: str | None
    started_seq: int
    takeovers: int
    cancelled: bool


@dataclass(frozen=True, slots=True)
class StartInput:
    """Marks ``input_id`` as being answered by ``turn_id``; ``takeovers`` is written as given.

    With ``turn_id=None`` the input is parked: free for anyone, and no takeover is counted for it.
    """

    input_id: int
    turn_id: str | None
    takeovers: int = 0


@dataclass(frozen=True, slots=True)
class Postpone:
    """Nobody claims ``input_id`` before ``delay_s`` seconds from now."""

    input_id: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Lease:
    """A right that runs out. ``epoch`` only grows, so a holder that was paused is refused afterwards."""

    name: str
    holder: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """An input to answer, and the lease (``session:<id>``) under which to do it."""

    input: Input
    lease: Lease


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON value beside the events. ``version`` counts its writes from 1."""

    kind: str
    key: str
    version: int
    body: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Put:
    """Write a document whole.

    :ivar groups: labels :meth:`Journal.find` lists it under; they replace the former ones.
    :ivar expect: version it must have now (0: it must not exist); ``None``: whatever it has.
    """

    kind: str
    key: str
    body: Json
    groups: tuple[str, ...] = ()
    expect: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a document, if it is there; ``expect`` as in :class:`Put`."""

    kind: str
    key: str
    expect: int | None = None


@dataclass(frozen=True, slots=True)
class Expect:
    """Nothing is written unless this document has this version (0: does not exist)."""

    kind: str
    key: str
    version: int


@dataclass(frozen=True, slots=True)
class Once:
    """An idempotency key: the first change that carries it happens, later ones find ``result``.

    Keys are kept until :meth:`Journal.forget`.
    """

    key: str
    result: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``limit`` hits (1 or more) of ``key`` within any ``window_s`` seconds (up to an hour); exact across
    processes. It may change between two hits of a key."""

    key: str
    limit: int
    window_s: float = 60.0


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Begin a session; refused with ``TooManySessionsError`` where ``max_live`` are live already."""

    token_hash: str
    max_live: int


@dataclass(frozen=True, slots=True)
class Activity:
    """The change's session is used now. One that sleeps is put among the live ones where fewer than ``max_live`` are.

    :ivar must_wake: the change is refused with ``TooManySessionsError`` where it cannot be; else it sleeps on.
    """

    max_live: int = 0
    must_wake: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """What keeps a session awake: any document of ``kind`` with the label ``prefix`` + its id."""

    kind: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic write. Checked first, in this order: once, fence, expects, session, limit, inputs; then all is
    written.

    :ivar session_id: the session whose log ``events`` go to; must be open unless nothing is appended.
    :ivar activity: see :class:`Activity`; with ``must_wake`` the session must be open.
    :ivar once: idempotency; where the key is known already nothing else is looked at.
    :ivar limit: counts this change as a hit, or refuses it with ``RateLimitError``; a refused change is no hit.
    :ivar fences: every one must be held, with its epoch, by its holder.
    :ivar add: inputs that are born with this change; at most ``max_pending`` of their kind may be unanswered after it.
    :ivar start: see :class:`StartInput`. ``answer``: the input that is answered for good.
    :ivar postpone: see :class:`Postpone`.
    :ivar cancel_turn: flags the input that this turn answers; ``StaleDocumentError`` where no such turn runs.
    :ivar drop_deltas: removes the session's ``assistant_delta`` events of these message ids.
    :ivar close_session: the session's last change: its inputs go, its state is ``closed``.
    :ivar wake: topics to wake besides those the change implies (``session:<id>`` for events, ``inputs`` for inputs).
    """

    session_id: str | None = None
    events: Sequence[NewEvent] = ()
    once: Once | None = None
    limit: Limit | None = None
    fences: Sequence[Lease] = ()
    expects: Sequence[Expect] = ()
    open_session: OpenSession | None = None
    activity: Activity | None = None
    add: NewInput | None = None
    max_pending: int | None = None
    start: StartInput | None = None
    answer: int | None = None
    postpone: Postpone | None = None
    cancel_turn: str | None = None
    puts: Sequence[Put] = ()
    deletes: Sequence[Delete] = ()
    drop_deltas: Sequence[str] = ()
    close_session: bool = False
    wake: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a change.

    :ivar seqs: numbers given to its events, in order.
    :ivar duplicate: its idempotency key was taken; nothing was written; ``result`` and ``seqs`` are the first one's
        (``seqs`` holds the first event's number only).
    """

    seqs: tuple[int, ...] = ()
    duplicate: bool = False
    result: Json = field(default_factory=dict)

    @property
    def seq(self) -> int:
        return self.seqs[0] if self.seqs else 0


NEVER = Expect("never", "never", 1)
"""A change that expects this writes nothing; what has taken its idempotency key is told before."""


class Watch(Protocol):
    """Wakes its one waiter when something on its topics was committed, by any process; at times without a reason, so
    who is woken looks.

    :ivar woken_by: the topics of all wake-ups that the last wait took. An empty text among them stands for any of them.
    """

    @property
    def woken_by(self) -> Set[str]: ...

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block this greenlet until woken (``True``) or until the time is up (``False``). Wake-ups while nobody waits
        are remembered as one."""

    def wake(self) -> None:
        """Wake the waiter from this process, for reasons the journal knows nothing of (a drain)."""


class Watcher(Protocol):
    """Is told of what was committed on its topics, as a :class:`Watch` is, without a greenlet that waits for it."""

    def wake(self, topic: str = "") -> None:
        """In the loop: neither waits nor raises, and leaves the watchers as they are.

        :param topic: empty where it may be any of them.
        """


class Journal(Protocol):
    """All methods are called from the worker's loop and block only their greenlet. Names, ids and keys are valid
    Unicode; what is shown to people may hold anything that JSON can.

    Each raises ``JournalUnavailableError`` when the backend cannot answer in time; then nothing was acknowledged.
    """

    def commit(self, change: Change) -> Committed:
        """Make ``change`` durable.

        :raises SessionNotFoundError: no open session ``change.session_id``.
        :raises LeaseLostError: a fence is not held any more.
        :raises StaleDocumentError: an expected version differs, an input is answered already, a turn does not run, or
            a session to open exists.
        :raises RateLimitError: over ``change.limit``; ``retry_after_s`` is long enough.
        :raises TooManyPendingError: ``max_pending`` exceeded. :raises TooManySessionsError: ``max_live`` are live.
        """

    def events(self, session_id: str, *, after: int = 0, limit: int = 200, types: Sequence[str] = ()) -> list[Event]:
        """Events with ``seq > after``, oldest first; of ``types`` only, where given.

        Fewer than there are come where they are large: an answer ends with the event that takes it over
        ``PAGE_BYTES``. An empty one means that there are none.
        """

    def session(self, session_id: str) -> Session | None: ...

    def sessions(self, *, limit: int = 100, state: str | None = None) -> list[Session]:
        """Open sessions, the most recently active first; ``state`` narrows them."""

    def idle_sessions(
        self, *, limit: int, before: datetime | None = None, after: Session | None = None
    ) -> list[Session]:
        """Live sessions without an unanswered input, the longest idle first.

        :param before: those used last before then. :param after: those that follow this one in the order.
        """

    def sleep(
        self, session_ids: Sequence[str], *, idle_before: datetime, unless: Sequence[Hold] = (), at_most: int = 1000
    ) -> list[str]:
        """Take sessions out of the live set, at most ``at_most``, in the order they are named; returns which.

        Looked at as they are in that moment: one stays that is not live, was used at ``idle_before`` or later, has an
        unanswered input, or is held by a document.
        """

    def live_sessions(self) -> int:
        """How many sessions are live; constant cost."""

    def pending(self, session_id: str) -> list[Input]:
        """The session's unanswered inputs, oldest first."""

    def get(self, kind: str, key: str) -> Document | None: ...

    def find(self, kind: str, group: str = "", *, limit: int = 100, before: datetime | None = None) -> list[Document]:
        """Documents of ``kind`` labelled ``group`` (all, where empty), newest created first."""

    def claim(self, holder: str, *, ttl_s: float, but: Collection[str] = ()) -> Claim | None:
        """Take the lease of a session that has a due input and no live lease; the least recently served goes first.

        :param but: sessions that are not wanted: a worker that was paused does not take over from itself.
        """

    def acquire(self, name: str, holder: str, *, ttl_s: float) -> Lease | None:
        """Take a lease that is free or expired, with a new epoch; ``None`` where anybody holds it, oneself too."""

    def renew(self, leases: Iterable[Lease], *, ttl_s: float) -> set[Lease]:
        """Let them run ``ttl_s`` from now; returns those that were lost."""

    def release(self, lease: Lease) -> None:
        """Give it back; nothing happens where it is not held."""

    def held(self, name: str) -> bool:
        """Whether anybody holds an unexpired lease of this name."""

    def forget(self, *, before: datetime) -> int:
        """Forget idempotency keys taken before ``before`` and hits of an hour ago, a bounded number of each, and the
        leases ``worker:…`` of workers gone for a day; returns how many keys."""

    # What is too old to keep. Each of these does a bounded part, so that no write waits long behind it.

    def find_stale(
        self, kind: str, *, before: datetime, limit: int = 100, after: Document | None = None
    ) -> list[Document]:
        """Documents of ``kind`` that nobody has written since ``before``, the longest unwritten first.

        :param after: those that follow this one in the order.
        """

    def closed_sessions(self, *, before: datetime, limit: int = 100, after: Session | None = None) -> list[Session]:
        """Closed sessions whose last event is older than ``before``, oldest first; ``after`` as above."""

    def remove(self, session_id: str, *, limit: int) -> bool:
        """Remove a closed session's events, at most ``limit``; the last time the session itself and its lease's epoch.
        Returns whether nothing of it is left. Documents stay."""

    def aged_sessions(self, *, before: datetime, limit: int = 100) -> list[str]:
        """Open sessions whose oldest event may be older than ``before``."""

    def trim(self, session_id: str, *, before: datetime, keep_from: int | None = None, limit: int) -> int:
        """Remove an open session's oldest events, at most ``limit`` and none from ``before`` on; returns how many.

        What an unanswered input or its turn needs stays, with all that came later; so does what begins at
        ``keep_from``. ``first_seq`` moves up. Where nothing can go, :meth:`aged_sessions` names the session again only
        when as much time has passed as between ``before`` and now.
        """

    def hit(self, limit: Limit) -> float:
        """Count a hit, or refuse it; returns the seconds until one more fits: 0 where it was counted.

        Sliding: a hit counts for exactly ``window_s``. A refused one writes nothing, and is told from a read alone.
        """

    def take_hit(self, limit: Limit) -> bool:
        """Take the newest hit that still counts back, whether there was one."""

    def watch(self, *topics: str) -> AbstractContextManager[Watch]:
        """Follow topics: ``session:<id>``, ``inputs``, or any name given in ``Change.wake``."""

    def add_watcher(self, watcher: Watcher, *topics: str) -> None:
        """Have ``watcher`` told of these topics, until it is removed from them."""

    def remove_watcher(self, watcher: Watcher, *topics: str) -> None:
        """Idempotent."""

    def check(self) -> None:
        """Raise ``JournalUnavailableError`` where a write would fail now. Writes nothing that lasts."""

    def close(self) -> None:
        """Finish what was accepted, then let go. Idempotent."""


def find_once(journal: Journal, key: str) -> Committed | None:
    """What came of the change that has taken this idempotency key; ``None``: none has. Writes nothing."""
    try:
        return journal.commit(Change(once=Once(key), expects=[NEVER]))
    except StaleDocumentError:
        return None
