"""What people decide, at once and from several workers: one decision counts, and whoever lives finishes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from app.errors import BusyError, ConflictError
from app.journal import Change, Delete
from app.journal.records import Case, Repair
from app.repairs.decisions import Decisions
from app.repairs.publication import Publication
from app.repairs.workflow_lease import lease_name
from tests.journal.steps import together, until
from tests.support.agents import ScriptedAgent, never, waits
from tests.support.client import failure
from tests.turns.bench import LEASE_S, SHORT_LEASE_S, Bench, Worker, two_nodes
from tests.turns.test_repair_turns import proposes, retries, running


@pytest.fixture
def waiting(bench: Bench) -> tuple[str, str, str]:
    """Session, workflow and repair, which waits for a person."""
    session_id, workflow_id, repair_id = running(bench)
    worker = bench.worker(ScriptedAgent(proposes(retries)))
    bench.idle(session_id)
    worker.runner.stop()
    return session_id, workflow_id, repair_id


def idle_worker(bench: Bench, *, lease_s: float = LEASE_S) -> Worker:
    """A worker that decides and runs nothing."""
    worker = Worker(bench.path, ScriptedAgent(never()), lease_s=lease_s, concurrent_turns=1, turn_timeout_s=30)
    bench.workers.append(worker)
    return worker


def decided(bench: Bench, session_id: str) -> list[str]:
    return [data["decision"] for data in bench.data(session_id, "repair_decided")]


def is_repaired(bench: Bench, workflow_id: str) -> bool:
    return bool(bench.workflows.get(workflow_id)["nodes"][1].get("retryOnFail"))


def expired(bench: Bench, repair_id: str) -> None:
    bench.journal.commit(Change(puts=[bench.repair(repair_id).put(expires_at_s=time.time() - 1)]))


def test_two_approvals_at_once_publish_once(bench: Bench, waiting: tuple[str, str, str]) -> None:
    session_id, workflow_id, repair_id = waiting
    workers = [idle_worker(bench) for _ in range(4)]

    results = together([lambda d=worker.decisions: d.approve(session_id, repair_id) for worker in workers])

    assert [result for result in results if result is None] == [None]
    assert all(isinstance(result, ConflictError) for result in results if result is not None)
    assert decided(bench, session_id) == ["approved"]
    assert len(bench.data(session_id, "repair_published")) == 1
    assert len(bench.snapshots(workflow_id)) == 1
    assert is_repaired(bench, workflow_id)
    assert bench.case(workflow_id).outcome == "published"


@pytest.mark.parametrize("turn", range(5))
def test_approval_rejection_and_expiry_at_once_are_one_decision(
    bench: Bench, waiting: tuple[str, str, str], turn: int
) -> None:
    session_id, workflow_id, repair_id = waiting
    one, two, three = (idle_worker(bench).decisions for _ in range(3))
    bench.journal.commit(Change(puts=[bench.repair(repair_id).put(expires_at_s=time.time() + 0.02 * turn)]))
    gevent.sleep(0.01 * turn)
    calls: list[Callable[[], Any]] = [
        lambda: one.approve(session_id, repair_id),
        lambda: two.reject(session_id, repair_id),
        lambda: until(lambda: three.expire() or bench.repair(repair_id).state != "waiting", deadline_s=15),
    ]

    together(calls[turn % 3 :] + calls[: turn % 3])

    (decision,) = decided(bench, session_id)
    published = decision == "approved"
    assert is_repaired(bench, workflow_id) is published
    assert len(bench.data(session_id, "repair_published")) == int(published)
    assert bench.case(workflow_id).state == "closed"


def test_a_rejected_repair_leaves_everything(bench: Bench, waiting: tuple[str, str, str]) -> None:
    session_id, workflow_id, repair_id = waiting
    decisions = idle_worker(bench).decisions

    decisions.reject(session_id, repair_id)

    for late in (decisions.approve, decisions.reject):
        with pytest.raises(ConflictError):
            late(session_id, repair_id)
    assert decided(bench, session_id) == ["rejected"]
    assert not is_repaired(bench, workflow_id)
    assert bench.snapshots(workflow_id) == []


def test_a_workflow_that_was_changed_meanwhile_is_left_as_it_is(bench: Bench, waiting: tuple[str, str, str]) -> None:
    session_id, workflow_id, repair_id = waiting
    base = bench.workflows.get(workflow_id)["versionId"]
    bench.workflows.put_draft(workflow_id, two_nodes(notes="by hand"), base_version_id=base)

    idle_worker(bench).decisions.approve(session_id, repair_id)

    assert bench.repair(repair_id).state == "failed"
    assert not is_repaired(bench, workflow_id)
    assert "changed" in bench.data(session_id, "repair_failed")[0]["reason"]


# -- a worker that is lost on the way ---------------------------------------------------------------


def lost_at(worker: Worker, number: int) -> None:
    """Have a worker vanish after its ``number``-th change (0: before the first)."""
    commit, left = worker.journal.commit, [number]

    def fatal(change: Change) -> Any:
        if left[0] <= 0:
            worker.journal.close()
        committed = commit(change)
        left[0] -= 1
        return committed

    worker.journal.commit = fatal  # type: ignore[method-assign]


@pytest.mark.parametrize("commits", range(6))
def test_an_approval_is_finished_by_whoever_lives(bench: Bench, waiting: tuple[str, str, str], commits: int) -> None:
    """Lost after each of its changes: decided, snapshot, its name, draft, published."""
    session_id, workflow_id, repair_id = waiting
    lost, heir = idle_worker(bench, lease_s=SHORT_LEASE_S), idle_worker(bench)
    lost_at(lost, commits)
    together([lambda: lost.decisions.approve(session_id, repair_id)])

    until(lambda: not heir.publication.finish(), deadline_s=15)

    if commits == 0:
        assert decided(bench, session_id) == []
        heir.decisions.approve(session_id, repair_id)
    assert decided(bench, session_id) == ["approved"]
    (published,) = bench.data(session_id, "repair_published")
    (snapshot,) = bench.snapshots(workflow_id)
    assert published["snapshotId"] == snapshot.snapshot_id
    assert "retryOnFail" not in snapshot.workflow["nodes"][1]
    assert is_repaired(bench, workflow_id)


@pytest.mark.parametrize("commits", range(5))
def test_an_undo_is_finished_by_whoever_lives(bench: Bench, waiting: tuple[str, str, str], commits: int) -> None:
    """Lost after each of its changes: asked for, snapshot, draft, told."""
    session_id, workflow_id, repair_id = waiting
    before = bench.workflows.get(workflow_id)["nodes"]
    lost, heir = idle_worker(bench, lease_s=SHORT_LEASE_S), idle_worker(bench)
    heir.decisions.approve(session_id, repair_id)
    lost_at(lost, commits)
    together([lambda: lost.decisions.roll_back(session_id, workflow_id, None)])

    until(lambda: not heir.publication.finish(), deadline_s=15)

    if commits == 0:
        heir.decisions.roll_back(session_id, workflow_id, None)
    assert len(bench.data(session_id, "rolled_back")) == 1
    assert bench.workflows.get(workflow_id)["nodes"] == before
    assert bench.repair(repair_id).state == "rolled_back"
    assert len(bench.snapshots(workflow_id)) == 2


def test_a_workflows_lease_lasts_as_long_as_its_worker_works(bench: Bench, waiting: tuple[str, str, str]) -> None:
    session_id, workflow_id, repair_id = waiting
    slow, other = idle_worker(bench, lease_s=SHORT_LEASE_S), idle_worker(bench)
    put_draft, looked = slow.workflows.put_draft, []

    def slowly(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + 4 * SHORT_LEASE_S
        while time.monotonic() < deadline:
            looked.append(other.publication.finish())
            gevent.sleep(0.02)
        return put_draft(*arguments, **options)

    slow.workflows.put_draft = slowly  # type: ignore[method-assign]
    slow.decisions.approve(session_id, repair_id)

    assert set(looked) == {True}
    assert len(bench.data(session_id, "repair_published")) == 1
    assert not bench.journal.held(lease_name(workflow_id))


def test_a_workflow_that_is_being_changed_keeps_a_decision_waiting(
    bench: Bench, waiting: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id, workflow_id, repair_id = waiting
    monkeypatch.setattr("app.repairs.workflow_lease.WORKFLOW_WAIT_S", 0.2)
    lease = bench.journal.acquire(lease_name(workflow_id), "somebody", ttl_s=60)
    assert lease is not None
    decisions = idle_worker(bench).decisions
    with pytest.raises(BusyError):
        decisions.approve(session_id, repair_id)
    assert decided(bench, session_id) == []

    bench.journal.release(lease)
    decisions.approve(session_id, repair_id)
    assert is_repaired(bench, workflow_id)


def test_what_cannot_be_finished_does_not_hold_up_the_rest(bench: Bench) -> None:
    """A session that was closed, a workflow that is gone: neither may stop the chores for all others."""
    ready = []
    for _ in range(4):
        session_id, workflow_id, repair_id = running(bench)
        ready.append((session_id, workflow_id, repair_id))
    worker = bench.worker(ScriptedAgent(proposes(retries)))
    for session_id, _, _ in ready:
        bench.idle(session_id)
    (closed, _, closed_id), (_, gone_workflow, gone_id), (late, _, late_id), (good, good_workflow, good_id) = ready
    for repair_id in (closed_id, gone_id, good_id):
        bench.journal.commit(Change(puts=[bench.repair(repair_id).put(state="publishing", decided_by="person")]))
    expired(bench, late_id)
    bench.close_session(closed)
    bench.journal.commit(Change(deletes=[Delete("draft", gone_workflow)]))

    until(lambda: not worker.publication.finish(), deadline_s=15)
    worker.decisions.expire()

    assert is_repaired(bench, good_workflow)
    assert len(bench.data(good, "repair_published")) == 1
    assert bench.repair(closed_id).state == "published"
    assert bench.repair(gone_id).state == "failed"
    assert decided(bench, late) == ["expired"]


def test_repairs_of_closed_sessions_expire_beside_the_others(bench: Bench) -> None:
    ready = [running(bench) for _ in range(3)]
    worker = bench.worker(ScriptedAgent(proposes(retries)))
    for session_id, _, repair_id in ready:
        bench.idle(session_id)
        expired(bench, repair_id)
    for session_id, _, _ in ready[::2]:
        bench.close_session(session_id)

    worker.decisions.expire()

    assert {bench.repair(repair_id).state for _, _, repair_id in ready} == {"expired"}


# -- undo beside a repair ---------------------------------------------------------------------------


def published_and_failing_again(bench: Bench) -> tuple[str, str, str]:
    """A repaired workflow with another failure of its own: session, workflow, the repair of the second failure."""
    session_id, workflow_id, repair_id = running(bench)
    first = bench.worker(ScriptedAgent(proposes(retries)))
    bench.idle(session_id)
    first.decisions.approve(session_id, repair_id)
    first.runner.stop()
    payload = failure(workflow_id)
    payload["execution"]["error"] = {"message": "Cannot read properties of undefined", "name": "TypeError"}
    assert bench.fail(workflow_id, payload=payload).repair == "queued"
    second = next(r for r in Repair.find(bench.journal, f"workflow:{workflow_id}") if r.state == "queued")
    return session_id, workflow_id, second.repair_id


def test_an_undo_cancels_the_running_repair(bench: Bench) -> None:
    session_id, workflow_id, repair_id = published_and_failing_again(bench)
    worker = bench.worker(ScriptedAgent(never()))
    bench.wait(session_id, "repair_started", times=2)

    worker.decisions.roll_back(session_id, workflow_id, None)
    bench.idle(session_id)

    assert bench.outcomes(session_id)[-1] == "cancelled"
    assert bench.repair(repair_id).state == "failed"
    assert not is_repaired(bench, workflow_id)
    assert len(bench.data(session_id, "rolled_back")) == 1


def test_an_undo_drops_the_queued_repair_and_its_case_is_free_again(bench: Bench) -> None:
    session_id, workflow_id, repair_id = published_and_failing_again(bench)
    signature = bench.repair(repair_id).signature

    idle_worker(bench).decisions.roll_back(session_id, workflow_id, None)

    assert bench.pending(session_id) == []
    assert bench.repair(repair_id).state == "failed"
    case = Case.get(bench.journal, f"{workflow_id}:{signature}")
    assert case is not None and case.state == "closed"


@pytest.mark.parametrize("commits", range(3))
def test_a_lost_undo_leaves_no_repair_without_its_input(bench: Bench, commits: int) -> None:
    session_id, workflow_id, repair_id = published_and_failing_again(bench)
    lost, heir = idle_worker(bench, lease_s=SHORT_LEASE_S), idle_worker(bench)
    lost_at(lost, commits)
    together([lambda: lost.decisions.roll_back(session_id, workflow_id, None)])
    until(lambda: not heir.publication.finish(), deadline_s=15)

    waits = [found.key for found in bench.pending(session_id)]
    assert (repair_id in waits) is (bench.repair(repair_id).state == "queued")


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 4, 8])
def test_an_undo_that_meets_a_repair_as_it_begins_leaves_none_behind(bench: Bench, delay_ms: int) -> None:
    session_id, workflow_id, repair_id = published_and_failing_again(bench)
    decisions = idle_worker(bench).decisions
    bench.worker(ScriptedAgent(never()))
    gevent.sleep(delay_ms / 1000)

    together([lambda: decisions.roll_back(session_id, workflow_id, None)])
    bench.idle(session_id)

    assert bench.repair(repair_id).state == "failed"
    assert not is_repaired(bench, workflow_id)
    assert len(bench.data(session_id, "rolled_back")) == 1


def test_decisions_need_no_other_worker(bench: Bench, waiting: tuple[str, str, str]) -> None:
    """The records alone are enough: any holder may decide."""
    session_id, workflow_id, repair_id = waiting
    anybody = Publication(bench.journal, bench.workflows, "anybody")
    Decisions(bench.journal, bench.workflows, anybody).approve(session_id, repair_id)
    assert is_repaired(bench, workflow_id)


def test_an_undo_stops_no_turn_whose_repair_is_decided(bench: Bench) -> None:
    session_id, workflow_id, repair_id = running(bench)
    end = Event()
    worker = bench.worker(ScriptedAgent(proposes(retries, then=waits(end))))
    bench.wait(session_id, "repair_waiting")
    worker.decisions.approve(session_id, repair_id)

    worker.decisions.roll_back(session_id, workflow_id, None)
    with pytest.raises(ConflictError):
        worker.decisions.roll_back(session_id, workflow_id, None)

    end.set()
    bench.idle(session_id)
    assert bench.outcomes(session_id) == ["completed"]
    assert len(bench.data(session_id, "rolled_back")) == 1
