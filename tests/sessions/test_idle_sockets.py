"""Sockets that their requests have handed over: idle ones cost no greenlet, and no byte, place or end gets lost."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import UNLIMITED, bugs
from tests.support.client import Client, Refused
from tests.support.crowd import Crowd
from tests.support.projects import copy_project
from tests.support.server import BridgeServer, wait_for

TEXT, CLOSE, PONG, FIN = 1, 8, 10, 0x80
SOCKETS_MAX, CROWD, PLACES = 30, 35, 40
PING = b'{"type":"ping"}'
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeServer]:
    """One worker, which tells what it holds."""
    project = tmp_path_factory.mktemp("counted") / "project"
    copy_project(project)
    shutil.copy(ROOT / "support" / "counted_wsgi.py", project / "wsgi.py")
    with BridgeServer({**UNLIMITED, "MAX_SESSIONS": 10_000}, project=project) as server:
        yield server
        assert not bugs(server)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeServer]:
    """With few places, three quarters of them for sockets."""
    settings = {
        "MAX_CONNECTIONS": SOCKETS_MAX,
        "GUNICORN_CMD_ARGS": f"--worker-connections {PLACES}",
        "RATE_LIMIT_WS_PER_MINUTE": 10_000,  # each handshake waits until it is counted
    }
    with BridgeServer({**UNLIMITED, **settings}) as server:
        yield server
        assert not bugs(server)


class Peer:
    """A client that decides about each byte."""

    def __init__(self, server: BridgeServer, first: bytes = b"", *, buffer_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        self.socket.sendall(HANDSHAKE)
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        assert b" 101 " in head
        self.socket.sendall(first or frame(json.dumps({"type": "hello"}).encode()))

    def _more(self) -> None:
        piece = self.socket.recv(65_536)
        if not piece:
            raise EOFError
        self._data += piece

    def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        while (found := _first(self._data)) is None:
            self._more()
        opcode, payload, size = found
        self._data = self._data[size:]
        return opcode, payload

    def text(self) -> dict[str, Any]:
        """The next text frame."""
        while True:
            opcode, payload = self.receive()
            if opcode == TEXT:
                found: dict[str, Any] = json.loads(payload)
                return found

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def _first(data: bytes) -> tuple[int, bytes, int] | None:
    if len(data) < 2:
        return None
    size, start = data[1] & 0x7F, 2
    if size == 126:
        size, start = int.from_bytes(data[2:4], "big"), 4
    if len(data) < start + size:
        return None
    return data[0] & 0xF, data[start : start + size], start + size


def frame(payload: bytes, opcode: int = TEXT, *, final: bool = True) -> bytes:
    """Masked with zeros."""
    head = bytes([(FIN if final else 0) | opcode])
    if len(payload) < 126:
        return head + bytes([0x80 | len(payload), 0, 0, 0, 0]) + payload
    return head + b"\xfe" + struct.pack("!H", len(payload)) + b"\0\0\0\0" + payload


def held(server: BridgeServer) -> dict[str, int]:
    answer: dict[str, int] = server.get("/held").json
    return answer


# -- what it costs


def test_an_idle_socket_has_no_greenlet(server: BridgeServer) -> None:
    with Crowd(server) as crowd:
        before = held(server)["greenlets"]
        crowd.join(50)
        wait_for(lambda: held(server)["greenlets"] <= before, what="greenlets to end")
        assert held(server)["Conversation"] >= 50


def test_two_thousand_sockets_that_came_and_went_leave_nothing(server: BridgeServer) -> None:
    def round_of(count: int) -> None:
        with Crowd(server) as crowd:
            members = crowd.join(count)
            for member in members[::2]:  # the others just end
                member.socket.sendall(frame(struct.pack("!H", 1000), CLOSE))
            crowd.until_ended(members[::2])

    def nobody() -> bool:
        now = held(server)
        return not any(now[part] for part in ("SocketIO", "Tcp", "Conversation", "Connection"))

    round_of(50)
    wait_for(nobody, what="the first ones' end")
    before = held(server)
    for _ in range(8):
        round_of(250)
    wait_for(nobody, what="everybody's end")
    wait_for(lambda: held(server)["descriptors"] <= before["descriptors"], what="descriptors to be closed")
    wait_for(lambda: held(server)["greenlets"] <= before["greenlets"], what="greenlets to end")


# -- what comes in


@pytest.mark.parametrize("pad", ["", "x" * 200], ids=["short", "longer"])
def test_frames_in_one_packet_with_the_hello_are_taken_in_their_order(server: BridgeServer, pad: str) -> None:
    hello = json.dumps({"type": "hello", "pad": pad}).encode()
    message = json.dumps({"type": "message", "text": "[]"}).encode()

    peer = Peer(server, frame(hello) + frame(PING) + frame(b"bad") + frame(message) + frame(PING))

    assert peer.text()["type"] == "welcome"
    kinds = [peer.text()["type"] for _ in range(4)]
    assert [kind for kind in kinds if kind in ("pong", "error")][:2] == ["pong", "error"]
    while kinds.count("pong") < 2 or "turn_finished" not in kinds:
        kinds.append(peer.text()["type"])
    peer.socket.close()


def test_half_a_frame_is_waited_for_without_a_greenlet(server: BridgeServer) -> None:
    with Client(server).connect() as other:
        before = held(server)["greenlets"]
        whole, peers = frame(PING), [Peer(server) for _ in range(len(frame(PING)) - 1)]
        for cut, peer in enumerate(peers, 1):
            assert peer.text()["type"] == "welcome"
            peer.socket.sendall(whole[:cut])
        other.sync()
        wait_for(lambda: held(server)["greenlets"] <= before, what="greenlets to end")

        for cut, peer in enumerate(peers, 1):
            peer.socket.sendall(whole[cut:] + whole)
            assert [peer.text()["type"] for _ in range(2)] == ["pong", "pong"]
            peer.socket.close()


def test_thousands_of_frames_at_once_are_all_answered(server: BridgeServer) -> None:
    peer = Peer(server)
    assert peer.text()["type"] == "welcome"

    peer.socket.sendall(frame(PING) * 3000 + frame(b"bad") + frame(PING, PONG) + frame(PING))

    assert [peer.text()["type"] for _ in range(3002)] == ["pong"] * 3000 + ["error", "pong"]
    peer.socket.close()


def test_a_peer_that_asks_and_does_not_read_gets_every_answer_in_the_end(server: BridgeServer) -> None:
    peer = Peer(server, buffer_bytes=4096)
    assert peer.text()["type"] == "welcome"

    for _ in range(1000):
        peer.socket.sendall(frame(PING))
    peer.socket.sendall(frame(PING) * 1000)
    with Client(server).connect() as other:
        other.sync()

    assert [peer.text()["type"] for _ in range(2000)] == ["pong"] * 2000
    peer.socket.close()


def test_pings_of_the_protocol_are_answered_between_frames_and_within_one(server: BridgeServer) -> None:
    peer = Peer(server)
    assert peer.text()["type"] == "welcome"

    peer.socket.sendall(frame(b"one", 9))
    assert peer.receive() == (PONG, b"one")
    peer.socket.sendall(frame(PING[:4], final=False) + frame(b"two", 9))
    assert peer.receive() == (PONG, b"two")
    peer.socket.sendall(frame(PING[4:], 0))
    assert peer.text()["type"] == "pong"
    peer.socket.close()


# -- the end


def test_a_peer_that_vanishes_while_idle_is_noticed_at_once(server: BridgeServer) -> None:
    user = Client(server).connect()
    before = len(server.log_lines("connection closed", closeCode=1006))
    peer = Peer(
        server, frame(json.dumps({"type": "hello", "sessionId": user.session_id, "token": user.token}).encode())
    )
    assert peer.text()["type"] == "welcome"
    user.disconnect()

    peer.reset()

    wait_for(lambda: len(server.log_lines("connection closed", closeCode=1006)) > before)
    show = {"Authorization": f"Bearer {user.token}"}
    wait_for(lambda: not server.get(f"/sessions/{user.session_id}", headers=show).json["connected"])


def test_a_close_is_answered_and_the_connection_ended(server: BridgeServer) -> None:
    peer = Peer(server)
    assert peer.text()["type"] == "welcome"

    peer.socket.sendall(frame(struct.pack("!H", 3456) + b"bye", CLOSE))

    assert peer.receive() == (CLOSE, struct.pack("!H", 3456) + b"bye")
    with pytest.raises(EOFError):
        peer.receive()


@pytest.mark.parametrize("reset", [False, True], ids=["ends", "resets"])
def test_what_a_peer_has_said_before_it_left_counts(server: BridgeServer, reset: bool) -> None:
    peer = Peer(server)
    welcome = peer.text()
    said = [str(number) for number in range(15)]
    messages = [frame(json.dumps({"type": "message", "text": text}).encode()) for text in said]

    peer.socket.sendall(b"".join(messages) + frame(PING) + frame(b"bad") + messages[0])
    if reset:
        peer.reset()
    else:
        peer.socket.close()

    session = f"/sessions/{welcome['sessionId']}"
    headers = {"Authorization": f"Bearer {welcome['token']}"}
    wait_for(lambda: not server.get(session, headers=headers).json["connected"], what="the socket's end")
    events = server.get(f"{session}/events?limit=1000", headers=headers).json["events"]
    assert [event["data"]["text"] for event in events if event["type"] == "user_message"] == [*said, said[0]]


# -- the accounts


def idle(server: BridgeServer) -> http.client.HTTPConnection:
    made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    made.request("GET", "/healthz")
    assert made.getresponse().read()
    return made


def alive(connection: http.client.HTTPConnection) -> bool:
    assert connection.sock is not None
    connection.sock.setblocking(False)
    try:
        return connection.sock.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_sockets_are_let_in_up_to_their_number_and_again_when_others_have_gone(small: BridgeServer) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(Client(small).connect()) for _ in range(SOCKETS_MAX)]
        with pytest.raises(Refused) as refused:
            Client(small).open()
        assert refused.value.status == 503

        users[0].disconnect()

        def let_in() -> bool:
            try:
                stack.enter_context(Client(small).connect())
            except Refused:
                return False
            return True

        wait_for(let_in, what="a place")
        for user in users[1:]:
            user.sync()


def test_a_crowd_that_comes_at_once_is_let_in_up_to_the_same_number(small: BridgeServer) -> None:
    wanted = {b"HTTP/1.1 101": SOCKETS_MAX, b"HTTP/1.1 503": CROWD - SOCKETS_MAX}

    def answers() -> Counter[bytes]:
        with ExitStack() as stack:
            os.kill(small.worker_pids()[0], signal.SIGSTOP)
            crowd = [stack.enter_context(socket.create_connection(("127.0.0.1", small.port), 20)) for _ in range(CROWD)]
            for one in crowd:
                one.sendall(HANDSHAKE)
            os.kill(small.worker_pids()[0], signal.SIGCONT)
            found = Counter(one.recv(12) for one in crowd)
        assert found[b"HTTP/1.1 101"] <= SOCKETS_MAX
        return found

    wait_for(lambda: answers() == wanted, what="all places, when those who had them before have gone")


def test_sockets_keep_their_places_and_idle_connections_make_way(small: BridgeServer) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(Client(small).connect()) for _ in range(SOCKETS_MAX)]
        connections = [idle(small) for _ in range(3 * PLACES)]

        assert sum(map(alive, connections)) <= PLACES - SOCKETS_MAX
        assert alive(connections[-1])
        for user in users:
            user.sync()
        for connection in connections:
            connection.close()
    # And they have given them back.
    wait_for(lambda: small.get("/readyz").status == 200)
    connections = []

    def many() -> bool:
        connections.append(idle(small))
        return sum(map(alive, connections)) > PLACES - SOCKETS_MAX

    wait_for(many, what="the sockets' places")
    for connection in connections:
        connection.close()
