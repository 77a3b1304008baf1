"""``make audit``: whether what is locked has known weaknesses (pip-audit), and whether our code has (bandit).

A finding is mended, or written down in ``audit.toml`` with its reason. What could not be checked is not clean: that has
an exit status of its own.

Exit status: 0 clean, 1 a finding, 3 no finding, but not everything could be checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

from dev.locks import ALL, PROJECT, pins

CLEAN, FOUND, UNCHECKED = 0, 1, 3
ACCEPTED = Path(__file__).with_name("audit.toml")
LIMIT_S = 600.0
ASK_LIMIT_S = 15
"""Of one question to the advisory service."""


@dataclass(frozen=True, slots=True)
class Found:
    """A finding: ``id`` of the rule or the advisory, ``where`` it is (a path, or a package with its version)."""

    id: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was looked at and is meant. ``where`` is a pattern of the path, or the package's name."""

    id: str
    where: str
    reason: str

    def covers(self, found: Found) -> bool:
        return self.id == found.id and fnmatch(found.where.partition("==")[0], self.where)


def accepted(path: Path = ACCEPTED) -> list[Accepted]:
    """:raises ValueError: an entry without a reason."""
    entries = [Accepted(**entry) for entry in tomllib.loads(path.read_text())["accepted"]]
    nameless = [entry for entry in entries if not entry.reason.strip()]
    if nameless:
        raise ValueError(f"{path.name}: {nameless[0].id} in {nameless[0].where} has no reason")
    return entries


def read_advisories(report: Mapping[str, Any], locked: Iterable[str]) -> tuple[list[Found], list[str]]:
    """What pip-audit's JSON says: findings, and what of ``locked`` (``name==version``) it could not check."""
    found, checked = [], set()
    for package in report["dependencies"]:
        if "skip_reason" in package:
            continue
        where = f"{package['name']}=={package['version']}"
        checked.add(where)
        for advisory in package["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            found.append(Found(advisory["id"], where, f"mended in {fixed}"))
    return found, [one for one in locked if one not in checked]


def read_code(report: Mapping[str, Any]) -> tuple[list[Found], list[str]]:
    """What bandit's JSON says: findings, and the files that it could not read."""
    found = [
        Found(one["test_id"], one["filename"].removeprefix("./"), f"line {one['line_number']}: {one['issue_text']}")
        for one in report["results"]
    ]
    return found, [error["filename"] for error in report["errors"]]


def audit_packages() -> tuple[list[Found], list[str]]:
    """All that any lock has, what is for other machines included."""
    found: list[Found] = []
    unchecked: list[str] = []
    left = locked_versions()
    while left:
        # pip-audit takes one version of each at a time.
        these = dict(reversed(left))
        left = [(name, version) for name, version in left if these[name] != version]
        locked = [f"{name}=={version}" for name, version in these.items()]
        report = _ask_for(locked)
        more, missed = ([], locked) if report is None else read_advisories(report, locked)
        found += more
        unchecked += missed
    return found, sorted(unchecked)


def locked_versions() -> list[tuple[str, str]]:
    """Names and versions of all locks, each once."""
    return list(dict.fromkeys(pin for lock in ALL for pin in pins(lock)))


def _ask_for(locked: Iterable[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "packages.txt"
        listed.write_text("\n".join(locked))
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", f"--timeout={ASK_LIMIT_S}"]
        return _report("pip_audit", *options, f"--requirement={listed}")


def audit_code() -> tuple[list[Found], list[str]]:
    report = _report("bandit", "--quiet", "--recursive", "--format=json", "app", "dev", "gunicorn.conf.py", "wsgi.py")
    return ([], ["app"]) if report is None else read_code(report)


def _report(module: str, *options: str) -> Any:
    """The JSON that a tool prints, whatever it exits with; ``None``: it printed none."""
    argv = [sys.executable, "-m", module, *options]
    try:
        done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=LIMIT_S)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        click.echo(f"{module} took longer than {LIMIT_S:g} s")
    except ValueError:
        click.echo(f"{module}: {(done.stderr.strip() or 'said nothing').splitlines()[-1][:300]}")
    return None


def judge(found: Iterable[Found], unchecked: list[str], known: list[Accepted]) -> int:
    """Print what is to be said of it; gives the exit status."""
    found = list(found)
    new = [one for one in found if not any(entry.covers(one) for entry in known)]
    for one in new:
        click.echo(f"found      {one.id:<20} {one.where}: {one.text}")
    # Of what was not checked nobody knows whether it is still there.
    names = {name.partition("==")[0] for name in unchecked}
    stale = [entry for entry in known if not any(entry.covers(one) for one in found) and entry.where not in names]
    for entry in stale:
        click.echo(f"stale      {entry.id:<20} {entry.where}: is accepted in {ACCEPTED.name}, and not there any more")
    for name in unchecked:
        click.echo(f"unchecked  {name}")
    click.echo(
        f"{len(found)} findings, {len(found) - len(new)} of them accepted; {len(unchecked)} could not be checked"
    )
    return FOUND if new or stale else UNCHECKED if unchecked else CLEAN


def main() -> int:
    code, unread = audit_code()
    advisories, unchecked = audit_packages()
    status = judge([*code, *advisories], [*unread, *unchecked], accepted())
    if status == UNCHECKED:
        click.echo("NOT CLEAN: no advisory service answered for these. Audit where one can be reached.")
    return status


if __name__ == "__main__":
    sys.exit(main())
