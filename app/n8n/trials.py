"""Failed runs that are repeated in n8n: on a draft, to see whether it helps, and as they were."""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.errors import BaseError
from app.journal import Lease
from app.n8n import Trial
from app.n8n.client import Execution, N8nClient
from app.n8n.errors import ExecutionNotFoundError, N8nConflictError, N8nRefusedError, N8nTooLargeError, clean
from app.n8n.fenced import Fencing
from app.n8n.intents import Intent, Intents, maybe_done
from app.n8n.secret_boundary import SecretBoundary

LOST_WAIT_S = 2.0
"""So long what a lost answer was about is looked for: n8n may still be at it."""
VERDICT_WAIT_S = 30.0
AGAIN_WAIT_S = 5.0
"""So long a plain repetition may hold up its session; whoever looks later finds how it ended."""

_RUNNING = ("new", "running", "unknown")
# Asleep in n8n's database, for a minute or for days: n8n itself waits for shorter waits.
_UNFINISHED = (*_RUNNING, "waiting")
_REFUSED = (ExecutionNotFoundError, N8nConflictError, N8nRefusedError)


class Trials:
    """Each is started once, by an intent that is written down before; who asks again gets the verdict on its run.

    :param verdict_wait_s: a trial that has not ended by then has no verdict.
    """

    def __init__(
        self,
        client: N8nClient,
        intents: Intents,
        fencing: Fencing,
        secrets: SecretBoundary,
        *,
        lost_wait_s: float = LOST_WAIT_S,
        verdict_wait_s: float = VERDICT_WAIT_S,
    ) -> None:
        self._client = client
        self._intents = intents
        self._fencing = fencing
        self._secrets = secrets
        self._lost_wait_s = lost_wait_s
        self._verdict_wait_s = verdict_wait_s

    def try_draft(
        self, workflow_id: str, *, version_id: str, execution_id: str | None, fences: Sequence[Lease] = ()
    ) -> Trial:
        """See :class:`app.n8n.Workflows`. One run per failed run and version, whatever happens to the answer.

        :raises N8nError: n8n cannot be asked now; ask again.
        """
        if execution_id is None:
            return Trial("unverified", "the failed run is not known, so it cannot be repeated")
        name = f"trial:{execution_id}:{version_id}"
        known = self._intents.get(name)
        if known is None:
            reason = self._cannot_try(workflow_id, version_id, execution_id)
            if reason:
                return Trial("unverified", reason)
            try:
                known = self._start(name, execution_id, fences, load_workflow=True, timeout_s=self._verdict_wait_s)
            except _REFUSED as exc:
                return Trial("unverified", clean(exc.detail))
        run_id = known.result_id or self._find_run(workflow_id, execution_id, version_id)
        if run_id is None:
            return Trial(
                "unverified",
                "no run of the trial is to be found, and it is not started twice; n8n cannot start it where the "
                "failed node was renamed or removed",
            )
        self._intents.conclude(known, run_id)
        return self._judge(run_id, version_id)

    def run_again(self, workflow_id: str, *, execution_id: str, number: int, fences: Sequence[Lease] = ()) -> Trial:
        """See :class:`app.n8n.Workflows`. Where a person has repeated the failed run successfully, that is it."""
        name = f"trial:{execution_id}:again-{number}"
        known = self._intents.get(name)
        if known is None:
            try:
                failed = self._client.get_execution(execution_id)
            except ExecutionNotFoundError:
                return Trial("unverified", "n8n did not keep the failed run, so it cannot be repeated")
            if failed.get("retrySuccessId"):
                return Trial("verified", execution_id=str(failed["retrySuccessId"]))
            try:
                known = self._start(name, execution_id, fences, load_workflow=False, timeout_s=AGAIN_WAIT_S)
            except _REFUSED as exc:
                return Trial("unverified", clean(exc.detail))
        run_id = known.result_id or self._find_again(workflow_id, execution_id)
        if run_id is None:
            # It was never begun, or n8n has lost it: this repetition is used up, the next one may be made.
            return Trial("failed", "no run of the repetition is to be found")
        self._intents.conclude(known, run_id)
        return self._outcome(run_id)

    def _cannot_try(self, workflow_id: str, version_id: str, execution_id: str) -> str:
        """Why this trial would show nothing; empty: go on."""
        if self._client.get_workflow(workflow_id)["versionId"] != version_id:
            return "the draft was changed meanwhile"
        try:
            failed = self._client.get_execution(execution_id)
        except ExecutionNotFoundError:
            return "n8n did not keep the failed run, so it cannot be repeated"
        if failed.get("workflowId") != workflow_id:
            return "the failed run belongs to another workflow"
        return ""

    def _start(
        self, name: str, execution_id: str, fences: Sequence[Lease], *, load_workflow: bool, timeout_s: float
    ) -> Intent:
        """Send the retry, unless somebody else may have sent it. Where its answer is lost nothing is raised: its run is
        to be looked for.

        :raises BaseError: it was not done, and may be sent again.
        """
        confirmed = self._fencing.confirm(fences)
        known, begun = self._intents.begin(name, fences)
        if not begun:
            return known
        try:
            run = self._client.retry_execution(
                execution_id, load_workflow=load_workflow, timeout_s=timeout_s, confirm=confirmed
            )
        except BaseError as exc:
            if maybe_done(exc):
                return known
            self._intents.forget(known)
            raise
        if isinstance(run.get("id"), str):
            self._intents.conclude(known, run["id"])
        return self._intents.get(name) or known

    def _find_run(self, workflow_id: str, execution_id: str, version_id: str) -> str | None:
        deadline = time.monotonic() + self._lost_wait_s
        while True:
            for run in self._client.find_retries(workflow_id, execution_id):
                run_id = str(run["id"])
                # A person may have retried the same run, with another version.
                if self._client.get_execution(run_id).get("workflowVersionId") == version_id:
                    return run_id
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.2)

    def _judge(self, run_id: str, version_id: str) -> Trial:
        try:
            run = self._ended(run_id)
            status = str(run.get("status"))
            if run.get("workflowVersionId") != version_id:
                return Trial("unverified", "the trial ran another version than the proposed one", run_id)
            if status == "success":
                return Trial("verified", execution_id=run_id)
            if status in ("error", "crashed"):
                return Trial("failed", self._failure(run_id), run_id)
        except ExecutionNotFoundError:
            return Trial("unverified", "n8n did not keep the trial's run, so there is no verdict", run_id)
        if status in _UNFINISHED:
            return Trial("unverified", f"no verdict yet: the trial's run is {status}", run_id)
        return Trial("unverified", f"the trial's run ended as {clean(status)}", run_id)

    def _ended(self, run_id: str) -> Execution:
        deadline = time.monotonic() + self._verdict_wait_s
        pause_s = 0.05
        while (run := self._client.get_execution(run_id)).get("status") in _RUNNING:
            if time.monotonic() >= deadline:
                break
            time.sleep(pause_s)
            pause_s = min(1.0, pause_s * 1.5)
        return run

    def _failure(self, run_id: str) -> str:
        """What a failed run says of itself: the node, and the message without secrets."""
        try:
            run = self._client.get_execution(run_id, include_data=True)
        except N8nTooLargeError:
            return "the trial failed as well"
        result = (run.get("data") or {}).get("resultData") or {}
        error = self._secrets.hides(run)(result.get("error") or {})
        message = clean(str(error.get("message") or error.get("name") or "the trial failed as well"))
        node = result.get("lastNodeExecuted")
        return f'"{clean(str(node))}": {message}' if node else message

    def _find_again(self, workflow_id: str, execution_id: str) -> str | None:
        taken = {known.result_id for known in Intent.find(self._intents.journal, f"trial:{execution_id}")}
        deadline = time.monotonic() + self._lost_wait_s
        while True:
            found = [str(run["id"]) for run in self._client.find_retries(workflow_id, execution_id)]
            if run_id := next((run_id for run_id in found if run_id not in taken), None):
                return run_id
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.2)

    def _outcome(self, run_id: str) -> Trial:
        """How a run stands, without waiting for it."""
        try:
            status = str(self._client.get_execution(run_id).get("status"))
            if status == "success":
                return Trial("verified", execution_id=run_id)
            if status in _UNFINISHED:
                return Trial("running", f"the run is {status}", run_id)
            return Trial("failed", self._failure(run_id), run_id)
        except ExecutionNotFoundError:
            return Trial("unverified", "n8n did not keep the repetition's run", run_id)
