"""One run: a bridge of two workers, its attackers in threads, and what must be true of it during and after."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.findings import Findings
from tests.fuzz.http import ACCESS, SECRET, HttpAttack
from tests.fuzz.sockets import SocketAttack
from tests.fuzz.tools import ToolsAttack
from tests.support.client import Client
from tests.support.projects import copy_project
from tests.support.server import BridgeServer, wait_for

HEALTH_LIMIT_S = 5.0
GROWTH_MAX_BYTES = 200 * 1024 * 1024
LIMITS = {f"RATE_LIMIT_{name}_PER_MINUTE": 0 for name in ("WS", "CALLBACKS", "MESSAGES", "HEALTH", "AUTH_FAILURES")}
NO_RULE = "no rule of the offline agent fits this error"
OPERATOR = {"Authorization": f"Bearer {ACCESS}"}


@dataclass(frozen=True, slots=True)
class Report:
    """:ivar found: kinds of findings, each with the file of its input.
    :ivar growth: each worker's resident bytes, before and after.
    """

    counts: dict[str, int]
    found: dict[str, str]
    growth: list[tuple[int, int]]
    slowest_health_s: float
    acknowledged: int


def fuzz(*, seconds: float, seed: int, into: Path) -> Report:
    """Attack a bridge of its own for ``seconds``; findings go to files in ``into``."""
    findings = Findings(into, seed=seed)
    with tempfile.TemporaryDirectory(prefix="bridge-fuzz-") as temporary:
        project, folder = Path(temporary) / "project", Path(temporary) / "tools"
        copy_project(project)
        shutil.copy(Path(__file__).with_name("wsgi.py"), project / "wsgi.py")
        folder.mkdir()
        settings = {
            **LIMITS,
            "WEB_CONCURRENCY": 2,
            "ACCESS_TOKEN": ACCESS,
            "N8N_CALLBACK_SECRET": SECRET,
            "AGENT": "offline",
            "MAX_SESSIONS": 1_000_000,
            "MAX_CONCURRENT_TURNS": 8,
            "WS_HELLO_TIMEOUT_SECONDS": 2,
            "FUZZ_FOLDER": folder,
        }
        with BridgeServer(settings, project=project) as server:
            return _Run(server, folder, findings, seed).go(seconds)


class _Run:
    def __init__(self, server: BridgeServer, folder: Path, findings: Findings, seed: int) -> None:
        self._server = server
        self._folder = folder
        self._findings = findings
        self._seed = seed
        self._stop = threading.Event()
        self._slowest_s = 0.0

    def go(self, seconds: float) -> Report:
        server = self._server
        calls, routes, sockets, tools = (self._session() for _ in range(4))
        self._open_tools(tools)
        # Callbacks go to a session of their own, which nobody ends: what they were told must be there afterwards.
        http = [
            HttpAttack(self._rng(n), server.port, self._findings, s.session_id or "", s.token or "", w)
            for n, (s, w) in enumerate((calls, routes, calls))
        ]
        client, workflow_id = sockets
        socket = SocketAttack(
            self._rng(9), server.port, self._findings, client.session_id or "", client.token or "", workflow_id
        )
        steps: list[Callable[[], None]] = [http[0].callback, http[1].route, http[2].raw, socket.step]
        steps.append(ToolsAttack(self._rng(8), self._folder, self._findings).step)
        workers = server.worker_pids()
        before = [_rss(pid) for pid in workers]
        threads = [threading.Thread(target=self._repeat, args=(step,)) for step in (*steps, self._look)]
        for thread in threads:
            thread.start()
        self._stop.wait(seconds)
        self._stop.set()
        for thread in threads:
            thread.join()
        self._end_turns()
        if server.worker_pids() != workers:
            self._findings.add("a worker died", f"{workers} became {server.worker_pids()}\n{server.tail(60)}")
        growth = list(zip(before, (_rss(pid) for pid in workers), strict=True))
        if any(after - was > GROWTH_MAX_BYTES for was, after in growth):
            self._findings.add("memory grows", growth)
        acknowledged = [fields for attack in http for fields in attack.acknowledged]
        self._look_up(calls[0], acknowledged)
        self._read_log()
        return Report(dict(self._findings.counts), self._findings.kinds, growth, self._slowest_s, len(acknowledged))

    def _rng(self, number: int) -> Random:
        return Random(self._seed * 100 + number)

    def _session(self) -> tuple[Client, str]:
        client = Client(self._server).connect(accessToken=ACCESS)
        workflow_id = f"w-{client.session_id}"
        answer = client.http("POST", "/sessions/{sid}/workflows", {"workflowId": workflow_id})
        assert answer.status == 201, answer
        client.disconnect()
        return client, workflow_id

    def _open_tools(self, session: tuple[Client, str]) -> None:
        """A chat turn and a repair turn that stay open, with their tools."""
        client, workflow_id = session
        (self._folder / "repairs").touch()
        assert client.fail(workflow_id, secret=SECRET).status == 202
        other, _ = self._session()
        assert other.http("POST", "/sessions/{sid}/messages", {"text": "open tools"}).status == 202
        wait_for(lambda: len(list(self._folder.glob("*.json"))) == 2, what="two open turns")
        (self._folder / "repairs").unlink()

    def _end_turns(self) -> None:
        for path in self._folder.glob("*.json"):
            path.unlink()

    def _repeat(self, step: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                step()
        except Exception as exc:
            # The attacker met what it does not know; that is something to look at, too.
            self._findings.add(f"attacker: {type(exc).__name__}", f"{step}: {exc!r}")
            raise

    def _look(self) -> None:
        """Ask ``/healthz`` all the time."""
        began = time.monotonic()
        try:
            healthy = self._server.get("/healthz", limit_s=HEALTH_LIMIT_S).status == 200
        except (OSError, http.client.HTTPException):
            healthy = False
        self._slowest_s = max(self._slowest_s, time.monotonic() - began)
        if not healthy:
            self._findings.add("/healthz does not answer", f"after {time.monotonic() - began:.1f} s")
        self._stop.wait(0.2)

    def _look_up(self, client: Client, acknowledged: list[dict[str, Any]]) -> None:
        """All that callbacks were told is kept must be there."""
        kept = {event["seq"]: event["type"] for event in _history(self._server, f"/sessions/{client.session_id}")}
        letters = {fields["deadLetterId"] for fields in acknowledged if "deadLetterId" in fields}
        for fields in acknowledged:
            if "seq" in fields and kept.get(fields["seq"]) != "workflow_error":
                self._findings.add("an acknowledged callback is not in the journal", fields)
        for letter_id in letters:
            if self._server.get(f"/dead-letters/{letter_id}", headers=OPERATOR).status != 200:
                self._findings.add("a dead letter is not in the journal", letter_id)

    def _read_log(self) -> None:
        lines = self._server.raw_lines()
        for number, text in enumerate(lines):
            try:
                line = json.loads(text)
            except ValueError:
                self._findings.add("a log line is no JSON", text)
                continue
            if line.get("level") in ("error", "critical"):
                turn = self._turn_of(line)
                if line.get("outcome") == "failed" and NO_RULE in turn:
                    continue  # a repair that ended as it should: there is nothing wrong with the bridge
                around = lines[max(0, number - 40) : number + 5]
                self._findings.add(f"log: {line.get('message')}"[:100], "\n".join([text, turn, *around]))

    def _turn_of(self, line: dict[str, Any]) -> str:
        """The events of the turn that a log line is about."""
        if "turnId" not in line:
            return ""
        events = _history(self._server, f"/sessions/{line.get('sessionId')}")
        return "\n".join(json.dumps(event) for event in events if event.get("turnId") == line["turnId"])


def _history(server: BridgeServer, session: str) -> list[dict[str, Any]]:
    """All events of a session; none of one that has ended."""
    found: list[dict[str, Any]] = []
    while True:
        path = f"{session}/events?limit=1000&after={found[-1]['seq'] if found else 0}"
        page = server.get(path, headers=OPERATOR).json.get("events")
        if not page:
            return found
        found += page


def _rss(pid: int) -> int:
    """Resident bytes of a process; 0 where it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * 4096
