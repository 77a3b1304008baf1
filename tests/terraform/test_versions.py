"""One version of terraform and of each provider everywhere."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = {path: path.read_text() for path in sorted((ROOT / "terraform").rglob("versions.tf"))}


def test_all_modules_and_roots_want_the_terraform_that_the_documents_and_the_checks_name() -> None:
    wanted = {path: re.findall(r'required_version = "(.*)"', text) for path, text in VERSIONS.items()}
    (named,) = re.findall(r"^Terraform (\S+) or newer", (ROOT / "terraform" / "README.md").read_text(), re.MULTILINE)
    (checked,) = re.findall(r"^needed=(\S+)\.0$", (ROOT / "dev" / "terraform_test.sh").read_text(), re.MULTILINE)

    assert len(wanted) == len(list((ROOT / "terraform").glob("*/*/main.tf"))) and named == checked
    assert {path: found for path, found in wanted.items() if found != [f">= {named}"]} == {}


def test_each_provider_has_one_version() -> None:
    pinned = {pair for text in VERSIONS.values() for pair in re.findall(r'source  = "(.*)"\n +version = "(.*)"', text)}

    assert len(pinned) == len({source for source, _ in pinned}) > 0
