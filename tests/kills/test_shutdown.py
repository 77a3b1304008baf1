"""The end of a whole bridge with a turn that never ends: told, stopped, journalled, gone; and the start after it."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.claude_rig import KEY
from tests.fakes.messages_api import MessagesApi, say
from tests.kills.conftest import UNLIMITED
from tests.support.client import Client
from tests.support.projects import copy_project
from tests.support.server import BridgeServer, wait_for


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    """A model that stops in the middle of its first answer, and gives its second."""
    with MessagesApi([say("I am thinking about it for ever.", fault="stall"), say("Done.")]) as api:
        yield api


@pytest.fixture
def server(api: MessagesApi) -> Iterator[BridgeServer]:
    settings = {
        **UNLIMITED,
        "AGENT": "claude",
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": api.url,
        "CLAUDE_MODEL": "claude-sonnet-5-5",
        "GRACEFUL_TIMEOUT_SECONDS": 7,
    }
    with BridgeServer(settings) as server:
        yield server


def children(server: BridgeServer) -> list[int]:
    """The agent's processes."""
    return [pid for pid in server.processes() if pid not in (server.pid, *server.worker_pids())]


@pytest.mark.timeout(120)
def test_a_turn_that_never_ends_is_stopped_and_goes_on_after_the_next_start(server: BridgeServer) -> None:
    with Client(server) as user:
        user.connect().say("build something", client_message_id="m").receive("assistant_delta")
        assert children(server)

        server.term()
        goodbye = user.receive("server_shutdown")
        assert user.wait_closed() == 1012
        assert children(server), "sockets are told first, the turn has its time"
        assert server.wait() == 0
        assert server.stop() == 0

        messages = [line["message"] for line in server.log_lines()]
        at = messages.index("Graceful shutdown complete")
        assert messages.index("Graceful shutdown started") < messages.index("Claude execution complete") < at
        assert messages.count("Graceful shutdown complete") == messages.count("Graceful shutdown started") == 1
        assert {line["logger"] for line in server.log_lines()[at + 1 :]} == {"gunicorn.error"}
        left = {path.name for path in server.folder.iterdir()}
        assert not left & {"journal.db-wal", "journal.db-shm"}, "the journal was closed"

        server.start()
        user.connect()
        outcomes = [user.receive("turn_finished")["data"]["outcome"] for _ in range(2)]
        assert outcomes == ["interrupted", "completed"]
        assert [event["seq"] for event in user.events if event["seq"] > goodbye["reconnect"]["lastSeq"]]
        assert len(user.of("user_message")) == 1
        assert user.of("assistant_message")[-1]["data"]["text"] == "Done."


@pytest.mark.timeout(120)
def test_a_killed_master_leaves_nothing(server: BridgeServer) -> None:
    with Client(server) as user:
        user.connect().say("build something").receive("assistant_delta")
        assert children(server)

        server.send_signal(signal.SIGKILL)

        assert user.wait_closed() == 1012
        server.wait()
        wait_for(lambda: not server.processes(), limit_s=30, what="the end of all")
        assert server.wait_log("Graceful shutdown complete")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["TERM", "INT", "HUP"])
def test_who_still_reaches_a_worker_that_drains_hears_that_it_is_not_ready(tmp_path: Path, number: int) -> None:
    project = copy_project(tmp_path / "project")
    worker = project / "app" / "server" / "worker.py"
    worker.write_text(worker.read_text().replace("IDLE_GRACE_S = 0.9", "IDLE_GRACE_S = 9.0"))  # a busy machine is slow
    with BridgeServer(UNLIMITED, project=project) as server:
        probe = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        probe.request("GET", "/readyz")
        response = probe.getresponse()
        assert (response.status, response.headers["Connection"]) == (200, "keep-alive")
        response.read()

        server.send_signal(number)
        server.wait_log("Graceful shutdown started")
        probe.request("GET", "/readyz")
        response = probe.getresponse()

        assert (response.status, response.headers["Connection"]) == (503, "close")
        assert json.loads(response.read())["checks"]["worker"] == "draining"
        if number != signal.SIGHUP:
            assert server.wait() == 0
        assert server.stop() == 0
        workers = 2 if number == signal.SIGHUP else 1
        messages = [line["message"] for line in server.log_lines()]
        assert messages.count("Graceful shutdown started") == messages.count("Graceful shutdown complete") == workers
        assert [path.name for path in server.folder.rglob("*") if path.is_socket()] == []
        assert {path.name for path in server.folder.iterdir() if path.is_file()} == {".env", "journal.db"}
