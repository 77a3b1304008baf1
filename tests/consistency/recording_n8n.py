"""An n8n that takes its time, and records each write that it has done."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

from tests.consistency.recording import Recorder
from tests.fakes.n8n import Request
from tests.heal.rig import HealN8n

SLOW_S = 0.15
WRITES = ("put", "publish", "retry")


class RecordingN8n(HealN8n):
    """:param writes: where the bridge's workers note when each of their writes leaves; see ``wsgi.py``."""

    def __init__(self, recorder: Recorder, seed: int, writes: Path) -> None:
        super().__init__(lag_s=0.1)
        self._recorder = recorder
        self._writes = writes
        self._chance = Random(seed)

    def answer(self, request: Request) -> tuple[int, Any]:
        workflow_id, step = self.step_of(request)
        if step not in WRITES or "x-write" not in request.headers:  # else an operator's
            return super().answer(request)
        sent_at = float((self._writes / request.headers["x-write"]).read_text())
        with self._lock:
            before_s, after_s = self._chance.uniform(0, SLOW_S), self._chance.uniform(0, SLOW_S)
        time.sleep(before_s)
        with self._lock:
            before, draft = self._active_id(workflow_id), self._draft_id(workflow_id)
            status, body = super().answer(request)
            self._recorder.add(
                "write",
                step=step,
                workflow=workflow_id,
                turn=request.headers["x-turn"],
                sent_at=sent_at,
                status=status,
                active=[before, self._active_id(workflow_id)],
                draft=[draft, self._draft_id(workflow_id)],
            )
        time.sleep(after_s)
        return status, body

    def _active_id(self, workflow_id: str) -> str | None:
        stored = self.workflows.get(workflow_id)
        return stored.public["activeVersionId"] if stored else None

    def _draft_id(self, workflow_id: str) -> str | None:
        stored = self.workflows.get(workflow_id)
        return stored.public["versionId"] if stored else None

    def record_end(self) -> None:
        """What it has done and is at the end."""
        with self._lock:
            for run in self.executions.values():
                retry_of = run["retryOf"] or ""
                self._recorder.add(
                    "run",
                    run=run["id"],
                    workflow=run["workflowId"],
                    version=run["workflowVersionId"],
                    retry_of=retry_of,
                )
            for delivery in list(self.deliveries):
                run_id = str(delivery.body.get("execution", {}).get("id", ""))
                self._recorder.add("told", what="callback", by="n8n", status=delivery.status, key=run_id)
