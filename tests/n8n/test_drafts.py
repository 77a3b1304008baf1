"""Workflows without an n8n: drafts in the journal."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import ConflictError, LeaseLostError, WorkflowNotFoundError
from app.journal.sqlite import SqliteJournal
from app.n8n import Trial, Workflows
from app.n8n.drafts import Drafts, workflow_id_for
from app.n8n.workflows import canonical_hash, validate

TRIGGER = {
    "id": "n1",
    "name": "Schedule Trigger",
    "type": "n8n-nodes-base.scheduleTrigger",
    "typeVersion": 1.2,
    "position": [0, 0],
    "parameters": {},
}
HTTP = {
    "id": "n2",
    "name": "HTTP Request",
    "type": "n8n-nodes-base.httpRequest",
    "typeVersion": 4.2,
    "position": [220, 0],
    "parameters": {"url": "http://a.example/"},
}
BODY: dict[str, Any] = {"name": "Daily report", "nodes": [TRIGGER, HTTP], "connections": {}, "settings": {}}


@pytest.fixture
def journal(tmp_path):
    journal = SqliteJournal(tmp_path / "journal.db")
    yield journal
    journal.close()


@pytest.fixture
def drafts(journal):
    return Drafts(journal)


def with_retries() -> dict[str, Any]:
    return {**BODY, "nodes": [TRIGGER, {**HTTP, "retryOnFail": True}]}


def test_drafts_are_a_home_of_workflows(drafts):
    home: Workflows = drafts
    assert home.connected is False


def test_a_created_draft_is_complete_and_can_be_imported(drafts):
    created = drafts.create(BODY, intent="turn 1, call 1")

    assert drafts.get(created["id"]) == created
    assert validate(created) == []
    assert created["settings"] == {"executionOrder": "v1"}
    assert created["active"] is False
    assert len(created["id"]) == 16
    assert created["id"].isalnum()
    assert created["id"].isascii()


def test_the_same_intent_creates_once(drafts, journal):
    first = drafts.create(BODY, intent="turn 1, call 1")
    again = drafts.create(with_retries(), intent="turn 1, call 1")

    assert again == first
    assert len(journal.find("draft")) == 1


def test_different_intents_create_different_workflows(drafts):
    assert drafts.create(BODY, intent="one")["id"] != drafts.create(BODY, intent="two")["id"]


def test_an_id_follows_from_the_intent_alone():
    assert workflow_id_for("one") == workflow_id_for("one")
    assert len({workflow_id_for(f"intent {number}") for number in range(500)}) == 500


def test_an_unknown_workflow_is_not_found(drafts):
    with pytest.raises(WorkflowNotFoundError):
        drafts.get("nobody")
    with pytest.raises(WorkflowNotFoundError):
        drafts.put_draft("nobody", BODY, base_version_id="v1")


def test_no_version_is_running_without_an_n8n(drafts):
    created = drafts.create(BODY, intent="one")
    with pytest.raises(WorkflowNotFoundError, match="No n8n is connected"):
        drafts.get(created["id"], version="active")


def test_a_write_on_the_present_version_makes_a_new_one(drafts):
    created = drafts.create(BODY, intent="one")

    saved = drafts.put_draft(created["id"], with_retries(), base_version_id=created["versionId"])

    assert saved["versionId"] != created["versionId"]
    assert saved["nodes"][1]["retryOnFail"] is True
    assert drafts.get(created["id"]) == saved


def test_a_write_on_an_older_version_is_a_conflict(drafts):
    created = drafts.create(BODY, intent="one")
    drafts.put_draft(created["id"], with_retries(), base_version_id=created["versionId"])

    with pytest.raises(ConflictError):
        drafts.put_draft(created["id"], {**BODY, "name": "Mine"}, base_version_id=created["versionId"])


def test_a_repeated_write_finds_its_own_version(drafts):
    created = drafts.create(BODY, intent="one")
    first = drafts.put_draft(created["id"], with_retries(), base_version_id=created["versionId"])
    again = drafts.put_draft(created["id"], with_retries(), base_version_id=created["versionId"])
    assert again == first


def test_what_was_before_can_be_restored_exactly(drafts):
    created = drafts.create(BODY, intent="one")
    repaired = drafts.put_draft(created["id"], with_retries(), base_version_id=created["versionId"])

    restored = drafts.put_draft(created["id"], created, base_version_id=repaired["versionId"])

    assert canonical_hash(restored) == canonical_hash(created)
    assert restored["versionId"] not in {created["versionId"], repaired["versionId"]}


def test_the_present_version_is_all_that_can_be_published(drafts):
    created = drafts.create(BODY, intent="one")
    assert drafts.publish(created["id"], version_id=created["versionId"]) == created
    with pytest.raises(ConflictError):
        drafts.publish(created["id"], version_id="another")


def test_a_draft_cannot_be_tried(drafts):
    created = drafts.create(BODY, intent="one")
    trial = drafts.try_draft(created["id"], version_id=created["versionId"], execution_id="7")
    assert trial == Trial("unverified", "no n8n connected")


def test_a_seed_keeps_the_one_node_that_is_known(drafts):
    seeded = drafts.seed("uvltbUy8P6x2K3H2", "HTTP refused", {**HTTP, "unheardOf": 1})

    assert drafts.get("uvltbUy8P6x2K3H2") == seeded
    assert seeded["nodes"] == [HTTP]
    assert seeded["meta"] == {"partial": True}


def test_a_seed_of_a_sparse_or_broken_report_is_a_draft_that_can_be_worked_on(drafts):
    sparse = {
        "id": "n2",
        "name": "HTTP Request",
        "type": "n8n-nodes-base.httpRequest",
        "parameters": "cut",
        "notes": None,
    }
    seeded = drafts.seed("uvltbUy8P6x2K3H2", "", sparse)

    assert validate(seeded, needs_trigger=False) == []
    assert seeded["nodes"][0]["name"] == "HTTP Request"


def test_what_is_saved_is_exactly_what_was_given(drafts):
    created = drafts.create(BODY, intent="one")
    saved = drafts.put_draft(created["id"], with_retries(), base_version_id=created["versionId"])
    assert canonical_hash(saved) == canonical_hash(with_retries())


def test_a_seed_never_replaces_a_draft(drafts):
    created = drafts.create(BODY, intent="one")
    assert drafts.seed(created["id"], "HTTP refused", HTTP) == created


def test_a_repaired_seed_stays_partial_until_it_has_a_trigger(drafts):
    seeded = drafts.seed("w1", "HTTP refused", HTTP)
    repaired = drafts.put_draft(
        "w1", {**seeded, "nodes": [{**HTTP, "retryOnFail": True}]}, base_version_id=seeded["versionId"]
    )
    whole = drafts.put_draft("w1", with_retries(), base_version_id=repaired["versionId"])

    assert repaired["meta"] == {"partial": True}
    assert whole["meta"] is None


class Overtaken:
    """A journal in which somebody else writes right after each read of a draft, once."""

    def __init__(self, journal, write):
        self._journal, self._write = journal, write

    def get(self, kind, key):
        document = self._journal.get(kind, key)
        write, self._write = self._write, lambda: None
        write()
        return document

    def commit(self, change):
        return self._journal.commit(change)


def test_of_two_writes_at_once_the_second_is_a_conflict(drafts, journal):
    created = drafts.create(BODY, intent="one")
    wid, base = created["id"], created["versionId"]
    slow = Drafts(Overtaken(journal, lambda: drafts.put_draft(wid, with_retries(), base_version_id=base)))

    with pytest.raises(ConflictError):
        slow.put_draft(wid, {**BODY, "name": "Mine"}, base_version_id=base)

    assert drafts.get(wid)["name"] == "Daily report"


def test_of_two_equal_writes_at_once_both_succeed(drafts, journal):
    created = drafts.create(BODY, intent="one")
    wid, base = created["id"], created["versionId"]
    slow = Drafts(Overtaken(journal, lambda: drafts.put_draft(wid, with_retries(), base_version_id=base)))

    assert slow.put_draft(wid, with_retries(), base_version_id=base) == drafts.get(wid)


def test_nothing_is_written_under_a_lease_that_was_lost(drafts, journal):
    created = drafts.create(BODY, intent="one")
    lost = journal.acquire("workflow:w", "first", ttl_s=10)
    journal.release(lost)
    journal.acquire("workflow:w", "second", ttl_s=10)

    with pytest.raises(LeaseLostError):
        drafts.create(BODY, intent="two", fences=[lost])
    with pytest.raises(LeaseLostError):
        drafts.put_draft(created["id"], with_retries(), base_version_id=created["versionId"], fences=[lost])

    assert drafts.get(created["id"]) == created
    assert len(journal.find("draft")) == 1
