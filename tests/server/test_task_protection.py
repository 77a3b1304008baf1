"""The task is spared while a turn runs in any of its workers, and no longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app import task_protection
from app.task_protection import TaskProtection
from app.telemetry import metric_files
from tests.fakes.ecs_agent import EcsAgent
from tests.journal.steps import until
from tests.support.client import Client
from tests.support.projects import PROJECT, copy_project
from tests.support.server import UNLIMITED, BridgeServer, wait_for

SHORT = """
from app import task_protection
task_protection.RENEW_S = 0.3
task_protection.QUIET_S = 0.2
task_protection.RETRY_S = 0.1
task_protection.LOOK_S = 0.05
task_protection.REQUEST_TIMEOUT_S = 0.3
"""


@contextmanager
def protected(folder: Path, agent: EcsAgent, *, prelude: str = "", **more: Any) -> Iterator[BridgeServer]:
    """A bridge of two workers with a turn each, at most; a message ``hold NAME`` holds one until that file exists."""
    project = copy_project(folder / "project")
    (project / "wsgi.py").write_text(SHORT + prelude + (PROJECT / "tests" / "support" / "held_wsgi.py").read_text())
    settings = {
        **UNLIMITED,
        "WEB_CONCURRENCY": 2,
        "MAX_CONCURRENT_TURNS": 1,
        "LEASE_SECONDS": 1,
        "GRACEFUL_TIMEOUT_SECONDS": 10,
        "HOLD_FOLDER": folder,
        "ECS_AGENT_URI": agent.uri,
        **more,
    }
    with BridgeServer(settings, project=project) as server:
        yield server
        assert not [line for line in server.raw_lines() if "by a bug" in line or "Traceback" in line]


@pytest.fixture
def agent() -> Iterator[EcsAgent]:
    with EcsAgent() as agent:
        yield agent


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, EcsAgent, Path]]:
    folder = tmp_path_factory.mktemp("protection")
    with EcsAgent() as agent, protected(folder, agent) as server:
        yield server, agent, folder


@pytest.fixture
def two(home: tuple[BridgeServer, EcsAgent, Path]) -> tuple[BridgeServer, EcsAgent, Path]:
    """A server whose task nobody protects."""
    agent = home[1]
    wait_for(lambda: not agent.asked or not agent.states[-1], what="a release")
    agent.asked.clear()
    return home


def begin(server: BridgeServer, name: str) -> Client:
    """A session with a turn that is held."""
    client = Client(server).connect()
    client.say(f"hold {name}")
    client.receive("turn_started")
    return client


def more(agent: EcsAgent, of: bool, count: int = 1) -> None:
    """Wait for so many more such requests."""
    before = agent.states.count(of)
    wait_for(lambda: agent.states.count(of) >= before + count, what=f"{count} more of {of}: {agent.states}")


def ended(agent: EcsAgent) -> bool:
    return bool(agent.asked) and not agent.states[-1]


# -- one protection


def test_a_turn_protects_the_task_again_and_again_until_it_has_ended(two: tuple[BridgeServer, EcsAgent, Path]) -> None:
    server, agent, folder = two
    with begin(server, "a") as client:
        more(agent, True, 3)
        assert False not in agent.states
        (folder / "a").touch()
        client.receive("turn_finished")
        wait_for(lambda: ended(agent), what="a release")

    assert agent.asked[0] == {"ProtectionEnabled": True, "ExpiresInMinutes": 10}
    assert agent.asked[-1] == {"ProtectionEnabled": False}
    assert agent.states.count(False) == 1


def test_a_worker_whose_turn_has_ended_does_not_end_the_protection_of_anothers(
    two: tuple[BridgeServer, EcsAgent, Path],
) -> None:
    server, agent, folder = two
    with begin(server, "b1") as first, begin(server, "b2") as second:
        more(agent, True)
        (folder / "b1").touch()
        first.receive("turn_finished")
        more(agent, True, 3)  # each later than the one before by more than what is waited for before a release
        assert False not in agent.states
        (folder / "b2").touch()
        second.receive("turn_finished")
        wait_for(lambda: ended(agent), what="a release")

    assert agent.states.count(False) == 1


def test_a_reload_leaves_the_turn_of_an_old_worker_protected(two: tuple[BridgeServer, EcsAgent, Path]) -> None:
    server, agent, folder = two
    old = set(server.worker_pids())
    with begin(server, "c"):
        more(agent, True)
        started = len(server.log_lines("worker started"))
        server.hup(wait=False)
        wait_for(lambda: len(server.log_lines("worker started")) == started + 2, what="new workers")
        more(agent, True, 3)
        assert False not in agent.states
        (folder / "c").touch()
        wait_for(lambda: ended(agent), what="a release")
    wait_for(lambda: not set(server.worker_pids()) & old, what="the old workers to go")


# -- ends


def test_a_worker_that_is_killed_leaves_no_protection_behind(agent: EcsAgent, tmp_path: Path) -> None:
    never = "task_protection.QUIET_S = 3600.0\n"
    with protected(tmp_path, agent, prelude=never, WEB_CONCURRENCY=1) as server:
        with begin(server, "a"):
            more(agent, True)
        server.kill_worker()
        more(agent, True)  # the one that follows it has taken the turn over
        (tmp_path / "a").touch()
        server.wait_log("turn finished", outcome="completed")
        # It would wait for an hour; the one that follows it does not.
        before = agent.states.count(False)
        server.kill_worker()
        wait_for(lambda: ended(agent) and agent.states.count(False) == before + 1, what="a release")


@pytest.mark.parametrize("held", [False, True])
def test_a_stop_releases_the_task(agent: EcsAgent, tmp_path: Path, held: bool) -> None:
    more_settings = {"GRACEFUL_TIMEOUT_SECONDS": 6} if held else {}
    with protected(tmp_path, agent, **more_settings) as server, begin(server, "a"):
        more(agent, True)
        server.term()
        server.wait_log("Graceful shutdown started")
        if not held:
            (tmp_path / "a").touch()
        assert server.wait() == 0

    assert ended(agent)
    assert agent.states.count(False) == 1


# -- an agent that does not do it


def _refuse(agent: EcsAgent) -> None:
    agent.refuse = True


def _hang(agent: EcsAgent) -> None:
    agent.released.clear()
    agent.hang = True


@pytest.mark.parametrize(
    ("break_it", "why"),
    [(_refuse, "it was answered with AccessDeniedException"), (_hang, "it took too long")],
)
def test_an_agent_that_does_not_do_it_is_warned_of_and_keeps_nobody(
    two: tuple[BridgeServer, EcsAgent, Path], break_it: Callable[[EcsAgent], None], why: str
) -> None:
    server, agent, folder = two
    break_it(agent)
    try:
        with begin(server, why[-4:]) as client:
            assert server.wait_log(f"the task could not be protected: {why}")["level"] == "warning"
            (folder / why[-4:]).touch()
            client.receive("turn_finished", outcome="completed")
        not_released = f"the task's protection was not released, and runs out by itself: {why}"
        assert server.wait_log(not_released)["level"] == "warning"
    finally:
        agent.refuse = agent.hang = False
        agent.released.set()
    # As soon as it does it again, a turn is protected.
    asked = len(agent.asked)
    with begin(server, f"{why[-4:]}2"):
        wait_for(lambda: True in agent.states[asked:], what="protection")
        (folder / f"{why[-4:]}2").touch()
        wait_for(lambda: ended(agent), what="a release")


# -- its note, by two workers of one machine


@dataclass
class Half:
    """A worker as far as it protects. ``turns``: whether it has any."""

    protection: TaskProtection
    turns: bool = False


@pytest.fixture
def workers(agent: EcsAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Half, Half]]:
    """Two that look often and wait for nothing but the agent."""
    monkeypatch.setattr(metric_files, "folder", lambda: tmp_path)
    monkeypatch.setattr(task_protection, "LOOK_S", 0.01)
    monkeypatch.setattr(task_protection, "QUIET_S", 0.0)

    def made() -> Half:
        half = Half(TaskProtection(agent.uri, busy=lambda: half.turns))
        return half

    halves = made(), made()
    yield halves
    for half in halves:
        half.protection.stop()


def test_a_release_whose_answer_was_lost_leaves_the_next_turn_protected(
    agent: EcsAgent, workers: tuple[Half, Half]
) -> None:
    one = workers[0]
    one.turns = True
    one.protection.start()
    until(lambda: agent.states == [True])
    agent.cut, one.turns = True, False
    until(lambda: agent.states == [True, False])

    agent.cut, one.turns = False, True

    until(lambda: agent.states == [True, False, True])


def test_a_turn_that_could_not_be_protected_is_in_the_way_of_a_release(
    agent: EcsAgent, workers: tuple[Half, Half]
) -> None:
    """The other one's protection holds for it, too."""
    one, other = workers
    agent.refuse = one.turns = True
    one.protection.start()
    until(lambda: agent.states == [True])
    one.turns = False
    until(lambda: agent.states == [True, False])
    agent.refuse, one.turns = False, True
    until(lambda: one.protection._fd is not None)

    other.protection.start()
    other.protection.stop()

    assert agent.states == [True, False]
