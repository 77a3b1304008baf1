"""The rights that the cache module gives to the bridge's user, on a real server: enough for it, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.client import Client, failure
from tests.support.redis import RedisServer
from tests.support.server import BridgeServer

MAIN = Path(__file__).parents[2] / "terraform" / "modules" / "cache" / "main.tf"
USER, PASSWORD = "bridge-test-bridge", "0123456789abcdefABCDEF"
# MemoryDB refuses these to everybody. Source: AWS docs, MemoryDB, "Restricted commands".
REFUSED = """
    acl|deluser acl|load acl|log acl|save acl|setuser bgrewriteaof bgsave cluster|addslots cluster|addslotsrange
    cluster|bumpepoch cluster|delslots cluster|delslotsrange cluster|failover cluster|flushslots cluster|forget
    cluster|meet cluster|replicate cluster|reset cluster|set-config-epoch cluster|setslot config debug migrate module
    psync replicaof save shutdown slaveof sync
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    [access] = re.findall(r'^  access_string = "(.*)"$', MAIN.read_text(), re.MULTILINE)
    with RedisServer() as server:
        refused = [f"-{command}" for command in REFUSED.split()]
        assert server.say("ACL", "SETUSER", USER, *access.split(), f">{PASSWORD}", *refused) == b"+OK\r\n"
        yield server


def test_a_bridge_with_these_rights_is_refused_nothing(server: RedisServer) -> None:
    url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}/0"
    with (
        BridgeServer({"REDIS_URL": url, "SESSION_SWEEP_SECONDS": 0.2}) as one,
        BridgeServer({"REDIS_URL": url}) as other,
    ):
        with Client(one) as user, Client(other) as elsewhere:
            user.connect().say("hello").receive("turn_finished", outcome="completed")
            elsewhere.session_id, elsewhere.token = user.session_id, user.token
            elsewhere.connect(after=0).receive("turn_finished")
            assert user.http("POST", "/sessions/{sid}/workflows", {"workflowId": "w1"}).status == 201
            assert one.post("/callbacks/n8n/error", json=failure("w1")).status == 202
            assert elsewhere.receive("repair_waiting")
        assert other.post("/callbacks/n8n/error", json=failure("nobodys")).status == 202
        assert one.get("/readyz").status == other.get("/readyz").status == 200

    assert server.say("ACL", "LOG") == b"*0\r\n"


@pytest.mark.parametrize("command", ["SET other 1", "GET bridge:s:1", "SUBSCRIBE other:wake", "CONFIG GET *"])
def test_nothing_but_the_journal_is_open_to_it(server: RedisServer, command: str) -> None:
    client = redis.Redis(port=server.port, username=USER, password=PASSWORD)
    with client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())
