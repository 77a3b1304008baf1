"""What the documents name is there: tests, files, links, settings, metrics. Commands have a file of their own."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import generate_latest

from app.settings import TABLE
from app.telemetry import metrics
from tests.support.documents import ROOT, commands, every_document

FOLDERS = (
    "app|dev|docs|tests|terraform|ansible|benchmarks|panels|sessions|callbacks|turns|repairs|journal|n8n|telemetry|web"
)
"""What a path in a document begins with, from the project's folder, ``app/`` or the console's."""
HOST = "ansible/host_vars/bridge.example.com"
MADE_BY_THE_READER = {"ansible/inventory.ini", HOST, f"{HOST}/vault.yml"}
NO_SETTINGS = {
    *("AWS_DEFAULT_REGION", "AWS_PROFILE", "ANSIBLE_CONFIG", "ENV_FILE", "FLASK_APP", "PROMETHEUS_MULTIPROC_DIR"),
    *("CONSISTENCY_SECONDS", "CONTAINER_TOOLS", "FUZZ_SECONDS", "INFRA_TOOLS", "N8N_APP"),
    *("EXECUTIONS_TIMEOUT", "N8N_EDITOR_BASE_URL", "N8N_SECURE_COOKIE"),
    *("CHANGE_ME", "NAME_FILE"),
}
"""Variables of libraries and tools, of make, of n8n; and what stands for others."""


@every_document
def test_every_test_that_a_document_names_is_there(path: Path) -> None:
    file = ""
    for found in re.finditer(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", path.read_text()):
        file = found[1] or file
        if not file or found[0] == "``":
            continue
        source = (ROOT / file).read_text()
        assert found[2] is None or f"def {found[2]}(" in source, f"{file} has no {found[2]}"


@every_document
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (path.parent / target).exists(), target


@every_document
def test_every_file_that_a_document_names_is_there(path: Path) -> None:
    named = {
        found
        for command in commands(path)
        for found in re.findall(rf"(?<![\w./$<-])(?:{FOLDERS})/[\w./*-]*", command)
        if re.search(r"\.\w{2,5}$|\*|/$", found)
    }
    bases = (ROOT, ROOT / "app", ROOT / "app" / "console")
    there = {name for name in named for base in bases if any(base.glob(name.rstrip("/")))}
    assert named - there - MADE_BY_THE_READER == set()


@every_document
def test_every_setting_that_a_document_names_is_one(path: Path) -> None:
    settings = {setting.name for setting in TABLE} | {f"{setting.name}_FILE" for setting in TABLE}
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", path.read_text())
    named = {
        name for span in spans for name in re.findall(r"(?<![\w$/-])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w…(])", span)
    }
    assert named - settings - NO_SETTINGS == set()


@every_document
def test_every_metric_that_a_document_names_is_one(path: Path) -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    series = {name + end for name in listed for end in ("", "_bucket", "_sum", "_count")}
    named = re.findall(rf"\b(?:{metrics.PREFIX}|flask_(?:http|exporter))_\w+", path.read_text())
    assert {name for name in named if not name.endswith("_")} <= series


def test_as_many_series_are_there_from_the_first_scrape_as_is_said() -> None:
    said = re.search(r"\| `(\d+)` series, at the first scrape", (ROOT / "docs" / "verification.md").read_text())
    lines = generate_latest().decode().splitlines()
    own = [line for line in lines if line.startswith(metrics.PREFIX) and "_created" not in line]
    of_the_journal = 1  # active_sessions, which is asked for at the scrape
    assert said and int(said[1]) == len(own) + of_the_journal


def test_what_each_metric_means_for_people_on_call_is_told() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    names = [name for name in listed if name.startswith(("n8n_builder_", "flask_"))]
    told = (ROOT / "docs" / "operations.md").read_text()
    assert len(names) > 10 and [name for name in names if name not in told] == []
