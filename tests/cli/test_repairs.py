"""``flask repairs``: the audit on a terminal, and for scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from app.journal import Change, Journal
from app.journal.records import Repair
from app.journal.redis import RedisJournal
from app.journal.sqlite import SqliteJournal
from app.repairs.states import moved
from tests.support.projects import PROJECT
from tests.support.redis import RedisServer


def flask(
    journal: Path, *arguments: str, group: str = "repairs", redis_url: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "JOURNAL_PATH": str(journal), "ENV_FILE": "/dev/null", "FLASK_APP": "wsgi"}
    environment["REDIS_URL"] = redis_url
    command = [sys.executable, "-m", "flask", group, *arguments]
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def one_repair(path: Path) -> None:
    keep_one_repair(SqliteJournal(path))


def keep_one_repair(journal: Journal) -> None:
    repair = Repair(
        repair_id="r1",
        session_id="s1",
        workflow_id="w1",
        workflow_name="Invoices \x1b[31m\u202e",
        signature="abc",
        attempt=1,
        state="publishing",
        diagnosis="workflow_bug",
        decided_by="bridge",
        trial_run_id="17",
        costs={"t1": 0.0125, "t2": 0.01},
        times={"queued": 1_790_000_000.0, "running": 1_790_000_001.0},
        diff=[{"node": "Ask", "change": "changed", "path": "parameters.url", "before": "a", "after": "b"}],
        refusals=[{"tool": "Bash", "rule": "There is no such tool in this turn.", "at": "2026-09-21T14:13:21.000Z"}],
    )
    journal.commit(Change(puts=[moved(repair, "published")]))
    journal.close()


def test_it_tells_what_by_whom_proven_by_what_when_and_for_how_much(tmp_path: Path) -> None:
    one_repair(tmp_path / "journal.db")

    told = flask(tmp_path / "journal.db")

    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith("r1  Invoices ")
    assert lines[0].endswith("(w1), session s1")
    assert "\x1b" not in told.stdout
    assert "\u202e" not in told.stdout
    assert lines[1] == "  published: workflow_bug, attempt 1, 0.0225 USD"
    assert "queued 2026-09-21 14:13:20, running 2026-09-21 14:13:21, published 2" in told.stdout
    assert "decided by the bridge, proven by run 17" in told.stdout
    assert '~ "Ask" parameters.url: "a" → "b"' in told.stdout
    assert "refused: Bash: There is no such tool in this turn." in told.stdout


def test_scripts_get_json_and_one_workflows_only(tmp_path: Path) -> None:
    one_repair(tmp_path / "journal.db")

    (line,) = flask(tmp_path / "journal.db", "list", "--json", "--workflow=w1").stdout.splitlines()
    shown = flask(tmp_path / "journal.db", "show", "r1")

    assert json.loads(line) == json.loads(shown.stdout)
    assert json.loads(line)["costUsd"] == 0.0225
    assert json.loads(line)["sessionId"] == "s1"
    assert flask(tmp_path / "journal.db", "list", "--workflow=w2").stdout == ""
    unknown = flask(tmp_path / "journal.db", "show", "r2")
    assert unknown.returncode == 1
    assert "no repair with this id" in unknown.stderr


def test_where_there_is_no_journal_that_is_said_and_none_is_made(tmp_path: Path) -> None:
    told = flask(tmp_path / "journal.db")

    assert (told.returncode, told.stdout) == (1, "")
    assert f"no journal at {tmp_path / 'journal.db'} (JOURNAL_PATH)" in told.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_journal_in_redis_is_read_though_there_is_no_file(tmp_path: Path) -> None:
    with RedisServer() as server:
        keep_one_repair(RedisJournal(server.url))

        told = flask(tmp_path / "journal.db", redis_url=server.url)
        letters = flask(tmp_path / "journal.db", "list", group="dead-letters", redis_url=server.url)
        sessions = flask(tmp_path / "journal.db", "list", group="sessions", redis_url=server.url)

    assert told.stdout.startswith("r1  Invoices "), told.stderr
    assert (letters.returncode, sessions.returncode) == (0, 0), letters.stderr + sessions.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"no database, whatever its name says. " * 500)

    told = flask(tmp_path / "journal.db")

    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    assert "flask doctor" in told.stderr
