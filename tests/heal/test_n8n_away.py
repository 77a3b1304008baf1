"""n8n goes away at some step of a repair, and comes back: the repair ends well, once, and nobody else is held up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.heal.rig import BROKEN, FIXED, LIMIT_S, Healing, HealN8n, soon, to, url_of
from tests.support.server import BridgeServer

# What a repair reads of the workflow, in order: opening, get_workflow, propose_repair twice, the snapshot, the PUT's
# base, its reading back, the trial's check, the publication's begin and its two looks.
READS = range(11)
# (step, how it fails, how often, what comes of it)
FAILURES: list[tuple[Any, Any, int, str]] = [
    ("put", "status", 4, "published"),
    ("put", "drop", 4, "published"),
    ("put", "drop_after", 4, "published"),
    ("put", "stall", 1, "published"),
    ("put", "garbage", 1, "failed"),
    ("retry", "drop_after", 1, "published"),
    ("retry", "garbage", 1, "published"),
    ("retry", "status", 1, "waiting"),
    ("retry", "drop", 1, "waiting"),
    ("publish", "status", 4, "published"),
    ("publish", "drop", 4, "published"),
    ("publish", "drop_after", 4, "published"),
    ("publish", "stall", 1, "published"),
    ("run", "drop", 4, "published"),
]
CASES = [("get", "drop", 4, "published", number) for number in READS] + [(*failure, 0) for failure in FAILURES]


def _name(case: Any) -> str:
    return "-".join(map(str, (case[0], case[1], *([case[4]] if case[0] == "get" else []))))


@pytest.fixture(scope="module")
def all_at_once(home: tuple[BridgeServer, HealN8n, Path]) -> Iterator[dict[Any, Healing]]:
    """They mostly wait: so all of them wait together."""
    server, n8n, folder = home
    begun: dict[Any, Healing] = {}
    for case in CASES:
        step, kind, times, _, skip = case
        one = Healing(server, n8n, folder).adopt(to(FIXED))
        n8n.spoil(one.workflow_id, step, kind, times=times, skip=skip)
        one.fail()
        begun[case] = one
    yield begun
    for one in begun.values():
        one.close()


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_one_step_fails_for_a_while(all_at_once: dict[Any, Healing], case: Any) -> None:
    one, outcome = all_at_once[case], case[3]

    one.wait_state(outcome)
    soon(lambda: one.n8n.is_clean(one.workflow_id), what="the draft is what runs")

    retries = one.n8n.sent(one.workflow_id, "retry")
    assert len(retries) == (0 if outcome == "failed" else 1)
    versions = one.n8n.workflows[one.workflow_id].versions.values()
    assert [url_of(version) for version in versions].count(FIXED) == 1
    if outcome == "published":
        one.check_published()
    else:
        assert url_of(one.n8n.active(one.workflow_id)) == BROKEN
        assert not one.n8n.sent(one.workflow_id, "publish")
    # Every turn has ended, and the repair was told once.
    events = one.events()
    assert [e["type"] for e in events].count("turn_started") <= [e["type"] for e in events].count("turn_finished") + 1
    assert len(events) < 60
    if outcome == "waiting":
        (repair,) = one.repairs()
        assert one.command("approve", repairId=repair["repairId"]) == 202
        one.check_published()


def test_nobody_is_held_up_while_it_is_down(home: tuple[BridgeServer, HealN8n, Path]) -> None:
    """Nobody listens at n8n's address: before the PUT, the retry, the publication and the putting back."""
    server, n8n, folder = home
    points: dict[str, Callable[[str], Any]] = {
        "opening": lambda w: n8n.hold(w, "get", "before"),
        "put": lambda w: n8n.hold(w, "get", "after", skip=5),
        "retry": lambda w: n8n.hold(w, "run", "after", skip=1),
        "publish": lambda w: n8n.hold(w, "get", "after", skip=9),
        "put back": lambda w: n8n.hold(w, "retry", "after"),
    }
    stories = {point: Healing(server, n8n, folder) for point in points}
    holds = []
    for point, one in stories.items():
        one.adopt(to(FIXED), autonomy="ask" if point == "put back" else "auto")
        holds.append(points[point](one.workflow_id))
        one.fail()
    for hold in holds:
        assert hold.reached.wait(LIMIT_S)

    n8n.go_down()
    try:
        for hold in holds:
            hold.release()
        for one in stories.values():
            one.client.say("still there?")
        for one in stories.values():
            assert one.receive("assistant_message", text="still there?")
        for one in stories.values():
            assert one.state() not in ("published", "failed", "waiting")
        told = {point: len(one.events()) for point, one in stories.items()}
    finally:
        n8n.come_back()

    for point, one in stories.items():
        one.wait_state("waiting" if point == "put back" else "published")
        assert n8n.is_clean(one.workflow_id), point
        assert len(n8n.runs(one.workflow_id, "retry")) == 1, point
        if point != "put back":
            one.check_published()
        assert len(one.events()) < told[point] + 30, point
        one.close()


def test_a_person_is_told_once_that_only_they_can_help(home: tuple[BridgeServer, HealN8n, Path]) -> None:
    """n8n does not take the API key any more: no later try can help until somebody sets another."""
    server, n8n, folder = home
    one = Healing(server, n8n, folder).adopt(to(FIXED))
    key, n8n.api_key = n8n.api_key, "another"
    try:
        one.fail()
        told = one.receive("notice", level="warning")
        assert "API key" in told["text"]
        refused = n8n.count("GET", f"/workflows/{one.workflow_id}")
        soon(lambda: n8n.count("GET", f"/workflows/{one.workflow_id}") > refused, what="it is tried again")
    finally:
        n8n.api_key = key

    one.wait_state("published")

    assert one.kinds("notice") == ["notice"]
    one.close()
