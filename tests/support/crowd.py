"""Many WebSockets in one thread: for what a thousand clients see that do no more than read."""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.support.server import BridgeServer

LIMIT_S = 60.0


@dataclass(eq=False)
class Member:
    """One socket.

    :ivar status: of the handshake's answer; ``None`` before it. :ivar frames: the JSON frames so far.
    :ivar close_code: 1006 where it ended without a close frame after a 101, 0 where it ended before; else ``None``.
    """

    socket: socket.socket
    status: int | None = None
    frames: list[dict[str, Any]] = field(default_factory=list)
    close_code: int | None = None
    ended: bool = False
    _received: bytes = b""

    @property
    def welcome(self) -> dict[str, Any] | None:
        return next((frame for frame in self.frames if frame["type"] == "welcome"), None)

    @property
    def last_seq(self) -> int:
        return max((frame["seq"] for frame in self.frames if "seq" in frame), default=0)

    def shake_hands(self, port: int) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def send(self, frame: dict[str, Any]) -> None:
        self._send(1, json.dumps(frame).encode())

    def _send(self, opcode: int, data: bytes) -> None:
        assert len(data) < 126
        self.socket.sendall(bytes([0x80 | opcode, 0x80 | len(data), 0, 0, 0, 0]) + data)  # masked with zeros

    def take(self, data: bytes) -> None:
        """What has come; empty: the end."""
        self._received += data
        if self.status is None and b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self.status = int(head.split()[1])
        while self.status == 101 and (found := _frame(self._received)):
            opcode, payload, self._received = found
            if opcode == 1:
                self.frames.append(json.loads(payload))
            elif opcode == 8:
                self.close_code = int.from_bytes(payload[:2], "big")
                self._send(8, payload[:2])
                data = b""
        if not data:
            self.ended = True
            if self.close_code is None:
                self.close_code = 1006 if self.status == 101 else 0
            self.socket.close()


class Crowd:
    """Its members, and the one place where all of them are read. Use it as a context manager."""

    def __init__(self, server: BridgeServer) -> None:
        self.server = server
        self.members: list[Member] = []
        self._selector = selectors.DefaultSelector()

    def connect(self, count: int) -> list[Member]:
        """TCP connections, nothing said on them yet."""
        new = [Member(socket.create_connection(("127.0.0.1", self.server.port), timeout=LIMIT_S)) for _ in range(count)]
        for member in new:
            self._selector.register(member.socket, selectors.EVENT_READ, member)
        self.members += new
        return new

    def open(self, count: int) -> list[Member]:
        """Sockets that have had their 101, and have not said ``hello``."""
        new = self.connect(count)
        for member in new:
            member.shake_hands(self.server.port)
        self.until(lambda: all(member.status == 101 for member in new), what="every handshake's answer")
        return new

    def join(self, count: int) -> list[Member]:
        """Sockets that follow a new session each."""
        new = self.open(count)
        for member in new:
            member.send({"type": "hello"})
        self.until(lambda: all(member.welcome for member in new), what="every welcome")
        return new

    def until_ended(self, members: Iterable[Member]) -> None:
        self.until(lambda: all(member.ended for member in members), what="every socket's end")

    def until(self, condition: Callable[[], bool], *, what: str, limit_s: float = LIMIT_S) -> None:
        """Read all members until it is so.

        :raises AssertionError: not within ``limit_s``.
        """
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
            for key, _ in self._selector.select(0.05):
                member: Member = key.data
                try:
                    data = member.socket.recv(65_536)
                except ConnectionResetError:
                    data = b""
                ended = not data
                if not ended:
                    try:
                        member.take(data)
                    except OSError:  # it cannot answer the close any more
                        ended = True
                if ended and not member.ended:
                    member.take(b"")
                if member.ended:
                    self._selector.unregister(key.fileobj)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exc: object) -> None:
        self._selector.close()
        for member in self.members:
            member.socket.close()


def _frame(received: bytes) -> tuple[int, bytes, bytes] | None:
    """Opcode and payload of the first frame, and what follows it; ``None`` until it is whole."""
    if len(received) < 2:
        return None
    length, start = received[1] & 127, 2
    if length == 126:
        length, start = int.from_bytes(received[2:4], "big"), 4
    elif length == 127:
        length, start = int.from_bytes(received[2:10], "big"), 10
    if len(received) < start + length:
        return None
    return received[0] & 15, received[start : start + length], received[start + length :]
