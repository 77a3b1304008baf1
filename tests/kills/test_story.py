"""The whole story with its worker killed once, at every moment between two commits, before and after each."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kills.story import Story
from tests.support.server import BridgeServer

# In the order of the story; each is a change to the journal (see ``wsgi.py``), counted from the story's begin.
CHANGES = [
    "user_message 1",
    "claim 1",
    "turn_started 1",
    "tool_started:create_workflow 1",
    "put:draft 1",
    "workflow_registered 1",
    "tool_finished:create_workflow 1",
    "assistant_delta 1",
    "assistant_message 1",
    "turn_finished 1",
    "workflow_error 1",
    "claim 2",
    "turn_started 2",
    "tool_started:get_workflow 1",
    "tool_finished:get_workflow 1",
    "tool_started:propose_repair 1",
    "repair_proposed 1",
    "tool_finished:propose_repair 1",
    "assistant_delta 2",
    "assistant_message 2",
    "turn_finished 2",
    "repair_decided 1",
    "put:snapshot 1",
    "put:draft 2",
    "repair_published 1",
]
# Before one change is mostly after another; here somebody waits for an answer that never comes.
ASKED = ["user_message 1", "put:draft 1", "workflow_error 1", "repair_proposed 1", "repair_decided 1", "put:draft 2"]
MOMENTS = [*(f"after {change}" for change in CHANGES), *(f"before {change}" for change in ASKED)]
TOGETHER = {"repair_started", "repair_diagnosed", "repair_unverified", "repair_waiting"}
SEEN = ["turn_started", "tool_started", "workflow_registered", "assistant_message", "repair_proposed", "repair_waiting"]


@pytest.fixture
def story(mortal: tuple[BridgeServer, Path]) -> Iterator[Story]:
    server, _ = mortal
    server.wait_healthy(limit_s=20)
    story = Story(server)
    yield story
    story.close()


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.replace(" ", "-"))
def test_a_worker_that_is_killed_costs_nothing_and_does_nothing_twice(
    story: Story, mortal: tuple[BridgeServer, Path], moment: str
) -> None:
    server, folder = mortal
    (pid,) = server.worker_pids()
    (folder / "die").write_text(moment)

    story.tell()

    assert not (folder / "die").exists(), "nobody was killed"
    assert server.worker_pids() != [pid]
    story.check_repaired()


@pytest.mark.parametrize("kind", SEEN)
def test_a_worker_that_is_killed_as_soon_as_the_client_sees_something(
    story: Story, mortal: tuple[BridgeServer, Path], kind: str
) -> None:
    server, _ = mortal
    (pid,) = server.worker_pids()
    killer = threading.Thread(target=lambda: (story.saw(kind), os.kill(pid, signal.SIGKILL)))
    killer.start()

    story.tell()

    killer.join(20)
    assert server.worker_pids() != [pid]
    story.check_repaired()


def test_half_a_message_is_void_when_its_worker_is_killed(story: Story, mortal: tuple[BridgeServer, Path]) -> None:
    server, folder = mortal
    name = uuid.uuid4().hex
    story.connect()
    story.ask(f"hold {name}")
    shown = story.receive("assistant_delta")["data"]

    server.kill_worker()

    assert story.receive("assistant_reset")["data"] == {"messageId": shown["messageId"]}
    (folder / name).touch()
    story.ended()
    story.check(inputs=1)
    assert [event["data"]["text"] for event in story.events() if event["type"] == "assistant_message"] == [
        f"held {name}"
    ]


def test_the_story_has_no_other_moments(story: Story) -> None:
    """Undisturbed, its events are those that are interrupted above, and those that come with them in one change."""
    story.tell()
    story.check_repaired()

    known = {change.split()[0].partition(":")[0] for change in CHANGES} | TOGETHER
    assert {event["type"] for event in story.events()} <= known
