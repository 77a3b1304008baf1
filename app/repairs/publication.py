"""What is written of a repair once it is decided: published, or put back as it was.

A decision is durable before anything is written, and the write can be repeated by whoever finds it unfinished:
``publishing`` in a repair's state is the intent, and each step recognises that it was done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from app.errors import BaseError, ConflictError, N8nError, WorkflowNotFoundError
from app.journal import Change, Journal, Lease, events
from app.journal.records import DraftWrite, Repair, Rollback, Snapshot
from app.n8n import Workflow, Workflows
from app.n8n.errors import N8nConflictError, N8nRefusedError
from app.n8n.secret_boundary import SecretLostError
from app.n8n.workflows import editable
from app.repairs import policy, snapshots
from app.repairs.endings import Endings
from app.repairs.states import moved
from app.repairs.strays import Strays
from app.repairs.undo import Undo
from app.repairs.workflow_lease import WorkflowLeases
from app.repairs.writes import BRIDGE, activate, version_with
from app.telemetry.redaction import redact_text

log = logging.getLogger(__name__)


class Publication:
    """:param holder: this worker's name, for leases; ``lease_s``: for how long one outlives a worker that is gone."""

    def __init__(self, journal: Journal, workflows: Workflows, holder: str, lease_s: float = 10.0) -> None:
        self.journal = journal
        self.workflows = workflows
        self.leases = WorkflowLeases(journal, holder, lease_s)
        self.endings = Endings(journal)
        self.undo = Undo(journal, workflows, self.endings)

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
            *((r.workflow_id, partial(self.undo.restore, r.workflow_id)) for r in Rollback.find(self.journal)),
            *((w.workflow_id, partial(strays.look, w)) for w in DraftWrite.find(self.journal)),
        ]
        left = False
        for workflow_id, go_on in unfinished:
            lease = self.leases.acquire(workflow_id)
            if lease is None:
                left = True
                continue
            try:
                with self.leases.keeping(lease):
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
                snapshot_id = snapshots.store(
                    self.journal, current, cause="repair", for_write=repair_id, fences=[lease]
                )
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
            activate(self.workflows, current, version_id, lease)
        except WorkflowNotFoundError:
            self.endings.end(repair, "failed", by=BRIDGE, reason="The workflow does not exist any more.")
            return
        except SecretLostError as exc:
            self.endings.end(repair, "failed", by=BRIDGE, reason=exc.detail)
            return
        except ConflictError:
            reason = "The workflow was changed after the repair was proposed; it is left as it is."
            self.endings.end(repair, "failed", by=BRIDGE, reason=reason)
            return
        except (N8nRefusedError, N8nConflictError) as exc:
            # It will never be taken as it is.
            self._break_off(repair, exc.detail, lease)
            return

        def published() -> Change:
            same = self.endings.same(repair)
            puts = [moved(same, "published", published_version_id=version_id)]
            event = events.repair_published(repair_id, same.snapshot_id)
            puts += self.endings.closing(same, "published")
            return Change(session_id=same.session_id, events=[event], puts=puts, fences=[lease])

        self.endings.insist(published)
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
            ending = self.endings.ending(
                self.endings.same(repair), "failed", by=BRIDGE, reason=reason, state="restoring"
            )
            return replace(ending, fences=[lease])

        self.endings.insist(broken_off)
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
            # Its worker may have been lost between the trial's write and the note of it.
            base = repair.trial_version_id or version_with(self.workflows, repair) or repair.base_version_id
            if self.workflows.get(repair.workflow_id).get("activeVersionId") == base:
                return base
            restored = self.workflows.put_draft(
                repair.workflow_id, body, base_version_id=base, fences=fences, instead=body
            )
        except (ConflictError, WorkflowNotFoundError):
            log.warning("a trial's draft was changed by others and is left", extra={"workflowId": repair.workflow_id})
            return repair.base_version_id
        return str(restored["versionId"])

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
        self.endings.tell(change)
