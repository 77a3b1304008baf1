"""``flask doctor`` as an operator starts it, beside a bridge and an n8n.

``ask`` starts a process, for what is about one: what is printed, signals, other commands. ``run`` calls the command in
this one, which takes a tenth of the time.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from click.testing import CliRunner

from app.cli.doctor import doctor
from app.n8n import error_workflow
from app.n8n.client import N8nClient
from app.telemetry.redaction import know_secrets
from tests.fakes.n8n import API_KEY, FakeN8n
from tests.support.projects import PROJECT
from tests.support.server import BridgeServer, free_port

SECRET = "callback-secret-of-these-tests"
CLAUDE_KEY = "sk-ant-test-0123456789abcdef0123456789"
UNLIMITED = {f"RATE_LIMIT_{name}_PER_MINUTE": 0 for name in ("WS", "CALLBACKS", "MESSAGES", "HEALTH", "AUTH_FAILURES")}
LIMIT_S = 100.0
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to: exit code, and its findings as JSON objects."""

    code: int
    findings: list[Json]

    @property
    def problems(self) -> list[Json]:
        return [finding for finding in self.findings if finding["state"] == "problem"]

    def of(self, name: str) -> list[Json]:
        return [finding for finding in self.findings if finding["name"] == name]

    def only(self, name: str) -> Json:
        (finding,) = self.of(name)
        return finding

    def only_problem(self) -> Json:
        """There is one, and the exit code says so."""
        assert self.code == 1, self
        (finding,) = self.problems
        return finding

    def is_well(self) -> bool:
        return self.code == 0 and not self.problems


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str


class Doctor:
    """:ivar environment: of each run, but for what is said there."""

    def __init__(self, server: BridgeServer, n8n: FakeN8n | None) -> None:
        self.n8n = n8n
        self.environment: dict[str, str] = {**server._environment}
        if n8n is not None:
            # As if the bridge ran on another machine: it has no n8n of its own (see ``conftest``).
            elsewhere = {"BIND": f"127.0.0.1:{free_port()}", "N8N_CALLBACK_URL": server.url}
            self.environment |= {"N8N_API_URL": n8n.url, "N8N_API_KEY": API_KEY, **elsewhere}

    def command(self, *words: str, **settings: Any) -> tuple[list[str], dict[str, str]]:
        environment: Mapping[str, Any] = {**self.environment, **settings}
        said = {name: str(value) for name, value in environment.items() if value is not None}
        return [sys.executable, "-m", "flask", "--app", "wsgi", *words], said

    def ask(self, *words: str, **settings: Any) -> Ran:
        """Any command of ``flask``; whatever it says holds no secret."""
        argv, environment = self.command(*words, **settings)
        ended = subprocess.run(
            argv, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        return _shows_no_secret(Ran(ended.returncode, ended.stdout, ended.stderr))

    def run(self, *options: str, **settings: Any) -> Report:
        """With findings for a program; nothing else is said."""
        _, environment = self.command(**settings)
        with _as_a_process(environment):
            ended = CliRunner().invoke(doctor, ["--json", *options])
        ran = _shows_no_secret(Ran(ended.exit_code, ended.stdout, ended.stderr))
        assert ran.err == ""
        told = json.loads(ran.out)
        report = Report(ran.code, told["findings"])
        assert told["ok"] is (ran.code == 0)
        assert told["problems"] == len(report.problems)
        return report

    def quick(self, *options: str, **settings: Any) -> Report:
        return self.run("--no-round-trip", *options, **settings)


def _shows_no_secret(ran: Ran) -> Ran:
    for secret in (API_KEY, SECRET, CLAUDE_KEY):
        assert secret not in ran.out + ran.err
    return ran


@contextmanager
def _as_a_process(environment: Mapping[str, str]) -> Iterator[None]:
    """With this environment alone; what the command leaves to its process's end is put back."""
    handlers, on_term = logging.getLogger().handlers[:], signal.getsignal(signal.SIGTERM)
    try:
        with mock.patch.dict(os.environ, environment, clear=True):
            yield
    finally:
        logging.getLogger().handlers[:] = handlers
        signal.signal(signal.SIGTERM, on_term)
        know_secrets([])


def install(n8n: FakeN8n, url: str, *, secret: str | None = SECRET) -> str:
    """The error workflow, for a bridge at ``url``; gives its id."""
    client = N8nClient(n8n.url, API_KEY)
    try:
        return error_workflow.install(client, callback_url=url, secret=secret).workflow_id
    finally:
        client.close()


def workflow(name: str = "Orders", *, path: str = "orders", **settings: Any) -> Json:
    hook = {"path": path, "httpMethod": "POST"}
    return {
        "name": name,
        "nodes": [node("Hook", "webhook", hook), node("Tell", "noOp", {})],
        "connections": {"Hook": {"main": [[{"node": "Tell", "type": "main", "index": 0}]]}},
        "settings": {"executionOrder": "v1", **settings},
    }


def scheduled(*intervals: Json) -> Json:
    rule = {"rule": {"interval": list(intervals)}}
    nodes = [node("Every", "scheduleTrigger", rule), node("Tell", "noOp", {})]
    links = {"Every": {"main": [[{"node": "Tell", "type": "main", "index": 0}]]}}
    return {"name": "Nightly", "nodes": nodes, "connections": links, "settings": {"executionOrder": "v1"}}


def node(name: str, kind: str, parameters: Json) -> Json:
    place = {"typeVersion": 1, "position": [0, 0]}
    return {"name": name, "type": f"n8n-nodes-base.{kind}", **place, "parameters": parameters}
