"""Three machines on one Redis behind a proxy: one dies, one is reloaded, one is paused, and Redis itself restarts."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.proxy import Proxy
from tests.heal.rig import FIXED, SECRET, Healing, HealN8n, Json, healing_n8n, install, settings_for, soon, to
from tests.support.client import Client
from tests.support.projects import copy_project
from tests.support.redis import RedisServer
from tests.support.server import BridgeServer, wait_for

PAUSE_S = 2.5
"""Beyond the leases, which last a second."""
LIMIT_S = 60.0


@dataclass
class Fleet:
    """:ivar a: has the sockets. :ivar b: gets n8n's callbacks. :ivar c: dies."""

    a: BridgeServer
    b: BridgeServer
    c: BridgeServer
    redis: RedisServer
    proxy: Proxy
    n8n: HealN8n
    folder: Path

    def healing(self, *proposals: Json, **options: Any) -> Healing:
        """A session whose socket is on A, with a workflow of its own."""
        return Healing(self.a, self.n8n, self.folder).adopt(*proposals, **options)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    project = copy_project(tmp_path / "project")
    tests = Path(__file__).parents[1]
    for path in (tests / "heal" / "wsgi.py", tests / "support" / "mortal_journal.py"):
        shutil.copy(path, project / path.name)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        n8n = stack.enter_context(healing_n8n())
        settings = settings_for(
            n8n, TEST_FOLDER=tmp_path, REDIS_URL=redis.url, MAX_CONCURRENT_TURNS=2, N8N_POLL_INTERVAL_SECONDS=0
        )
        a, b, c = (stack.enter_context(BridgeServer(settings, project=project)) for _ in range(3))
        install(n8n, b)
        proxy = stack.enter_context(Proxy([a, b, c]))
        yield Fleet(a, b, c, redis, proxy, n8n, tmp_path)
        bugs = [line for one in (a, b, c) for line in one.raw_lines() if "by a bug" in line or "Traceback" in line]
        assert not bugs, bugs[:3]


class Caller:
    """Posts callbacks through the proxy, each again until it is acknowledged."""

    def __init__(self, fleet: Fleet, workflow_ids: list[str]) -> None:
        self.proxy, self.workflow_ids = fleet.proxy, workflow_ids
        self.taken: list[tuple[str, str]] = []
        self.statuses: Counter[int] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call, daemon=True)

    def start(self) -> Caller:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._over.set()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def _call(self) -> None:
        number = 0
        while not self._over.is_set():
            workflow_id = self.workflow_ids[number % len(self.workflow_ids)]
            run_id = f"r{uuid.uuid4().hex[:12]}"
            number += 1
            while not self._is_taken(workflow_id, run_id):
                time.sleep(0.05)
            self.taken.append((workflow_id, run_id))

    def _is_taken(self, workflow_id: str, run_id: str) -> bool:
        failed = {"id": run_id, "mode": "webhook", "error": {"message": "It failed.", "name": "Error"}}
        body = json.dumps({"execution": failed, "workflow": {"id": workflow_id, "name": "W"}})
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=10)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {SECRET}"}
            connection.request("POST", "/callbacks/n8n/error", body, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            status = 0
        finally:
            connection.close()
        self.statuses[status] += 1
        return status in (200, 202)


def kill(server: BridgeServer) -> None:
    for pid in server.processes():
        os.kill(pid, signal.SIGKILL)


def pause(server: BridgeServer, number: int) -> None:
    for pid in server.processes():
        os.kill(pid, number)


def history(server: BridgeServer, client: Client) -> list[Json]:
    found: list[Json] = []
    headers = {"Authorization": f"Bearer {client.token}"}
    while True:
        after = found[-1]["seq"] if found else 0
        page = server.get(f"/sessions/{client.session_id}/events?limit=1000&after={after}", headers=headers).json
        if not page["events"]:
            return found
        found += page["events"]


def test_nothing_is_lost_and_nothing_twice_whoever_dies(fleet: Fleet) -> None:
    watched = fleet.healing(autonomy="observe")
    ones = [fleet.healing(to(FIXED)) for _ in range(6)]
    for one in ones:
        one.plan(to(FIXED), hold=True)
    caller = Caller(fleet, [watched.workflow_id]).start()
    for one in ones:
        one.fail()
    soon(lambda: sum(one.kinds().count("repair_started") for one in ones) >= 6, what="turns on all machines")
    assert all(server.log_lines("turn started") for server in (fleet.a, fleet.b, fleet.c))

    kill(fleet.c)
    fleet.b.hup(wait=False)
    pause(fleet.a, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    pause(fleet.a, signal.SIGCONT)
    fleet.redis.kill()
    fleet.redis.start()
    for one in ones:
        one.let_propose()

    for one in ones:
        soon(lambda one=one: "repair_published" in one.kinds(), limit_s=LIMIT_S, what="published")
    wait_for(lambda: len(caller.taken) > 50, limit_s=LIMIT_S, what="callbacks taken")
    caller.stop()
    assert caller.statuses[202] > 50
    for one in ones:
        soon(lambda one=one: one.kinds()[-1] == "turn_finished", limit_s=LIMIT_S, what="its turn ended")
        kinds = Counter(one.kinds())
        assert (kinds["workflow_error"], kinds["repair_verified"], kinds["repair_published"]) == (1, 1, 1), kinds
        one.check_published()

    # Every acknowledged callback is there once, and A's sockets have told what B's history says.
    told = Counter(error["execution"]["id"] for error in watched.data("workflow_error"))
    assert {run_id: told[run_id] for _, run_id in caller.taken} == {run_id: 1 for _, run_id in caller.taken}
    for one in [watched, *ones]:
        if one.client.close_code is not None:
            # Its worker was silent for so long that the others took it for lost.
            assert one.client.close_code == 1012
            one.client.connect()
        events = history(fleet.b, one.client)
        last = events[-1]["seq"]
        wait_for(lambda one=one, last=last: one.client.last_seq >= last, what="all of it on the socket")
        assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
        seen = [frame for frame in one.client.frames if "seq" in frame]
        assert [frame["seq"] for frame in seen] == sorted({frame["seq"] for frame in seen}), "told twice"
        by_number = {frame["seq"]: frame for frame in seen}
        assert all(by_number[event["seq"]] == event for event in events)
        one.close()


def test_a_limit_counts_for_all_machines_together(fleet: Fleet) -> None:
    """Three messages a minute, whoever is asked."""
    for server in (fleet.a, fleet.b, fleet.c):
        server.stop()
        server.set_environment(RATE_LIMIT_MESSAGES_PER_MINUTE=3)
        server.start()
    user = Client(fleet.a)
    user.connect()
    statuses = []
    for number in range(9):
        server = (fleet.a, fleet.b, fleet.c)[number % 3]
        headers = {"Authorization": f"Bearer {user.token}"}
        answer = server.post(f"/sessions/{user.session_id}/messages", json={"text": "hi"}, headers=headers)
        statuses.append(answer.status)
    assert Counter(statuses) == {202: 3, 429: 6}
    user.disconnect()
