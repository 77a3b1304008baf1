"""A real redis-server on a free port, as an operator would have it: with an append-only file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from tests.support.server import free_port, wait_for

LIMIT_S = 15.0


def program(name: str = "redis-server") -> str:
    found = shutil.which(name) or shutil.which(name.replace("redis", "valkey"))
    if found is None:
        raise AssertionError(f"{name} is needed (on Debian: apt-get install redis-server); no fake stands in for it")
    return found


class RedisServer:
    """Use it as a context manager; ``stop`` and ``start`` keep its data and its port.

    :param tls: certificate and key; then it listens on ``tls_port``, too.
    :param options: of its configuration; ``appendonly yes``, each write synced, unless named.
    """

    def __init__(self, *, tls: tuple[Path, Path] | None = None, **options: Any) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self._temporary = tempfile.TemporaryDirectory(prefix="bridge-redis-")
        self.folder = Path(self._temporary.name)
        self._options = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        if tls:
            self._options |= {
                "tls-port": self.tls_port,
                "tls-cert-file": tls[0],
                "tls-key-file": tls[1],
                "tls-auth-clients": "no",
            }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> Self:
        given = [part for name, value in self._options.items() for part in (f"--{name}", str(value))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([program(), *given], stdout=log, stderr=log, start_new_session=True)
        if wait:
            wait_for(self.answers, limit_s=LIMIT_S, what="redis-server to answer")
        return self

    def answers(self) -> bool:
        """Whether it answers, its data being loaded."""
        try:
            return self.say("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def say(self, *words: str) -> bytes:
        """The first bytes of the answer to a command, past redis-py."""
        command = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(b"*%d\r\n" % len(words) + command)
            return connection.recv(1_048_576)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As a machine that loses its power, but for the disk."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()
