"""A flood of requests from one address, over four hundred connections: the limit holds, and nobody else is kept out."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.client import Client
from tests.support.projects import PROJECT
from tests.support.server import BridgeServer

LIMIT = 10


@pytest.mark.parametrize("workers", [1, 2])
def test_a_flood_gets_its_ten_answers_and_the_rest_refusals(workers: int) -> None:
    settings = {"WEB_CONCURRENCY": workers, "RATE_LIMIT_HEALTH_PER_MINUTE": LIMIT}
    with BridgeServer(settings) as server, Client(server) as client:
        client.connect()
        argv = [sys.executable, "-m", "tests.support.flood", str(server.port), "400", "2"]
        with subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as flood:
            pongs = 0
            while flood.poll() is None:
                client.sync()
                pongs += 1
            seen = json.loads(flood.communicate()[0])
        assert seen.pop("200") == LIMIT
        assert seen.pop("429") > 1000
        assert seen == {}, "no other status, no connection that failed"
        assert pongs > 1
        told = [line for line in server.log_lines("access") if line.get("path") == "/health"]
        assert len(told) <= workers, "one line of a kind a minute for each worker"
