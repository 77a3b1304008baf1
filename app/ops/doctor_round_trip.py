"""A callback's whole way, through the real n8n: a workflow that is made for it fails, and the bridge must hear of it.

The workflow is registered nowhere, so its report ends as a dead letter of the reason ``no_session``: the proof. Both
are removed again, and what a run that was killed has left is removed by the next one. Nothing is journalled before the
workflow is made: it is found again by its name and the note on its trigger.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress

import urllib3
from urllib3.exceptions import HTTPError

from app.errors import BaseError, N8nError, StaleDocumentError, WorkflowNotFoundError
from app.journal import Change, Journal
from app.journal.records import DeadLetter, DeadLetterReason
from app.n8n import Workflow
from app.n8n.client import N8nClient
from app.n8n.error_workflow import CALLBACK_PATH
from app.n8n.errors import N8nRefusedError, clean
from app.ops.doctor_findings import Examination, Finding
from app.settings import Settings

NAME = "round trip"
LIMIT_S = 30.0
LIVE_S = 5.0
"""So long a published webhook may take to be there; n8n needs some 0.3 s."""
ANSWER_S = 3.0
LEASE_S = 120.0
TITLE = "bridge doctor: fails on purpose, can be deleted"
MARK = "self-healing-bridge doctor"
LETTERS: tuple[DeadLetterReason, ...] = ("no_session", "rate_limited", "bad_schema")
SCOPES = {f"workflow:{verb}" for verb in ("list", "read", "create", "activate", "deactivate", "delete")}


def check_round_trip(examination: Examination) -> Iterator[Finding]:
    missing = SCOPES & examination.missing_scopes
    if missing:
        yield Finding(NAME, "note", f"not checked: the key lacks {', '.join(sorted(missing))}")
        return
    if not _bridge_answers(examination.settings):
        detail = f"no bridge answers from here at {_base(examination.settings.n8n_callback_url)}, nor where it listens"
        yield Finding(NAME, "problem", detail, "Start the bridge, then run this again.")
        return
    journal = examination.opened
    lease = journal.acquire("doctor", f"doctor-{os.getpid()}-{uuid.uuid4().hex[:12]}", ttl_s=LEASE_S)
    if lease is None:
        yield Finding(NAME, "note", "not checked: another doctor is at it")
        return
    try:
        yield from _tried(examination, journal)
    finally:
        journal.release(lease)


def _tried(examination: Examination, journal: Journal) -> Iterator[Finding]:
    client = examination.n8n
    path = f"bridge-doctor-{uuid.uuid4().hex}"
    try:
        created = client.create_workflow(_workflow(path, examination.error_workflow_id))
        workflow_id = str(created["id"])
        client.publish(workflow_id, str(created["versionId"]))
        yield _sent(examination, journal, workflow_id, path)
    finally:
        # Also where the answer to its creation was lost, and of a run that was killed.
        left = _remove_left(client)
    if left:
        detail = f'the workflow "{TITLE}" could not be deleted: {left}'
        yield Finding(NAME, "problem", detail, "Delete it in n8n, or run this again.")


def _sent(examination: Examination, journal: Journal, workflow_id: str, path: str) -> Finding:
    client, began = examination.n8n, time.monotonic()
    status = _call(client, path)
    if status != 200:
        detail = f"n8n answers {status} to the webhook of a workflow that was just published"
        todo = "See that N8N_API_URL serves webhooks, too (/webhook/…), and look into n8n's log."
        return Finding(NAME, "problem", detail, todo)
    failed_at = time.monotonic()
    while (letter := _letter(journal, workflow_id)) is None:
        if time.monotonic() - began > LIMIT_S:
            return _lost(examination)
        time.sleep(0.1)
    took_s = time.monotonic() - failed_at
    with suppress(StaleDocumentError):  # somebody replays it just now
        journal.commit(Change(deletes=[letter.delete()]))
    if letter.reason == "bad_schema":
        return Finding(NAME, "problem", "the bridge could not read what n8n reported", "Use --fix, or look at the log.")
    return Finding(NAME, "ok", f"a failing workflow's error reached the bridge within {took_s:.1f} s")


def _call(client: N8nClient, path: str) -> int:
    """Status of the webhook's answer; asked again while production has not followed the publication."""
    deadline = time.monotonic() + LIVE_S
    while (status := client.ask("POST", f"/webhook/{path}", body={}).status) == 404 and time.monotonic() < deadline:
        time.sleep(0.1)
    return status


def _letter(journal: Journal, workflow_id: str) -> DeadLetter | None:
    for reason in LETTERS:
        for letter in DeadLetter.find(journal, f"reason:{reason}", limit=50):
            if letter.workflow_id == workflow_id:
                return letter
    return None


def _lost(examination: Examination) -> Finding:
    """What n8n's own run of the error workflow says."""
    url = examination.settings.n8n_callback_url
    detail = f"no report came within {LIMIT_S:g} s"
    try:
        page = examination.n8n.list_executions(workflow_id=examination.error_workflow_id, limit=1)
        status = str(page.executions[0].get("status")) if page.executions else ""
    except BaseError:
        status = ""
    if status == "success":
        detail += ", though n8n has delivered one"
        todo = (
            f"See that the bridge at {url} has the same JOURNAL_PATH as this command. Where n8n's data was begun anew, "
            "its runs have numbers that the journal knows already: begin a new journal, too."
        )
    else:
        detail += f": n8n's error workflow is {clean(status)}" if status else ", and n8n tells of no run that sends one"
        todo = f"See that n8n reaches {url}, and look at the error workflow's runs in n8n."
    return Finding(NAME, "problem", detail, todo)


def _remove_left(client: N8nClient) -> str:
    """Remove every workflow that a doctor has made; gives what kept one, empty where nothing did."""
    kept = ""
    try:
        for workflow in list(client.iter_workflows()):
            if _is_ours(workflow):
                try:
                    client.unpublish(str(workflow["id"]))
                    client.delete_workflow(str(workflow["id"]))
                except WorkflowNotFoundError:
                    continue  # somebody was faster
                except N8nRefusedError as exc:  # archived by somebody
                    kept = exc.detail
    except N8nError as exc:
        return exc.detail
    return kept


def _is_ours(workflow: Workflow) -> bool:
    notes = [node.get("notes") for node in workflow["nodes"] if isinstance(node, dict)]
    return workflow.get("name") == TITLE and MARK in notes


def _workflow(path: str, error_workflow_id: str) -> Workflow:
    def node(name: str, kind: str, version: int, x: int, parameters: Workflow) -> Workflow:
        place = {"typeVersion": version, "position": [x, 0]}
        return {
            "id": str(uuid.uuid4()),
            "name": name,
            "type": f"n8n-nodes-base.{kind}",
            **place,
            "parameters": parameters,
        }

    hook = node("Webhook", "webhook", 2, 0, {"httpMethod": "POST", "path": path, "responseMode": "onReceived"})
    stop = node("Fail", "stopAndError", 1, 220, {"errorMessage": "flask doctor makes this workflow fail."})
    return {
        "name": TITLE,
        "nodes": [{**hook, "webhookId": str(uuid.uuid4()), "notes": MARK}, stop],
        "connections": {"Webhook": {"main": [[{"node": "Fail", "type": "main", "index": 0}]]}},
        "settings": {"executionOrder": "v1", "errorWorkflow": error_workflow_id},
    }


def _bridge_answers(settings: Settings) -> bool:
    """Whether a bridge is alive where n8n looks for it, or, should that be out of reach from here, where it listens."""
    return any(map(_alive, (_base(settings.n8n_callback_url), settings.local_url)))


def _base(callback_url: str) -> str:
    return callback_url.rstrip("/").removesuffix(CALLBACK_PATH)


def _alive(url: str) -> bool:
    try:
        with urllib3.PoolManager(1) as pool:
            return pool.request("GET", f"{url}/healthz", timeout=ANSWER_S, retries=False).status == 200
    except HTTPError:
        return False
