"""The canary's repair, followed by the session's events: what the bridge finds, proposes, proves, and lets wait."""

from __future__ import annotations

from dataclasses import dataclass

from app.drill.bridge import DrillSession, Event
from app.drill.canary import Canary
from app.drill.patience import DrillError
from app.drill.timeline import Timeline
from app.n8n.diff import describe

MENDABLE = ("workflow_bug", "unknown")
RELEASE = 'Healing is held back: release the brake (PUT /autonomy with {"autonomy": "auto"}).'
CALLBACK_HINT = (
    "n8n has not reported the failure: see that N8N_CALLBACK_URL is where n8n reaches this bridge, then run `flask n8n "
    "install-error-workflow` and look at the runs of the error workflow in n8n."
)
AGENT_HINT = "See the bridge's log, and whether the agent answers in the chat."


@dataclass(slots=True)
class RepairWatch:
    """One repair, from the callback to its publication."""

    session: DrillSession
    canary: Canary
    timeline: Timeline
    repair_id: str = ""
    proven: bool = False
    published: bool = False
    held_back: str = ""
    """Why it was not proven; where its turn ends with that, nobody is asked either."""

    def follow(self) -> None:
        """Until it is published; what waits for a person is approved.

        :raises DrillError: it comes to another end.
        """
        self.timeline.awaited = "the callback (workflow_error)"
        self._take_callback(self.session.next_event(self._is_failure, hint=CALLBACK_HINT))
        self.timeline.awaited = "the repair to be proposed"
        while not self.published:
            event = self.session.next_event(self._is_ours, hint=AGENT_HINT)
            data = event["data"]
            match event["type"]:
                case "repair_diagnosed":
                    self._take_diagnosis(data["kind"], data["summary"])
                case "repair_proposed":
                    self.timeline.add("proposed", data["summary"], describe(data["diff"]).splitlines())
                    self.timeline.awaited = "the repair to be tried and published"
                case "repair_verified":
                    self.proven, self.held_back = True, ""
                    self.timeline.add("verified", f"by run {data['executionId']}, on the draft")
                case "repair_unverified":
                    self.held_back = data["reason"]
                    self.timeline.add("unverified", data["reason"])
                case "repair_waiting":
                    self._approve(data["reason"])
                case "repair_published":
                    self.published = True
                    self.timeline.add("published", f"the repair, with an undo kept (snapshot {data['snapshotId']})")
                case "repair_failed" | "repair_blocked":
                    raise DrillError(f"The repair ended: {data['reason']} {AGENT_HINT}")
                case "turn_finished" if data["outcome"] != "interrupted" and self.held_back:
                    raise DrillError(f"{self.held_back} {RELEASE}")

    def _is_failure(self, event: Event) -> bool:
        is_error: bool = event["type"] == "workflow_error"
        return is_error and event["data"]["workflowId"] == self.canary.workflow_id

    def _is_ours(self, event: Event) -> bool:
        return self.repair_id in (event.get("repairId"), event["data"].get("repairId"))

    def _take_callback(self, event: Event) -> None:
        data = event["data"]
        run = (data.get("execution") or {}).get("id", "unknown")
        self.timeline.add("callback", f"{data['error'].get('message', 'an error')} (run {run}, by {data['source']})")
        if not event.get("repairId"):
            raise DrillError(f"The failure was only noted; no repair was begun. {RELEASE}")
        self.repair_id = event["repairId"]

    def _take_diagnosis(self, kind: str, summary: str) -> None:
        self.timeline.add("diagnosed", f"{kind}: {summary}")
        if kind not in MENDABLE:
            raise DrillError(f"The failure was taken for {kind}, which no repair can mend: {summary}")

    def _approve(self, reason: str) -> None:
        if self.canary.can_prove and not self.proven:
            raise DrillError(f"The repair was not proven, though an n8n is there to prove it. {reason}")
        self.session.command("approve", repairId=self.repair_id)
        self.timeline.add("approved", f"by the drill, in a person's place. {reason}")
        self.held_back = ""
