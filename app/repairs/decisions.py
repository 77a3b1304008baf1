"""What people decide about repairs: approve, reject, one more try, undo; and what expires."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import partial

from app.errors import BaseError, ConflictError, NotFoundError
from app.journal import Change, Journal, NewInput, events
from app.journal.records import Case, Registration, Repair, RepairState, Rollback, Snapshot, retry_stale
from app.n8n import Workflow, Workflows
from app.n8n.workflows import canonical_hash
from app.repairs import policy, snapshots
from app.repairs.publication import Publication
from app.repairs.states import moved
from app.repairs.writes import BRIDGE

PERSON = "person"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decisions:
    journal: Journal
    workflows: Workflows
    publication: Publication

    # -- a repair that waits

    def approve(self, session_id: str, repair_id: str, *, by: str = PERSON) -> None:
        """Publish a waiting repair; when this returns it is published, or has failed and says so in the session.

        The workflow's own autonomy says what the bridge does by itself, so a person's yes counts whatever it is by now.
        The brake is for everything: while it is on, the repair goes on waiting.

        :raises NotFoundError: no such repair in this session. :raises ConflictError: it does not wait (any more), or
            the brake is on.
        """
        with self.publication.leases.on_workflow(self._waiting(session_id, repair_id).workflow_id) as lease:

            def approved() -> None:
                # Its turn may be ending just now, and be noting what it has cost.
                put = moved(self._waiting(session_id, repair_id), "publishing", decided_by=by)
                if policy.is_braked(self.journal):
                    raise ConflictError("The brake is on, so nothing is published; the repair goes on waiting.")
                event = events.repair_decided(repair_id, "approved", by=by)
                self.journal.commit(Change(session_id=session_id, events=[event], puts=[put], fences=[lease]))

            retry_stale(approved)
            self.publication.publish(repair_id, lease)

    def reject(self, session_id: str, repair_id: str, *, by: str = PERSON) -> None:
        """Turn a waiting repair down.

        :raises NotFoundError: no such repair in this session. :raises ConflictError: it does not wait (any more).
        """
        self.publication.endings.end(self._waiting(session_id, repair_id), "rejected", by=by)

    def expire(self) -> None:
        """End what has waited too long. A chore: run by one worker at a time."""
        for repair in Repair.find(self.journal, "waiting", limit=1000):
            if repair.expires_at_s <= time.time():
                try:
                    self.publication.endings.end(repair, "expired", by=BRIDGE)
                except ConflictError:
                    continue
                except BaseError as exc:
                    log.warning("a repair could not be expired: %s", exc, extra={"sessionId": repair.session_id})

    # -- a blocked case, an undo

    def retry(self, session_id: str, workflow_id: str, signature: str) -> None:
        """One more try for a blocked case.

        :raises NotFoundError: no such workflow or signature. :raises ConflictError: it is not blocked.
        """
        registration = self._own(session_id, workflow_id)
        case = Case.get(self.journal, f"{workflow_id}:{signature}")
        if case is None:
            raise NotFoundError("This workflow has no error with this signature.")
        if case.state != "blocked":
            raise ConflictError("This repair is not blocked.")
        if policy.autonomy_of(self.journal, workflow_id) == "observe":
            raise ConflictError("This workflow is only observed now: raise its autonomy, or release the brake, first.")
        former = Repair.get(self.journal, case.repair_id) if case.repair_id else None
        if former is None:
            raise NotFoundError("There is no error to repair any more.")
        repair = Repair(
            repair_id=f"{former.repair_id.split('-')[0]}-{case.version}",
            session_id=session_id,
            workflow_id=workflow_id,
            workflow_name=registration.name,
            signature=signature,
            error_seq=former.error_seq,
            attempt=case.attempts + 1,
            times={"queued": round(time.time(), 3)},
            report=former.report,
        )
        change = Change(
            session_id=session_id,
            events=[events.notice("info", "One more try was asked for.", repair_id=repair.repair_id)],
            puts=[
                repair.put(),
                case.put(state="open", repair_id=repair.repair_id, attempts=policy.MAX_ATTEMPTS),
            ],
            add=NewInput("repair", seq=former.error_seq, key=repair.repair_id),
        )
        self.publication.endings.once(change)

    def roll_back(self, session_id: str, workflow_id: str, snapshot_id: str | None, *, by: str = PERSON) -> None:
        """Restore a snapshot exactly; the newest that was not taken by an undo where none is named.

        :raises NotFoundError: no such workflow or snapshot. :raises ConflictError: it is like that already.
        """
        self._own(session_id, workflow_id)
        self._to_restore(workflow_id, snapshot_id)
        stopped = self._stop_repairs(session_id, workflow_id)
        with self.publication.leases.on_workflow(workflow_id) as lease:
            # Looked for again: a repair that was being published until now has one of its own.
            snapshot = self._to_restore(workflow_id, snapshot_id)
            current = self.workflows.get(workflow_id)
            # Where a repair was stopped for it, its draft may have been put back by a chore in between.
            if canonical_hash(current) == snapshot.hash and not stopped:
                raise ConflictError("The workflow is as it was in this snapshot already.")
            if not snapshot_id and self._is_edited(current, snapshot):
                raise ConflictError(
                    "Somebody has edited this workflow since its repair, and an undo would take that back, too. Name "
                    f"the snapshot ({snapshot.snapshot_id}) to restore it all the same."
                )
            # One that n8n could not do until now gives way: this is the later word.
            former = Rollback.get(self.journal, workflow_id)
            rollback = Rollback(
                version=former.version if former else 0,
                workflow_id=workflow_id,
                session_id=session_id,
                snapshot_id=snapshot.snapshot_id,
                by=by,
                # Done later, it must not take back what somebody does until then; a trial's draft it may.
                only_version_id="" if stopped else str(current.get("versionId", "")),
            )
            self.publication.endings.once(Change(puts=[rollback.put()], fences=[lease]))
            self.publication.undo.restore(workflow_id, lease)

    # -- how it is done

    def _to_restore(self, workflow_id: str, snapshot_id: str | None) -> Snapshot:
        snapshot = (
            Snapshot.get(self.journal, snapshot_id)
            if snapshot_id
            else snapshots.newest_to_restore(self.journal, workflow_id)
        )
        if snapshot is None or snapshot.workflow_id != workflow_id:
            raise NotFoundError("This workflow has no such snapshot.")
        return snapshot

    def _is_edited(self, current: Workflow, snapshot: Snapshot) -> bool:
        """Whether somebody has changed the workflow after the repair that the snapshot was taken for."""
        repair = self.publication.undo.published_over(snapshot)
        return repair is not None and self.publication.undo.is_edited(repair, current)

    def _waiting(self, session_id: str, repair_id: str) -> Repair:
        repair = Repair.get(self.journal, repair_id)
        if repair is None or repair.session_id != session_id:
            raise NotFoundError("This session has no such repair.")
        if repair.state != "waiting":
            raise ConflictError(f"This repair does not wait for a decision; it is {repair.state}.")
        if repair.expires_at_s <= time.time():
            raise ConflictError("This repair waited too long and has expired.")
        return repair

    def _own(self, session_id: str, workflow_id: str) -> Registration:
        registration = Registration.get(self.journal, workflow_id)
        if registration is None or registration.session_id != session_id:
            raise NotFoundError("This session has no such workflow.")
        return registration

    def _stop_repairs(self, session_id: str, workflow_id: str) -> bool:
        """Cancel the workflow's running repair and drop its queued ones; whether there was any."""
        inputs = [found for found in self.journal.pending(session_id) if found.kind == "repair"]
        stopped: list[bool] = [
            retry_stale(partial(self._stop_repair, session_id, workflow_id, found.input_id)) for found in inputs
        ]
        return any(stopped)

    def _stop_repair(self, session_id: str, workflow_id: str, input_id: int) -> bool:
        found = next((i for i in self.journal.pending(session_id) if i.input_id == input_id), None)
        repair = Repair.get(self.journal, found.key) if found else None
        if found is None or repair is None or repair.workflow_id != workflow_id:
            return False
        if repair.state not in ("queued", "retrying", "running", "trying"):
            return False  # decided, or a person's to decide; its turn is about to end
        if found.turn_id:
            self.journal.commit(Change(session_id=session_id, cancel_turn=found.turn_id))
        else:
            # In one change, and refused where a turn has begun: the input never goes without its repair.
            state: RepairState = "restoring" if repair.state == "trying" else "failed"
            reason = "The workflow was rolled back."
            ending = self.publication.endings.ending(repair, "failed", by=PERSON, reason=reason, state=state)
            self.journal.commit(replace(ending, answer=input_id))
        return True
