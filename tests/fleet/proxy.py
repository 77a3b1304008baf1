"""HAProxy in front of several bridges, round robin, as a load balancer has it; on a free port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.server import BridgeServer, free_port, wait_for

_CONFIGURATION = """\
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
  option redispatch
  retries 2
frontend front
  bind 127.0.0.1:{port}
  default_backend bridges
backend bridges
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
  default-server inter 200ms fall 1 rise 1
{servers}
"""


class Proxy:
    def __init__(self, servers: Sequence[BridgeServer]) -> None:
        self.port = free_port()
        self._temporary = tempfile.TemporaryDirectory(prefix="bridge-proxy-")
        rows = [f"  server s{number} 127.0.0.1:{one.port} check" for number, one in enumerate(servers)]
        path = Path(self._temporary.name, "haproxy.cfg")
        path.write_text(_CONFIGURATION.format(port=self.port, servers="\n".join(rows)))
        program = shutil.which("haproxy")
        assert program, "haproxy is needed (on Debian: apt-get install haproxy)"
        self._argv = [program, "-db", "-f", str(path)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._listens, limit_s=10, what="haproxy to listen")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
        self._temporary.cleanup()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True
