"""Connections that take places and bring nothing: they are closed, and never keep others out or hold the drain."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.projects import tiny_project
from tests.support.server import BridgeServer, wait_for

PLACES = 40
HEAD = b"GET /version HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeServer]:
    """With few places, and little patience for heads."""
    settings = {"HTTP_HEAD_TIMEOUT_SECONDS": 0.3, "GUNICORN_CMD_ARGS": f"--worker-connections {PLACES}"}
    with BridgeServer(settings, project=tiny_project(tmp_path_factory.mktemp("bounds") / "project")) as server:
        yield server


def connect(server: BridgeServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def ended(connection: socket.socket) -> bool:
    """Wait for the server's end of a connection that was answered nothing."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("before", [b"", HEAD + b"\r\n"], ids=["first", "pipelined behind another"])
def test_a_head_that_does_not_end_is_not_waited_for(server: BridgeServer, before: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(before + HEAD)
        if before:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            answer.read()

        connection.sendall(b"X-Slow: a")

        assert ended(connection)
    assert server.healthy()


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(server: BridgeServer) -> None:
    with connect(server) as connection:
        connection.settimeout(0.02)

        def one_more() -> bool:
            try:
                connection.sendall(b"G")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_for(one_more)


def test_a_connection_may_be_idle_for_longer_than_a_head_may_take(server: BridgeServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/version")
    connection.getresponse().read()
    own = connection.sock
    with connect(server) as slow:
        slow.sendall(HEAD)
        assert ended(slow)  # so long it was idle at least

    connection.request("GET", "/version")

    assert connection.getresponse().status == 200
    assert connection.sock is own
    connection.close()


def test_a_body_of_the_smallest_chunks_keeps_nobody_waiting(server: BridgeServer) -> None:
    piece, begun, over = b"1\r\na\r\n" * 10_000, threading.Event(), threading.Event()

    def flood() -> None:
        try:
            while True:
                connection.sendall(piece)
                begun.set()
        except OSError:
            over.set()

    with connect(server) as connection:
        connection.sendall(HEAD.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n")
        sender = threading.Thread(target=flood, daemon=True)
        sender.start()
        assert begun.wait(10)

        assert server.get("/version").status == 200
        assert over.wait(10), "it was taken for ever"
        sender.join()


def test_a_header_names_no_other_path(server: BridgeServer) -> None:
    """gunicorn believes SCRIPT_NAME from whoever is on this machine, a proxy that passes everything on included."""
    for prefix in ("/version", "/elsewhere"):
        assert server.get("/version", headers={"SCRIPT_NAME": prefix}).status == 200

    assert not server.log_lines(level="error")


def test_idle_connections_make_way_for_new_ones_the_longest_idle_first(server: BridgeServer) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(server)) for _ in range(3 * PLACES)]

        assert server.get("/version").status == 200
        assert all(ended(connection) for connection in idle[:PLACES])
        for connection in (idle[-1], idle[-2]):
            connection.sendall(HEAD + b"Connection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_slow_and_idle_connections_do_not_hold_the_end(tmp_path: Path) -> None:
    with BridgeServer(project=tiny_project(tmp_path / "project")) as server, ExitStack() as stack:
        for sent in [b"", b"G", HEAD] * 20:
            stack.enter_context(connect(server)).sendall(sent)
        wait_for(server.healthy)

        server.term()

        assert server.wait(limit_s=10) == 0
        assert not server.log_lines(level="error")
