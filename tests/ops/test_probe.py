"""The image's health check, as the engine runs it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.support.projects import PROJECT, tiny_project
from tests.support.server import BridgeServer


def probe(bind: str) -> int:
    command = [sys.executable, "-IS", "app/ops/probe.py"]
    return subprocess.run(command, cwd=PROJECT, env={"BIND": bind}, timeout=20).returncode


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeServer]:
    with BridgeServer(project=tiny_project(tmp_path_factory.mktemp("probe") / "project")) as running:
        yield running


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_server_that_answers_is_healthy(server: BridgeServer, host: str) -> None:
    assert probe(f"{host}:{server.port}") == 0


@pytest.mark.parametrize("bind", ["127.0.0.1:1", "nonsense", ""])
def test_nobody_there_is_not_healthy(bind: str) -> None:
    assert probe(bind) == 1


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"HTTP/1.1\r\n", b"x" * 4096, b""])
def test_any_other_answer_is_not_healthy(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer_once(listener, answer)

        assert probe(f"127.0.0.1:{listener.getsockname()[1]}") == 1


def test_an_ipv6_wildcard_is_asked_on_loopback() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        answer_once(listener, b"HTTP/1.1 200 OK\r\n\r\n")

        assert probe(f"[::]:{listener.getsockname()[1]}") == 0


def answer_once(listener: socket.socket, answer: bytes) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
