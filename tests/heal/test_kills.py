"""The healing story with its worker killed once, before and after each change of its journal, and while n8n is at work.

A workflow is built and published by a chat, fails, is repaired and published. Whatever dies on the way: one workflow,
one version of the proposal, one trial of it, and it runs.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.n8n.workflows import canonical_hash
from tests.heal.conftest import planned_bridge
from tests.heal.rig import BROKEN, FIXED, LIMIT_S, WORSE, HealN8n, healing_n8n, soon, to, url_of, workflow
from tests.kills.story import Story, retried
from tests.support.server import BridgeServer, wait_for

STAGES = 3
_WHEN = ("before", "after")
# In the order of the story; see ``wsgi.py``.
CHANGES = [
    "user_message 1",
    "claim 1",
    "turn_started 1",
    "tool_started:create_workflow 1",
    "put:intent:create 1",
    "done:intent:create 1",
    "workflow_registered 1",
    "tool_finished:create_workflow 1",
    "tool_started:publish_workflow 1",
    "tool_finished:publish_workflow 1",
    "assistant_message 1",
    "turn_finished 1",
    "workflow_error 1",
    "claim 2",
    "repair_started 1",
    "tool_started:get_workflow 1",
    "tool_finished:get_workflow 1",
    "tool_started:get_execution 1",
    "tool_finished:get_execution 1",
    "tool_started:propose_repair 1",
    "repair_proposed 1",
    "put:snapshot 1",
    "put:repair:trying 2",
    "put:draft_write 1",
    "put:repair:trying:drafted 1",
    "put:intent:trial 1",
    "done:intent:trial 1",
    "repair_verified 1",
    "repair_published 1",
    "tool_finished:propose_repair 1",
    "assistant_message 2",
    "turn_finished 2",
]
# Something was done outside of the journal since the change before: n8n was asked, or somebody waits for an answer.
ASKED = [
    *("user_message 1", "put:intent:create 1", "done:intent:create 1", "tool_finished:publish_workflow 1"),
    *("workflow_error 1", "repair_proposed 1", "put:snapshot 1", "put:repair:trying:drafted 1", "put:intent:trial 1"),
    *("done:intent:trial 1", "repair_verified 1", "repair_published 1"),
]
MOMENTS = [*(f"after {change}" for change in CHANGES), *(f"before {change}" for change in ASKED)]
# Written down, not sent: nobody can know, so it is not sent again and a person decides.
UNSURE = {"after put:intent:trial 1"}
# (request, whether n8n has done it when the worker dies, seconds until it goes on after that)
REQUESTS: list[tuple[Any, Any, float]] = [
    *(("create", when, late) for when in ("before", "after") for late in (0.0,)),
    *((step, when, late) for step in ("put", "publish") for when in ("before", "after") for late in (0.0, 2.5)),
    *(("retry", when, 0.0) for when in ("before", "after")),
    ("retry", "run", 3.5),
]


@dataclass(slots=True)
class Stage:
    """A bridge, its n8n, and the folder of its switches."""

    server: BridgeServer
    n8n: HealN8n
    folder: Path


@dataclass(slots=True)
class HealStory:
    stage: Stage
    story: Story = field(init=False)
    path: str = field(default_factory=lambda: f"orders-{uuid.uuid4().hex[:8]}")
    workflow_id: str = ""

    def __post_init__(self) -> None:
        self.story = Story(self.stage.server)

    def build(self) -> None:
        self.story.connect()
        calls = [["create_workflow", workflow(self.path)], ["publish_workflow", {"workflowId": "$id"}]]
        self.story.ask(json.dumps(calls))
        self.workflow_id = self.story.receive("workflow_registered")["data"]["workflowId"]
        self.story.ended()

    def fail(self) -> None:
        assert self.stage.n8n.call_webhook(self.path)[0] == 200

    def healed(self, *, asks: bool = False) -> None:
        if asks:
            repair_id = self.story.receive("repair_waiting")["data"]["repairId"]
            self.story.approve(repair_id)
        self.story.receive("repair_published")
        soon(lambda: not self.unfinished(), what="every turn's end")

    def unfinished(self) -> bool:
        events = Counter(event["type"] for event in self.story.events())
        return events["turn_started"] != events["turn_finished"] or not events["repair_published"]

    def check(self, *, asks: bool = False) -> None:
        n8n, story, workflow_id = self.stage.n8n, self.story, self.workflow_id
        n8n.settle(LIMIT_S)
        own = [d for d in n8n.deliveries if d.body["workflow"]["id"] == workflow_id and 200 <= d.status < 300]
        story.acknowledged += sorted({d.body["execution"]["id"] for d in own})
        count = Counter(event["type"] for event in story.check())
        once = ("workflow_registered", "workflow_error", "repair_proposed", "repair_published")
        assert {kind: count[kind] for kind in once} == dict.fromkeys(once, 1)
        assert count["repair_verified"] == (not asks)
        assert not {"repair_failed", "repair_blocked", "rolled_back"} & count.keys()

        (repair,) = story._get("/sessions/{sid}/repairs")["repairs"]
        assert (repair["state"], repair["attempt"]) == ("published", 1)
        shown = story._get("/sessions/{sid}")
        assert [one["workflowId"] for one in shown["workflows"]] == [workflow_id]
        assert shown["pendingRepairs"] == []
        snapshots = story._get(f"/sessions/{{sid}}/workflows/{workflow_id}/snapshots")["snapshots"]
        assert [url_of(snapshot["workflow"]) for snapshot in snapshots] == [BROKEN] * (1 + asks)
        (case,) = documents(self.stage.server, "case", workflow_id)
        assert (case["state"], case["outcome"]) == ("closed", "published")
        assert not documents(self.stage.server, "rollback", workflow_id)

        made = [w for w in n8n.workflows.values() if w.public["name"] == f"Orders {self.path}"]
        assert [w.public["id"] for w in made] == [workflow_id]
        versions = [url_of(version) for version in n8n.workflows[workflow_id].versions.values()]
        assert versions.count(FIXED) == (2 if asks else 1), versions
        assert len(n8n.sent(workflow_id, "retry")) == len(n8n.runs(workflow_id, "retry")) == (not asks)
        assert url_of(n8n.active(workflow_id)) == FIXED
        assert n8n.is_clean(workflow_id)
        assert n8n.draft(workflow_id)["settings"]["errorWorkflow"]
        before = len(n8n.runs(workflow_id, "webhook"))
        n8n.call_webhook(self.path)
        runs = n8n.runs(workflow_id, "webhook")
        assert [run["status"] for run in runs[before:]] == ["success"]


def documents(server: BridgeServer, kind: str, key: str) -> list[dict[str, Any]]:
    with sqlite3.connect(f"file:{server.folder / 'journal.db'}?mode=ro", uri=True) as journal:
        query = "SELECT body FROM documents WHERE kind = ? AND key LIKE ?"
        return [json.loads(body) for (body,) in journal.execute(query, (kind, f"{key}%"))]


def killed_at(stage: Stage, moment: str) -> None:
    (pid,) = stage.server.worker_pids()
    (stage.folder / "die").write_text(moment)
    story = HealStory(stage)
    asks = moment in UNSURE
    try:
        story.build()
        story.fail()
        story.healed(asks=asks)
        soon(lambda: not (stage.folder / "die").exists(), limit_s=2, what="somebody to be killed")
        wait_for(lambda: pid not in stage.server.worker_pids(), what="another worker")
        story.check(asks=asks)
    finally:
        (stage.folder / "die").unlink(missing_ok=True)
        story.story.close()


def killed_during(stage: Stage, request: tuple[Any, Any, float]) -> None:
    step, when, late_s = request
    story, n8n = HealStory(stage), stage.n8n
    try:
        if step == "create":
            hold = n8n.hold("", "create", when)
            killer = killing(stage, hold.reached, hold.release, late_s)
            story.build()
            story.fail()
        elif when == "run":
            story.build()
            n8n.hold_runs()
            reached = threading.Event()
            killer = killing(stage, reached, n8n.release_runs, late_s)
            n8n.release_runs()
            hold = n8n.hold(story.workflow_id, "run", "after", skip=1)
            story.fail()
            assert hold.reached.wait(LIMIT_S)
            n8n.hold_runs()
            hold.release()
            wait_for(lambda: n8n.runs(story.workflow_id, "retry"), what="the trial's run")
            reached.set()
        else:
            story.build()
            hold = n8n.hold(story.workflow_id, step, when)
            killer = killing(stage, hold.reached, hold.release, late_s)
            story.fail()
        story.healed()
        killer.join(LIMIT_S)
        story.check()
    finally:
        n8n.release_runs()
        story.story.close()


# The first proposal fails its trial and is put back; the second one is published; that is undone.
SECOND = [
    *("after repair_unverified 1", "before repair_unverified 1", "after repair_proposed 2", "after put:snapshot 2"),
    *("after put:rollback 1", "after put:snapshot 3", "before rolled_back 1", "after rolled_back 1"),
]
SECOND_REQUESTS = [(step, skip, when) for step, skip in (("put", 1), ("put", 3), ("publish", 1)) for when in _WHEN]


def undone(stage: Stage, moment: Any) -> None:
    """``moment`` as above, or a request of n8n's: its step, how many come before it, and whether it is done."""
    story, n8n = HealStory(stage), stage.n8n
    proposals = [to(WORSE), to(FIXED)]
    try:
        story.build()
        workflow_id = story.workflow_id
        (stage.folder / f"{workflow_id}.json").write_text(json.dumps({"proposals": proposals}))
        before = json.loads(json.dumps(n8n.draft(workflow_id)))
        if isinstance(moment, str):
            (stage.folder / "die").write_text(moment)
        else:
            step, skip, when = moment
            hold = n8n.hold(workflow_id, step, when, skip=skip)
            killing(stage, hold.reached, hold.release, 0.0)
        story.fail()
        story.healed()
        body = {"type": "rollback", "workflowId": workflow_id}
        answer = retried(lambda: story.story.client.http("POST", "/sessions/{sid}/commands", body))
        assert answer.status in (202, 409), answer
        story.story.receive("rolled_back")
        soon(lambda: not documents(stage.server, "rollback", workflow_id), what="the undo's end")

        n8n.settle(LIMIT_S)
        count = Counter(event["type"] for event in story.story.events())
        once = ("workflow_registered", "repair_verified", "repair_published", "rolled_back")
        assert {kind: count[kind] for kind in once} == dict.fromkeys(once, 1)
        assert canonical_hash(n8n.draft(workflow_id)) == canonical_hash(before)
        assert n8n.is_clean(workflow_id)
        assert url_of(n8n.active(workflow_id)) == BROKEN
        # An agent that begins anew may propose the same again; each draft is tried once.
        assert count["repair_unverified"] in (1, 2)
        tried = [run["workflowVersionId"] for run in n8n.runs(workflow_id, "retry")]
        assert len(tried) == len(set(tried)) == count["repair_unverified"] + 1
        assert not (stage.folder / "die").exists(), "nobody was killed"
    finally:
        (stage.folder / "die").unlink(missing_ok=True)
        story.story.close()


def killing(stage: Stage, reached: threading.Event, let_go: Callable[[], None], late_s: float) -> threading.Thread:
    """Kill the worker as soon as n8n is at it; n8n goes on ``late_s`` after that."""

    def kill() -> None:
        assert reached.wait(LIMIT_S)
        (pid,) = stage.server.worker_pids()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pid not in stage.server.worker_pids(), what="its end")
        time.sleep(late_s)
        let_go()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


JOBS: dict[str, tuple[Callable[[Stage, Any], None], Any]] = {
    **{moment.replace(" ", "-"): (killed_at, moment) for moment in MOMENTS},
    **{"during-{}-{}-{}".format(*request): (killed_during, request) for request in REQUESTS},
    **{f"undone-{moment.replace(' ', '-')}": (undone, moment) for moment in SECOND},
    **{"undone-during-{}-{}-{}".format(*request): (undone, request) for request in SECOND_REQUESTS},
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[queue.Queue[Stage]]:
    with ExitStack() as stack:
        free: queue.Queue[Stage] = queue.Queue()
        for number in range(STAGES):
            folder = tmp_path_factory.mktemp(f"stage{number}")
            (folder / "any.json").write_text(json.dumps({"proposals": [to(FIXED)]}))
            n8n = stack.enter_context(healing_n8n())
            free.put(Stage(stack.enter_context(planned_bridge(n8n, folder)), n8n, folder))
        yield free


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, stages: queue.Queue[Stage]) -> Iterator[Callable[[str], None]]:
    """Each kill on a server of its own, a few side by side: mostly a lease is waited for."""
    asked = {item.callspec.id for item in request.session.items if hasattr(item, "callspec")}

    def run(job: str) -> None:
        stage = stages.get()
        try:
            work, what = JOBS[job]
            stage.server.wait_healthy(limit_s=LIMIT_S)
            work(stage, what)
        finally:
            stages.put(stage)

    with ThreadPoolExecutor(STAGES) as pool:
        begun: dict[str, Future[None]] = {job: pool.submit(run, job) for job in JOBS if job in asked}
        yield lambda job: begun[job].result(55)
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("job", JOBS)
def test_a_worker_that_is_killed_costs_nothing_and_does_nothing_twice(
    outcomes: Callable[[str], None], job: str
) -> None:
    outcomes(job)


def test_the_story_has_no_other_moments(stages: queue.Queue[Stage]) -> None:
    """Undisturbed, each of its changes is one that is interrupted above."""
    stage = stages.get()
    try:
        (stage.folder / "record").touch()
        story = HealStory(stage)
        story.build()
        story.fail()
        story.healed()
        story.check()
        story.story.close()
        changes = [set(json.loads(line)) for line in (stage.folder / "record").read_text().splitlines()]
        known = {change.split()[0] for change in CHANGES}
        assert not [sorted(change) for change in changes if not change & known and change & _OWN]
    finally:
        (stage.folder / "record").unlink()
        stages.put(stage)


_OWN = {f"put:{kind}" for kind in ("repair", "case", "snapshot", "intent", "registration", "rollback", "draft_write")}
