"""What the benchmarks share: a bridge of their own on a free port, a lean WebSocket reader, and quantiles."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent.socket

PROJECT = Path(__file__).resolve().parents[1]
START_LIMIT_S = 30.0
BRIDGES = ("wsgi:app", "benchmarks.staged:app")
OPEN_LIMITS = {
    "RATE_LIMIT_WS_PER_MINUTE": "0",
    "RATE_LIMIT_CALLBACKS_PER_MINUTE": "0",
    "RATE_LIMIT_MESSAGES_PER_MINUTE": "0",
    "RATE_LIMIT_HEALTH_PER_MINUTE": "0",
    "MAX_SESSIONS": "100000",
    "AGENT": "offline",
    "HEAL_AUTONOMY": "observe",
}


@contextmanager
def running_bridge(journal: Path | None = None, app: str = "wsgi:app", **settings: str) -> Iterator[int]:
    """A bridge with its limits off, or another ``app`` on its gunicorn settings; gives its port."""
    with running_server(journal, app, **settings) as (port, _):
        yield port


@contextmanager
def running_server(journal: Path | None = None, app: str = "wsgi:app", **settings: str) -> Iterator[tuple[int, int]]:
    """As :func:`running_bridge`; gives the port and the master's process id."""
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        port = free_port()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "BIND": f"127.0.0.1:{port}",
            "JOURNAL_PATH": str(journal or Path(folder, "journal.db")),
            "ENV_FILE": os.devnull,
            **OPEN_LIMITS,
            **settings,
        }
        with open(Path(folder, "log"), "w") as log:
            argv = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", app]
            # In a group of its own, for benchmarks that kill it whole.
            process = subprocess.Popen(
                argv, cwd=PROJECT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_for(port, process)
            if app in BRIDGES:
                _wait_for_workers(process.pid, Path(folder, "log"))
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


class ClosedError(ConnectionError):
    """The server said goodbye with ``code``."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed {code}")
        self.code = code


class WebSocket:
    """Just enough of a client: text frames out, text frames in, on a gevent socket."""

    def __init__(self, port: int, hello: dict[str, Any]) -> None:
        self._socket = gevent.socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        del self._buffer[: self._buffer.index(b"\r\n\r\n") + 4]
        self.send({"type": "hello", **hello})
        self.welcome = self.receive()

    def send(self, frame: dict[str, Any]) -> None:
        payload = json.dumps(frame).encode()
        assert len(payload) < 126
        self._socket.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def receive(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.receive_raw())
        return frame

    def receive_raw(self) -> bytes:
        """One frame's payload; pings are skipped.

        :raises ClosedError: it was closed in order. :raises ConnectionError: it is gone.
        """
        while True:
            while len(self._buffer) < 2:
                self._fill()
            opcode, length, start = self._buffer[0] & 15, self._buffer[1], 2
            if length >= 126:
                start = 4 if length == 126 else 10
                while len(self._buffer) < start:
                    self._fill()
                length = int.from_bytes(self._buffer[2:start], "big")
            while len(self._buffer) < start + length:
                self._fill()
            payload = bytes(self._buffer[start : start + length])
            del self._buffer[: start + length]
            if opcode == 1:
                return payload
            if opcode == 8:
                raise ClosedError(int.from_bytes(payload[:2], "big"))

    def close(self) -> None:
        self._socket.close()

    def _fill(self) -> None:
        piece = self._socket.recv(262_144)
        if not piece:
            raise ConnectionError("closed")
        self._buffer += piece


class Http:
    """Keep-alive requests on one gevent socket."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = gevent.socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> tuple[int, bytes]:
        return self._exchange(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())

    def post(self, path: str, body: bytes, token: str = "", *, request_id: str = "") -> tuple[int, bytes]:
        more = f"Authorization: Bearer {token}\r\n" if token else ""
        more += f"X-Request-ID: {request_id}\r\n" if request_id else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
            f"{more}Content-Length: {len(body)}\r\n\r\n"
        )
        return self._exchange(head.encode() + body)

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        self._socket.sendall(request)
        data = bytearray()
        while b"\r\n\r\n" not in data:
            data += self._received()
        head_end = data.index(b"\r\n\r\n") + 4
        text = data[:head_end].lower()
        length = int(text.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(data) < head_end + length:
            data += self._received()
        return int(data[9:12]), bytes(data[head_end:])

    def _received(self) -> bytes:
        piece: bytes = self._socket.recv(65_536)
        if not piece:
            raise ConnectionError("closed")
        return piece

    def close(self) -> None:
        self._socket.close()


def quantiles(values: Sequence[float]) -> dict[str, float | int]:
    """``n``, ``p50``, ``p99`` and ``max``, rounded to a thousandth."""
    ordered = sorted(values) or [0.0]

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return {"n": len(values), "p50": at(0.5), "p99": at(0.99), "max": at(1.0)}


def family(pid: int) -> list[int]:
    """A process and its children; Linux only."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its children have used so far; Linux only."""
    stats = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in family(pid)]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def memory_kib(pid: int) -> int:
    """What a process and its children have for themselves, files' pages left out; Linux only."""
    texts = [Path(f"/proc/{one}/status").read_text() for one in family(pid)]
    return sum(int(text.partition("RssAnon:")[2].split()[0]) for text in texts)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it accepts connections."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the server did not start")


def _wait_for_workers(master: int, log: Path) -> None:
    """The master accepts before they serve; what is measured is not to have their start in it."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        workers = len(family(master)) - 1
        if 0 < workers <= log.read_text(errors="replace").count('"worker started"'):
            return
        time.sleep(0.05)
    raise RuntimeError("the workers did not start")
