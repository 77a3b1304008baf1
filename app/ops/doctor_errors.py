"""Whether n8n has the bridge's error workflow, as it should be, and whether each registered workflow names it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator

from app.errors import N8nError, WorkflowNotFoundError
from app.journal import Journal
from app.journal.records import Registration
from app.n8n import Workflow, error_workflow
from app.n8n.client import N8nClient
from app.n8n.errors import clean
from app.n8n.workflows import editable
from app.ops.doctor_findings import Examination, Finding
from app.repairs.workflow_lease import lease_name

NAME, REPORTING = "error workflow", "reporting"
MAX_REGISTERED = 1000
MAX_LINES = 20
LOOK_S = 60.0
LEASE_S = 30.0


def check_error_workflow(examination: Examination) -> Iterator[Finding]:
    settings, client = examination.settings, examination.n8n
    secrets = settings.n8n_callback_secret

    def look() -> error_workflow.State:
        return error_workflow.state(client, callback_url=settings.n8n_callback_url, secrets=secrets)

    state, mended = look(), ""
    if state.problem and examination.fix:
        secret = secrets[0] if secrets else None
        done = error_workflow.install(client, callback_url=settings.n8n_callback_url, secret=secret)
        state, mended = look(), f"; it was {done.outcome} just now"
    if state.workflow_id is None:
        examination.lacks["error workflow"] = "n8n has no error workflow of the bridge"
    else:
        examination.error_workflow_id = state.workflow_id
    if state.problem:
        examination.lacks["reports"] = "the error workflow is not as it should be"
        what, _, todo = state.problem.partition(": ")
        yield Finding(NAME, "problem", what, f"{todo[:1].upper()}{todo[1:].rstrip('.')}, or use --fix.")
        return
    detail = f"{state.workflow_id}, version {state.version}, is published and reports to {state.callback_url}{mended}"
    yield Finding(NAME, "ok", detail)


def check_registered(examination: Examination) -> Iterator[Finding]:
    """Only those of open sessions: what the others report becomes a dead letter, as it is meant to."""
    journal = examination.opened
    registered = open_registrations(journal)
    deadline = time.monotonic() + LOOK_S
    problems: list[Finding] = []
    looked_at = mended = 0
    for registration in registered:
        if time.monotonic() > deadline:
            break
        looked_at += 1
        found = _look(examination, registration)
        if found == "mended":
            mended += 1
        elif isinstance(found, Finding):
            problems.append(found)
    yield from problems[:MAX_LINES]
    if len(problems) > MAX_LINES:
        yield Finding(REPORTING, "problem", f"{len(problems) - MAX_LINES} more registered workflows are not in order")
    if looked_at < len(registered):
        detail = f"{len(registered) - looked_at} registered workflows were not looked at within {LOOK_S:g} s"
        yield Finding(REPORTING, "note", detail)
    if not problems:
        told = f"; it was set on {mended} just now" if mended else ""
        count = f"all {looked_at} registered workflows name" if looked_at > 1 else "the registered workflow names"
        detail = f"{count} the error workflow{told}" if looked_at else "no workflow is registered"
        yield Finding(REPORTING, "ok", detail)


def open_registrations(journal: Journal) -> list[Registration]:
    """The registrations of sessions that were not ended."""
    ended: dict[str, bool] = {}
    for registration in (found := Registration.find(journal, limit=MAX_REGISTERED)):
        if registration.session_id not in ended:
            session = journal.session(registration.session_id)
            ended[registration.session_id] = session is None or session.state == "closed"
    return [registration for registration in found if not ended[registration.session_id]]


def _look(examination: Examination, registration: Registration) -> Finding | str:
    """What is wrong, ``mended``, or nothing."""
    client, ours = examination.n8n, examination.error_workflow_id
    title = f'"{clean(registration.name)}" ({registration.workflow_id})'
    try:
        workflow = client.get_workflow(registration.workflow_id)
    except WorkflowNotFoundError:
        detail = f"{title} is not in n8n any more, or hidden from the key"
        todo = f"Put it back, or end its session: DELETE /sessions/{registration.session_id}."
        return Finding(REPORTING, "problem", detail, todo)
    examination.workflows[registration.workflow_id] = workflow
    title = f'"{clean(str(workflow.get("name")))}" ({registration.workflow_id})'
    named = _named(workflow)
    if named == ours or registration.workflow_id == ours:
        return ""
    if named:
        detail = f"{title} names another error workflow: {_title(client, named)}"
        todo = "Choose the bridge's in the workflow's settings in n8n; --fix does not replace what somebody chose."
        return Finding(REPORTING, "problem", detail, todo)
    if not examination.fix:
        return Finding(REPORTING, "problem", f"{title} names no error workflow", "Use --fix, or adopt it again.")
    return _mend(examination, registration.workflow_id, title)


def _mend(examination: Examination, workflow_id: str, title: str) -> Finding | str:
    """Have the workflow name the error workflow, and change nothing else. Settings have no versions, so this is live
    at once and makes no draft."""
    journal, client, ours = examination.opened, examination.n8n, examination.error_workflow_id
    holder = f"doctor-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    lease = journal.acquire(lease_name(workflow_id), holder, ttl_s=LEASE_S)
    if lease is None:
        detail = f"{title} names no error workflow, and is being worked on"
        return Finding(REPORTING, "problem", detail, "Use --fix again in a moment.")
    try:
        # Read under the lease: nobody of the bridge's writes now, and what a person wrote just before is kept.
        workflow = client.get_workflow(workflow_id)
        if not _named(workflow):
            body = {key: value for key, value in editable(workflow).items() if key != "staticData"}
            client.put_workflow(workflow_id, {**body, "settings": {"errorWorkflow": ours}})
            workflow = client.get_workflow(workflow_id)
    except N8nError as exc:
        return Finding(REPORTING, "problem", f"{title}: the error workflow could not be set", exc.detail)
    finally:
        journal.release(lease)
    examination.workflows[workflow_id] = workflow
    if _named(workflow) != ours:
        return Finding(REPORTING, "problem", f"{title}: n8n did not keep the error workflow", "Set it in n8n.")
    return "mended"


def _named(workflow: Workflow) -> str:
    """The error workflow that it names; n8n's ``DEFAULT`` is none."""
    named = (workflow.get("settings") or {}).get("errorWorkflow")
    return named if isinstance(named, str) and named != "DEFAULT" else ""


def _title(client: N8nClient, workflow_id: str) -> str:
    try:
        return f'"{clean(str(client.get_workflow(workflow_id)["name"]))}" ({clean(workflow_id)})'
    except (N8nError, WorkflowNotFoundError):
        return clean(workflow_id)
