"""A remote outage: the failed run is repeated as it was, a few times, before anybody is bothered.

No agent, and no write to the workflow. Each repetition is one run, whatever happens to its worker.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from app.journal import Journal, Lease, NewEvent, Put, events
from app.journal.records import Case, Repair
from app.n8n import Workflow, Workflows
from app.n8n.workflows import find_node
from app.repairs import policy, proof
from app.repairs.states import moved

LOOK_AGAIN_S = 15.0
GOES_ON_S = 3_600.0
"""A repetition that has not ended after so long is left to a person: another one beside it might do all twice."""


@dataclass(frozen=True, slots=True)
class Step:
    """What came of a look: what to append and write, and in how many seconds to look again (``None``: it is over)."""

    events: list[NewEvent]
    puts: list[Put]
    again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Outages:
    """:ivar pauses_s: before each repetition."""

    journal: Journal
    workflows: Workflows
    pauses_s: tuple[float, ...] = (300.0, 1_800.0, 7_200.0)

    def cannot_repeat(self, repair: Repair, workflow: Workflow | None) -> str:
        """Why the failed run must be left to a person; empty: it is repeated."""
        if not self.workflows.connected or not self.pauses_s or self._is_stopped(repair):
            return "nothing is repeated"
        if not (repair.report.get("execution") or {}).get("id"):
            return "n8n names no run"
        return proof.may_not_repeat(find_node(workflow, name=repair.report.get("nodeName")) if workflow else None)

    def begin(self, repair: Repair, summary: str, *, error_seq: int) -> Step:
        when = ", ".join(_told(pause_s) for pause_s in self.pauses_s)
        summary = (
            f"{summary} The failed run is repeated by itself after {when}; a person is told if that does not help."
        )
        told = events.repair_diagnosed(repair.workflow_id, "remote_outage", summary, repair_id=repair.repair_id)
        put = moved(repair, "retrying", diagnosis="remote_outage", reason=summary, error_seq=error_seq)
        return Step([told], [put], self.pauses_s[0])

    def go_on(self, repair: Repair, *, fences: Sequence[Lease]) -> Step:
        """Repeat the run, or look what became of it.

        :raises N8nError: n8n cannot be asked now; ask again.
        """
        if self._is_stopped(repair):
            reason = "The run is not repeated: the workflow's autonomy was lowered."
            put = moved(repair, "not_a_bug", reason=reason)
            told = events.notice("warning", reason, repair_id=repair.repair_id)
            return Step([told], [put, *self._close(repair, "not_a_bug")])
        number = repair.retries
        run_id = str(repair.report["execution"]["id"])
        tried = self.workflows.run_again(repair.workflow_id, execution_id=run_id, number=number, fences=fences)
        if tried.outcome == "running":
            if not _is_late(repair, self.pauses_s[: number + 1]):
                return Step([], [], LOOK_AGAIN_S)
            # It may be past the node that had failed, in a Wait node of days for instance.
            text = f"The failed run was repeated, and run {tried.execution_id} goes on still; look at it in n8n."
            put = moved(repair, "not_a_bug", reason=text, trial_run_id=tried.execution_id or "")
            told = events.notice("warning", text, repair_id=repair.repair_id)
            return Step([told], [put, *self._close(repair, "not_a_bug")])
        if tried.outcome == "verified":
            text = f"The service is back: the failed run was repeated, and run {tried.execution_id} succeeded."
            put = moved(repair, "not_a_bug", reason=text, trial_run_id=tried.execution_id or "")
            told = events.notice("info", text, repair_id=repair.repair_id)
            # As if nothing had been: its next failure is looked at anew.
            return Step([told], [put, *self._close(repair, "")])
        if tried.outcome == "failed" and number + 1 < len(self.pauses_s):
            return Step([], [repair.put(retries=number + 1)], self.pauses_s[number + 1])
        reason = (
            f"The service stayed away: {number + 1} repetitions of the failed run did not help. Look at the service, "
            f"then run it again in n8n. Last: {tried.reason}"
        )
        told = events.repair_failed(repair.workflow_id, reason, repair_id=repair.repair_id)
        return Step([told], [moved(repair, "failed", reason=reason), *self._close(repair, "not_a_bug")])

    def _is_stopped(self, repair: Repair) -> bool:
        """A repetition does what the nodes do, so the brake is for it, too."""
        return policy.autonomy_of(self.journal, repair.workflow_id) in ("observe", "suggest")

    def _close(self, repair: Repair, outcome: str) -> list[Put]:
        case = Case.get(self.journal, repair.case_key)
        if case is None or case.repair_id != repair.repair_id:
            return []
        return [case.put(**policy.closing(outcome, now_s=time.time()), diagnosis="remote_outage")]


def _is_late(repair: Repair, pauses_s: Sequence[float]) -> bool:
    began_s = repair.times.get("retrying", 0.0)
    return datetime.now(UTC).timestamp() > began_s + sum(pauses_s) + GOES_ON_S


def _told(seconds: float) -> str:
    if seconds >= 3_600:
        return f"{seconds / 3_600:g} h"
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
