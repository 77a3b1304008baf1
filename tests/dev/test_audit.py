"""The audit: what it calls a finding, what it does not call clean, and that our own code passes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dev.audit import (
    CLEAN,
    FOUND,
    UNCHECKED,
    Accepted,
    Found,
    accepted,
    judge,
    locked_versions,
    read_advisories,
    read_code,
)
from dev.locks import DEV, PROJECT, RUN, pins

LOCKED = ["flask==3.1.3", "gevent==26.9.0"]
ADVISORY = {"id": "PYSEC-2026-1", "fix_versions": ["3.1.4"], "aliases": ["CVE-2026-1"], "description": "…"}


def report(*vulns: Any, skipped: bool = False) -> dict[str, Any]:
    """As ``pip-audit --format=json`` prints it."""
    gevent = {"name": "gevent", "skip_reason": "Dependency not found"} if skipped else None
    return {
        "dependencies": [
            {"name": "flask", "version": "3.1.3", "vulns": list(vulns)},
            gevent or {"name": "gevent", "version": "26.9.0", "vulns": []},
        ],
        "fixes": [],
    }


def test_what_is_known_of_and_whole_is_clean() -> None:
    found, unchecked = read_advisories(report(), LOCKED)
    assert (found, unchecked) == ([], [])
    assert judge(found, unchecked, []) == CLEAN


def test_an_advisory_is_a_finding_that_names_the_version_and_its_mend(capsys: pytest.CaptureFixture[str]) -> None:
    found, unchecked = read_advisories(report(ADVISORY), LOCKED)
    assert found == [Found("PYSEC-2026-1", "flask==3.1.3", "mended in 3.1.4")]
    assert judge(found, unchecked, []) == FOUND
    assert "PYSEC-2026-1         flask==3.1.3: mended in 3.1.4" in capsys.readouterr().out


def test_a_package_that_was_skipped_or_left_out_is_not_clean(capsys: pytest.CaptureFixture[str]) -> None:
    found, unchecked = read_advisories(report(skipped=True), [*LOCKED, "urllib3==2.8.0"])
    assert (found, unchecked) == ([], ["gevent==26.9.0", "urllib3==2.8.0"])
    assert judge(found, unchecked, []) == UNCHECKED
    assert "2 could not be checked" in capsys.readouterr().out


def test_a_finding_counts_more_than_what_was_not_checked() -> None:
    assert judge(*read_advisories(report(ADVISORY, skipped=True), LOCKED), []) == FOUND


def test_what_is_accepted_is_no_finding_and_what_is_accepted_in_vain_is_one() -> None:
    found, _ = read_advisories(report(ADVISORY), LOCKED)
    known = [Accepted("PYSEC-2026-1", "flask", "We do not use that part.")]
    assert judge(found, [], known) == CLEAN
    assert judge([], [], known) == FOUND
    assert judge([], ["flask==3.1.3"], known) == UNCHECKED
    assert judge(found, [], [Accepted("PYSEC-2026-2", "flask", "another")]) == FOUND


def test_what_is_accepted_needs_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    path.write_text('[[accepted]]\nid = "B101"\nwhere = "app/*"\nreason = " "\n')
    with pytest.raises(ValueError, match="B101 in app/\\* has no reason"):
        accepted(path)


def test_a_weak_line_is_found() -> None:
    weak = {"filename": "./app/x.py", "test_id": "B602", "line_number": 3, "issue_text": "a shell"}
    found, unread = read_code({"results": [weak], "errors": [{"filename": "app/y.py", "reason": "syntax error"}]})
    assert (found, unread) == ([Found("B602", "app/x.py", "line 3: a shell")], ["app/y.py"])
    assert judge(found, [], accepted()) == FOUND


def test_without_an_advisory_service_it_says_so_with_its_own_status_and_our_code_passes() -> None:
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    environment = {**os.environ, **nowhere}
    done = subprocess.run(
        [sys.executable, "-m", "dev.audit"], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == UNCHECKED, done.stdout[-2000:]
    assert f"{len(locked_versions())} could not be checked" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT CLEAN")


def test_the_locks_are_read_whole() -> None:
    run, dev = pins(RUN), pins(DEV)
    assert set(run) <= set(dev)
    tools = {name for lock in ("terraform", "ansible") for name in pins(PROJECT / f"requirements-{lock}.lock")}
    assert {*dev, *tools} == set(locked_versions())
    assert len(run) == sum(1 for line in RUN.read_text().splitlines() if line[:1].isalnum())
    # Another version of Python gets another one; both are audited.
    assert [name for name, _ in run].count("deprecated") == 2
