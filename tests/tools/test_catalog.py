"""A turn's tools as one call after another, and two at once: what is refused is told once, and stops nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from app.errors import ValidationError
from app.journal import Change, Claim
from app.journal.records import Repair
from app.n8n import Workflow
from app.n8n.drafts import Drafts
from app.repairs.publication import Publication
from app.repairs.refusals import RefusedError
from app.tools.catalog import HURRY, Catalog, TurnCatalog
from tests.turns.bench import Bench, bench_in, two_nodes


class BusyDrafts(Drafts):
    """Something happens while a workflow is read."""

    meanwhile: Callable[[], object] | None = None

    def get(self, workflow_id: str, *, version: Literal["draft", "active"] = "draft") -> Workflow:
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            happens()
        return super().get(workflow_id, version=version)


class Turn:
    """A repair that runs, and its tools."""

    def __init__(self, bench: Bench, *, soft_s: float = 300.0) -> None:
        self.bench = bench
        self.session_id = bench.session()
        workflow = bench.workflow(self.session_id)
        bench.fail(workflow["id"])
        claim = bench.journal.claim("worker", ttl_s=60)
        assert claim is not None
        self.claim: Claim = claim
        bench.journal.commit(Change(puts=[self.repair.put(state="running")], fences=[claim.lease]))
        self.workflows = BusyDrafts(bench.journal)
        publication = Publication(bench.journal, self.workflows, "worker")
        catalog = Catalog(bench.journal, self.workflows, publication, "auto", soft_s)
        self.tools: TurnCatalog = catalog.tools_for(claim, turn_id="turn")

    @property
    def repair(self) -> Repair:
        return self.bench.repair(self.claim.input.key)

    def refused(self, tool: str, arguments: dict[str, Any], *, call_id: str = "t") -> None:
        with pytest.raises(RefusedError):
            self.tools.call(tool, arguments, call_id)

    def told(self) -> list[str]:
        return [data["tool"] for data in self.bench.data(self.session_id, "tool_refused")]


@pytest.fixture
def turn(tmp_path: Path) -> Iterator[Turn]:
    with bench_in(tmp_path) as bench:
        yield Turn(bench)


def test_a_refused_call_that_is_repeated_is_told_once(turn: Turn) -> None:
    turn.refused("delete_workflow", {})
    turn.refused("delete_workflow", {})
    turn.refused("get_workflow", {"workflowId": "other"}, call_id="another")
    assert turn.told() == ["delete_workflow", "get_workflow"]
    assert [entry["tool"] for entry in turn.repair.refusals] == turn.told()


def test_a_proposal_goes_on_where_another_call_is_refused_meanwhile(turn: Turn) -> None:
    turn.workflows.meanwhile = lambda: turn.refused("list_credentials", {}, call_id="another")
    body = two_nodes()
    body["nodes"][1]["retryOnFail"] = True
    answer = turn.tools.call("propose_repair", {"workflow": body, "summary": "Retries."}, "t")
    assert answer.ok
    assert turn.repair.state == "waiting"
    assert [entry["tool"] for entry in turn.repair.refusals] == ["list_credentials"]


def test_arguments_of_a_wrong_type_are_a_mistake_and_no_refusal(turn: Turn) -> None:
    with pytest.raises(ValidationError):
        turn.tools.call("propose_repair", {"workflow": "x", "summary": ""}, "t")
    assert turn.told() == []


@pytest.mark.parametrize(("soft_s", "reminded"), [(0.0, True), (300.0, False)])
def test_a_repair_that_takes_long_is_told_to_come_to_an_end(tmp_path: Path, soft_s: float, reminded: bool) -> None:
    with bench_in(tmp_path) as bench:
        answer = Turn(bench, soft_s=soft_s).tools.call("get_workflow", {}, "t")
        assert answer.text.endswith(HURRY) == reminded
