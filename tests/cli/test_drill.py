"""``flask drill``, as a person runs it, beside a bridge or alone, with a fake n8n or none.

``drilling`` starts a process, for what is about one: its lines as they come, signals, its death. ``drilled`` calls the
command in this one and gives what it came to.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner
from flask import Flask

from app.cli.drill import drill
from app.drill.n8n_canary import MARK
from app.n8n import error_workflow
from app.n8n.client import N8nClient
from app.settings import load
from tests.fakes.n8n import API_KEY
from tests.heal.conftest import planned_bridge
from tests.heal.rig import SECRET, HealN8n, healing_n8n
from tests.support.projects import PROJECT
from tests.support.server import BridgeServer, free_port, wait_for

ACCESS = "access-token-of-the-drill"
HEALED = [
    *("built", "published", "broke", "callback", "diagnosed", "proposed", "verified", "published", "works again"),
    *("removed", "removed"),
]
DRAFTED = [
    *("bridge", "asked", "built", "broke", "callback", "diagnosed", "proposed", "unverified", "approved", "published"),
    *("healed", "removed"),
]


@dataclass
class Run:
    """One ``flask drill``. ``folder`` is its home and where its temporary files go."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    told: dict[str, Any] = field(default_factory=dict)
    stderr: str = ""
    code: int | None = None

    def environment(self, settings: dict[str, Any]) -> dict[str, str]:
        (self.folder / "tmp").mkdir(parents=True)
        (self.folder / ".env").touch()
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "FLASK_SKIP_DOTENV": "1",
            "ENV_FILE": str(self.folder / ".env"),
            "BIND": f"127.0.0.1:{free_port()}",
            "DRILL_TEST": self.mark,
            **{name: str(value) for name, value in settings.items()},
        }

    def ended(self, code: int, out: str, err: str) -> None:
        self.code, self.stderr = code, err
        self.told = json.loads(out) if out.startswith("{") else {}

    @property
    def steps(self) -> list[str]:
        return [step["step"] for step in self.told["steps"]]

    @property
    def verdict(self) -> str:
        return str(self.told["verdict"])

    def text(self, step: str) -> str:
        return next(str(found["text"]) for found in self.told["steps"] if found["step"] == step)

    def processes(self) -> list[int]:
        """All that it has started and that still live."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def left_nothing(self) -> bool:
        return not self.processes() and not list((self.folder / "tmp").iterdir())

    def kill(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


@dataclass
class Running(Run):
    """A drill in a process of its own."""

    process: subprocess.Popen[str] = field(init=False)

    def start(self, options: tuple[str, ...], settings: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "wsgi", "drill", *options],
            cwd=PROJECT,
            env=self.environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self) -> int:
        out, err = self.process.communicate(timeout=60)
        self.ended(self.process.returncode, out, err)
        return self.process.returncode


Drilling = Callable[..., Running]
Drilled = Callable[..., Run]


@pytest.fixture
def drilling(tmp_path: Path) -> Iterator[Drilling]:
    """Starts a drill with these options and settings."""
    begun: list[Running] = []

    def begin(*options: str, json_too: bool = True, **settings: Any) -> Running:
        begun.append(Running(tmp_path / uuid.uuid4().hex[:8]))
        begun[-1].start(("--json", *options) if json_too else options, settings)
        return begun[-1]

    yield begin
    for run in begun:
        run.kill()
        run.process.wait()


@pytest.fixture
def drilled(tmp_path: Path) -> Iterator[Drilled]:
    """Makes a drill with these options and settings."""
    made: list[Run] = []

    def make(*options: str, **settings: Any) -> Run:
        made.append(Run(tmp_path / uuid.uuid4().hex[:8]))
        run, app = made[-1], Flask("bridge")
        environment = run.environment(settings)
        app.extensions["bridge"] = SimpleNamespace(settings=load(environment))
        with (
            app.app_context(),
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch.object(tempfile, "tempdir", environment["TMPDIR"]),
        ):
            ended = CliRunner().invoke(drill, ["--json", *options])
        run.ended(ended.exit_code, ended.stdout, ended.stderr)
        return run

    yield make
    for run in made:
        run.kill()


@pytest.fixture
def n8n() -> Iterator[HealN8n]:
    with healing_n8n(lag_s=0.1) as made:
        made.calls_loopback = True
        yield made


@dataclass
class Planned:
    """A running bridge whose agent proposes what ``any.json`` says, and its n8n."""

    server: BridgeServer
    n8n: HealN8n
    folder: Path

    def propose(self, node: str, **change: Any) -> None:
        (self.folder / "any.json").write_text(json.dumps({"proposals": [{"nodes": {node: change}}]}))

    def brake(self, autonomy: str) -> None:
        assert self.server.request("PUT", "/autonomy", json={"autonomy": autonomy}).status == 200

    def settings(self) -> dict[str, Any]:
        return connected(self.n8n, BIND=f"127.0.0.1:{self.server.port}")


@pytest.fixture(scope="module")
def guarded() -> Iterator[BridgeServer]:
    """A running bridge without n8n that wants a token."""
    with BridgeServer({"ACCESS_TOKEN": ACCESS}) as server:
        yield server


@pytest.fixture(scope="module")
def planned_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planned]:
    folder = tmp_path_factory.mktemp("planned")
    with healing_n8n(lag_s=0.1) as made, planned_bridge(made, folder) as server:
        made.calls_loopback = True
        yield Planned(server, made, folder)


@pytest.fixture
def planned(planned_once: Planned) -> Planned:
    """With an agent that has nothing to propose, and the brake released."""
    (planned_once.folder / "any.json").unlink(missing_ok=True)
    planned_once.brake("auto")
    return planned_once


def connected(n8n: HealN8n, **more: Any) -> dict[str, Any]:
    return {"N8N_API_URL": n8n.url, "N8N_API_KEY": API_KEY, "N8N_CALLBACK_SECRET": SECRET, **more}


def canaries(n8n: HealN8n) -> list[str]:
    return [workflow_id for workflow_id, stored in n8n.workflows.items() if MARK in json.dumps(stored.public)]


def states(server: BridgeServer, **headers: str) -> list[str]:
    return [session["state"] for session in server.get("/sessions", headers=headers).json["sessions"]]


# -- without n8n


def test_without_n8n_bridge_and_key_the_whole_story_is_told(drilling: Drilling) -> None:
    run = drilling(ACCESS_TOKEN=ACCESS, N8N_CALLBACK_SECRET=SECRET)

    assert run.end() == 0, run.stderr
    assert run.steps == DRAFTED
    assert "one of the drill's own" in run.text("bridge")
    assert run.verdict.startswith("Unverified:")
    proposed = next(step for step in run.told["steps"] if step["step"] == "proposed")
    assert '+ "HTTP Request" retryOnFail: true' in proposed["lines"]
    at = [step["atSeconds"] for step in run.told["steps"]]
    assert at == sorted(at)
    assert run.left_nothing()


def test_a_person_gets_a_line_for_each_step_as_it_happens(drilling: Drilling) -> None:
    run = drilling(json_too=False)
    out, _ = run.process.communicate(timeout=60)

    lines = [line for line in out.splitlines() if " s " in line[:20]]
    assert [line[21:33].strip() for line in lines] == DRAFTED
    assert out.splitlines()[-1].startswith("Unverified:")


def test_a_bridge_that_runs_is_used_and_keeps_no_open_session(drilled: Drilled, guarded: BridgeServer) -> None:
    run = drilled(BIND=f"127.0.0.1:{guarded.port}", ACCESS_TOKEN=ACCESS)

    assert run.code == 0, run.stderr
    assert run.steps == DRAFTED
    assert "the one that runs" in run.text("bridge")
    assert set(states(guarded, Authorization=f"Bearer {ACCESS}")) <= {"closed"}


def test_the_canary_is_auto_where_new_workflows_are_only_observed(drilled: Drilled) -> None:
    assert drilled(HEAL_AUTONOMY="observe").code == 0


def test_where_a_model_answers_the_canary_is_what_the_callback_tells_of_it(
    drilled: Drilled, n8n: HealN8n, tmp_path: Path
) -> None:
    change = {"retryOnFail": True, "maxTries": 2}
    (tmp_path / "any.json").write_text(json.dumps({"proposals": [{"nodes": {"Ask the service": change}}]}))
    with planned_bridge(n8n, tmp_path, N8N_API_URL=None) as server:
        settings = {"BIND": f"127.0.0.1:{server.port}", "N8N_CALLBACK_SECRET": SECRET}
        run = drilled(AGENT="claude", ANTHROPIC_API_KEY="sk-fake", **settings)

        assert run.code == 0, (run.told, run.stderr)
        assert run.steps == [step for step in DRAFTED if step != "asked"]
        assert "registered by its id" in run.text("built")


def test_a_wrong_access_token_is_told(drilled: Drilled, guarded: BridgeServer) -> None:
    run = drilled(BIND=f"127.0.0.1:{guarded.port}", ACCESS_TOKEN="another-access-token")

    assert run.code == 1
    assert "Set ACCESS_TOKEN as the bridge has it" in run.verdict


@pytest.mark.parametrize("option", ["--timeout=0", "--timeout=soon", "--host=a b", "--unknown"])
def test_a_wrong_option_is_a_wrong_usage(drilled: Drilled, option: str) -> None:
    assert drilled(option).code == 2


def test_what_a_bridge_that_does_not_come_up_said_is_shown(drilling: Drilling) -> None:
    run = drilling(GUNICORN_CMD_ARGS="--nonsense")

    assert run.end() == 1
    assert "ended at once" in run.verdict
    assert "--nonsense" in run.stderr
    assert run.left_nothing()


# -- with n8n


def test_with_n8n_the_repair_is_proven_published_and_works(drilling: Drilling, n8n: HealN8n) -> None:
    run = drilling(**connected(n8n))

    assert run.end() == 0, (run.told, run.stderr)
    assert run.steps == ["bridge", "installed", *HEALED]
    assert run.verdict.startswith("Healed:")
    assert "(503, 200)" in run.text("works again")
    assert not canaries(n8n)
    assert [stored.public["name"] for stored in n8n.workflows.values()] == ["Self-healing bridge: report errors"]
    assert run.left_nothing()


def test_the_error_workflow_that_is_there_is_used(drilled: Drilled, planned: Planned) -> None:
    planned.propose("Ask the service", retryOnFail=True, maxTries=2)
    error_workflow.install(N8nClient(planned.n8n.url, API_KEY), callback_url=planned.server.url, secret=SECRET)
    run = drilled(**planned.settings())

    assert run.code == 0, (run.told, run.stderr)
    assert run.steps == ["bridge", *HEALED]
    assert set(states(planned.server)) <= {"closed"}
    assert not canaries(planned.n8n)


def test_under_the_brake_ask_it_approves_what_is_proven(drilled: Drilled, planned: Planned) -> None:
    planned.propose("Ask the service", retryOnFail=True, maxTries=2)
    planned.brake("ask")
    run = drilled(**planned.settings())

    assert run.code == 0, run.told
    assert run.steps.index("verified") < run.steps.index("approved") < run.steps.index("works again")
    assert not canaries(planned.n8n)


@pytest.mark.parametrize("brake", ["observe", "suggest"])
def test_under_a_brake_that_heals_nothing_it_says_so(drilled: Drilled, planned: Planned, brake: str) -> None:
    planned.propose("Ask the service", retryOnFail=True, maxTries=2)
    planned.brake(brake)
    run = drilled(**planned.settings())

    assert run.code == 1
    assert "release the brake (PUT /autonomy" in run.verdict
    assert not canaries(planned.n8n)
    assert set(states(planned.server)) <= {"closed"}


def test_an_agent_that_proposes_nothing_is_told(drilled: Drilled, planned: Planned) -> None:
    run = drilled(**planned.settings())

    assert run.code == 1
    assert run.verdict.startswith(
        "Waited for the repair to be proposed: The repair ended: The agent proposed no change."
    )
    assert not canaries(planned.n8n)


def test_a_proposal_that_proves_nothing_is_not_taken_for_healed(drilled: Drilled, planned: Planned) -> None:
    planned.propose("Call", notes="mended")
    run = drilled(**planned.settings())

    assert run.code == 1
    assert "was not proven" in run.verdict
    assert not canaries(planned.n8n)


def test_an_n8n_that_is_down_is_told(drilled: Drilled, planned: Planned) -> None:
    run = drilled(**{**planned.settings(), "N8N_API_URL": f"http://127.0.0.1:{free_port()}"})

    assert run.code == 1
    assert run.verdict.startswith("Waited for n8n's error workflow: n8n ")


def test_a_callback_that_never_comes_is_told(drilled: Drilled, n8n: HealN8n) -> None:
    nowhere = {"N8N_CALLBACK_URL": f"http://127.0.0.1:{free_port()}", "N8N_POLL_INTERVAL_SECONDS": 0}
    run = drilled("--timeout=12", **connected(n8n, **nowhere))

    assert run.code == 1
    assert run.verdict.startswith("Waited for the callback (workflow_error): nothing within")
    assert "N8N_CALLBACK_URL" in run.verdict
    assert run.steps[-2:] == ["removed", "removed"]
    assert not canaries(n8n)
    assert run.left_nothing()


def test_an_error_workflow_that_reports_elsewhere_is_told(drilled: Drilled, planned: Planned, n8n: HealN8n) -> None:
    client = N8nClient(n8n.url, API_KEY)
    error_workflow.install(client, callback_url="http://elsewhere.example", secret=SECRET)
    run = drilled(**connected(n8n, BIND=f"127.0.0.1:{planned.server.port}"))

    assert run.code == 1
    assert "flask n8n install-error-workflow" in run.verdict
    assert "http://elsewhere.example" in run.verdict


def test_where_n8n_does_not_reach_this_machine_it_names_the_option(drilled: Drilled, n8n: HealN8n) -> None:
    n8n.calls_loopback = False
    n8n.http = {}
    refused = _Refusing(n8n)
    run = drilled(**connected(n8n))

    assert run.code == 1
    assert refused.asked
    assert "--host" in run.verdict
    assert not canaries(n8n)


def test_a_bridge_with_other_settings_is_told(drilled: Drilled, guarded: BridgeServer, n8n: HealN8n) -> None:
    run = drilled(**connected(n8n, BIND=f"127.0.0.1:{guarded.port}"))

    assert run.code == 1
    assert "has no n8n, and the settings here have an n8n" in run.verdict


def test_a_port_that_something_else_has_is_told(drilled: Drilled, n8n: HealN8n) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        run = drilled(**connected(n8n, BIND=f"127.0.0.1:{other.getsockname()[1]}"))

        assert run.code == 1
        assert "(BIND)" in run.verdict


# -- broken off


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(drilling: Drilling, n8n: HealN8n, number: signal.Signals) -> None:
    run, trial = _in_the_trial(drilling, n8n)

    for _ in range(2):
        run.process.send_signal(number)
    trial.release()

    assert run.end() == 1
    assert "It was stopped." in run.verdict
    assert not canaries(n8n)
    assert run.left_nothing()


def test_what_a_killed_drill_has_left_goes_with_the_next(drilling: Drilling, n8n: HealN8n) -> None:
    settings = connected(n8n, BIND=f"127.0.0.1:{free_port()}")
    killed, trial = _in_the_trial(drilling, n8n, **settings)
    killed.process.kill()
    trial.release()
    killed.process.wait()
    wait_for(lambda: not killed.processes(), what="its bridge ends with it")
    assert canaries(n8n)

    run = drilling(**settings)

    assert run.end() == 0, run.told
    assert run.steps == ["bridge", "tidied", *HEALED]
    assert not canaries(n8n)


def test_a_canary_that_is_to_be_kept_stays_until_the_next(drilled: Drilled, planned: Planned) -> None:
    planned.propose("Ask the service", retryOnFail=True, maxTries=2)
    assert drilled("--keep", **planned.settings()).code == 0
    assert len(canaries(planned.n8n)) == 1

    run = drilled(**planned.settings())

    assert run.code == 0
    assert "tidied" in run.steps
    assert not canaries(planned.n8n)


def test_there_is_one_drill_at_a_time(drilling: Drilling, n8n: HealN8n) -> None:
    first, trial = _in_the_trial(drilling, n8n)
    second = drilling(**connected(n8n))

    assert second.end() == 1
    assert "Another drill is running here" in second.verdict
    assert len(canaries(n8n)) == 1

    trial.release()
    assert first.end() == 0, first.told


def _in_the_trial(drilling: Drilling, n8n: HealN8n, **settings: Any) -> tuple[Run, Any]:
    """A drill whose repair is just being tried."""
    trial = n8n.hold("", "retry", "before")
    run = drilling(**{**connected(n8n), **settings})
    assert trial.reached.wait(30)
    return run, trial


class _Refusing:
    """Makes every address of loopback one that nobody listens on."""

    def __init__(self, n8n: HealN8n) -> None:
        self.asked: list[str] = []
        refusing = self

        class Outcomes(dict[str, list[int | str]]):
            def get(self, url: str, default: Any = None) -> Any:
                refusing.asked.append(url)
                return ["ECONNREFUSED"]

        n8n.http = Outcomes()
