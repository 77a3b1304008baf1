"""Bridges of several machines on one Redis: one session, one limit, and readiness that says when Redis is away."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.client import Client, failure
from tests.support.redis import RedisServer
from tests.support.server import BridgeServer, wait_for


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def fleet(redis: RedisServer) -> Iterator[tuple[BridgeServer, BridgeServer]]:
    settings = {"REDIS_URL": redis.url, "RATE_LIMIT_CALLBACKS_PER_MINUTE": 6}
    with BridgeServer(settings) as one, BridgeServer(settings) as other:
        yield one, other


def test_a_session_goes_on_at_another_machine(fleet: tuple[BridgeServer, BridgeServer]) -> None:
    with Client(fleet[0]) as user:
        user.connect().say("hello")
        user.receive("turn_finished")
        last = user.last_seq

        with Client(fleet[1]) as elsewhere:
            elsewhere.session_id, elsewhere.token = user.session_id, user.token
            elsewhere.connect(after=0)
            elsewhere.say("and again")
            elsewhere.receive_if(lambda frame: frame["type"] == "turn_finished" and frame["seq"] > last)

            wait_for(lambda: user.last_seq == elsewhere.last_seq > last, what="the first one to be told as well")


def test_a_limit_counts_for_all_machines_together(fleet: tuple[BridgeServer, BridgeServer]) -> None:
    with Client(fleet[0]) as user:
        user.connect()
        body = {"workflowId": "w1", "autonomy": "observe"}
        assert user.http("POST", f"/sessions/{user.session_id}/workflows", body).status == 201

        answers = [fleet[n % 2].post("/callbacks/n8n/error", json=failure("w1")).status for n in range(12)]

        assert answers == [202] * 6 + [429] * 6


def test_a_bridge_whose_redis_is_stopped_is_alive_and_not_ready(
    fleet: tuple[BridgeServer, BridgeServer], redis: RedisServer
) -> None:
    server = fleet[0]
    redis.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: server.get("/readyz").status == 503, what="not ready")
        assert server.get("/healthz").status == 200
    finally:
        redis.send_signal(signal.SIGCONT)
    wait_for(lambda: server.get("/readyz").status == 200, what="ready again")


def test_a_server_that_keeps_nothing_is_warned_of_once_at_the_start() -> None:
    with RedisServer(appendonly="no") as redis, BridgeServer({"REDIS_URL": redis.url}) as server:
        server.wait_log("worker started")
        warned = [line for line in server.log_lines() if "append-only file" in line["message"]]

        assert [line["level"] for line in warned] == ["warning"]
        assert server.get("/readyz").status == 200
