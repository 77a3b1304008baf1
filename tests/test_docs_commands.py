"""The commands that the documents tell to paste are commands: of make, Python, flask, curl and the shell.

Whether one does what is said of it is seen by pasting it; that there is such a command is seen here.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask
from werkzeug.exceptions import HTTPException

from app.factory import create_app
from app.repairs.delivery import headers_for
from app.settings import load
from tests.support.documents import ROOT, commands, every_document, fenced

SHOWN_AS_MISSING = {"/nowhere"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    folder = tmp_path_factory.mktemp("app")
    (folder / ".env").touch()
    return create_app(load({"JOURNAL_PATH": str(folder / "journal.db")}, folder / ".env"))


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
