"""What is left of a trial's draft in n8n: put back, and taken back where it comes after its writer. What runs, what is
wanted, and what a person has made of it is left."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import LeaseLostError, N8nError
from app.journal import Change, Lease
from app.journal.records import DraftWrite, Repair, Rollback
from app.journal.sqlite import SqliteJournal
from app.n8n import Workflow
from app.n8n.client import N8nClient
from app.n8n.connected import ConnectedWorkflows
from app.n8n.workflows import editable
from app.repairs import snapshots, strays
from app.repairs.publication import Publication
from app.repairs.workflow_lease import lease_name
from tests.fakes.n8n import API_KEY, FakeN8n, Request
from tests.heal.rig import BROKEN, FIXED, WORSE, url_of, workflow


@dataclass(frozen=True, slots=True)
class Place:
    """An n8n with a workflow, and its bridge. ``lease``: of a worker that writes it."""

    n8n: FakeN8n
    journal: SqliteJournal
    path: Path
    home: ConnectedWorkflows
    workflow_id: str
    lease: Lease

    @property
    def publication(self) -> Publication:
        return Publication(self.journal, self.home, "another")

    @property
    def draft(self) -> Workflow:
        return self.n8n.workflows[self.workflow_id].public

    def shown(self) -> Workflow:
        return self.home.get(self.workflow_id)

    def to(self, url: str) -> Workflow:
        """The workflow as it is, but asking there."""
        body = editable(self.shown())
        nodes = [{**node, "parameters": {"url": url}} if node["name"] == "Ask" else node for node in body["nodes"]]
        return {**body, "nodes": nodes}

    def write(self, body: Workflow, *, instead: Workflow) -> str:
        """As a repair does; gives the version."""
        base = str(self.draft["versionId"])
        fences = [self.lease]
        written = self.home.put_draft(self.workflow_id, body, base_version_id=base, fences=fences, instead=instead)
        return str(written["versionId"])

    def lose(self, body: Workflow, *, instead: Workflow) -> Request:
        """A write whose worker is gone before n8n does it; gives the request, for n8n to do it later."""
        self.n8n.misbehave("drop", times=3, method="PUT")
        with pytest.raises(N8nError):
            self.write(body, instead=instead)
        return next(request for request in reversed(self.n8n.requests) if request.method == "PUT")

    def overtake(self, body: Workflow, *, instead: Workflow) -> None:
        """A write of a worker that is paused right before it, beyond its lease."""
        answer = self.n8n.answer

        def meanwhile(request: Request) -> tuple[int, Any]:
            if request.method == "PUT":
                # By hand, for a journal belongs to its own thread.
                with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
                    connection.execute("UPDATE leases SET expires_at = 0, epoch = epoch + 1")
            return answer(request)

        self.n8n.answer = meanwhile  # type: ignore[method-assign]
        with pytest.raises(LeaseLostError):
            self.write(body, instead=instead)
        self.n8n.answer = answer  # type: ignore[method-assign]

    def look(self) -> bool:
        """The chore of another worker; gives whether it wants to look again soon."""
        self.journal.release(self.lease)
        return self.publication.finish()

    def repair(self, **fields: Any) -> Repair:
        made = Repair(
            repair_id="r1",
            session_id="s1",
            workflow_id=self.workflow_id,
            workflow_name="Orders",
            signature="e1",
            attempt=1,
            **fields,
        )
        self.journal.commit(Change(puts=[made.put()]))
        return Repair.get(self.journal, "r1") or made

    def trying(self, *, noted: bool = True) -> Repair:
        """A repair whose proposal is the draft. ``noted``: its worker came to write down which version that is."""
        before, proposal = self.shown(), self.to(FIXED)
        snapshot_id = snapshots.store(self.journal, before, cause="repair", for_write="r1:1", fences=[self.lease])
        version_id = self.write(proposal, instead=editable(before))
        return self.repair(
            state="trying",
            proposal=proposal,
            base_version_id=str(before["versionId"]),
            trial_version_id=version_id if noted else "",
            snapshot_id=snapshot_id,
        )


@pytest.fixture
def active() -> bool:
    return True


@pytest.fixture
def place(tmp_path: Path, active: bool) -> Iterator[Place]:
    journal = SqliteJournal(tmp_path / "journal.db")
    with FakeN8n() as n8n:
        workflow_id = n8n.add(workflow("orders"), active=active)
        lease = journal.acquire(lease_name(workflow_id), "one", ttl_s=60)
        assert lease is not None
        home = ConnectedWorkflows(N8nClient(n8n.url, API_KEY), journal)
        yield Place(n8n, journal, tmp_path / "journal.db", home, workflow_id, lease)
    journal.close()


both = pytest.mark.parametrize("active", [True, False])


# -- put back by its own repair


def test_a_draft_that_was_tried_is_put_back(place: Place) -> None:
    repair = place.trying()

    version_id = place.publication.put_back(repair, [place.lease])

    assert url_of(place.draft) == BROKEN
    assert version_id == place.draft["versionId"] != repair.trial_version_id


@pytest.mark.parametrize("noted", [True, False])
def test_a_draft_that_runs_by_now_is_not_put_back(place: Place, noted: bool) -> None:
    """Its worker was lost, and somebody has approved another repair that proposes the same."""
    repair = place.trying(noted=noted)
    tried = str(place.draft["versionId"])
    place.home.publish(place.workflow_id, version_id=tried)

    version_id = place.publication.put_back(repair, [place.lease])

    assert version_id == tried == place.draft["versionId"] == place.draft["activeVersionId"]
    assert url_of(place.draft) == FIXED


# -- taken back by others


def test_a_write_that_was_seen_through_leaves_nothing_to_look_for(place: Place) -> None:
    place.trying()

    assert DraftWrite.find(place.journal) == []


@both
def test_a_draft_that_comes_after_its_writer_is_taken_back(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    before = editable(place.shown())
    late = place.lose(place.to(FIXED), instead=before)
    for _ in range(2):
        assert place.look() is False
    assert url_of(place.draft) == BROKEN

    place.n8n.answer(late)
    assert url_of(place.draft) == FIXED
    assert place.look() is False

    assert editable(place.shown()) == before
    assert caplog.text.count("taken back") == 1
    writes = place.n8n.count("PUT", "/workflows")
    assert place.look() is False
    assert place.n8n.count("PUT", "/workflows") == writes


def test_a_draft_that_was_written_beyond_a_lease_is_taken_back(place: Place) -> None:
    before = editable(place.shown())
    place.overtake(place.to(FIXED), instead=before)
    assert url_of(place.draft) == FIXED

    assert place.look() is False

    assert editable(place.shown()) == before


def test_what_was_put_back_beyond_a_lease_stays_put_back(place: Place) -> None:
    before = editable(place.shown())
    place.write(place.to(FIXED), instead=before)
    place.overtake(before, instead=before)

    assert place.look() is False

    assert editable(place.shown()) == before


def test_it_is_taken_back_however_often_it_comes(place: Place) -> None:
    late = place.lose(place.to(FIXED), instead=editable(place.shown()))
    for _ in range(2):
        place.n8n.answer(late)
        place.look()
        assert url_of(place.draft) == BROKEN


def test_what_is_sent_again_may_still_come_from_the_first_time(place: Place) -> None:
    before, proposal = editable(place.shown()), place.to(FIXED)
    late = place.lose(proposal, instead=before)
    place.write(proposal, instead=before)
    place.write(before, instead=before)
    place.n8n.answer(late)
    assert url_of(place.draft) == FIXED

    place.look()

    assert url_of(place.draft) == BROKEN


def test_an_n8n_that_is_away_for_long_leaves_one_note(place: Place) -> None:
    before, proposal = editable(place.shown()), place.to(FIXED)
    for _ in range(3):
        place.lose(proposal, instead=before)

    assert len(DraftWrite.find(place.journal)) == 1


def test_a_note_of_the_version_before_is_known_again(place: Place) -> None:
    """It has no label."""
    before, proposal = editable(place.shown()), place.to(FIXED)
    place.lose(proposal, instead=before)
    (noted,) = DraftWrite.find(place.journal)
    place.journal.commit(Change(puts=[replace(noted.put(), groups=())]))

    place.lose(proposal, instead=before)

    (noted,) = DraftWrite.find(place.journal)
    assert noted.repeated


def test_what_a_person_has_saved_since_is_left(place: Place) -> None:
    late = place.lose(place.to(FIXED), instead=editable(place.shown()))
    place.n8n.answer(late)
    version_id = place.n8n.edit(place.workflow_id, nodes=place.to(WORSE)["nodes"])

    place.look()

    assert place.draft["versionId"] == version_id


def test_where_another_version_was_published_since_that_is_what_is_there_again(place: Place) -> None:
    late = place.lose(place.to(FIXED), instead=editable(place.shown()))
    place.n8n.edit(place.workflow_id, nodes=place.to(WORSE)["nodes"], publish=True)
    place.n8n.answer(late)

    place.look()

    assert url_of(place.draft) == WORSE
    assert not place.home.has_foreign_draft(place.workflow_id)


def test_a_draft_that_is_put_back_too_late_does_not_stay_over_what_runs(place: Place) -> None:
    before = editable(place.shown())
    place.write(place.to(FIXED), instead=before)
    late = place.lose(before, instead=before)
    place.home.publish(place.workflow_id, version_id=str(place.draft["versionId"]))
    place.n8n.answer(late)
    assert url_of(place.draft) == BROKEN

    place.look()

    assert url_of(place.draft) == FIXED
    assert not place.home.has_foreign_draft(place.workflow_id)


@both
def test_an_approved_draft_that_comes_late_stays_where_nothing_runs(place: Place, active: bool) -> None:
    """Its publication was given up meanwhile: what runs is what counts."""
    late = place.lose(place.to(FIXED), instead=place.to(FIXED))
    place.n8n.answer(late)

    place.look()

    assert url_of(place.draft) == (BROKEN if active else FIXED)


@both
def test_what_was_put_back_stays_and_is_not_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    before = editable(place.shown())
    place.write(place.to(FIXED), instead=before)
    late = place.lose(before, instead=before)
    place.n8n.answer(late)
    version_id = place.draft["versionId"]

    place.look()

    assert (place.draft["versionId"], url_of(place.draft)) == (version_id, BROKEN)
    assert "taken back" not in caplog.text


@both
def test_a_draft_that_was_published_since_stays(place: Place) -> None:
    late = place.lose(place.to(FIXED), instead=editable(place.shown()))
    place.n8n.answer(late)
    version_id = str(place.draft["versionId"])
    if place.draft["active"]:
        place.home.publish(place.workflow_id, version_id=version_id)
    place.repair(state="published", published_version_id=version_id)

    place.look()

    assert place.draft["versionId"] == version_id


@pytest.mark.parametrize("state", ["trying", "publishing", "restoring"])
def test_a_repair_that_is_to_be_gone_on_with_finds_it_as_it_came(
    place: Place, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = place.lose(place.to(FIXED), instead=editable(place.shown()))
    place.n8n.answer(late)
    repair = place.repair(state=state)
    monkeypatch.setattr(strays, "LATE_S", 0.0)
    (write,) = DraftWrite.find(place.journal)

    strays.Strays(place.journal, place.home).look(write, place.lease)

    assert url_of(place.draft) == FIXED
    place.journal.commit(Change(deletes=[repair.delete()]))
    place.look()
    assert url_of(place.draft) == BROKEN


def test_one_that_does_not_come_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.lose(place.to(FIXED), instead=editable(place.shown()))
    place.look()
    assert DraftWrite.find(place.journal)
    monkeypatch.setattr(strays, "LATE_S", 0.0)

    place.look()

    assert DraftWrite.find(place.journal) == []


def test_what_the_note_keeps_has_no_secrets(place: Place) -> None:
    nodes = place.draft["nodes"]
    key = "sk-live-4f1c9a7e2b8d6f3a0c5e"
    place.n8n.edit(place.workflow_id, nodes=[*nodes[:-1], {**nodes[-1], "parameters": {"apiKey": key}}], publish=True)
    late = place.lose(place.to(FIXED), instead=editable(place.shown()))

    (document,) = place.journal.find(DraftWrite.KIND)
    assert key not in str(document.body)

    place.n8n.answer(late)
    place.look()
    assert url_of(place.draft) == BROKEN
    assert place.draft["nodes"][-1]["parameters"] == {"apiKey": key}


def test_what_waits_for_a_person_can_be_published_after_a_late_draft_was_taken_back(place: Place) -> None:
    """Its worker was lost; another one has tried the same, put it back, and asked."""
    before, proposal = place.shown(), place.to(FIXED)
    late = place.lose(proposal, instead=editable(before))
    tried = place.trying()
    base = place.publication.put_back(tried, [place.lease])
    place.journal.commit(Change(puts=[tried.put(state="waiting", base_version_id=base, trial_version_id="")]))
    place.n8n.answer(late)
    place.look()
    assert url_of(place.draft) == BROKEN

    fresh = Repair.get(place.journal, "r1")
    assert fresh is not None
    place.journal.commit(Change(puts=[fresh.put(state="publishing", decided_by="person")]))
    place.look()

    assert Repair.find(place.journal)[0].state == "published"
    assert url_of(place.draft) == FIXED


def test_what_waits_on_other_contents_is_not_put_on_what_was_taken_back(place: Place) -> None:
    """A person has published something else since: it is not what the proposal was made on."""
    before = editable(place.shown())
    late = place.lose(place.to(FIXED), instead=before)
    tried = place.trying()
    base = place.publication.put_back(tried, [place.lease])
    place.journal.commit(Change(puts=[tried.put(state="waiting", base_version_id=base, trial_version_id="")]))
    place.n8n.edit(place.workflow_id, nodes=place.to(WORSE)["nodes"], publish=True)
    place.n8n.answer(late)

    place.look()

    assert url_of(place.draft) == WORSE
    assert Repair.find(place.journal)[0].base_version_id == base


def test_an_undo_that_is_done_counts_for_what_comes_after_it(place: Place) -> None:
    """The draft that comes late was approved before."""
    place.home.unpublish(place.workflow_id)
    before, proposal = editable(place.shown()), place.to(FIXED)
    late = place.lose(proposal, instead=proposal)
    place.write(proposal, instead=proposal)
    place.write(before, instead=before)
    place.n8n.answer(late)
    assert url_of(place.draft) == FIXED

    place.look()

    assert url_of(place.draft) == BROKEN


def test_what_a_chat_has_made_since_is_what_is_there_instead(place: Place) -> None:
    place.home.unpublish(place.workflow_id)
    late = place.lose(place.to(FIXED), instead=editable(place.shown()))
    base = str(place.draft["versionId"])
    place.home.put_draft(place.workflow_id, place.to(WORSE), base_version_id=base, fences=[place.lease])
    place.n8n.answer(late)

    place.look()

    assert url_of(place.draft) == WORSE


def test_a_note_that_is_gone_by_now_is_not_acted_upon(place: Place) -> None:
    """Read by a chore while its writer was still at it, and seen through before the chore came to it."""
    place.lose(place.to(FIXED), instead=editable(place.shown()))
    (write,) = DraftWrite.find(place.journal)
    place.journal.commit(Change(deletes=[write.delete()]))
    place.n8n.edit(place.workflow_id, nodes=place.to(FIXED)["nodes"])

    strays.Strays(place.journal, place.home).look(write, place.lease)

    assert url_of(place.draft) == FIXED


# -- what a lost worker has published


def test_a_repair_that_a_lost_worker_has_published_is_not_published_again(place: Place) -> None:
    """Another repair's trial was put back since, so the draft has another version of the same."""
    before, proposal = place.shown(), place.to(FIXED)
    place.repair(state="publishing", decided_by="person", proposal=proposal, base_version_id=str(before["versionId"]))
    published = place.write(proposal, instead=proposal)
    place.home.publish(place.workflow_id, version_id=published)
    place.write(place.to(WORSE), instead=proposal)
    place.write(proposal, instead=proposal)
    requests = len(place.n8n.requests)

    assert place.look() is False

    (repair,) = Repair.find(place.journal)
    assert (repair.state, repair.published_version_id) == ("published", published)
    assert place.draft["versionId"] != published == place.draft["activeVersionId"]
    assert {request.method for request in place.n8n.requests[requests:]} == {"GET"}


def test_an_undo_that_a_lost_worker_has_published_is_not_published_again(place: Place) -> None:
    """A trial was put back since, so the draft has another version of the same."""
    before = place.shown()
    snapshot_id = snapshots.store(place.journal, before, cause="repair", for_write="r1:1", fences=[place.lease])
    place.write(place.to(FIXED), instead=editable(before))
    place.write(editable(before), instead=editable(before))
    rollback = Rollback(workflow_id=place.workflow_id, session_id="s1", snapshot_id=snapshot_id, by="person")
    place.journal.commit(Change(puts=[rollback.put()]))
    requests = len(place.n8n.requests)

    assert place.look() is False

    assert Rollback.find(place.journal) == []
    assert place.draft["versionId"] != before["versionId"] == place.draft["activeVersionId"]
    assert {request.method for request in place.n8n.requests[requests:]} == {"GET"}
