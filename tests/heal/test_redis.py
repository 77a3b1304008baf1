"""The healing story with the journal in a real Redis and two workers: any of them may die, and Redis may be away."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.n8n import API_KEY
from tests.heal.conftest import planned_bridge
from tests.heal.rig import FIXED, LIMIT_S, SECRET, Healing, HealN8n, healing_n8n, to
from tests.support.client import failure
from tests.support.redis import RedisServer
from tests.support.server import BridgeServer, wait_for

CALLBACK = "/callbacks/n8n/error"
WORKERS = 2


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def home(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, HealN8n, Path]]:
    folder = tmp_path_factory.mktemp("heal")
    settings = {"REDIS_URL": redis.url, "WEB_CONCURRENCY": WORKERS}
    with healing_n8n() as n8n, planned_bridge(n8n, folder, **settings) as server:
        yield server, n8n, folder
        assert not (server.folder / "journal.db").exists(), "SQLite was not asked"


def patiently(call: Callable[[], Any]) -> Any:
    """Through a worker's death, as a client does it."""

    def tried() -> list[Any] | None:
        try:
            return [call()]
        except (OSError, http.client.HTTPException, AssertionError, KeyError):
            return None

    return wait_for(tried, limit_s=LIMIT_S, what="an answer")[0]


def published(one: Healing) -> bool:
    return bool(patiently(one.state) == "published")


def test_a_workflow_is_built_fails_and_is_repaired(healing: Callable[..., Healing]) -> None:
    one = healing(to(FIXED))
    (shown,) = one.chat(["get_workflow", {"workflowId": one.workflow_id}])
    assert shown["ok"]

    one.heal()

    one.check_published()
    assert one.state() == "published"


@pytest.mark.parametrize(
    "moment",
    ["after claim 1", "after turn_started 1", "after repair_proposed 1", "before repair_published 1"],
)
def test_a_worker_that_is_killed_on_the_way_is_followed_by_the_other(
    healing: Callable[..., Healing], home: tuple[BridgeServer, HealN8n, Path], moment: str
) -> None:
    server, _, folder = home
    one = healing(to(FIXED))
    wait_for(lambda: len(server.worker_pids()) == WORKERS, what="both workers")
    workers = set(server.worker_pids())
    (folder / "die").write_text(moment)

    one.fail()

    wait_for(lambda: set(server.worker_pids()) - workers, what="a new worker")
    wait_for(lambda: published(one), limit_s=LIMIT_S, what="published")
    patiently(one.check_published)
    finished = [data["outcome"] for data in patiently(lambda: one.data("turn_finished"))]
    assert [outcome for outcome in finished if outcome != "interrupted"] == ["completed"]


def test_redis_restarts_in_the_middle_of_a_repair(healing: Callable[..., Healing], redis: RedisServer) -> None:
    one, bystander = healing(to(FIXED)), healing()
    one.plan(to(FIXED), hold=True)
    one.fail()
    one.receive("turn_started")
    report = failure(bystander.workflow_id)

    redis.kill()
    refused = one.client.http("POST", CALLBACK, report, SECRET)
    assert (refused.status, refused.json["code"]) == (503, "journal_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert one.server.get("/healthz").status == 200
    assert (one.client.close_code, bystander.client.close_code) == (None, None), "sockets stay"
    redis.start()

    def taken() -> int:
        status: int = one.client.http("POST", CALLBACK, report, SECRET).status
        return status

    assert wait_for(lambda: (status := taken()) != 503 and status, what="taken again") == 202
    assert taken() == 200
    one.let_propose()
    while one.ended() == "interrupted":
        continue
    one.check_published()
    assert bystander.receive("workflow_error")["execution"]["id"] == report["execution"]["id"]
    assert bystander.kinds().count("workflow_error") == 1
    assert (one.client.close_code, bystander.client.close_code) == (None, None)
    assert API_KEY not in "\n".join(one.server.raw_lines())
