"""Peers that vanish, stop reading or never stop sending: they are dropped, and nobody else notices them."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest

from app.journal import Change, NewEvent
from app.journal.records import OpenConnection
from app.journal.sqlite import SqliteJournal
from tests.e2e.conftest import UNLIMITED, bugs
from tests.support.client import Client
from tests.support.server import BridgeServer, wait_for

PIECE, PIECES = 100_000, 80
PING, PONG, TEXT, PART, FIN = 9, 10, 1, 0, 0x80

# A client that resumes a session, says so, and leaves everything else to the operating system.
SILENT = """
import sys, time, websocket
socket = websocket.create_connection(sys.argv[1])
socket.send(sys.argv[2])
socket.recv()
print("in", flush=True)
while True:
    socket.recv()
"""


def serve(**settings: Any) -> Iterator[BridgeServer]:
    with BridgeServer({**UNLIMITED, "WEB_CONCURRENCY": 2, **settings}) as server:
        yield server
        assert not bugs(server)


@pytest.fixture(scope="module")
def server() -> Iterator[BridgeServer]:
    """Has little patience with who does not read."""
    yield from serve(WS_SEND_TIMEOUT_SECONDS=0.6)


@pytest.fixture
def pinging() -> Iterator[BridgeServer]:
    """Has little patience with who does not answer."""
    yield from serve(WS_PING_INTERVAL_SECONDS=0.5)


@pytest.fixture
def user(server: BridgeServer) -> Iterator[Client]:
    with Client(server).connect() as client:
        yield client


def sockets_of(server: BridgeServer, session_id: str | None) -> int:
    with closing(SqliteJournal(server.folder / "journal.db")) as journal:
        return len(OpenConnection.find(journal, f"session:{session_id}"))


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """Masked with zeros; shorter than 126 bytes."""
    return bytes([(FIN if final else 0) | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def raw(server: BridgeServer, hello: dict[str, Any], *, buffer_bytes: int = 0) -> socket.socket:
    """A socket that has said hello and read nothing since the handshake."""
    made = socket.socket()
    if buffer_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    made.settimeout(10)
    made.connect(("127.0.0.1", server.port))
    key = base64.b64encode(os.urandom(16)).decode()
    head = "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    made.sendall(f"GET /ws HTTP/1.1\r\n{head}Sec-WebSocket-Key: {key}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += made.recv(1)
    assert b" 101 " in answer
    made.sendall(frame(TEXT, json.dumps({"type": "hello", **hello}).encode()))
    return made


def test_a_peer_that_is_stopped_is_gone_and_its_session_goes_on(pinging: BridgeServer) -> None:
    user = Client(pinging).connect()
    hello = json.dumps({"type": "hello", "sessionId": user.session_id, "token": user.token})
    argv = [sys.executable, "-c", SILENT, pinging.ws_url, hello]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"in\n"
            assert sockets_of(pinging, user.session_id) == 2
            process.send_signal(signal.SIGSTOP)

            wait_for(lambda: sockets_of(pinging, user.session_id) == 1)
        finally:
            process.kill()
    pinging.wait_log("connection closed", closeCode=1008)
    user.sync().disconnect()


def read_all(connection: socket.socket, last: bytes) -> int:
    """Read until ``last`` came; gives how many notices there were. The ordinary client is too slow for so much."""
    seen, tail = 0, b""
    while last not in tail:
        piece = connection.recv(1_048_576)
        assert piece, "closed"
        joined = tail[-32:] + piece
        seen += joined.count(b'"notice"') - tail[-32:].count(b'"notice"')
        tail = joined
    return seen


def test_a_peer_that_stops_reading_is_dropped_and_the_others_get_everything(server: BridgeServer, user: Client) -> None:
    session_id = user.session_id
    user.disconnect()
    neighbour = Client(server).connect()
    readers = [raw(server, {"sessionId": session_id}) for _ in range(2)]
    stuck = raw(server, {"sessionId": session_id}, buffer_bytes=4096)
    try:
        wait_for(lambda: sockets_of(server, session_id) == 3)
        with ThreadPoolExecutor(2) as pool, closing(SqliteJournal(server.folder / "journal.db")) as journal:
            read = [pool.submit(read_all, reader, b'"%d xxx' % (PIECES - 1)) for reader in readers]
            for number in range(PIECES):
                event = NewEvent("notice", {"level": "info", "text": f"{number} " + "x" * PIECE})
                journal.commit(Change(session_id, events=[event]))
            assert [done.result() for done in read] == [PIECES, PIECES]
        neighbour.say("hello").receive("turn_finished")
        wait_for(lambda: sockets_of(server, session_id) == 2)
    finally:
        for one in (stuck, *readers):
            one.close()
        neighbour.disconnect()


@pytest.mark.parametrize(
    "sent",
    [
        frame(PING, b"x") * 500,
        frame(PONG, b"x") * 500,
        frame(TEXT, b"a", final=False) + frame(PART, b"a", final=False) * 500 + frame(PART, b"a"),
        frame(TEXT, b'{"type":"ping"}') * 200,
    ],
    ids=["pings", "pongs", "fragments", "frames"],
)
def test_a_peer_that_never_stops_sending_is_not_in_the_way_of_others(
    server: BridgeServer, user: Client, sent: bytes
) -> None:
    flood = raw(server, {})
    flood.setblocking(False)
    pid = os.fork()
    if pid == 0:  # a process of its own, which takes what comes and sends all it can
        with suppress(BaseException):
            while True:
                with suppress(BlockingIOError):
                    flood.recv(1_048_576)
                with suppress(BlockingIOError):
                    flood.send(sent)
        os._exit(0)
    flood.close()
    try:
        for _ in range(5):
            user.sync()
            assert server.get("/healthz").status == 200
        user.say("hello").receive("turn_finished")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
