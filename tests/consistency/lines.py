"""HTTP of one person: on a connection that is kept, where it is free, so that a request may reach a worker that
drains; else on one of its own. Each request is repeated until it is answered, as real clients do, so that what was
taken before its answer was lost comes again."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from tests.support.server import Answer, BridgeServer

GONE = (OSError, http.client.HTTPException)
AGAIN = (429, 500, 502, 503, 504)
REQUEST_S = 3.0
HASTY_S = 0.01
INSIST_S = 20.0


class Line:
    def __init__(self, server: BridgeServer) -> None:
        self._server = server
        self._kept: http.client.HTTPConnection | None = None
        self._free = threading.Lock()

    def insist(self, method: str, path: str, body: Any, *, credential: str, hasty: bool = False) -> Answer | None:
        """Ask until there is an answer; ``None``: not within :data:`INSIST_S`. ``hasty``: gone before the first."""
        headers = {"Authorization": f"Bearer {credential}"}
        deadline = time.monotonic() + INSIST_S
        limit_s = HASTY_S if hasty else REQUEST_S
        while time.monotonic() < deadline:
            try:
                answer = self._request(method, path, body, headers=headers, limit_s=limit_s)
                if answer.status not in AGAIN:
                    return answer
            except GONE:
                pass
            limit_s = REQUEST_S
            time.sleep(0.05)  # the pace of a client
        return None

    def _request(self, method: str, path: str, body: Any, *, headers: Mapping[str, str], limit_s: float) -> Answer:
        if not self._free.acquire(blocking=False):
            return self._server.request(method, path, json=body, headers=headers, limit_s=limit_s)
        try:
            return self._on_kept(method, path, body, headers, limit_s)
        except BaseException:
            self.close()
            raise
        finally:
            self._free.release()

    def _on_kept(self, method: str, path: str, body: Any, headers: Mapping[str, str], limit_s: float) -> Answer:
        if self._kept is None or self._kept.sock is None:
            self._kept = http.client.HTTPConnection("127.0.0.1", self._server.port)
        self._kept.timeout = limit_s
        if self._kept.sock is not None:
            self._kept.sock.settimeout(limit_s)
        sent = {"Content-Type": "application/json", **headers}
        self._kept.request(method, path, body=json.dumps(body).encode(), headers=sent)
        response = self._kept.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
