"""A journal that cannot be written: 503, nothing acknowledged, nothing lost, and everything goes on by itself."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import Client, failure
from tests.support.server import BridgeServer, wait_for


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def adopt(user: Client, workflow_id: str) -> None:
    body = {"workflowId": workflow_id, "autonomy": "observe"}
    assert user.http("POST", f"/sessions/{user.session_id}/workflows", body).status == 201


def errors_of(user: Client) -> list[str]:
    answer = user.http("GET", f"/sessions/{user.session_id}/events?limit=1000")
    return [e["data"]["execution"]["id"] for e in answer.json["events"] if e["type"] == "workflow_error"]


def test_a_locked_journal_is_503_and_the_same_callback_is_taken_afterwards() -> None:
    with BridgeServer() as server, Client(server) as user:
        user.connect()
        adopt(user, "w1")
        report = failure("w1")
        holder = sqlite3.connect(server.folder / "journal.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")

        refused = user.http("POST", "/callbacks/n8n/error", report, None)
        ready = server.get("/readyz")
        assert (refused.status, refused.json["code"]) == (503, "journal_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert ready.status == 503
        assert server.get("/healthz").status == 200
        assert user.close_code is None, "sockets stay"
        holder.execute("ROLLBACK")
        holder.close()

        wait_for(lambda: server.get("/readyz").status == 200, what="ready again")
        assert user.http("POST", "/callbacks/n8n/error", report, None).status == 202
        assert user.http("POST", "/callbacks/n8n/error", report, None).status == 200
        assert errors_of(user) == [report["execution"]["id"]]
        user.receive("workflow_error")


def test_a_full_disk_is_503_and_nothing_that_was_acknowledged_is_missing(disk: Path) -> None:
    with BridgeServer({"JOURNAL_PATH": disk / "journal.db"}) as server, Client(server) as user:
        user.connect()
        adopt(user, "w1")
        taken: list[str] = []
        for number in range(5_000):
            report = failure("w1")
            report["execution"] |= {"id": str(1000 + number), "error": {"message": f"m{number} " + "x" * 4_000}}
            answer = user.http("POST", "/callbacks/n8n/error", report, None)
            if answer.status != 202:
                break
            taken.append(report["execution"]["id"])
        assert (answer.status, json.loads(answer.body)["code"]) == (503, "journal_unavailable")
        assert taken
        assert errors_of(user) == taken
        assert server.get("/healthz").status == 200
        for number in range(20):
            report["execution"]["id"] = str(9000 + number)
            assert user.http("POST", "/callbacks/n8n/error", report, None).status == 503
        assert len(server.log_lines("journal write failed: database or disk is full")) == 1, "one a minute"
