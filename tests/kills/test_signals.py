"""Signals at running turns: stopped and woken, killed again and again, reloaded, ended; and callbacks meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kills.conftest import mortal_bridge
from tests.kills.story import LIMIT_S, PAYLOAD, Story, retried
from tests.support.client import failure
from tests.support.server import BridgeServer, wait_for


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BridgeServer, Path]]:
    """Two workers, and the folder of their switches."""
    folder = tmp_path_factory.mktemp("pair")
    with mortal_bridge(folder, WEB_CONCURRENCY=2) as server:
        yield server, folder


def query(server: BridgeServer, sql: str, *values: Any) -> list[Any]:
    """What the journal's file says, whoever lives."""
    connection = sqlite3.connect(f"file:{server.folder / 'journal.db'}?mode=ro", uri=True, timeout=5)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def worker_of(server: BridgeServer, session_id: str | None) -> int:
    """The process that runs the session's turn: leases are held in its name."""
    sql = "SELECT holder FROM leases WHERE name = ? AND expires_at > ?"
    ((holder,),) = wait_for(lambda: query(server, sql, f"session:{session_id}", time.time()), limit_s=LIMIT_S)
    return int(holder.partition("-")[0])


def unanswered(server: BridgeServer) -> list[Any]:
    return query(server, "SELECT * FROM inputs")


def held(story: Story) -> str:
    """A turn that waits; gives the name of the file that lets it go on."""
    name = uuid.uuid4().hex
    story.ask(f"hold {name}")
    wait_for(lambda: [e for e in story.events() if e["type"] == "assistant_delta"], limit_s=LIMIT_S, what="a held turn")
    return name


def begun(story: Story, turns: int) -> None:
    wait_for(lambda: story.count("turn_started") >= turns, limit_s=LIMIT_S, what=f"turn {turns}")


def done(story: Story, outcomes: list[str]) -> None:
    wait_for(lambda: story.outcomes() == outcomes, limit_s=LIMIT_S, what=f"{outcomes}")


def wake(pid: int) -> None:
    """Let a stopped worker go on. Who was stopped in the middle of a commit keeps the journal locked, until the master
    takes it for hung and kills it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


# -- paused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("woken", ["while the other one works", "when all is over"])
def test_a_worker_that_was_stopped_too_long_does_no_harm(pair: tuple[BridgeServer, Path], woken: str) -> None:
    server, folder = pair
    story = Story(server)
    name = held(story)
    pid = worker_of(server, story.client.session_id)
    taken_over = len(server.log_lines("turn was taken over by another worker"))

    os.kill(pid, signal.SIGSTOP)
    try:
        begun(story, 2)
        assert worker_of(server, story.client.session_id) != pid
        if woken == "when all is over":
            (folder / name).touch()
            done(story, ["interrupted", "completed"])
    finally:
        wake(pid)
    wait_for(
        lambda: len(server.log_lines("turn was taken over by another worker")) > taken_over, what="the old one's notice"
    )
    (folder / name).touch()
    done(story, ["interrupted", "completed"])

    story.check(inputs=1)
    assert story.texts() == [f"held {name}"]


def test_a_repair_whose_worker_was_stopped_too_long_is_proposed_once(pair: tuple[BridgeServer, Path]) -> None:
    server, folder = pair
    story = Story(server)
    story.ask()
    done(story, ["completed"])
    story.workflow_id = next(e["data"]["workflowId"] for e in story.events() if e["type"] == "workflow_registered")
    (folder / "hold-repairs").touch()
    story.fail()
    begun(story, 2)
    pid = worker_of(server, story.client.session_id)

    os.kill(pid, signal.SIGSTOP)
    try:
        begun(story, 3)
        (folder / "hold-repairs").unlink()
        done(story, ["completed", "interrupted", "completed"])
    finally:
        wake(pid)
        (folder / "hold-repairs").unlink(missing_ok=True)
    (repair_id,) = (e["data"]["repairId"] for e in story.events() if e["type"] == "repair_waiting")
    story.approve(repair_id)
    wait_for(lambda: story.count("repair_published"), limit_s=LIMIT_S, what="repair_published")

    story.check_repaired()


# -- killed -----------------------------------------------------------------------------------------


def test_a_turn_that_kills_its_workers_is_given_up(mortal: tuple[BridgeServer, Path]) -> None:
    server, _ = mortal
    story = Story(server)
    story.ask("die")
    done(story, ["interrupted", "interrupted", "failed"])
    server.wait_healthy(limit_s=20)

    story.ask("a webhook that answers hello")
    done(story, ["interrupted", "interrupted", "failed", "completed"])

    assert story.count("turn_started") == 4
    failed = [e["data"] for e in story.events() if e["type"] == "turn_finished"][2]
    assert "3 times" in failed["error"]


# -- reloaded ---------------------------------------------------------------------------------------


def test_a_reload_moves_the_sockets_and_lets_the_turn_end(mortal: tuple[BridgeServer, Path]) -> None:
    server, folder = mortal
    server.wait_healthy(limit_s=20)
    story = Story(server)
    story.connect()
    name = held(story)
    pid = worker_of(server, story.client.session_id)

    server.hup(wait=False)
    goodbye = story.client.receive("server_shutdown")
    assert story.client.wait_closed() == 1012
    assert goodbye["reconnect"]["lastSeq"] == story.client.last_seq
    story.connect()
    wait_for(lambda: any(other != pid for other in server.worker_pids()), what="a new worker")

    story.ask("a webhook that answers hello")
    assert worker_of(server, story.client.session_id) == pid
    (folder / name).touch()
    story.receive("turn_finished", outcome="completed")
    story.receive("turn_finished", outcome="completed")

    story.check(inputs=2)
    assert story.outcomes() == ["completed", "completed"]
    wait_for(lambda: pid not in server.worker_pids(), what="the old worker's end")
    assert [e["seq"] for e in story.client.events if e["type"] != "assistant_delta"] == [
        e["seq"] for e in story.events()
    ]


# -- ended ------------------------------------------------------------------------------------------


def test_a_turn_that_does_not_end_goes_on_after_the_next_start(tmp_path: Path) -> None:
    with mortal_bridge(tmp_path, GRACEFUL_TIMEOUT_SECONDS=3) as server:
        story = Story(server)
        name = held(story)

        server.term()
        assert server.wait(limit_s=10) == 0
        assert server.stop() == 0

        ((turn_id, takeovers),) = query(server, "SELECT turn_id, takeovers FROM inputs")
        assert (turn_id, takeovers) == (None, 0)
        frames = [frame for (frame,) in query(server, "SELECT frame FROM events ORDER BY position")]
        assert '"outcome":"interrupted"' in frames[-1]
        assert query(server, "SELECT name FROM leases WHERE expires_at > ?", time.time()) == []

        server.start()
        begun(story, 2)
        (tmp_path / name).touch()
        done(story, ["interrupted", "completed"])
        story.check(inputs=1)


# -- callbacks all the while ------------------------------------------------------------------------

PER_SECOND, SECONDS, KILLS, SENDERS = 20, 6, 5, 4


class Sender(threading.Thread):
    """n8n: posts callbacks at a steady pace, each until it is answered.

    :ivar answers: execution id → status and body of the answer.
    """

    def __init__(self, story: Story, workflows: list[str], number: int) -> None:
        super().__init__(daemon=True)
        self.answers: dict[str, tuple[int, Any]] = {}
        self._story = story
        self._workflows = workflows
        self._number = number
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            began = time.monotonic()
            for count in range(PER_SECOND * SECONDS // SENDERS):
                due = began + count * SENDERS / PER_SECOND
                time.sleep(max(0.0, due - time.monotonic()))  # the pace of the sender, not a wait for the server
                self.post(f"s{self._number}n{count}", self._workflows[count % len(self._workflows)])
        except Exception as exc:
            self.error = exc

    def post(self, execution_id: str, workflow_id: str) -> None:
        body = failure(workflow_id, payload=PAYLOAD, execution_id=execution_id)
        answer = retried(lambda: self._story.client.http("POST", "/callbacks/n8n/error", body, None))
        self.answers[execution_id] = (answer.status, answer.json)


def test_callbacks_are_taken_once_whatever_is_killed(pair: tuple[BridgeServer, Path]) -> None:
    server, _ = pair
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    story = Story(server)
    workflows = [f"w{uuid.uuid4().hex[:12]}" for _ in range(3)]
    for workflow_id, autonomy in zip(workflows, ("observe", "auto", "suggest"), strict=True):
        body = {"workflowId": workflow_id, "autonomy": autonomy}
        assert story.client.http("POST", "/sessions/{sid}/workflows", body).status == 201

    senders = [Sender(story, workflows, number) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.3, 1.0))  # when is left to chance
        pids = wait_for(server.worker_pids, what="a worker")
        os.kill(chance.choice(pids), signal.SIGKILL)
    for sender in senders:
        sender.join(60)
        assert sender.error is None, sender.error

    answers = {key: value for sender in senders for key, value in sender.answers.items()}
    assert len(answers) == PER_SECOND * SECONDS
    assert {status for status, _ in answers.values()} <= {200, 202}
    assert all(body["routed"] for _, body in answers.values())
    errors = [event for event in story.events() if event["type"] == "workflow_error"]
    assert Counter(event["data"]["execution"]["id"] for event in errors) == Counter(answers.keys())
    seqs = {event["data"]["execution"]["id"]: event["seq"] for event in errors}
    assert all(body["seq"] == seqs[key] for key, (status, body) in answers.items() if status == 202)
    for workflow_id in workflows:
        counts = [e["data"]["repeatCount"] for e in errors if e["data"]["workflowId"] == workflow_id]
        assert counts == list(range(1, len(counts) + 1))

    again = Sender(story, workflows, 0)
    for count in range(6):
        again.post(f"s0n{count}", workflows[count % 3])
    assert all(answer == (200, {"routed": True, "duplicate": True}) for answer in again.answers.values())
    assert len([event for event in story.events() if event["type"] == "workflow_error"]) == len(answers)
    wait_for(lambda: not unanswered(server), limit_s=LIMIT_S, what="every input's answer")
