"""What the documents name is there: tests, files, make targets, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]


@pytest.mark.parametrize("path", DOCS, ids=NAMES)
def test_every_test_that_a_document_names_is_there(path: Path) -> None:
    file = ""
    for found in re.finditer(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", path.read_text()):
        file = found[1] or file
        if not file or found[0] == "``":
            continue
        source = (ROOT / file).read_text()
        assert found[2] is None or f"def {found[2]}(" in source, f"{file} has no {found[2]}"


@pytest.mark.parametrize("path", DOCS, ids=NAMES)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=NAMES)
def test_every_make_target_that_a_document_names_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^ {4}|^\$ |`)make ([a-z][a-z0-9-]*)", path.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_what_each_metric_means_for_people_on_call_is_told() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    names = [name for name in listed if name.startswith(("n8n_builder_", "flask_"))]
    told = (ROOT / "docs" / "operations.md").read_text()
    assert len(names) > 10 and [name for name in names if name not in told] == []
