"""What the documents name is there: tests, files, links, make targets, commands, routes, settings, metrics.

Whether a command does what is said of it is seen by pasting it; that there is such a command is seen here.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask
from prometheus_client import generate_latest
from werkzeug.exceptions import HTTPException

from app.factory import create_app
from app.repairs.delivery import headers_for
from app.settings import TABLE, load
from app.telemetry import metrics

ROOT = Path(__file__).parents[1]
DOCS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "ansible" / "README.md",
    *sorted((ROOT / "terraform").rglob("README.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]
every_document = pytest.mark.parametrize("path", DOCS, ids=NAMES)

FOLDERS = (
    "app|dev|docs|tests|terraform|ansible|benchmarks|panels|sessions|callbacks|turns|repairs|journal|n8n|telemetry|web"
)
"""What a path in a document begins with, from the project's folder, ``app/`` or the console's."""
HOST = "ansible/host_vars/bridge.example.com"
MADE_BY_THE_READER = {"ansible/inventory.ini", HOST, f"{HOST}/vault.yml"}
SHOWN_AS_MISSING = {"/nowhere"}
NO_SETTINGS = {
    *("AWS_DEFAULT_REGION", "AWS_PROFILE", "ANSIBLE_CONFIG", "ENV_FILE", "FLASK_APP", "PROMETHEUS_MULTIPROC_DIR"),
    *("CONSISTENCY_SECONDS", "CONTAINER_TOOLS", "FUZZ_SECONDS", "INFRA_TOOLS", "N8N_APP"),
    *("EXECUTIONS_TIMEOUT", "N8N_EDITOR_BASE_URL", "N8N_SECURE_COOKIE"),
    *("CHANGE_ME", "NAME_FILE"),
}
"""Variables of libraries and tools, of make, of n8n; and what stands for others."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    folder = tmp_path_factory.mktemp("app")
    (folder / ".env").touch()
    return create_app(load({"JOURNAL_PATH": str(folder / "journal.db")}, folder / ".env"))


def fenced(text: str, language: str) -> list[str]:
    return [found[2] for found in re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)]


def commands(path: Path) -> Iterator[str]:
    """What a reader might paste, a line each: blocks of a shell, indented lines, and code within a sentence."""
    text = path.read_text().replace("\\|", "|")
    prose = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = "\n".join(fenced(text, "sh") + fenced(text, "") + re.findall(r"^ {4}\S.*$", prose, re.MULTILINE))
    for line in re.sub(r"\\\n", " ", blocks).splitlines():
        yield line.partition(" # ")[0].strip()
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)


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
def test_every_make_target_that_a_document_names_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set()
    for command in commands(path):
        for words in re.findall(r"(?:^|&& )make((?: [a-z][a-z0-9-]*)+)", command):
            named.update(words.split())
    assert named <= targets


@every_document
def test_every_module_that_a_document_runs_is_there(path: Path) -> None:
    for command in commands(path):
        for python, module in re.findall(r"(\S*python3?) -m ([a-z]\w*(?:\.\w+)*)", command):
            assert python == ".venv/bin/python", f"{command}: only that one has the packages"
            parts = ROOT.joinpath(*module.split("."))
            assert module == "pytest" or parts.with_suffix(".py").exists() or (parts / "__main__.py").exists(), module


@every_document
def test_every_command_of_flask_that_a_document_names_is_there(path: Path, app: Flask) -> None:
    for command in commands(path):
        for words in re.findall(r"(?:\bflask|\bsudo bridge)((?: --?[a-z][\w-]*| [a-z][\w-]*)+)", command):
            found: click.Command = app.cli
            for word in words.split():
                if word.startswith("-"):
                    assert word in {option for one in found.params for option in one.opts}, command
                else:
                    assert isinstance(found, click.Group) and word in found.commands, command
                    found = found.commands[word]


@every_document
def test_every_route_that_a_document_names_is_there(path: Path, app: Flask) -> None:
    routes = app.url_map.bind("localhost")
    for command in commands(path):
        method = re.search(r"curl .*-X (\w+)", command)
        places = re.findall(r"(?:\$BRIDGE|:3000)(/[^\s\"'`?;]*)", command)
        asked = [(method[1] if method else "GET", where) for where in places]
        if plain := re.fullmatch(r"(GET|POST|PUT|DELETE) ([/…][^\s?]*)(?:\?\S*)?", command):
            asked = [(plain[1], plain[2].replace("…", "/sessions/ID"))]
        for how, where in asked:
            if where not in SHOWN_AS_MISSING:
                try:
                    routes.match(re.sub(r"<\w+>", "ID", where), method=how, websocket=where == "/ws")
                except HTTPException as exc:
                    pytest.fail(f"{how} {where} is {exc.code}: {command}")


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


@every_document
def test_what_is_to_be_pasted_is_a_shells_language(path: Path) -> None:
    if blocks := fenced(path.read_text(), "sh"):
        checked = subprocess.run(["bash", "-n"], input="\n".join(blocks), text=True, capture_output=True)
        assert checked.stderr == ""


def test_the_receiver_that_a_document_shows_takes_what_is_genuine_and_nothing_else() -> None:
    (code,) = fenced((ROOT / "docs" / "notifications.md").read_text(), "python")
    shown: dict[str, Any] = {}
    exec(code, shown)
    secret, body = "whsec_bmV3LXNlY3JldA==", b'{"text": "\xc3\xa4"}'
    now_s = int(time.time())
    headers = headers_for("msg_1", body, [secret, "old"], now_s=now_s)

    assert shown["is_genuine"](headers, body, secret) and shown["is_genuine"](headers, body, "old")
    assert not shown["is_genuine"](headers, body + b" ", secret)
    assert not shown["is_genuine"](headers, body, "another")
    late = headers_for("msg_1", body, [secret], now_s=now_s - 301)
    assert not shown["is_genuine"](late, body, secret)


def test_what_each_metric_means_for_people_on_call_is_told() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    names = [name for name in listed if name.startswith(("n8n_builder_", "flask_"))]
    told = (ROOT / "docs" / "operations.md").read_text()
    assert len(names) > 10 and [name for name in names if name not in told] == []
