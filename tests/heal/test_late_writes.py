"""n8n does what it was asked after the one who asked is gone: a trial's draft that comes late does not stay."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.heal.conftest import planned_bridge
from tests.heal.rig import BROKEN, WORSE, Healing, HealN8n, healing_n8n, soon, to, url_of
from tests.support.server import BridgeServer, wait_for

Begin = Callable[..., Healing]
SOON = "import app.lifecycle\napp.lifecycle.REPAIRS_INTERVAL_S = 0.2"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, HealN8n, Path]]:
    folder = tmp_path_factory.mktemp("late")
    with healing_n8n() as n8n, planned_bridge(n8n, folder, prelude=SOON) as server:
        yield server, n8n, folder


def is_as_it_was(one: Healing) -> bool:
    return url_of(one.n8n.draft(one.workflow_id)) == BROKEN and one.n8n.is_clean(one.workflow_id)


def test_a_draft_that_comes_after_its_turn_was_cancelled_is_taken_back(healing: Begin) -> None:
    one = healing(to(WORSE))
    held = one.n8n.hold(one.workflow_id, "put", "before")
    one.fail()
    assert held.reached.wait(10)
    assert one.command("cancel") == 202
    one.wait_state("failed")
    assert is_as_it_was(one)

    held.release()

    assert held.done.wait(10)
    assert len(one.n8n.workflows[one.workflow_id].versions) >= 2, "it came"
    soon(lambda: is_as_it_was(one), what="as it was")
    assert one.kinds("repair_failed", "repair_unverified") == ["repair_failed"]


def test_a_draft_that_comes_after_its_worker_was_killed_is_taken_back(healing: Begin) -> None:
    """Its repair was gone on with by another worker, which has put back a draft of its own."""
    one = healing(to(WORSE))
    held = one.n8n.hold(one.workflow_id, "put", "before")
    one.fail()
    assert held.reached.wait(10)
    (pid,) = one.server.worker_pids()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pid not in one.server.worker_pids(), what="its end")
    one.wait_state("failed")
    assert one.n8n.urls_put(one.workflow_id)[1:3] == [WORSE, BROKEN]
    assert is_as_it_was(one)
    versions = len(one.n8n.workflows[one.workflow_id].versions)

    held.release()

    assert held.done.wait(10)
    assert len(one.n8n.workflows[one.workflow_id].versions) > versions, "it came"
    soon(lambda: is_as_it_was(one), what="as it was")
