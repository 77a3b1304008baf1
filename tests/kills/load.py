"""Load while a server is reloaded: sockets that come back as they are told, and callbacks at a steady pace."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import uuid

from tests.kills.story import PAYLOAD
from tests.support.client import Client, Refused, failure
from tests.support.server import BridgeServer

LIMIT_S = 60.0


class Follower(threading.Thread):
    """A session with one workflow, and a client that follows it for as long as it is wanted.

    :ivar goodbyes: the ``reconnect`` of each ``server_shutdown``. :ivar away_s: how long each absence lasted.
    :ivar turned_away: handshakes that a draining worker refused. :ivar error: what should not have happened.
    """

    def __init__(self, server: BridgeServer) -> None:
        super().__init__(daemon=True)
        self.client = Client(server)
        self.client.connect()
        self.workflow_id = f"w{uuid.uuid4().hex[:12]}"
        body = {"workflowId": self.workflow_id, "autonomy": "observe"}
        assert self.client.http("POST", "/sessions/{sid}/workflows", body).status == 201
        self.goodbyes: list[dict[str, object]] = []
        self.away_s: list[float] = []
        self.turned_away = 0
        self.error: Exception | None = None
        self._wanted = threading.Event()
        self._wanted.set()

    def follows(self, ping_interval_s: int) -> bool:
        """Whether it has its place at a worker with this setting, or never will."""
        limits = self.client.welcome["limits"]
        here = self.client.close_code is None and limits["pingIntervalSeconds"] == ping_interval_s
        return here or self.error is not None

    def run(self) -> None:
        try:
            while self._wanted.is_set():
                if self.client.close_code is None:
                    time.sleep(0.02)
                    continue
                self._come_back()
        except Exception as exc:
            self.error = exc

    def _come_back(self) -> None:
        gone_at, code, last = time.monotonic(), self.client.close_code, self.client.frames[-1]
        assert (code, last["type"]) == (1012, "server_shutdown"), (code, last)
        reconnect = last["reconnect"]
        assert (reconnect["sessionId"], reconnect["lastSeq"]) == (self.client.session_id, self.client.last_seq)
        self.goodbyes.append(reconnect)
        time.sleep((reconnect["afterMs"] + random.uniform(0, reconnect["jitterMs"])) / 1000)
        while True:
            try:
                self.client.connect()
                break
            except Refused as exc:
                if (exc.status, exc.headers.get("retry-after")) != (503, "1"):
                    raise
                self.turned_away += 1
                time.sleep(1)
            except AssertionError:
                if self.client.close_code != 1012:  # else another reload was faster than the welcome
                    raise
                return
        self.away_s.append(time.monotonic() - gone_at)

    def end(self) -> None:
        self._wanted.clear()
        self.join(LIMIT_S)


class Caller(threading.Thread):
    """n8n: callbacks at a pace of its own, each posted once.

    :ivar answered: execution id → workflow id, of those that were routed. :ivar failures: all others.
    :ivar closed: how often a kept connection had ended before it brought the next request.
    """

    def __init__(self, server: BridgeServer, workflows: list[str], *, interval_s: float, keep_alive: bool) -> None:
        super().__init__(daemon=True)
        self.answered: dict[str, str] = {}
        self.failures: list[str] = []
        self.closed = 0
        self._server, self._workflows, self._interval_s = server, workflows, interval_s
        self._keep_alive = keep_alive
        self._connection: http.client.HTTPConnection | None = None
        self._wanted = threading.Event()
        self._wanted.set()

    def run(self) -> None:
        due = time.monotonic()
        while self._wanted.is_set():
            workflow_id = random.choice(self._workflows)
            self._post(f"e{uuid.uuid4().hex[:12]}", workflow_id)
            due += self._interval_s
            time.sleep(max(0.0, due - time.monotonic()))  # the pace

    def _post(self, execution_id: str, workflow_id: str) -> None:
        body = json.dumps(failure(workflow_id, payload=PAYLOAD, execution_id=execution_id)).encode()
        kept = self._connection is not None and self._connection.sock is not None
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=LIMIT_S)
        headers = {"Content-Type": "application/json", "Connection": "keep-alive" if self._keep_alive else "close"}
        try:
            self._connection.request("POST", "/callbacks/n8n/error", body=body, headers=headers)
            response = self._connection.getresponse()
            answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as exc:
            self._connection.close()
            self._connection = None
            if kept:  # as HTTP allows at any time; a callback may be sent again
                self.closed += 1
                self._post(execution_id, workflow_id)
            else:
                self.failures.append(repr(exc))
            return
        if not self._keep_alive:
            self._connection = None
        if answer[0] == 202 and json.loads(answer[1])["routed"]:
            self.answered[execution_id] = workflow_id
        else:
            self.failures.append(repr(answer))

    def end(self) -> None:
        self._wanted.clear()
        self.join(LIMIT_S)
