"""What can be done with sessions, whoever asks: a socket's frames and the HTTP routes meet here."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from app.errors import (
    ConflictError,
    NotFoundError,
    RateLimitError,
    SessionNotFoundError,
    StaleDocumentError,
    TooManySessionsError,
)
from app.journal import (
    Activity,
    Change,
    Committed,
    Hold,
    Journal,
    NewInput,
    Once,
    OpenSession,
    Put,
    Session,
    events,
    find_once,
)
from app.journal.records import Autonomy, OpenConnection, Registration, Repair, RepairState, retry_stale
from app.n8n import Workflows
from app.n8n.workflows import editable
from app.repairs.decisions import PERSON, Decisions
from app.repairs.states import moved
from app.sessions import frames
from app.telemetry.redaction import redact_text
from app.web.limits import Limits, refused_by_change

MAX_PENDING_MESSAGES = 20
FULL_RETRY_S = 30
ROOM_TRIES = 100
SPARE_PART = 200
"""Of ``MAX_SESSIONS`` one in so many makes way besides: to look for the longest idle costs more than an opening."""
"""Each that is in vain means that somebody else's was not."""
SLEEPERS_AT_ONCE = 200
HOLDS = (Hold(OpenConnection.KIND, "session:"), Hold(Repair.KIND, "waiting:"))
_ENDED = "Its session was ended."
_ENDINGS: dict[RepairState, RepairState] = {
    "queued": "failed",
    "retrying": "failed",
    "running": "failed",
    "trying": "restoring",
}


@dataclass(frozen=True, slots=True)
class Sessions:
    """:ivar autonomy: what a newly adopted workflow gets (``HEAL_AUTONOMY``). :ivar max_live: ``MAX_SESSIONS``."""

    journal: Journal
    workflows: Workflows
    decisions: Decisions
    autonomy: Autonomy
    max_live: int
    limits: Limits

    # -- life

    def open(self, *, token_hash: str, session_id: str | None = None, connection: Put | None = None) -> str:
        """Begin a session; returns its id. Where too many are live, the longest idle goes to sleep first.

        :param connection: the record of its first socket.
        :raises TooManySessionsError: all of them are in use.
        """
        session_id = session_id or new_session_id()
        puts = [connection] if connection else []
        self._with_room(
            Change(session_id=session_id, open_session=OpenSession(token_hash, self.max_live), puts=puts),
        )
        return session_id

    def get(self, session_id: str) -> Session:
        """:raises SessionNotFoundError: there is none, or it was ended."""
        session = self.journal.session(session_id)
        if session is None or session.state == "closed":
            raise SessionNotFoundError("No open session has this id.")
        return session

    def wake(self, session_id: str, *, connection: Put) -> None:
        """Put a session that a socket comes to among the live ones, where it slept.

        :param connection: the socket's record. :raises TooManySessionsError: as :meth:`open`.
        :raises SessionNotFoundError: it was ended.
        """
        self._with_room(Change(session_id=session_id, activity=self._waking, puts=[connection]))

    def close(self, session_id: str, *, reason: str) -> None:
        """End it for good: its turn stops, its sockets close, callbacks for its workflows become dead letters."""
        retry_stale(partial(self._close, session_id, reason))

    # -- the conversation

    def post_message(self, session_id: str, body: frames.MessageBody, *, request_id: str | None) -> int:
        """Append a message and queue its turn; returns its number. The same ``clientMessageId`` appends once.

        :raises RateLimitError: too many in a minute; checked before what waits, after what was said already.
        :raises TooManyPendingError: 20 wait for an answer. :raises SessionNotFoundError: the session is over.
        :raises TooManySessionsError: it sleeps, and as :meth:`open`.
        """
        key = f"message:{session_id}:{body.clientMessageId}" if body.clientMessageId else None
        refused = self.limits.message_refused(session_id)
        if refused is not None:
            return self._said_before(key, refused)
        # What a person pastes goes to the model, and stays in the journal; a credential is to do neither.
        text = redact_text(body.text, limit=None)
        event = events.user_message(text, client_message_id=body.clientMessageId, request_id=request_id)
        change = Change(
            session_id=session_id,
            events=[event],
            once=Once(key) if key else None,
            limit=self.limits.messages(session_id),
            activity=self._waking,
            add=NewInput("chat"),
            max_pending=MAX_PENDING_MESSAGES,
        )
        try:
            return self._with_room(change).seq
        except RateLimitError as exc:
            self.limits.note_message_refused(session_id, exc.retry_after_s or 0)
            raise refused_by_change("messages", exc) from exc

    def command(self, session_id: str, command: frames.Command) -> None:
        """Do what a command frame asks; when this returns it is durable.

        :raises ConflictError: there is nothing to act on. :raises NotFoundError: what it names does not exist.
        """
        match command:
            case frames.Cancel():
                self._cancel(session_id)
            case frames.Decide(type="approve"):
                self.decisions.approve(session_id, command.repairId)
            case frames.Decide():
                self.decisions.reject(session_id, command.repairId)
            case frames.RetryRepair():
                self.decisions.retry(session_id, command.workflowId, command.signature)
            case frames.Rollback():
                self.decisions.roll_back(session_id, command.workflowId, command.snapshotId)
            case frames.SetAutonomy():
                self._set_autonomy(session_id, command.workflowId, command.autonomy)

    # -- workflows

    def adopt(self, session_id: str, body: frames.AdoptBody) -> tuple[Registration, bool]:
        """Register a workflow that exists already; returns it and whether it is new to this session.

        Where n8n is connected it must be there, and gets the bridge's error workflow.

        :raises ConflictError: another open session owns it. :raises SessionNotFoundError: the session is over.
        :raises WorkflowNotFoundError: n8n has no such workflow. :raises N8nError: n8n cannot do it now.
        """
        self._may_adopt(session_id, body.workflowId)
        if self.workflows.connected:
            workflow = self.workflows.get(body.workflowId)
            # A write of what is there already: it sets the error workflow where none is named, and nothing else.
            base = str(workflow["versionId"])
            self.workflows.put_draft(body.workflowId, editable(workflow), base_version_id=base)
            body = body.model_copy(update={"name": body.name or str(workflow["name"])})
        adopted: tuple[Registration, bool] = retry_stale(partial(self._adopt, session_id, body))
        return adopted

    def own(self, session_id: str, workflow_id: str) -> Registration:
        """:raises NotFoundError: this session has no such workflow."""
        registration = Registration.get(self.journal, workflow_id)
        if registration is None or registration.session_id != session_id:
            raise NotFoundError("This session has no such workflow.")
        return registration

    def workflow_of(self, repair_id: str) -> str | None:
        """The workflow that a repair is about, whosever it is; ``None``: there is no such repair."""
        repair = Repair.get(self.journal, repair_id)
        return repair.workflow_id if repair else None

    def registrations(self, session_id: str) -> list[Registration]:
        """Oldest first."""
        return Registration.find(self.journal, f"session:{session_id}", limit=1000)[::-1]

    def pending_repairs(self, session_id: str) -> list[str]:
        """Ids of the repairs that wait for a person, oldest first."""
        return [repair.repair_id for repair in Repair.find(self.journal, f"waiting:{session_id}")][::-1]

    def describe(self, session: Session) -> dict[str, Any]:
        """What ``GET /sessions/<id>`` and the list of sessions show."""
        session_id = session.session_id
        return {
            "sessionId": session_id,
            "id": session_id,
            "createdAt": events.iso(session.created_at),
            "lastActiveAt": events.iso(session.last_active_at),
            "connected": self.is_connected(session_id),
            "state": session.state,
            "firstSeq": session.first_seq,
            "lastSeq": session.last_seq,
            "workflows": [registration.public() for registration in self.registrations(session_id)],
            "pendingRepairs": self.pending_repairs(session_id),
        }

    def is_connected(self, session_id: str) -> bool:
        opened = OpenConnection.find(self.journal, f"session:{session_id}")
        return any(self.journal.held(f"worker:{holder}") for holder in {found.holder for found in opened})

    # -- how it is done

    def _close(self, session_id: str, reason: str) -> None:
        # Nobody will decide what waits here, and once the session is closed no event could tell of its end.
        waiting = Repair.find(self.journal, f"waiting:{session_id}", limit=1000)
        # Their turns end with the session; the chores put a trial's draft back.
        left = [r for r in Repair.find(self.journal, f"session:{session_id}", limit=1000) if r.state in _ENDINGS]
        change = Change(
            session_id=session_id,
            events=[
                *(events.repair_decided(repair.repair_id, "expired", by="bridge") for repair in waiting),
                events.session_closed(reason),
            ],
            puts=[
                *(moved(repair, "expired", decided_by="bridge", reason=_ENDED) for repair in waiting),
                *(moved(repair, _ENDINGS[repair.state], reason=_ENDED) for repair in left),
            ],
            close_session=True,
        )
        self.journal.commit(change)

    def _cancel(self, session_id: str) -> None:
        for pending in self.journal.pending(session_id):
            if pending.turn_id is not None and not pending.cancelled:
                try:
                    self.journal.commit(Change(session_id=session_id, cancel_turn=pending.turn_id))
                except StaleDocumentError:
                    continue
                return
        raise ConflictError("No turn is running.")

    def _set_autonomy(self, session_id: str, workflow_id: str | None, autonomy: Autonomy) -> None:
        def write() -> None:
            found = [self.own(session_id, workflow_id)] if workflow_id else self.registrations(session_id)
            if not found:
                raise ConflictError("This session has no workflows.")
            change = Change(
                session_id=session_id,
                events=[events.autonomy_changed(r.workflow_id, autonomy, by=PERSON) for r in found],
                puts=[r.put(autonomy=autonomy) for r in found],
            )
            self.journal.commit(change)

        retry_stale(write)

    def _adopt(self, session_id: str, body: frames.AdoptBody) -> tuple[Registration, bool]:
        known = self._may_adopt(session_id, body.workflowId)
        if known is not None and known.session_id == session_id:
            return known, False
        registration = Registration(
            version=known.version if known else 0,
            workflow_id=body.workflowId,
            session_id=session_id,
            name=body.name or (known.name if known else body.workflowId),
            autonomy=body.autonomy or self.autonomy,
        )
        event = events.workflow_registered(registration.workflow_id, registration.name, registration.autonomy)
        self.journal.commit(Change(session_id=session_id, events=[event], puts=[registration.put()]))
        return registration, True

    def _may_adopt(self, session_id: str, workflow_id: str) -> Registration | None:
        """Who has the workflow until now; :raises ConflictError: another open session."""
        known = Registration.get(self.journal, workflow_id)
        if known is not None and known.session_id != session_id:
            owner = self.journal.session(known.session_id)
            if owner is not None and owner.state != "closed":
                raise ConflictError("This workflow belongs to another session.")
        return known

    @property
    def _waking(self) -> Activity:
        return Activity(self.max_live, must_wake=True)

    def _said_before(self, key: str | None, refused: RateLimitError) -> int:
        """Number of the message that has taken ``key``. Looking for secrets in 100 000 characters takes tenths of a
        second, which a client over its rate is not to have of everybody for each message that is refused anyway.

        :raises RateLimitError: ``refused``; there is none.
        """
        said = find_once(self.journal, key) if key is not None else None
        if said is None:
            raise refused_by_change("messages", refused)
        return said.seq

    def _with_room(self, change: Change) -> Committed:
        """Commit what needs a place among the live sessions; each refusal puts an idle one to sleep, or is final."""
        for _ in range(ROOM_TRIES):
            try:
                return self.journal.commit(change)
            except TooManySessionsError:
                self._make_room()
        raise TooManySessionsError("Too many begin at once.", retry_after_s=FULL_RETRY_S)

    def _make_room(self) -> None:
        """Put the longest idle to sleep until one more fits; several, where ``MAX_SESSIONS`` is large, or was lowered.

        :raises TooManySessionsError: none of them is idle, and there is still no room.
        """
        over = self.journal.live_sessions() - self.max_live + 1
        if over <= 0:
            return
        looked_at = self._idle()
        # Even one that was used this instant: it is not in use now, and wakes when it is wanted.
        at_most = over + self.max_live // SPARE_PART
        if put_to_sleep(self.journal, idle_before=datetime.now(UTC) + timedelta(days=1), at_most=at_most):
            return
        # Where others have come and gone meanwhile there was one for us too, and there may be again.
        if self.journal.live_sessions() >= self.max_live and self._idle() == looked_at:
            raise TooManySessionsError(f"{self.max_live} sessions are in use.", retry_after_s=FULL_RETRY_S)

    def _idle(self) -> list[str]:
        return [session.session_id for session in self.journal.idle_sessions(limit=SLEEPERS_AT_ONCE)]


def new_session_id() -> str:
    return str(uuid.uuid4())


def put_to_sleep(journal: Journal, *, idle_before: datetime, at_most: int | None = None) -> int:
    """Take sessions that nobody has used since ``idle_before``, the longest idle first, out of the live set.

    One with a socket, an unanswered input or a repair that waits for a person stays. Returns how many went.
    """
    slept, last = 0, None
    while at_most is None or slept < at_most:
        found = journal.idle_sessions(limit=SLEEPERS_AT_ONCE, before=idle_before, after=last)
        if found:
            last = found[-1]
            room = SLEEPERS_AT_ONCE if at_most is None else at_most - slept
            names = [session.session_id for session in found]
            slept += len(journal.sleep(names, idle_before=idle_before, unless=HOLDS, at_most=room))
        if len(found) < SLEEPERS_AT_ONCE:
            break
    return slept
