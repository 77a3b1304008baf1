"""``flask doctor`` where the journal is in Redis."""

from __future__ import annotations

from app.journal.redis import RedisJournal
from tests.cli.doctor_rig import Doctor
from tests.support.redis import RedisServer
from tests.support.server import BridgeServer


def test_a_redis_that_is_well_is_told_by_its_address_without_its_password(bridge: BridgeServer) -> None:
    with RedisServer() as server:
        server.say("CONFIG", "SET", "requirepass", "hidden-password")
        report = Doctor(bridge, None).quick(REDIS_URL=f"redis://:hidden-password@127.0.0.1:{server.port}/0")

    journal = report.only("journal")
    assert (journal["state"], journal["detail"]) == ("ok", f"redis://127.0.0.1:{server.port}/0 takes writes")
    assert report.is_well()


def test_a_redis_that_keeps_nothing_and_may_evict_is_noted(bridge: BridgeServer) -> None:
    with RedisServer(appendonly="no", maxmemory="100mb", maxmemory_policy="allkeys-lru") as server:
        report = Doctor(bridge, None).quick(REDIS_URL=server.url)

    found = [finding for finding in report.findings if finding["name"] == "journal"]
    assert [finding["state"] for finding in found] == ["note", "note", "ok"]
    assert "noeviction" in found[0]["detail"]
    assert "append-only" in found[1]["detail"]


def test_a_redis_that_is_away_or_full_is_a_problem(bridge: BridgeServer) -> None:
    with RedisServer() as server:
        RedisJournal(server.url).close()  # a bridge was here, and has loaded its functions
        server.say("CONFIG", "SET", "maxmemory", "1mb")
        full = Doctor(bridge, None).quick(REDIS_URL=server.url).only_problem()
    away = Doctor(bridge, None).quick(REDIS_URL=server.url).only_problem()

    assert (full["name"], away["name"]) == ("journal", "journal")
    assert "takes no write" in full["detail"]
    assert "cannot be reached" in away["detail"]
