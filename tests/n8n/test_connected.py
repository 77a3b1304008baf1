"""Workflows in an n8n: written once, read back, tried on the run that failed, published."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event as GreenEvent

from app.errors import ConflictError, LeaseLostError, N8nError, WorkflowNotFoundError
from app.journal.sqlite import SqliteJournal
from app.n8n import Trial, Workflows
from app.n8n import client as client_module
from app.n8n.client import N8nClient
from app.n8n.connected import ConnectedWorkflows
from app.n8n.errors import N8nDownError, N8nFailedError, N8nKeyError, N8nRefusedError, N8nTooOldError
from app.n8n.intents import Intent, intent_key
from app.n8n.transport import Transport
from app.n8n.workflows import canonical_hash
from app.repairs.publication import Publication
from app.repairs.workflow_lease import lease_name
from tests.fakes.n8n import API_KEY, FakeN8n

LIMIT_S = 10.0
HOOK: dict[str, Any] = {
    "id": "n1",
    "name": "Webhook",
    "type": "n8n-nodes-base.webhook",
    "typeVersion": 2,
    "position": [0, 0],
    "parameters": {"httpMethod": "POST", "path": "orders"},
}
CODE: dict[str, Any] = {
    "id": "n2",
    "name": "Sum",
    "type": "n8n-nodes-base.code",
    "typeVersion": 2,
    "position": [220, 0],
    "parameters": {"jsCode": "throw new Error('no total')"},
}
CONNECTIONS = {"Webhook": {"main": [[{"node": "Sum", "type": "main", "index": 0}]]}}
BODY: dict[str, Any] = {"name": "Orders", "nodes": [HOOK, CODE], "connections": CONNECTIONS, "settings": {}}
FIXED: dict[str, Any] = {**BODY, "nodes": [HOOK, {**CODE, "parameters": {"jsCode": "return [];"}}]}
STILL_BROKEN: dict[str, Any] = {
    **BODY,
    "nodes": [HOOK, {**CODE, "parameters": {"jsCode": "throw new Error('password=hunter22 refused')"}}],
}


@pytest.fixture
def n8n():
    with FakeN8n() as n8n:
        yield n8n


@pytest.fixture
def journal(tmp_path):
    journal = SqliteJournal(tmp_path / "journal.db")
    yield journal
    journal.close()


@pytest.fixture
def home(n8n, journal):
    return worker(n8n, journal)


def worker(
    n8n, journal, *, error_workflow_id=None, verdict_wait_s=2.0, timeout_s=2.0, lease_s=1.0
) -> ConnectedWorkflows:
    """One worker's view; another one's has the same n8n and journal."""
    return ConnectedWorkflows(
        N8nClient(n8n.url, API_KEY, timeout_s=timeout_s),
        journal,
        error_workflow_id=lambda: error_workflow_id,
        lease_s=lease_s,
        lost_wait_s=0.3,
        publish_wait_s=0.5,
        verdict_wait_s=verdict_wait_s,
    )


def broken(n8n) -> tuple[str, str, str]:
    """An active workflow that has failed once: its id, its version, the failed run."""
    workflow_id = n8n.add(BODY)
    n8n.call_webhook("orders", {"id": 7})
    return workflow_id, n8n.workflows[workflow_id].public["versionId"], max(n8n.executions, key=int)


def lost_lease(journal):
    lease = journal.acquire("workflow:w", "first", ttl_s=10)
    journal.release(lease)
    journal.acquire("workflow:w", "second", ttl_s=10)
    return lease


# -- reading


def test_an_n8n_is_a_home_of_workflows(home, n8n):
    connected: Workflows = home
    workflow_id = n8n.add(BODY)

    assert connected.connected is True
    workflow = connected.get(workflow_id)
    assert workflow == connected.seed(workflow_id, "", {})
    assert not {"shared", "activeVersion", "pinData"} & workflow.keys()
    with pytest.raises(WorkflowNotFoundError):
        connected.get("doesNotExist0001")


def test_what_runs_is_told_from_the_draft(home, n8n):
    workflow_id, running, _ = broken(n8n)
    draft = n8n.edit(workflow_id, nodes=FIXED["nodes"])

    active = home.get(workflow_id, version="active")

    assert home.get(workflow_id)["versionId"] == draft
    assert active["versionId"] == running
    assert active["nodes"][1]["parameters"] == CODE["parameters"]
    assert active["settings"] == {}


def test_a_workflow_that_is_not_published_has_no_running_version(home, n8n):
    with pytest.raises(WorkflowNotFoundError, match="not published"):
        home.get(n8n.add(BODY, active=False), version="active")


def test_a_draft_of_somebody_elses_is_seen(home, n8n):
    workflow_id, running, _ = broken(n8n)
    inactive = n8n.add(FIXED, active=False)
    assert not home.has_foreign_draft(workflow_id)
    assert not home.has_foreign_draft(inactive)

    n8n.edit(workflow_id, nodes=FIXED["nodes"])
    assert home.has_foreign_draft(workflow_id)

    # Put back as it was it is no draft any more, although it has a version of its own.
    n8n.edit(workflow_id, nodes=n8n.workflows[workflow_id].versions[running]["nodes"])
    assert n8n.workflows[workflow_id].public["versionId"] != running
    assert not home.has_foreign_draft(workflow_id)


# -- creating


def test_a_workflow_is_created_with_the_error_workflow(n8n, journal):
    home = worker(n8n, journal, error_workflow_id="errorHandler0001")

    created = home.create({**BODY, "settings": {"timezone": "Europe/Berlin"}}, intent="one")

    assert created["settings"] == {
        "executionOrder": "v1",
        "timezone": "Europe/Berlin",
        "errorWorkflow": "errorHandler0001",
    }
    assert home.get(created["id"])["nodes"] == created["nodes"]


def test_the_same_intent_creates_once(home, n8n):
    first = home.create(BODY, intent="one")
    again = home.create(FIXED, intent="one")

    assert again["id"] == first["id"]
    assert len(n8n.workflows) == 1
    assert home.create(BODY, intent="two")["id"] != first["id"]


def test_a_workflow_whose_answer_was_lost_is_found(home, n8n):
    n8n.add({**BODY, "name": "Another"})
    n8n.misbehave("drop_after", method="POST", path="/workflows$")

    created = home.create(BODY, intent="one")

    assert created["name"] == "Orders"
    assert len(n8n.workflows) == 2
    assert home.create(BODY, intent="one")["id"] == created["id"]
    assert n8n.count("POST", "^/workflows$") == 1


def test_a_worker_that_dies_after_the_post_has_created_once(n8n, journal):
    # Its whole n8n goes away with the answer, so it never learns the id.
    n8n.misbehave("drop_after", method="POST")
    n8n.misbehave("drop", method="GET", times=3)
    with pytest.raises(N8nDownError):
        worker(n8n, journal).create(BODY, intent="one")

    created = worker(n8n, journal).create(BODY, intent="one")

    assert list(n8n.workflows) == [created["id"]]
    n8n.edit(created["id"], name="Renamed", nodes=[HOOK])
    assert worker(n8n, journal).create(BODY, intent="one")["name"] == "Renamed"


def test_a_worker_that_dies_before_the_post_leaves_the_creating_to_the_next(n8n, journal):
    n8n.misbehave("drop", method="POST")
    with pytest.raises(N8nDownError):
        worker(n8n, journal).create(BODY, intent="one")
    assert n8n.workflows == {}

    created = worker(n8n, journal).create(BODY, intent="one")

    assert list(n8n.workflows) == [created["id"]]


def test_a_refused_workflow_can_be_sent_corrected(home, n8n):
    with pytest.raises(N8nRefusedError, match="ghost"):
        home.create({**BODY, "nodes": [HOOK, {**CODE, "type": "n8n-ghost.ghost"}]}, intent="one")
    assert home.create(BODY, intent="one")["name"] == "Orders"


def test_nothing_is_written_under_a_lease_that_was_lost(home, n8n, journal):
    workflow_id, version_id, execution_id = broken(n8n)
    n8n.edit(workflow_id, publish=True, nodes=FIXED["nodes"])
    draft = n8n.edit(workflow_id, nodes=STILL_BROKEN["nodes"])
    lost = lost_lease(journal)
    before = len(n8n.executions)

    for write in (
        lambda: home.create(BODY, intent="one", fences=[lost]),
        lambda: home.put_draft(workflow_id, BODY, base_version_id=draft, fences=[lost]),
        lambda: home.publish(workflow_id, version_id=version_id, fences=[lost]),
        lambda: home.try_draft(workflow_id, version_id=draft, execution_id=execution_id, fences=[lost]),
    ):
        with pytest.raises(LeaseLostError):
            write()

    assert all(request.method == "GET" or "/webhook/" in request.path for request in n8n.requests)
    assert len(n8n.executions) == before


class Overtaken(Transport):
    """Of a worker that stands still right before it sends a write, until another has its leases."""

    journal_path: Path

    def _send(self, pool, request, url, headers, body):
        if request.method != "GET":
            overtake(self.journal_path)
        return super()._send(pool, request, url, headers, body)


def overtake(path) -> None:
    # By hand, for a journal belongs to its own thread.
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE leases SET holder = 'other', epoch = epoch + 1")


@pytest.mark.parametrize("what", ["create", "put_draft", "publish", "unpublish", "try_draft", "run_again"])
def test_a_worker_that_was_overtaken_after_its_look_at_the_lease_sends_nothing(
    n8n, journal, home, tmp_path, monkeypatch, what
):
    workflow_id, version_id, execution_id = broken(n8n)
    draft = home.put_draft(workflow_id, FIXED, base_version_id=version_id)["versionId"]
    calls = {
        "create": lambda of, fences: of.create(BODY, intent="one", fences=fences),
        "put_draft": lambda of, fences: of.put_draft(workflow_id, STILL_BROKEN, base_version_id=draft, fences=fences),
        "publish": lambda of, fences: of.publish(workflow_id, version_id=draft, fences=fences),
        "unpublish": lambda of, fences: of.unpublish(workflow_id, fences=fences),
        "try_draft": lambda of, fences: of.try_draft(
            workflow_id, version_id=draft, execution_id=execution_id, fences=fences
        ),
        "run_again": lambda of, fences: of.run_again(workflow_id, execution_id=execution_id, number=1, fences=fences),
    }
    lease = journal.acquire("workflow:w", "first", ttl_s=10)
    before = [request.method for request in n8n.requests if request.method != "GET"]
    monkeypatch.setattr(Overtaken, "journal_path", tmp_path / "journal.db", raising=False)

    with monkeypatch.context() as patched:
        patched.setattr(client_module, "Transport", Overtaken)
        paused = worker(n8n, journal, lease_s=0.0)  # as if it had stood still for longer
        with pytest.raises(LeaseLostError):
            calls[what](paused, [lease])

    assert [request.method for request in n8n.requests if request.method != "GET"] == before
    # And whoever has the lease finds nothing in the way.
    calls[what](home, [replace(lease, holder="other", epoch=lease.epoch + 1)])
    assert len([request for request in n8n.requests if request.method != "GET"]) == len(before) + 1


def test_a_write_that_is_sent_again_is_still_its_workers(n8n, journal, home, tmp_path):
    workflow_id, version_id, _ = broken(n8n)
    draft = home.put_draft(workflow_id, FIXED, base_version_id=version_id)["versionId"]
    lease = journal.acquire("workflow:w", "first", ttl_s=10)
    answer = n8n.answer

    def fail_meanwhile(request):
        if request.method != "POST":
            return answer(request)
        overtake(tmp_path / "journal.db")
        return 503, {"message": "later"}

    n8n.answer = fail_meanwhile
    with pytest.raises(LeaseLostError):
        home.publish(workflow_id, version_id=draft, fences=[lease])

    assert n8n.count("POST", "/activate") == 1
    assert n8n.workflows[workflow_id].public["activeVersionId"] == version_id


def test_who_was_overtaken_does_not_forget_what_the_other_creates(n8n, journal, home, tmp_path, monkeypatch):
    heir_sends, overtaken_ended = GreenEvent(), GreenEvent()
    heirs = []
    lease = journal.acquire("workflow:w", "first", ttl_s=10)
    fences = [replace(lease, holder="other", epoch=lease.epoch + 1)]

    class Held(Transport):
        def _send(self, pool, request, url, headers, body):
            if request.method == "POST":
                heir_sends.set()
                assert overtaken_ended.wait(LIMIT_S)
            return super()._send(pool, request, url, headers, body)

    class Paused(Transport):
        def _send(self, pool, request, url, headers, body):
            if request.method == "POST":
                overtake(tmp_path / "journal.db")
                heirs.append(gevent.spawn(heir.create, BODY, intent="one", fences=fences))
                assert heir_sends.wait(LIMIT_S)
            return super()._send(pool, request, url, headers, body)

    with monkeypatch.context() as patched:
        patched.setattr(client_module, "Transport", Held)
        heir = worker(n8n, journal)
        patched.setattr(client_module, "Transport", Paused)
        overtaken = worker(n8n, journal, lease_s=0.0)
        with pytest.raises(LeaseLostError):
            overtaken.create(BODY, intent="one", fences=[lease])
    overtaken_ended.set()
    created = heirs[0].get(timeout=LIMIT_S)

    # As for a worker that takes over from the heir.
    assert Intent.get(journal, intent_key("create:one")).result_id == created["id"]
    assert home.create(BODY, intent="one", fences=fences)["id"] == created["id"]
    assert n8n.count("POST", "/workflows") == 1


@pytest.fixture
def paused(home, n8n, journal, tmp_path):
    """A worker that lost its lease between its look at it and its write; gives the workflow's id and first version."""
    workflow_id, version_id, _ = broken(n8n)
    lease = journal.acquire(lease_name(workflow_id), "paused", ttl_s=10)
    answer = n8n.answer

    def meanwhile(request):
        if request.method == "PUT":
            n8n.answer = answer
            overtake(tmp_path / "journal.db")
        return answer(request)

    n8n.answer = meanwhile
    with pytest.raises(LeaseLostError):
        home.put_draft(workflow_id, FIXED, base_version_id=version_id, fences=[lease])
    assert "throw" not in n8n.workflows[workflow_id].public["nodes"][1]["parameters"]["jsCode"]
    journal.release(replace(lease, holder="other", epoch=lease.epoch + 1))
    return workflow_id, version_id


def test_what_was_written_under_a_lease_that_ran_out_meanwhile_is_taken_back(paused, home, n8n, journal):
    workflow_id, version_id = paused

    assert Publication(journal, home, "other").finish() is False

    stored = n8n.workflows[workflow_id]
    public = stored.public
    assert public["nodes"] == stored.versions[version_id]["nodes"]
    assert public["activeVersionId"] == version_id
    writes = n8n.count("PUT", "/workflows")
    assert Publication(journal, home, "other").finish() is False
    assert n8n.count("PUT", "/workflows") == writes


@pytest.mark.parametrize("publish", [False, True])
def test_what_somebody_has_made_of_it_since_is_left(paused, home, n8n, journal, publish):
    workflow_id, _ = paused
    if publish:
        home.publish(workflow_id, version_id=n8n.workflows[workflow_id].public["versionId"])
    else:
        n8n.edit(workflow_id, nodes=STILL_BROKEN["nodes"])
    writes = n8n.count("PUT", "/workflows")

    assert Publication(journal, home, "other").finish() is False

    assert n8n.count("PUT", "/workflows") == writes


# -- drafts


def test_a_draft_leaves_production_alone(home, n8n):
    workflow_id, version_id, _ = broken(n8n)

    saved = home.put_draft(workflow_id, FIXED, base_version_id=version_id)

    assert saved["versionId"] != version_id == saved["activeVersionId"]
    assert canonical_hash(home.get(workflow_id, version="active")) != canonical_hash(saved)
    n8n.call_webhook("orders")
    assert n8n.executions[max(n8n.executions, key=int)]["status"] == "error"


def test_a_webhook_keeps_its_address_where_a_proposal_leaves_it_out(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    before = n8n.workflows[workflow_id].public["nodes"][0]["webhookId"]

    saved = home.put_draft(workflow_id, FIXED, base_version_id=version_id)

    assert saved["nodes"][0]["webhookId"] == before


def test_settings_are_merged_and_the_error_workflow_stays(n8n, journal):
    home = worker(n8n, journal, error_workflow_id="errorHandler0001")
    workflow_id = n8n.add({**BODY, "settings": {"errorWorkflow": "theirs0000000001", "timezone": "Europe/Berlin"}})
    base = n8n.workflows[workflow_id].public["versionId"]

    saved = home.put_draft(
        workflow_id, {**FIXED, "settings": {"errorWorkflow": "another", "executionTimeout": 60}}, base_version_id=base
    )

    assert saved["settings"] == {
        "errorWorkflow": "theirs0000000001",
        "timezone": "Europe/Berlin",
        "executionTimeout": 60,
    }


def test_an_adopted_workflow_gets_the_error_workflow(n8n, journal):
    home = worker(n8n, journal, error_workflow_id="errorHandler0001")
    workflow_id = n8n.add(BODY)
    present = home.get(workflow_id)

    adopted = home.put_draft(workflow_id, present, base_version_id=present["versionId"])

    assert adopted["settings"]["errorWorkflow"] == "errorHandler0001"
    assert adopted["versionId"] == present["versionId"]


def test_a_setting_of_n8ns_own_that_it_would_not_take_back_is_not_sent(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    n8n.workflows[workflow_id].public["settings"]["availableInMCP"] = True

    saved = home.put_draft(workflow_id, FIXED, base_version_id=version_id)

    assert saved["settings"]["availableInMCP"] is True


def test_a_setting_that_goes_without_saying_may_be_left_out_by_n8n(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    body = {**FIXED, "settings": {"timezone": "DEFAULT", "executionTimeout": -1}}
    assert home.put_draft(workflow_id, body, base_version_id=version_id)["settings"] == {}


def test_what_a_trigger_remembers_is_not_turned_back(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    n8n.workflows[workflow_id].public["staticData"] = {"last": 8}

    home.put_draft(workflow_id, {**FIXED, "staticData": {"last": 1}}, base_version_id=version_id)

    assert n8n.workflows[workflow_id].public["staticData"] == {"last": 8}


def test_a_draft_on_an_older_version_is_a_conflict(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    n8n.edit(workflow_id, nodes=STILL_BROKEN["nodes"])

    with pytest.raises(ConflictError):
        home.put_draft(workflow_id, FIXED, base_version_id=version_id)
    assert n8n.count("PUT", workflow_id) == 0


def test_a_repeated_write_finds_its_own_version(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    first = home.put_draft(workflow_id, FIXED, base_version_id=version_id)
    again = home.put_draft(workflow_id, FIXED, base_version_id=version_id)

    assert again["versionId"] == first["versionId"]
    assert n8n.count("PUT", workflow_id) == 1


def test_a_write_whose_answers_are_lost_is_done_once_it_is_asked_again(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    n8n.misbehave("drop_after", method="PUT", times=3)
    with pytest.raises(N8nDownError):
        home.put_draft(workflow_id, FIXED, base_version_id=version_id)

    saved = home.put_draft(workflow_id, FIXED, base_version_id=version_id)

    assert len(n8n.workflows[workflow_id].versions) == 2
    assert saved["nodes"][1]["parameters"] == {"jsCode": "return [];"}


def test_a_new_node_gets_the_same_id_each_time(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    new = {key: value for key, value in CODE.items() if key != "id"} | {"name": "Extra"}
    body = {**BODY, "nodes": [*BODY["nodes"], new]}

    first = home.put_draft(workflow_id, body, base_version_id=version_id)
    again = home.put_draft(workflow_id, body, base_version_id=version_id)

    assert again["versionId"] == first["versionId"]
    assert first["nodes"][2]["id"]


class Meddling:
    """n8n between the bridge and itself: something happens to the workflow right after each PUT."""

    def __init__(self, n8n, then) -> None:
        self._client = N8nClient(n8n.url, API_KEY, timeout_s=2.0)
        self._then = then

    def __getattr__(self, name):
        return getattr(self._client, name)

    def put_workflow(self, workflow_id, body, **options):
        answer = self._client.put_workflow(workflow_id, body, **options)
        self._then(workflow_id)
        return answer


def test_a_write_that_does_not_stick_is_an_error(n8n, journal):
    workflow_id, version_id, _ = broken(n8n)

    def forget(workflow_id):
        n8n.workflows[workflow_id].public["nodes"][1]["parameters"] = {}

    with pytest.raises(N8nError, match="saved another"):
        ConnectedWorkflows(Meddling(n8n, forget), journal).put_draft(workflow_id, FIXED, base_version_id=version_id)


def test_somebody_who_writes_at_the_same_time_is_noticed(n8n, journal):
    workflow_id, version_id, _ = broken(n8n)
    meddling = Meddling(n8n, lambda workflow_id: n8n.edit(workflow_id, nodes=STILL_BROKEN["nodes"]))

    with pytest.raises(ConflictError):
        ConnectedWorkflows(meddling, journal).put_draft(workflow_id, FIXED, base_version_id=version_id)


def test_an_n8n_that_publishes_drafts_is_too_old(n8n, journal):
    workflow_id, version_id, _ = broken(n8n)
    meddling = Meddling(n8n, lambda workflow_id: n8n.edit(workflow_id, publish=True))

    with pytest.raises(N8nTooOldError, match="published at once"):
        ConnectedWorkflows(meddling, journal).put_draft(workflow_id, FIXED, base_version_id=version_id)


# -- publishing


def test_a_published_draft_is_what_runs(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    draft = home.put_draft(workflow_id, FIXED, base_version_id=version_id)

    published = home.publish(workflow_id, version_id=draft["versionId"])
    home.publish(workflow_id, version_id=draft["versionId"])

    assert published["activeVersionId"] == draft["versionId"]
    assert n8n.count("POST", "activate") == 1
    n8n.call_webhook("orders")
    assert n8n.executions[max(n8n.executions, key=int)]["status"] == "success"


def test_production_follows_a_publication_later(home, n8n):
    workflow_id, version_id, _ = broken(n8n)
    draft = home.put_draft(workflow_id, FIXED, base_version_id=version_id)
    n8n.hold_publication()

    home.publish(workflow_id, version_id=draft["versionId"])
    n8n.call_webhook("orders")
    n8n.release_publication()
    n8n.call_webhook("orders")

    last_two = [n8n.executions[key] for key in sorted(n8n.executions, key=int)][-2:]
    assert [run["workflowVersionId"] for run in last_two] == [version_id, draft["versionId"]]


def test_a_version_that_is_not_there_is_not_published(home, n8n):
    workflow_id, _, _ = broken(n8n)
    with pytest.raises(WorkflowNotFoundError):
        home.publish(workflow_id, version_id="none")


# -- trials


def test_a_draft_that_works_on_the_failed_run_is_verified(home, n8n):
    workflow_id, version_id, execution_id = broken(n8n)
    draft = home.put_draft(workflow_id, FIXED, base_version_id=version_id)

    trial = home.try_draft(workflow_id, version_id=draft["versionId"], execution_id=execution_id)

    assert trial.outcome == "verified"
    run = n8n.executions[trial.execution_id]
    assert (run["retryOf"], run["workflowVersionId"]) == (execution_id, draft["versionId"])
    assert n8n.workflows[workflow_id].live == version_id


def test_a_draft_that_fails_again_is_told_with_its_message(home, n8n):
    workflow_id, version_id, execution_id = broken(n8n)
    draft = home.put_draft(workflow_id, STILL_BROKEN, base_version_id=version_id)

    trial = home.try_draft(workflow_id, version_id=draft["versionId"], execution_id=execution_id)

    assert trial.outcome == "failed"
    assert trial.reason == '"Sum": password=[redacted] refused [line 1]'


def test_a_trial_runs_once_whoever_asks(home, n8n, journal):
    workflow_id, version_id, execution_id = broken(n8n)
    draft = home.put_draft(workflow_id, FIXED, base_version_id=version_id)["versionId"]

    first = home.try_draft(workflow_id, version_id=draft, execution_id=execution_id)
    again = worker(n8n, journal).try_draft(workflow_id, version_id=draft, execution_id=execution_id)

    assert again == first
    assert n8n.count("POST", "retry") == 1


@pytest.mark.parametrize("body", [FIXED, STILL_BROKEN])
def test_a_trial_whose_answer_was_lost_is_judged_by_its_run(home, n8n, body):
    workflow_id, version_id, execution_id = broken(n8n)
    draft = home.put_draft(workflow_id, body, base_version_id=version_id)["versionId"]
    n8n.misbehave("drop_after", path="retry")

    trial = home.try_draft(workflow_id, version_id=draft, execution_id=execution_id)

    assert trial.outcome == ("verified" if body is FIXED else "failed")
    assert n8n.count("POST", "retry") == 1


def test_a_worker_that_dies_during_the_trial_leaves_its_run_to_the_next(n8n, journal):
    workflow_id, version_id, execution_id = broken(n8n)
    first = worker(n8n, journal)
    draft = first.put_draft(workflow_id, FIXED, base_version_id=version_id)["versionId"]
    n8n.misbehave("drop_after", path="retry")
    n8n.misbehave("drop", method="GET", path=r"/executions\?", times=3)
    with pytest.raises(N8nDownError):
        first.try_draft(workflow_id, version_id=draft, execution_id=execution_id)

    trial = worker(n8n, journal).try_draft(workflow_id, version_id=draft, execution_id=execution_id)

    assert trial.outcome == "verified"
    assert n8n.count("POST", "retry") == 1


def test_a_retry_that_a_person_made_with_another_version_is_not_taken_for_the_trial(home, n8n):
    workflow_id, version_id, execution_id = broken(n8n)
    draft = home.put_draft(workflow_id, FIXED, base_version_id=version_id)["versionId"]
    n8n.misbehave("drop", path="retry")
    theirs = N8nClient(n8n.url, API_KEY)

    def retry_as_it_was():
        while n8n.count("POST", "retry") == 0:
            time.sleep(0.01)
        theirs.retry_execution(execution_id, load_workflow=False)

    person = threading.Thread(target=retry_as_it_was)
    person.start()
    trial = home.try_draft(workflow_id, version_id=draft, execution_id=execution_id)
    person.join()

    assert trial.outcome == "unverified"
    assert "not started twice" in trial.reason
    assert n8n.count("POST", "retry") == 2


def test_a_trial_that_was_never_sent_can_be_made_later(home, n8n, journal):
    workflow_id, version_id, execution_id = broken(n8n)
    draft = home.put_draft(workflow_id, FIXED, base_version_id=version_id)["versionId"]
    n8n.misbehave("status", status=401, path="retry")
    with pytest.raises(N8nKeyError):
        home.try_draft(workflow_id, version_id=draft, execution_id=execution_id)

    assert home.try_draft(workflow_id, version_id=draft, execution_id=execution_id).outcome == "verified"


def test_a_run_that_does_not_end_has_no_verdict_yet(n8n, journal):
    home = worker(n8n, journal, verdict_wait_s=0.3)
    workflow_id, version_id, execution_id = broken(n8n)
    draft = home.put_draft(workflow_id, FIXED, base_version_id=version_id)["versionId"]
    n8n.hold_runs()

    waiting = home.try_draft(workflow_id, version_id=draft, execution_id=execution_id)
    n8n.release_runs()
    ended = home.try_draft(workflow_id, version_id=draft, execution_id=execution_id)

    assert (waiting.outcome, waiting.reason) == ("unverified", "no verdict yet: the trial's run is running")
    assert ended.outcome == "verified"
    assert n8n.count("POST", "retry") == 1


def test_a_run_that_waits_has_no_verdict(n8n, journal):
    home = worker(n8n, journal, verdict_wait_s=0.3)
    workflow_id, version_id, execution_id = broken(n8n)
    wait = {**CODE, "type": "n8n-nodes-base.wait", "parameters": {"amount": 1, "unit": "hours"}}
    draft = home.put_draft(workflow_id, {**BODY, "nodes": [HOOK, wait]}, base_version_id=version_id)["versionId"]

    trial = home.try_draft(workflow_id, version_id=draft, execution_id=execution_id)

    assert (trial.outcome, trial.reason) == ("unverified", "no verdict yet: the trial's run is waiting")


def test_a_trial_that_n8n_cannot_start_is_unverified(home, n8n):
    workflow_id, version_id, execution_id = broken(n8n)
    renamed = {**FIXED, "nodes": [HOOK, {**CODE, "name": "Total"}], "connections": {}}
    draft = home.put_draft(workflow_id, renamed, base_version_id=version_id)["versionId"]

    trial = home.try_draft(workflow_id, version_id=draft, execution_id=execution_id)

    assert trial.outcome == "unverified"
    assert "renamed or removed" in trial.reason


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"saveDataErrorExecution": "none"}, "did not keep the failed run"),
        ({"saveDataSuccessExecution": "none"}, "did not keep the trial's run"),
    ],
)
def test_a_run_that_n8n_does_not_keep_proves_nothing(home, n8n, settings, reason):
    workflow_id = n8n.add({**BODY, "settings": settings})
    n8n.call_webhook("orders")
    base = n8n.workflows[workflow_id].public["versionId"]
    draft = home.put_draft(workflow_id, FIXED, base_version_id=base)["versionId"]

    trial = home.try_draft(workflow_id, version_id=draft, execution_id="1")

    assert trial.outcome == "unverified"
    assert reason in trial.reason


def test_what_cannot_be_tried_is_said_and_starts_nothing(home, n8n):
    workflow_id, version_id, execution_id = broken(n8n)
    other_id = n8n.add({**BODY, "nodes": [{**HOOK, "parameters": {"path": "other"}}, CODE]})
    other_version = n8n.workflows[other_id].public["versionId"]

    for args, reason in (
        ((workflow_id, version_id, None), "is not known"),
        ((workflow_id, "another", execution_id), "changed meanwhile"),
        ((workflow_id, version_id, "999"), "did not keep the failed run"),
        ((other_id, other_version, execution_id), "another workflow"),
    ):
        trial = home.try_draft(args[0], version_id=args[1], execution_id=args[2])
        assert trial.outcome == "unverified"
        assert reason in trial.reason
    assert n8n.count("POST", "retry") == 0


def test_a_run_that_has_succeeded_is_not_tried(home, n8n):
    workflow_id = n8n.add(FIXED)
    n8n.call_webhook("orders")
    version_id = n8n.workflows[workflow_id].public["versionId"]

    trial = home.try_draft(workflow_id, version_id=version_id, execution_id="1")

    assert trial == Trial("unverified", trial.reason)
    assert "succeeded" in trial.reason


def test_n8ns_failure_to_create_is_told_and_can_be_repeated(home, n8n):
    n8n.misbehave("html", method="POST")
    with pytest.raises(N8nFailedError):
        home.create(BODY, intent="one")
    home.create(BODY, intent="one")
    assert len(n8n.workflows) == 1
