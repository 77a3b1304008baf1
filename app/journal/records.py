"""The documents kept beside the events, typed: registrations, cases, repairs, snapshots, dead letters, connections.

Each record knows its kind, its key and its labels, so that nobody else spells them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Self

from app.errors import BusyError, StaleDocumentError
from app.journal import Delete, Document, Expect, Journal, Put
from app.journal.events import iso

Autonomy = Literal["observe", "suggest", "ask", "auto"]
AUTONOMIES: tuple[Autonomy, ...] = ("observe", "suggest", "ask", "auto")
"""From the least the bridge may do to the most."""
_BESIDE = ("version", "stored_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A document as a value: what a kind adds to these two fields is the document's body.

    :ivar version: the one it was read with; 0: not stored yet.
    """

    KIND: ClassVar[str]
    version: int = field(default=0, compare=False)
    stored_at: datetime | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        raise NotImplementedError(type(self).__name__)

    @property
    def labels(self) -> tuple[str, ...]:
        return ()

    @classmethod
    def of(cls, document: Document) -> Self:
        body = {name: document.body[name] for name in _body_names(cls) if name in document.body}
        return cls(**{**body, "version": document.version, "stored_at": document.created_at})

    @classmethod
    def get(cls, journal: Journal, key: str) -> Self | None:
        document = journal.get(cls.KIND, key)
        return cls.of(document) if document else None

    @classmethod
    def find(cls, journal: Journal, label: str = "", *, limit: int = 100) -> list[Self]:
        """Newest first."""
        return [cls.of(document) for document in journal.find(cls.KIND, label, limit=limit)]

    def put(self, **changes: Any) -> Put:
        """The write of this record with ``changes``, refused if somebody else wrote it since it was read."""
        new = replace(self, **changes)
        # Not ``asdict``, which copies all that is below: it is written out before anybody could change it.
        body = {name: getattr(new, name) for name in _body_names(self)}
        return Put(self.KIND, new.key, body, new.labels, self.version)

    def delete(self) -> Delete:
        return Delete(self.KIND, self.key, self.version)

    def unchanged(self) -> Expect:
        return Expect(self.KIND, self.key, self.version)


def _body_names(kind: type[Record] | Record) -> Iterator[str]:
    return (known.name for known in fields(kind) if known.name not in _BESIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration(Record):
    """Which session owns a workflow. Outlives the session's sockets by months."""

    KIND = "registration"
    workflow_id: str
    session_id: str
    name: str
    autonomy: Autonomy

    @property
    def key(self) -> str:
        return self.workflow_id

    @property
    def labels(self) -> tuple[str, ...]:
        return (f"session:{self.session_id}",)

    def public(self) -> dict[str, Any]:
        return {"workflowId": self.workflow_id, "name": self.name, "autonomy": self.autonomy}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Record):
    """One error signature of one workflow: how often it was seen and where its repair stands.

    :ivar state: ``open`` (a repair is queued, running or waiting), ``blocked`` (only a person's word starts another),
        ``closed``.
    :ivar attempts: repairs begun since the case was last good.
    :ivar outcome: how the last repair ended, as the metric's label values.
    :ivar closed_at_s: epoch seconds of that.
    """

    KIND = "case"
    workflow_id: str
    signature: str
    state: Literal["open", "blocked", "closed"] = "closed"
    repair_id: str = ""
    attempts: int = 0
    count: int = 0
    outcome: str = ""
    closed_at_s: float = 0.0
    diagnosis: str = ""

    @property
    def key(self) -> str:
        return f"{self.workflow_id}:{self.signature}"

    @property
    def labels(self) -> tuple[str, ...]:
        return (f"workflow:{self.workflow_id}",)


RepairState = Literal[
    "queued",
    "retrying",
    "running",
    "trying",
    "restoring",
    "waiting",
    "publishing",
    "published",
    "rejected",
    "expired",
    "unverified",
    "failed",
    "not_a_bug",
    "rolled_back",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair(Record):
    """The work on one broken workflow, from the error to its end. ``repairs/states.py`` has the states.

    :ivar error_seq: number of the ``workflow_error`` it answers; known once it was begun.
    :ivar entered: this very write brought it to its state, so it is what is counted.
    :ivar times: epoch seconds of its first being in a state; ``costs``: US dollars by turn.
    :ivar report: what the callback told, redacted: ``execution``, ``trigger``, ``error``, ``node``, ``nodeName``,
        ``parentId``.
    :ivar retries: plain repetitions of the failed run that were begun (a remote outage).
    :ivar delayed: a person was told that it begins later.
    :ivar away_told: a person was told that it waits for n8n.
    :ivar away: its turns that were put off because n8n was away.
    :ivar proposals: how many changes the agent has proposed in this attempt.
    :ivar proposal: the workflow as proposed (name, nodes, connections, settings).
    :ivar beyond: the last proposal that was refused and that a person may allow: ``proposal``, ``diff``, ``summary``,
        ``base_version_id`` and ``asked``, as they would be here.
    :ivar asked: rules that the proposal breaks, if a person allows it.
    :ivar base_version_id: version of the workflow that the proposal was made on.
    :ivar trial_version_id: version of the draft that is or was tried; ``trial_run_id``: the run that tried it.
    :ivar published_version_id: the version that was published.
    :ivar expires_at_s: epoch seconds; a proposal that waits longer is ``expired``.
    :ivar refusals: what its agent tried and may not: ``tool``, ``rule``, ``at``; see ``repairs/refusals.py``.
    """

    KIND = "repair"
    repair_id: str
    session_id: str
    workflow_id: str
    workflow_name: str
    signature: str
    attempt: int
    error_seq: int = 0
    state: RepairState = "queued"
    entered: bool = False
    times: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    request_id: str | None = None
    diagnosis: Literal["", "workflow_bug", "credentials", "quota", "remote_outage", "unknown"] = ""
    retries: int = 0
    delayed: bool = False
    away_told: bool = False
    away: int = 0
    summary: str = ""
    proposals: int = 0
    diff: list[dict[str, Any]] = field(default_factory=list)
    proposal: dict[str, Any] | None = None
    beyond: dict[str, Any] | None = None
    asked: list[str] = field(default_factory=list)
    base_version_id: str = ""
    trial_version_id: str = ""
    trial_run_id: str = ""
    published_version_id: str = ""
    snapshot_id: str = ""
    expires_at_s: float = 0.0
    decided_by: str = ""
    reason: str = ""
    refusals: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.repair_id

    @property
    def case_key(self) -> str:
        return f"{self.workflow_id}:{self.signature}"

    @property
    def labels(self) -> tuple[str, ...]:
        labels = [f"session:{self.session_id}", f"workflow:{self.workflow_id}"]
        if self.state in ("trying", "waiting", "publishing", "restoring"):
            labels += [self.state, f"{self.state}:{self.session_id}"]
        if "running" in self.times:
            labels.append(f"begun:{self.workflow_id}")
        return tuple(labels)

    def put(self, **changes: Any) -> Put:
        # Explicit parent: zero-argument super() does not know a class that slots have made anew.
        return Record.put(self, **{"entered": False, **changes})

    def public(self) -> dict[str, Any]:
        """What ``GET /sessions/<id>/repairs`` shows."""
        return {
            "repairId": self.repair_id,
            "workflowId": self.workflow_id,
            "workflowName": self.workflow_name,
            "signature": self.signature,
            "state": self.state,
            "attempt": self.attempt,
            "errorSeq": self.error_seq,
            "kind": self.diagnosis or None,
            "summary": self.summary or None,
            "diff": self.diff,
            "snapshotId": self.snapshot_id or None,
            "executionId": self.trial_run_id or None,
            "decidedBy": self.decided_by or None,
            "reason": self.reason or None,
            "asked": self.asked,
            "retries": self.retries,
            "costUsd": round(sum(self.costs.values()), 6) if self.costs else None,
            "times": {state: iso(datetime.fromtimestamp(at_s, UTC)) for state, at_s in self.times.items()},
            "refusals": self.refusals,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFailure(Record):
    """A sub-workflow's failure was taken: that of the run which called it is not to be repaired."""

    KIND = "child_failure"
    parent_run_id: str
    workflow_id: str
    workflow_name: str

    @property
    def key(self) -> str:
        return self.parent_run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Record):
    """A workflow as it was before a write.

    :ivar cause: ``repair``, ``chat`` or ``rollback``: what was about to be written.
    """

    KIND = "snapshot"
    snapshot_id: str
    workflow_id: str
    version_id: str
    hash: str
    cause: Literal["repair", "chat", "rollback"]
    workflow: dict[str, Any]

    @property
    def key(self) -> str:
        return self.snapshot_id

    @property
    def labels(self) -> tuple[str, ...]:
        return (f"workflow:{self.workflow_id}",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback(Record):
    """An undo that was asked for and is not finished: the intent that outlives the worker that began it.

    :ivar only_version_id: it is done only while the workflow is in this version; empty: in any.
    """

    KIND = "rollback"
    workflow_id: str
    session_id: str
    snapshot_id: str
    by: str
    only_version_id: str = ""

    @property
    def key(self) -> str:
        return self.workflow_id


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftWrite(Record):
    """A draft that is being written to n8n: noted before it is sent, dropped when its writer is still in charge after
    it. One that stays has lost its writer, and may come to be n8n's draft at any moment until it is given up.

    :ivar sent_at_s: epoch seconds. :ivar repeated: it was sent before and not seen through, which may come still,
        whatever becomes of this one.
    :ivar hash: of the nodes and connections that are sent; empty: a chat's, which only its version tells.
    :ivar version_id: what n8n has made of it, where its writer came to know.
    :ivar instead: name, nodes, connections and settings that are to be there in its place, by whatever was written
        last; where the workflow runs and it is no chat's, what runs then.
    """

    KIND = "draft_write"
    workflow_id: str
    instead: dict[str, Any]
    sent_at_s: float
    repeated: bool = False
    hash: str = ""
    version_id: str = ""

    @property
    def key(self) -> str:
        # One for each content, however often n8n is away while it is written.
        return f"{self.workflow_id}:{self.hash or self.version_id}"

    @property
    def labels(self) -> tuple[str, ...]:
        return (f"workflow:{self.workflow_id}",)


DECISIONS = "decisions"
"""The topic that tells of something to be finished: an undo that was decided by nobody at hand."""
HELD = "held"
"""Label of the dead letters that the bridge replays itself, and the topic that tells of a new one."""
DeadLetterReason = Literal["no_session", "session_closed", "bad_schema", "too_large", "rate_limited"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Record):
    """A callback that reached nobody, or came over the rate limit; kept redacted.

    :ivar report: the parsed body, where it could be parsed; only such a letter can be replayed.
    :ivar text: else what came: the body, or its first and last 32 KiB.
    :ivar idempotency_key: of the callback, empty where it had none.
    """

    KIND = "dead_letter"
    dead_letter_id: str
    reason: DeadLetterReason
    state: Literal["kept", "replayed"] = "kept"
    workflow_id: str = ""
    execution_id: str = ""
    idempotency_key: str = ""
    report: dict[str, Any] | None = None
    text: str = ""
    size_bytes: int = 0
    request_id: str = ""
    session_id: str = ""

    @property
    def key(self) -> str:
        return self.dead_letter_id

    @property
    def labels(self) -> tuple[str, ...]:
        return (f"reason:{self.reason}", *((HELD,) if self.held else ()))

    @property
    def held(self) -> bool:
        """Whether the bridge itself still has to route it, once the rate limit allows."""
        return self.reason == "rate_limited" and self.state == "kept" and self.report is not None

    @property
    def replay_key(self) -> str:
        """Idempotency key of its replay. One that was refused by the rate limit has not taken the callback's own: so
        its caller's next try and its replay, by whomever, happen once together."""
        own = self.reason == "rate_limited" and self.idempotency_key
        return f"callback:{self.idempotency_key}" if own else f"replay:{self.key}"


def dead_letter_id(text: str) -> str:
    """The id of the letter for a callback known by ``text``: its idempotency key, or a digest of what came."""
    return "d" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:23]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenConnection(Record):
    """A socket that is open somewhere; ``holder`` is its worker, whose lease tells whether this is still true."""

    KIND = "connection"
    connection_id: str
    session_id: str
    holder: str

    @property
    def key(self) -> str:
        return self.connection_id

    @property
    def labels(self) -> tuple[str, ...]:
        return (f"session:{self.session_id}", f"holder:{self.holder}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker(Record):
    """A worker that was started; ``worker:<holder>`` is the lease that says it is alive."""

    KIND = "worker"
    holder: str

    @property
    def key(self) -> str:
        return self.holder


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling(Record):
    """The brake: how far any repair may go, whatever its workflow's own autonomy says."""

    KIND = "ceiling"
    autonomy: Autonomy = "auto"

    @property
    def key(self) -> str:
        return "all"


def retry_stale(write: Callable[[], Any], *, tries: int = 30) -> Any:
    """Call ``write`` (read, decide, commit) again while somebody else's write came in between.

    :raises BusyError: it came in between every time.
    """
    from_stale: Exception | None = None
    for _ in range(tries):
        try:
            return write()
        except StaleDocumentError as exc:
            from_stale = exc
    raise BusyError("It is being changed by others right now.", retry_after_s=1) from from_stale
