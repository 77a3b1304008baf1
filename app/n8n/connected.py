"""Workflows in a real n8n: writes that happen once, are read back, and leave production alone until published."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from app.errors import (
    BaseError,
    ConflictError,
    N8nError,
    StaleDocumentError,
    WorkflowNotFoundError,
)
from app.journal import Change, Journal, Lease
from app.journal.records import Record
from app.n8n import Trial, Workflow
from app.n8n.client import Execution, N8nClient
from app.n8n.draft_writes import DraftWrites
from app.n8n.errors import (
    ExecutionNotFoundError,
    N8nConflictError,
    N8nDownError,
    N8nFailedError,
    N8nRefusedError,
    N8nTooLargeError,
    N8nTooOldError,
    clean,
)
from app.n8n.executions import summarize
from app.n8n.fenced import Confirm
from app.n8n.secret_boundary import SecretBoundary
from app.n8n.workflows import canonical_json, contents_hash, editable

LOST_WAIT_S = 2.0
"""So long what a lost answer was about is looked for: n8n may still be at it."""
PUBLISH_WAIT_S = 5.0
VERDICT_WAIT_S = 30.0
AGAIN_WAIT_S = 5.0
"""So long a plain repetition may hold up its session; whoever looks later finds how it ended."""

_NODE_IDS = uuid.UUID("0b5b0f1e-2f6a-4f0b-9f0e-5a3c1f1d7a52")
# Who owns it, copies of what else is there, and what runs have left in it; none of it is of use to an agent or in a
# snapshot.
_LEFT_OUT = ("shared", "activeVersion", "parentFolder", "sourceWorkflowId", "pinData", "staticData")
_RUNNING = ("new", "running", "unknown")
# Asleep in n8n's database, for a minute or for days: n8n itself waits for shorter waits.
_UNFINISHED = (*_RUNNING, "waiting")
ECHO_S = 3_600.0
"""So long a trial whose run is not known yet may be what a callback tells of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent(Record):
    """A request to n8n that may be made once: written down before it is sent.

    :ivar name: what is to be done, for whoever asks again.
    :ivar result_id: id of the workflow or run that came of it; empty while it is not known.
    """

    KIND = "intent"
    name: str
    result_id: str = ""

    @property
    def key(self) -> str:
        return intent_key(self.name)

    @property
    def labels(self) -> tuple[str, ...]:
        if not self.name.startswith("trial:"):
            return ()
        # ``trial:EXECUTION:VERSION``, under the run that is tried again, and under the run that this has become.
        return (self.name.rpartition(":")[0], *((f"run:{self.result_id}",) if self.result_id else ()))


def intent_key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_trial(journal: Journal, run_id: str | None, *, retry_of: str) -> bool:
    """Whether that run, a retry of ``retry_of``, is a trial of ours; one that n8n has not named yet may be it."""
    for known in Intent.find(journal, f"trial:{retry_of}"):
        if known.result_id:
            if known.result_id == run_id:
                return True
        elif known.stored_at is not None and (datetime.now(UTC) - known.stored_at).total_seconds() < ECHO_S:
            return True
    return False


def is_trial_run(journal: Journal, run_id: str) -> bool:
    """Whether that run is a trial of ours that n8n has named."""
    return bool(Intent.find(journal, f"run:{run_id}", limit=1))


def has_unnamed_trial(journal: Journal, failed_run_id: str) -> bool:
    """Whether a trial of that failed run may be going on whose own run is not known yet."""
    return any(not known.result_id for known in Intent.find(journal, f"trial:{failed_run_id}"))


class DraftNotKeptError(N8nError):
    """n8n took a draft and has something else afterwards, in the version ``version_id``."""

    def __init__(self, version_id: str) -> None:
        super().__init__(
            "n8n took the workflow and saved another; look at its nodes' credentials and settings.", permanent=True
        )
        self.version_id = version_id


class ConnectedWorkflows:
    """See :class:`app.n8n.Workflows`. n8n knows no locks: who writes holds the workflow's lease, as ``fences``.

    What is handed out has placeholders for the secrets in it, and what is written gets them back: see ``secrets.py``.

    :param error_workflow_id: the workflow that reports failures to the bridge, if there is one; it is set on every
        workflow written here that names none.
    :param verdict_wait_s: a trial that has not ended by then has no verdict.
    """

    connected = True

    def __init__(
        self,
        client: N8nClient,
        journal: Journal,
        *,
        error_workflow_id: Callable[[], str | None] = lambda: None,
        lost_wait_s: float = LOST_WAIT_S,
        publish_wait_s: float = PUBLISH_WAIT_S,
        verdict_wait_s: float = VERDICT_WAIT_S,
    ) -> None:
        self._client = client
        self._journal = journal
        self._secrets = SecretBoundary(client, journal)
        self._writes = DraftWrites(journal, self._shown)
        self._error_workflow_id = error_workflow_id
        self._lost_wait_s = lost_wait_s
        self._publish_wait_s = publish_wait_s
        self._verdict_wait_s = verdict_wait_s

    # -- reading

    def get(self, workflow_id: str, *, version: Literal["draft", "active"] = "draft") -> Workflow:
        """Without pinned data and ownership. Settings and name have no versions; those of now are in both."""
        workflow = self._client.get_workflow(workflow_id)
        if version == "draft":
            return self._shown(workflow)
        active = self._active(workflow)
        if active is None:
            raise WorkflowNotFoundError("No version of this workflow is running: it is not published.")
        contents = {"nodes": active["nodes"], "connections": active["connections"]}
        return self._shown({**workflow, **contents, "versionId": workflow["activeVersionId"]})

    def seed(self, workflow_id: str, name: str, node: Mapping[str, Any]) -> Workflow:
        """n8n knows more than the callback told."""
        return self.get(workflow_id)

    def has_foreign_draft(self, workflow_id: str) -> bool:
        """Whether the saved draft of an active workflow is another than what runs: somebody is at work on it.

        A draft that was put back as it was has a new version, and is no such draft.
        """
        workflow = self._client.get_workflow(workflow_id)
        active = self._active(workflow)
        return active is not None and contents_hash(active) != contents_hash(workflow)

    # -- writing

    def create(self, body: Mapping[str, Any], *, intent: str, fences: Sequence[Lease] = ()) -> Workflow:
        """See the protocol. The nodes get ids that follow from ``intent``: by them the workflow is found again.

        :raises N8nError: where it has ``maybe_done`` the workflow may exist; the same call finds it.
        :raises ValidationError: it has a placeholder: there is nothing yet that it could stand for.
        """
        body = self._secrets.filled(body)
        wanted = {key: value for key, value in editable(body).items() if key != "staticData"}
        wanted["nodes"] = _marked(wanted["nodes"], intent)
        wanted["settings"] = {"executionOrder": "v1", **wanted["settings"]}
        error_workflow_id = self._error_workflow_id()
        if error_workflow_id:
            wanted["settings"]["errorWorkflow"] = error_workflow_id
        known, begun = self._begin(f"create:{intent}", fences)
        if known.result_id:
            return self.get(known.result_id)
        created = None if begun else self._find_created(wanted)
        if created is None:
            created = self._create(wanted, known, self._check(fences))
        self._conclude(known, str(created["id"]))
        if error_workflow_id and created["settings"].get("errorWorkflow") != error_workflow_id:
            raise N8nError("n8n did not keep the workflow's error workflow; set it in the workflow's settings.")
        return self._shown(created)

    def put_draft(
        self,
        workflow_id: str,
        body: Mapping[str, Any],
        *,
        base_version_id: str,
        fences: Sequence[Lease] = (),
        instead: Mapping[str, Any] | None = None,
    ) -> Workflow:
        """See the protocol; returns what n8n has afterwards. Settings are merged into those it has, and its error
        workflow stays. What it runs on between runs (static data) is left alone.

        :raises WorkflowNotFoundError: n8n has no such workflow.
        :raises DraftNotKeptError: n8n took it and has something else afterwards.
        :raises SecretLostError: n8n has no value any more for one of its placeholders; nothing was written.
        """
        present = self._client.get_workflow(workflow_id)
        wanted = self._wanted(present, self._secrets.filled(body, present))
        if holds(present, wanted):
            return self._shown(present)
        if present["versionId"] != base_version_id:
            raise ConflictError("The workflow was changed meanwhile.")
        confirm = self._confirm(fences)
        write = self._writes.begin(present, wanted, instead=instead, fences=fences)
        answer = self._client.put_workflow(workflow_id, changed(wanted, present), confirm=confirm)
        self._writes.end(write, present, str(answer["versionId"]), fences=fences)
        saved = self._client.get_workflow(workflow_id)
        if present["activeVersionId"] != saved["activeVersionId"] == answer["versionId"]:
            raise N8nTooOldError("a draft that n8n published at once")
        if not holds(saved, wanted):
            if saved["versionId"] != answer["versionId"]:
                raise ConflictError("The workflow was changed meanwhile.")
            raise DraftNotKeptError(str(saved["versionId"]))
        return self._shown(saved)

    def publish(self, workflow_id: str, *, version_id: str, fences: Sequence[Lease] = ()) -> Workflow:
        """See the protocol; an inactive workflow becomes active. n8n says so before production has followed.

        :raises WorkflowNotFoundError: it has no such version. :raises N8nRefusedError: it cannot be activated.
        """
        workflow = self._client.get_workflow(workflow_id)
        if workflow["activeVersionId"] != version_id:
            self._client.publish(workflow_id, version_id, confirm=self._check(fences))
            deadline = time.monotonic() + self._publish_wait_s
            while (workflow := self._client.get_workflow(workflow_id))["activeVersionId"] != version_id:
                if time.monotonic() >= deadline:
                    raise N8nError("n8n took the publication and runs another version; look at the workflow in n8n.")
                time.sleep(0.1)
        return self._shown(workflow)

    def unpublish(self, workflow_id: str, *, fences: Sequence[Lease] = ()) -> Workflow:
        return self._shown(self._client.unpublish(workflow_id, confirm=self._check(fences)))

    def execution(self, workflow_id: str, execution_id: str) -> dict[str, Any]:
        run = self._client.get_execution(execution_id, include_data=True)
        if run.get("workflowId") != workflow_id:
            raise ExecutionNotFoundError("This workflow has no such run.")
        return summarize(run, hide=self._secrets.hides(run))

    def credentials(self) -> list[dict[str, str]]:
        return [{"id": c.id, "name": c.name, "type": c.type} for c in self._client.list_credentials() or []]

    # -- trying

    def try_draft(
        self, workflow_id: str, *, version_id: str, execution_id: str | None, fences: Sequence[Lease] = ()
    ) -> Trial:
        """See the protocol. One run per failed run and version, whatever happens to the answer; who asks again gets
        the verdict on that run.

        :raises N8nError: n8n cannot be asked now; ask again.
        """
        if execution_id is None:
            return Trial("unverified", "the failed run is not known, so it cannot be repeated")
        known = Intent.get(self._journal, intent_key(_trial_name(execution_id, version_id)))
        if known is None:
            reason = self._cannot_try(workflow_id, version_id, execution_id)
            if reason:
                return Trial("unverified", reason)
            confirm = self._confirm(fences)
            known, begun = self._begin(_trial_name(execution_id, version_id), fences)
            if begun:
                try:
                    self._start_trial(known, execution_id, confirm)
                except (ExecutionNotFoundError, N8nConflictError, N8nRefusedError) as exc:
                    return Trial("unverified", clean(exc.detail))
                known = Intent.get(self._journal, known.key) or known
        run_id = known.result_id or self._find_run(workflow_id, execution_id, version_id)
        if run_id is None:
            return Trial(
                "unverified",
                "no run of the trial is to be found, and it is not started twice; n8n cannot start it where the "
                "failed node was renamed or removed",
            )
        self._conclude(known, run_id)
        return self._judge(run_id, version_id)

    def run_again(self, workflow_id: str, *, execution_id: str, number: int, fences: Sequence[Lease] = ()) -> Trial:
        """See the protocol. Where the failed run was repeated successfully by a person, that is it."""
        name = f"trial:{execution_id}:again-{number}"
        known = Intent.get(self._journal, intent_key(name))
        if known is None:
            try:
                failed = self._client.get_execution(execution_id)
            except ExecutionNotFoundError:
                return Trial("unverified", "n8n did not keep the failed run, so it cannot be repeated")
            if failed.get("retrySuccessId"):
                return Trial("verified", execution_id=str(failed["retrySuccessId"]))
            confirm = self._confirm(fences)
            known, begun = self._begin(name, fences)
            if begun:
                try:
                    self._start_trial(known, execution_id, confirm, load_workflow=False, timeout_s=AGAIN_WAIT_S)
                except (ExecutionNotFoundError, N8nConflictError, N8nRefusedError) as exc:
                    return Trial("unverified", clean(exc.detail))
                known = Intent.get(self._journal, known.key) or known
        run_id = known.result_id or self._find_again(workflow_id, execution_id)
        if run_id is None:
            # It was never begun, or n8n has lost it: this repetition is used up, the next one may be made.
            return Trial("failed", "no run of the repetition is to be found")
        self._conclude(known, run_id)
        return self._outcome(run_id)

    def _find_again(self, workflow_id: str, execution_id: str) -> str | None:
        taken = {known.result_id for known in Intent.find(self._journal, f"trial:{execution_id}")}
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

    def _start_trial(
        self,
        known: Intent,
        execution_id: str,
        confirm: Confirm | None,
        *,
        load_workflow: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """Send the retry. Where its answer is lost nothing is raised: its run is to be looked for.

        :raises BaseError: it was not done, and may be sent again.
        """
        timeout_s = timeout_s or self._verdict_wait_s
        try:
            run = self._client.retry_execution(
                execution_id, load_workflow=load_workflow, timeout_s=timeout_s, confirm=confirm
            )
        except BaseError as exc:
            if _maybe_done(exc):
                return
            self._forget(known)
            raise
        if isinstance(run.get("id"), str):
            self._conclude(known, run["id"])

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

    def _shown(self, workflow: Workflow) -> Workflow:
        return self._secrets.shown({key: value for key, value in workflow.items() if key not in _LEFT_OUT})

    # -- how writes are made

    def _wanted(self, present: Workflow, body: Mapping[str, Any]) -> Workflow:
        """``body`` as it is sent: the keys that n8n takes, completed by what it has already."""
        wanted = {key: value for key, value in editable(body).items() if key != "staticData"}
        wanted["nodes"] = _completed(wanted["nodes"], present)
        settings = {**(present.get("settings") or {}), **wanted["settings"]}
        kept = (present.get("settings") or {}).get("errorWorkflow") or self._error_workflow_id()
        if kept and kept != present["id"]:
            settings["errorWorkflow"] = kept
        wanted["settings"] = settings
        return wanted

    def _create(self, wanted: Workflow, known: Intent, confirm: Confirm | None) -> Workflow:
        try:
            return self._client.create_workflow(wanted, confirm=confirm)
        except BaseError as exc:
            if not _maybe_done(exc):
                self._forget(known)
                raise
            created = self._find_created(wanted)
            if created is None:
                raise
            return created

    def _find_created(self, wanted: Workflow) -> Workflow | None:
        """The workflow with exactly the node ids that were sent, or ``None``. A person may have renamed it since."""
        ids = _node_ids(wanted)
        deadline = time.monotonic() + self._lost_wait_s
        while ids:
            for workflow in self._client.iter_workflows():
                if _node_ids(workflow) & ids:
                    return self._client.get_workflow(str(workflow["id"]))
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.2)
        return None

    def _begin(self, name: str, fences: Sequence[Lease]) -> tuple[Intent, bool]:
        """Write down what is about to be sent. ``False``: somebody did before, and may have sent it."""
        key = intent_key(name)
        known = Intent.get(self._journal, key)
        if known is None:
            try:
                self._journal.commit(Change(puts=[Intent(name=name).put()], fences=fences))
            except StaleDocumentError:
                known = Intent.get(self._journal, key)
        if known is not None:
            return known, False
        return Intent.get(self._journal, key) or Intent(name=name), True

    def _conclude(self, known: Intent, result_id: str) -> None:
        if known.result_id == result_id:
            return
        try:
            self._journal.commit(Change(puts=[known.put(result_id=result_id)]))
        except StaleDocumentError:
            # Whoever looked for it at the same time found the same.
            return

    def _forget(self, known: Intent) -> None:
        """It was certainly not done, so it may be sent again."""
        try:
            self._journal.commit(Change(deletes=[known.delete()]))
        except StaleDocumentError:
            return

    def _confirm(self, fences: Sequence[Lease]) -> Confirm | None:
        """For a write whose leases are looked at next."""
        return Confirm(self._journal, fences) if fences else None

    def _check(self, fences: Sequence[Lease]) -> Confirm | None:
        """Look at the leases; returns what looks again before the write is sent.

        :raises LeaseLostError: somebody else is in charge now.
        """
        confirm = self._confirm(fences)
        if fences:
            self._journal.commit(Change(fences=fences))
        return confirm

    def _active(self, workflow: Workflow) -> Mapping[str, Any] | None:
        """What runs: ``nodes`` and ``connections``."""
        version_id = workflow["activeVersionId"]
        if not version_id:
            return None
        if version_id == workflow["versionId"]:
            return workflow
        active = workflow.get("activeVersion")
        if isinstance(active, dict) and active.get("versionId") == version_id and "connections" in active:
            return active
        return self._client.version(str(workflow["id"]), version_id)


def _maybe_done(error: BaseError) -> bool:
    """Whether n8n may have done what it was asked although this came of it."""
    return isinstance(error, N8nTooLargeError | N8nTooOldError) or (
        isinstance(error, N8nDownError | N8nFailedError) and error.maybe_done
    )


def _trial_name(execution_id: str, version_id: str) -> str:
    return f"trial:{execution_id}:{version_id}"


def _node_ids(workflow: Mapping[str, Any]) -> set[str]:
    return {str(node.get("id")) for node in workflow["nodes"] if isinstance(node, dict)}


def _marked(nodes: Sequence[Mapping[str, Any]], intent: str) -> list[dict[str, Any]]:
    return [{**node, "id": str(uuid.uuid5(_NODE_IDS, f"{intent}:{index}"))} for index, node in enumerate(nodes)]


def _completed(nodes: Sequence[Mapping[str, Any]], present: Workflow) -> list[dict[str, Any]]:
    """``nodes`` with the ids that they have in n8n already; one without a ``webhookId`` would get another address.

    A new node's id follows from its name, so that the same write is the same write.
    """
    known = {node.get("name"): node for node in present["nodes"]}
    completed = []
    for node in nodes:
        former = known.get(node.get("name"), {})
        new_id = str(uuid.uuid5(_NODE_IDS, f"{present['id']}:{node.get('name')}"))
        given: dict[str, Any] = {"id": former.get("id") or new_id, "parameters": {}}
        if former.get("webhookId") and former.get("type") == node.get("type"):
            given["webhookId"] = former["webhookId"]
        completed.append({**given, **{key: value for key, value in node.items() if value is not None}})
    return completed


def changed(wanted: Workflow, present: Workflow) -> Workflow:
    """What is sent: of the settings only those that change, as n8n merges them and refuses some of its own."""
    settings = present.get("settings") or {}
    keep = {key: value for key, value in wanted["settings"].items() if settings.get(key) != value}
    if "errorWorkflow" in wanted["settings"]:
        keep["errorWorkflow"] = wanted["settings"]["errorWorkflow"]
    return {**wanted, "settings": keep}


def holds(present: Workflow, wanted: Workflow) -> bool:
    """Whether n8n has what was to be written, but for what it fills in or leaves out itself."""
    found = {node.get("name"): node for node in present["nodes"]}
    nodes = []
    for node in wanted["nodes"]:
        own = found.get(node.get("name"), {}).get("webhookId")
        nodes.append({"webhookId": own, **node} if own else node)
    if contents_hash({**wanted, "nodes": nodes}) != contents_hash(present) or present.get("name") != wanted["name"]:
        return False
    settings = present.get("settings") or {}
    differing = {
        key: value
        for key, value in wanted["settings"].items()
        if canonical_json(settings.get(key)) != canonical_json(value)
    }
    # n8n does not store a setting that says what goes without saying.
    return all(value in ("DEFAULT", -1) and key not in settings for key, value in differing.items())
