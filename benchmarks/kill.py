"""Callbacks, and a SIGKILL of the whole bridge in the middle: is everything that was acknowledged in the journal?"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import gevent

from app.journal.sqlite_schema import SEQ_BITS
from benchmarks.bridge import Http, WebSocket, running_server
from benchmarks.delivery import ERROR

SENDERS = 16


def check(*, longest_s: float = 2.0, **settings: str) -> dict[str, Any]:
    """Kill it at a random moment, at most ``longest_s`` after the first callback was acknowledged.

    :raises AssertionError: something that was acknowledged is not there.
    """
    acknowledged: dict[tuple[str, int], str] = {}
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        path = Path(folder, "journal.db")
        with running_server(path, **settings) as (port, master):
            sender = gevent.pool.Group()
            for number in range(SENDERS):
                sender.spawn(_post, port, f"kill-{number}", acknowledged)
            _wait_for_first(acknowledged)
            killed_after_s = random.uniform(0, longest_s)
            time.sleep(killed_after_s)
            os.killpg(master, signal.SIGKILL)
            sender.join(10)
        with closing(sqlite3.connect(path)) as journal:
            whole = journal.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            query = "SELECT s.session_id, frame FROM events e JOIN sessions s ON s.number = e.position >> ?"
            frames = [(one, json.loads(frame)) for one, frame in journal.execute(query, (SEQ_BITS,))]
    kept = {
        (session_id, frame["seq"]): frame["data"]["execution"]["id"]
        for session_id, frame in frames
        if frame["type"] == "workflow_error"
    }
    lost = [key for key, execution_id in acknowledged.items() if kept.get(key) != execution_id]
    assert whole, "the journal is damaged"
    assert acknowledged, "nothing was acknowledged before the kill"
    assert not lost, f"{len(lost)} acknowledged callbacks are lost"
    return {"killedAfterS": round(killed_after_s, 2), "acknowledged": len(acknowledged), "lost": 0}


def _wait_for_first(acknowledged: dict[tuple[str, int], str], *, limit_s: float = 20.0) -> None:
    with gevent.Timeout(limit_s):
        while not acknowledged:
            time.sleep(0.01)


def _post(port: int, workflow_id: str, acknowledged: dict[tuple[str, int], str]) -> None:
    """One after the other, until the bridge is gone."""
    try:
        socket = WebSocket(port, {})
        path = f"/sessions/{socket.welcome['sessionId']}/workflows"
        http = Http(port)
        http.post(path, json.dumps({"workflowId": workflow_id}).encode(), socket.welcome["token"])
        for number in range(1_000_000):
            execution = {"id": f"{workflow_id}-{number}", "error": ERROR, "lastNodeExecuted": "Code", "mode": "webhook"}
            body = json.dumps({"execution": execution, "workflow": {"id": workflow_id, "name": "kill"}}).encode()
            status, answer = http.post("/callbacks/n8n/error", body)
            assert status == 202, status
            told = json.loads(answer)
            acknowledged[told["sessionId"], told["seq"]] = execution["id"]
    except (OSError, IndexError, ValueError):  # cut off in the middle
        return
