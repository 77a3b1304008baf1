"""HTTP as bytes: whatever is sent, and the answers to it one after the other."""

from __future__ import annotations

import errno
import json
import re
import socket
from dataclasses import dataclass
from typing import Any

ANSWER_LIMIT_S = 25.0
BODY_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Received:
    """One answer; names of headers in lower case, each as often as it was there."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Broken(Exception):
    """What came is no HTTP answer."""


class Wire:
    """A TCP connection whose answers are read one after the other.

    :param source: address to come from; all of 127.0.0.0/8 is this machine.
    :raises TimeoutError: no answer within ``ANSWER_LIMIT_S``.
    """

    def __init__(self, port: int, *, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT_S, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = bytearray()

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Send; a server that has already answered and closed is no error. ``end``: nothing will follow."""
        try:
            self.socket.sendall(data)
            if end:
                self.socket.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise

    def more(self) -> bool:
        """Read a piece; false at the end."""
        try:
            piece = self.socket.recv(65_536)
        except ConnectionResetError:
            return False
        self.data += piece
        return bool(piece)

    def answer(self, *, head_only: bool = False) -> Received | None:
        """The next answer, ``None`` where the server closed without one.

        :raises Broken: it is none.
        """
        while b"\r\n\r\n" not in self.data:
            if not self.more():
                if self.data:
                    raise Broken(bytes(self.data[:500]))
                return None
        head, _, rest = bytes(self.data).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.[01] (\d{3}) .*", first)
        if not found:
            raise Broken(first)
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        status, named = int(found[1]), dict(headers)
        self.data = bytearray(rest)
        body = b""
        if status == 101 or head_only or status in (204, 304):
            pass
        elif "content-length" in named:
            size = int(named["content-length"])
            while len(self.data) < size and self.more():
                pass
            body, self.data = bytes(self.data[:size]), self.data[size:]
            if len(body) < size:
                raise Broken(f"{len(body)} of {size} bytes after {first}")
        else:
            while len(self.data) < BODY_MAX and self.more():
                pass
            body, self.data = bytes(self.data), bytearray()
        return Received(status, headers, body)

    def close(self) -> None:
        self.socket.close()
