"""A thousand sockets when their worker goes: each is told where to come back, wherever in its life it is."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.kills.conftest import UNLIMITED
from tests.support.crowd import Crowd, Member
from tests.support.server import BridgeServer, wait_for

FOLLOWING, WITH_EVENTS, SILENT, GREETING, KNOCKING, CONNECTED = 930, 20, 30, 20, 15, 5


@pytest.fixture
def server() -> Iterator[BridgeServer]:
    # Those that stay silent are to be there still when a new worker has come up, however long that takes.
    with BridgeServer({**UNLIMITED, "MAX_SESSIONS": 10_000, "WS_HELLO_TIMEOUT_SECONDS": 60}) as server:
        yield server


def register(server: BridgeServer, member: Member) -> None:
    welcome = member.welcome
    assert welcome is not None
    headers = {"Authorization": f"Bearer {welcome['token']}"}
    path = f"/sessions/{welcome['sessionId']}/workflows"
    assert server.post(path, json={"workflowId": welcome["sessionId"]}, headers=headers).status == 201


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
def test_each_of_a_thousand_sockets_is_told(server: BridgeServer, number: int) -> None:
    with Crowd(server) as crowd:
        following = crowd.join(FOLLOWING)
        for member in following[:WITH_EVENTS]:
            register(server, member)
        crowd.until(lambda: all(m.last_seq for m in following[:WITH_EVENTS]), what="events")
        silent, greeting = crowd.open(SILENT), crowd.open(GREETING)
        knocking, connected = crowd.connect(KNOCKING), crowd.connect(CONNECTED)
        # Connections are accepted in their order: once this one is answered, all before it belong to the worker. What
        # still waits in the kernel when the listener closes is reset by it.
        server.wait_healthy()
        old = server.worker_pids()

        for member in greeting:
            member.send({"type": "hello"})
        for member in knocking:
            member.shake_hands(server.port)
        server.send_signal(number)
        crowd.until_ended(crowd.members)

        for member in following:
            goodbye = member.frames[-1]
            assert goodbye["type"] == "server_shutdown"
            assert goodbye["reconnect"]["sessionId"] == (member.welcome or {})["sessionId"]
            assert goodbye["reconnect"]["lastSeq"] == member.last_seq
        for member in (*following, *silent, *greeting):
            assert (member.frames[-1]["type"], member.close_code) == ("server_shutdown", 1012)
        for member in greeting:
            session_id = member.frames[-1]["reconnect"]["sessionId"]
            assert session_id == (member.welcome["sessionId"] if member.welcome else None)
        for member in knocking:
            assert (member.status, member.close_code) in ((101, 1012), (503, 0))
        assert {member.status for member in connected} == {None}
        wait_for(lambda: not set(old) & set(server.processes()), what="the old worker's end")
        if number == signal.SIGHUP:
            server.wait_healthy()
        assert server.stop() == 0
    check_goodbye(server, workers=1 if number == signal.SIGTERM else 2)


def check_goodbye(server: BridgeServer, *, workers: int) -> None:
    """Each worker's two lines are there once, the second after all else that it says; nothing went wrong meanwhile."""
    lines = server.log_lines()
    assert len(server.log_lines("Graceful shutdown started")) == workers
    assert len(server.log_lines("Graceful shutdown complete")) == workers
    last = max(n for n, line in enumerate(lines) if line["message"] == "Graceful shutdown complete")
    assert {line["logger"] for line in lines[last + 1 :]} <= {"gunicorn.error"}
    assert not [line for line in lines if line["level"] in ("warning", "error", "critical")]
