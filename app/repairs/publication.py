"""What is written when a repair or an undo is decided: published, restored, put back; and how a repair ends.

A decision is durable before anything is written, and the write can be repeated by whoever finds it unfinished:
``publishing`` in a repair's state is the intent, and each step recognises that it was done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import gevent

from app.errors import (
    BaseError,
    BusyError,
    ConflictError,
    N8nError,
    SessionNotFoundError,
    StaleDocumentError,
    WorkflowNotFoundError,
)
from app.journal import Change, Journal, Lease, Put, events
from app.journal.records import Case, DraftWrite, Repair, RepairState, Rollback, Snapshot, retry_stale
from app.n8n import Workflow, Workflows
from app.n8n.errors import N8nConflictError, N8nRefusedError
from app.n8n.secret_boundary import SecretLostError
from app.n8n.workflows import canonical_hash, editable
from app.repairs import policy, snapshots
from app.repairs.states import moved
from app.repairs.strays import Strays
from app.telemetry.redaction import redact_text

BRIDGE = "bridge"
WORKFLOW_WAIT_S = 5.0
_EDITED = "It is not undone: somebody has edited the workflow since. Look at it, and undo it yourself."
_DEFAULTS: dict[str, str | int] = {
    "timezone": "DEFAULT",
    "saveDataErrorExecution": "DEFAULT",
    "saveDataSuccessExecution": "DEFAULT",
    "saveManualExecutions": "DEFAULT",
    "saveExecutionProgress": "DEFAULT",
    "executionTimeout": -1,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publication:
    """:ivar holder: this worker's name, for leases; ``lease_s``: for how long one outlives a worker that is gone."""

    journal: Journal
    workflows: Workflows
    holder: str
    lease_s: float = 10.0

    def finish(self) -> bool:
        """Go on with what people decided and a lost worker left unfinished. A chore; safe beside workers at work.

        :returns: whether something is left, because its worker may be alive or because it did not work now.
        """
        strays = Strays(self.journal, self.workflows)
        unfinished: list[tuple[str, Callable[[Lease], None]]] = [
            *((r.workflow_id, partial(self.publish, r.repair_id)) for r in Repair.find(self.journal, "publishing")),
            *(
                (r.workflow_id, partial(self._end_restoring, r.repair_id))
                for r in Repair.find(self.journal, "restoring")
            ),
            *((r.workflow_id, partial(self.restore, r.workflow_id)) for r in Rollback.find(self.journal)),
            *((w.workflow_id, partial(strays.look, w)) for w in DraftWrite.find(self.journal)),
        ]
        left = False
        for workflow_id, go_on in unfinished:
            lease = self.journal.acquire(snapshots.lease_name(workflow_id), self.holder, ttl_s=self.lease_s)
            if lease is None:
                left = True
                continue
            try:
                with self._keeping(lease):
                    go_on(lease)
            except BaseError as exc:
                # One that cannot be finished must not keep the others from it.
                log.warning("a decision could not be finished: %s", exc, extra={"workflowId": workflow_id})
                left = True
        return left

    def publish(self, repair_id: str, lease: Lease) -> None:
        """Publish a repair that is ``publishing``; safe to call again, by whoever holds the workflow's ``lease``.

        :raises N8nError: n8n cannot do it now; it stays ``publishing``.
        """
        repair = Repair.get(self.journal, repair_id)
        if repair is None or repair.state != "publishing" or repair.proposal is None:
            return
        try:
            current = self.workflows.get(repair.workflow_id)
            version_id = repair.trial_version_id
            if self._is_stopped(repair, current):
                self._break_off(repair, "The brake was put on before it was published.", lease)
                return
            if not version_id:
                snapshot_id = self.snapshot(current, cause="repair", for_write=repair_id, fences=[lease])
                if repair.snapshot_id != snapshot_id:
                    self.journal.commit(Change(puts=[repair.put(snapshot_id=snapshot_id)], fences=[lease]))
                    repair = Repair.get(self.journal, repair_id) or repair
                proposal, base = repair.proposal or {}, repair.base_version_id
                written = self.workflows.put_draft(
                    repair.workflow_id, proposal, base_version_id=base, fences=[lease], instead=proposal
                )
                version_id = str(written["versionId"])
                if version_id == current.get("versionId") and not self.workflows.has_foreign_draft(repair.workflow_id):
                    # A lost worker has published it, and a trial's draft that was put back has another version of it.
                    version_id = str(current.get("activeVersionId") or version_id)
            elif version_id not in (current.get("versionId"), current.get("activeVersionId")):
                # n8n would publish it all the same: over what somebody has saved, or published, since the trial.
                raise ConflictError("The workflow was changed meanwhile.")
            self._activate(current, version_id, lease)
        except WorkflowNotFoundError:
            self.end(repair, "failed", by=BRIDGE, reason="The workflow does not exist any more.")
            return
        except SecretLostError as exc:
            self.end(repair, "failed", by=BRIDGE, reason=exc.detail)
            return
        except ConflictError:
            reason = "The workflow was changed after the repair was proposed; it is left as it is."
            self.end(repair, "failed", by=BRIDGE, reason=reason)
            return
        except (N8nRefusedError, N8nConflictError) as exc:
            # It will never be taken as it is.
            self._break_off(repair, exc.detail, lease)
            return

        def published() -> Change:
            same = self._same(repair)
            puts = [moved(same, "published", published_version_id=version_id)]
            event = events.repair_published(repair_id, same.snapshot_id)
            puts += self._closing(same, "published")
            return Change(session_id=same.session_id, events=[event], puts=puts, fences=[lease])

        self._insist(published)
        log.info("repair published", extra={"workflowId": repair.workflow_id, "sessionId": repair.session_id})

    def _is_stopped(self, repair: Repair, current: Workflow) -> bool:
        """Whether the brake forbids to begin with it now; what runs already, or is written, is brought to its end."""
        if repair.trial_version_id:
            begun = repair.trial_version_id == current.get("activeVersionId")
        else:
            begun = repair.base_version_id != current.get("versionId")
        if begun:
            return False
        if repair.decided_by == BRIDGE:
            return policy.autonomy_of(self.journal, repair.workflow_id) != "auto"
        return policy.is_braked(self.journal)

    def _break_off(self, repair: Repair, reason: str, lease: Lease) -> None:
        def broken_off() -> Change:
            ending = self.ending(self._same(repair), "failed", by=BRIDGE, reason=reason, state="restoring")
            return replace(ending, fences=[lease])

        self._insist(broken_off)
        with suppress(N8nError):
            self._end_restoring(repair.repair_id, lease)

    def put_back(self, repair: Repair, fences: Sequence[Lease]) -> str:
        """The workflow's draft as it was before the repair's trial; returns its version. A later edit of somebody else
        is left alone, and so is a draft that runs by now: while this repair's worker was lost a person has published
        it, or has approved another repair that proposes the same.

        :raises N8nError: n8n cannot do it now.
        """
        snapshot = Snapshot.get(self.journal, repair.snapshot_id)
        if snapshot is None:
            return repair.base_version_id
        body = editable(snapshot.workflow)
        try:
            base = repair.trial_version_id or self._tried_version(repair)
            if self.workflows.get(repair.workflow_id).get("activeVersionId") == base:
                return base
            restored = self.workflows.put_draft(
                repair.workflow_id, body, base_version_id=base, fences=fences, instead=body
            )
        except (ConflictError, WorkflowNotFoundError):
            log.warning("a trial's draft was changed by others and is left", extra={"workflowId": repair.workflow_id})
            return repair.base_version_id
        return str(restored["versionId"])

    def _tried_version(self, repair: Repair) -> str:
        """The version of the trial's draft, where its worker was lost between that write and the note of it."""
        try:
            # On the base of no version: found where it is, never written.
            found = self.workflows.put_draft(repair.workflow_id, repair.proposal or {}, base_version_id="")
        except ConflictError:
            return repair.base_version_id
        return str(found["versionId"])

    def _end_restoring(self, repair_id: str, lease: Lease) -> None:
        repair = Repair.get(self.journal, repair_id)
        if repair is None or repair.state != "restoring":
            return
        told = []
        try:
            self.put_back(repair, [lease])
        except (N8nRefusedError, N8nConflictError) as exc:
            # It will never be done: what is left is a draft that nobody runs, and somebody who knows of it.
            log.warning("a trial's draft cannot be put back", extra={"workflowId": repair.workflow_id})
            text = f"The trial's draft could not be put back, look at it in n8n: {redact_text(exc.detail)}"
            told = [events.notice("error", text, repair_id=repair_id)]
        change = Change(session_id=repair.session_id, events=told, puts=[moved(repair, "failed")], fences=[lease])
        self._tell(change)

    def restore(self, workflow_id: str, lease: Lease) -> None:
        """Go on with the undo that was decided for this workflow; safe to call again, by whoever holds its ``lease``.

        :raises ConflictError: somebody has saved the workflow in this very moment; it is left as it is.
        :raises N8nError: n8n cannot do it now; it stays to be done.
        """
        rollback = Rollback.get(self.journal, workflow_id)
        if rollback is None:
            return
        snapshot = Snapshot.get(self.journal, rollback.snapshot_id)
        if snapshot is None:
            self._drop(rollback, "error", "The undo failed: its snapshot is not kept any more.", lease)
            return
        if rollback.by == BRIDGE and policy.autonomy_of(self.journal, workflow_id) in ("observe", "suggest"):
            self._drop(rollback, "warning", "The repair is not undone: its autonomy was lowered meanwhile.", lease)
            return
        try:
            self._write_snapshot(rollback, snapshot, lease)
        except (N8nRefusedError, N8nConflictError, WorkflowNotFoundError, SecretLostError) as exc:
            self._drop(rollback, "error", f"The undo failed: {redact_text(exc.detail)}", lease)
            raise

    def _drop(self, rollback: Rollback, level: Literal["warning", "error"], text: str, lease: Lease) -> None:
        """It will never be done: an intent that stayed would be in the way of every other undo."""
        told = events.notice(level, text)
        change = Change(session_id=rollback.session_id, events=[told], deletes=[rollback.delete()], fences=[lease])
        self._tell(change)

    def _write_snapshot(self, rollback: Rollback, snapshot: Snapshot, lease: Lease) -> None:
        workflow_id = rollback.workflow_id
        current = self.workflows.get(workflow_id)
        is_there = canonical_hash(current) == snapshot.hash
        if rollback.only_version_id not in ("", current.get("versionId")) and not is_there:
            repair = self.published_over(snapshot)
            if repair is None or self.is_edited(repair, current):
                self._drop(rollback, "warning", _EDITED, lease)
                return
        if not is_there:
            name = f"rollback:{current.get('versionId')}"
            self.snapshot(current, cause="rollback", for_write=name, fences=[lease], keep=snapshot.snapshot_id)
            base, body = str(current.get("versionId", "")), editable(snapshot.workflow)
            if self.workflows.connected:
                # n8n merges settings: one that came since goes only by its default, which n8n does not keep.
                come = (current.get("settings") or {}).keys() & _DEFAULTS.keys() - body["settings"].keys()
                body["settings"] = {**body["settings"], **{key: _DEFAULTS[key] for key in come}}
            try:
                written = self.workflows.put_draft(
                    workflow_id, body, base_version_id=base, fences=[lease], instead=body
                )
            except SecretLostError:
                raise
            except ConflictError:
                self._drop(rollback, "warning", _EDITED, lease)
                raise
            current = {**current, "versionId": written["versionId"]}
        if not is_there or self.workflows.has_foreign_draft(workflow_id):
            # Else a lost worker has published it, and a trial's draft that was put back has another version of it.
            self._activate(current, str(current.get("versionId", "")), lease)

        def rolled_back() -> Change:
            puts = []
            repair = self.published_over(snapshot)
            if repair is not None:
                puts.append(moved(repair, "rolled_back"))
                case = Case.get(self.journal, repair.case_key)
                if case is not None and case.state == "closed":
                    puts += self._closing(repair, "rolled_back")
            event = events.rolled_back(workflow_id, snapshot.snapshot_id, by=rollback.by)
            gone = [rollback.delete()]
            return Change(session_id=rollback.session_id, events=[event], puts=puts, deletes=gone, fences=[lease])

        self._insist(rolled_back)

    def published_over(self, snapshot: Snapshot) -> Repair | None:
        """The published repair that the snapshot was taken for."""
        found = Repair.find(self.journal, f"workflow:{snapshot.workflow_id}")
        return next((r for r in found if r.state == "published" and r.snapshot_id == snapshot.snapshot_id), None)

    def is_edited(self, repair: Repair, current: Workflow) -> bool:
        """Whether somebody has changed the workflow after this repair was published.

        :param current: as it is. A trial that was put back since has left another version of the same.
        """
        if current.get("versionId") == repair.published_version_id:
            return False
        try:
            # On the base of no version: found where it is, never written.
            self.workflows.put_draft(repair.workflow_id, repair.proposal or {}, base_version_id="")
        except ConflictError:
            return True
        return False

    def _activate(self, workflow: Workflow, version_id: str, lease: Lease) -> None:
        """Make a version the one that runs, where the workflow runs at all: a repair switches nothing on."""
        if workflow.get("active"):
            self.workflows.publish(str(workflow["id"]), version_id=version_id, fences=[lease])

    def snapshot(
        self,
        workflow: Workflow,
        *,
        cause: Literal["repair", "rollback"],
        for_write: str,
        fences: Sequence[Lease],
        keep: str = "",
    ) -> str:
        """Keep ``workflow`` as it is before the write named ``for_write``; returns the snapshot's id.

        :param keep: id of one that is not pushed out.
        """
        snapshot_id, puts, deletes = snapshots.take(self.journal, workflow, cause=cause, for_write=for_write, keep=keep)
        if puts:
            self.journal.commit(Change(puts=puts, deletes=deletes, fences=fences))
        return snapshot_id

    def end(self, repair: Repair, outcome: str, *, by: str, reason: str = "") -> None:
        """:raises ConflictError: somebody else has brought it further."""
        self._insist(lambda: self.ending(self._same(repair), outcome, by=by, reason=reason))

    def ending(
        self, repair: Repair, outcome: str, *, by: str, reason: str = "", state: RepairState = "failed"
    ) -> Change:
        is_decision = outcome in ("rejected", "expired")
        event = (
            events.repair_decided(repair.repair_id, outcome, by=by)
            if is_decision
            else events.repair_failed(repair.workflow_id, redact_text(reason), repair_id=repair.repair_id)
        )
        to: RepairState = "rejected" if outcome == "rejected" else "expired" if outcome == "expired" else state
        puts = [moved(repair, to, decided_by=repair.decided_by or by, reason=reason)]
        return Change(session_id=repair.session_id, events=[event], puts=[*puts, *self._closing(repair, outcome)])

    def _closing(self, repair: Repair, outcome: str) -> list[Put]:
        case = Case.get(self.journal, repair.case_key)
        if case is None or case.repair_id != repair.repair_id:
            return []
        return [case.put(**policy.closing(outcome, now_s=time.time()))]

    def _same(self, repair: Repair) -> Repair:
        """As it is now: what its turn has cost may be noted meanwhile.

        :raises ConflictError: somebody else has brought it further.
        """
        fresh = Repair.get(self.journal, repair.repair_id)
        if fresh is None or fresh.state != repair.state:
            raise ConflictError("It was decided already.")
        return fresh

    def _insist(self, made: Callable[[], Change]) -> None:
        """:meth:`_tell` what ``made`` says, made anew while other errors of its case are counted in between."""

        def write() -> None:
            change = made()
            try:
                self.journal.commit(change)
            except SessionNotFoundError:
                self.journal.commit(replace(change, session_id=None, events=()))

        retry_stale(write)

    def _tell(self, change: Change) -> None:
        """Commit what has come to pass, also where its session was closed meanwhile and nobody can be told."""
        try:
            self.once(change)
        except SessionNotFoundError:
            self.once(replace(change, session_id=None, events=()))

    def once(self, change: Change) -> None:
        try:
            self.journal.commit(change)
        except StaleDocumentError as exc:
            raise ConflictError("It was decided already.") from exc

    @contextmanager
    def on_workflow(self, workflow_id: str) -> Iterator[Lease]:
        """Hold the workflow's lease, waiting a moment for whoever has it.

        :raises BusyError: it was not free in time.
        """
        deadline = time.monotonic() + WORKFLOW_WAIT_S
        name = snapshots.lease_name(workflow_id)
        while (lease := self.journal.acquire(name, self.holder, ttl_s=self.lease_s)) is None:
            if time.monotonic() >= deadline:
                raise BusyError("This workflow is being changed right now.")
            gevent.sleep(0.05)
        with self._keeping(lease):
            yield lease

    @contextmanager
    def _keeping(self, lease: Lease) -> Iterator[None]:
        """Renew a lease for as long as this lasts, then give it back."""
        keeper = gevent.spawn(self._keep, lease)
        try:
            yield
        finally:
            keeper.kill(block=False)
            self.journal.release(lease)

    def _keep(self, lease: Lease) -> None:
        while True:
            gevent.sleep(self.lease_s / 3)
            try:
                self.journal.renew([lease], ttl_s=self.lease_s)
            except BaseError as exc:
                log.warning("renewing a workflow's lease failed: %s", exc)
