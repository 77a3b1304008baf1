"""A trial's draft is put back as it was, unless it is what runs by now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.journal import Change, Lease
from app.journal.records import Repair
from app.journal.sqlite import SqliteJournal
from app.n8n import Workflow
from app.n8n.client import N8nClient
from app.n8n.connected import ConnectedWorkflows
from app.n8n.workflows import editable
from app.repairs.publication import Publication
from app.repairs.snapshots import lease_name
from tests.fakes.n8n import API_KEY, FakeN8n
from tests.heal.rig import BROKEN, FIXED, url_of, workflow


@dataclass(frozen=True, slots=True)
class Place:
    """An n8n with one workflow that runs, and a worker that holds its ``lease``."""

    n8n: FakeN8n
    journal: SqliteJournal
    home: ConnectedWorkflows
    workflow_id: str
    lease: Lease

    @property
    def publication(self) -> Publication:
        return Publication(self.journal, self.home, "one")

    @property
    def draft(self) -> Workflow:
        return self.n8n.workflows[self.workflow_id].public

    def trying(self, *, noted: bool = True) -> Repair:
        """A repair whose proposal is the workflow's draft. ``noted``: its worker came to write down which version."""
        base = self.home.get(self.workflow_id)
        fences = [self.lease]
        snapshot_id = self.publication.snapshot(base, cause="repair", for_write="r1:1", fences=fences)
        proposal = {**editable(base), "nodes": _fixed(base["nodes"])}
        written = self.home.put_draft(self.workflow_id, proposal, base_version_id=str(base["versionId"]), fences=fences)
        repair = Repair(
            repair_id="r1",
            session_id="s1",
            workflow_id=self.workflow_id,
            workflow_name="Orders",
            signature="e1",
            attempt=1,
            state="trying",
            proposal=proposal,
            base_version_id=str(base["versionId"]),
            trial_version_id=str(written["versionId"]) if noted else "",
            snapshot_id=snapshot_id,
        )
        self.journal.commit(Change(puts=[repair.put()]))
        return repair


def _fixed(nodes: list[Workflow]) -> list[Workflow]:
    return [{**node, "parameters": {"url": FIXED}} if node["name"] == "Ask" else node for node in nodes]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    journal = SqliteJournal(tmp_path / "journal.db")
    with FakeN8n() as n8n:
        workflow_id = n8n.add(workflow("orders"))
        lease = journal.acquire(lease_name(workflow_id), "one", ttl_s=60)
        assert lease is not None
        yield Place(n8n, journal, ConnectedWorkflows(N8nClient(n8n.url, API_KEY), journal), workflow_id, lease)
    journal.close()


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
