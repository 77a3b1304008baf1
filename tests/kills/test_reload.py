"""A reload under load: no request fails, no event is lost, every socket comes back, the running turn ends once."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.kills.conftest import mortal_bridge
from tests.kills.load import Caller, Follower
from tests.kills.story import LIMIT_S, Story
from tests.support.server import BridgeServer, wait_for

SOCKETS, PER_SECOND, CALLERS = 50, 50, 10


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("workers", "reloads"), [(1, 1), (2, 3)], ids=["one worker", "two workers, three reloads"])
def test_nobody_notices_a_reload_under_load(tmp_path: Path, workers: int, reloads: int) -> None:
    with mortal_bridge(tmp_path, WEB_CONCURRENCY=workers) as server:
        story = Story(server)
        story.ask("stream released")
        wait_for(lambda: story.count("assistant_delta"), limit_s=LIMIT_S, what="a running turn")
        followers = [Follower(server) for _ in range(SOCKETS)]
        workflows = [follower.workflow_id for follower in followers]
        pace = CALLERS / PER_SECOND
        callers = [Caller(server, workflows, interval_s=pace, keep_alive=n % 2 == 0) for n in range(CALLERS)]
        for thread in (*followers, *callers):
            thread.start()

        first = set(server.worker_pids())
        for number in range(1, reloads + 1):
            old = set(server.worker_pids())
            server.write_env(f"WS_PING_INTERVAL_SECONDS={20 + number}")
            (server.project / "app" / "version.py").write_text(f'"""The version."""\n\nVERSION = "reload-{number}"\n')
            server.hup(wait=False)
            if number == 1:
                wait_for(lambda: all(f.goodbyes or f.error for f in followers), limit_s=LIMIT_S, what="goodbyes")
                (tmp_path / "released").touch()
            else:  # the next one comes while this one's workers are coming up
                wait_for(partial(_all_new, server, old, workers), limit_s=LIMIT_S, what="new workers")
        wait_for(lambda: all(f.follows(20 + reloads) for f in followers), limit_s=LIMIT_S, what="every socket")
        wait_for(lambda: len(server.worker_pids()) == workers, limit_s=LIMIT_S, what="the old workers' end")
        assert not first & set(server.worker_pids())
        assert server.get("/health").json["version"] == f"reload-{reloads}"
        for caller in callers:
            caller.end()
        history = {f.client.session_id: _history(f) for f in followers}
        wait_for(
            lambda: all(f.client.last_seq == history[f.client.session_id][-1] for f in followers), what="all events"
        )
        for follower in followers:
            follower.end()

        answered = Counter(workflow for caller in callers for workflow in caller.answered.values())
        away_s = [seconds for follower in followers for seconds in follower.away_s]
        print(
            f"{answered.total()} callbacks, {sum(c.closed for c in callers)} kept connections closed between requests, "
            f"sockets away for {max(away_s):.1f} s at most, {sum(f.turned_away for f in followers)} turned away"
        )
        assert not [follower.error for follower in followers if follower.error]
        assert not [failure for caller in callers for failure in caller.failures]
        assert not sum(caller.closed for caller in callers)
        for follower in followers:
            seqs = [event["seq"] for event in follower.client.events]
            assert seqs == history[follower.client.session_id], "each event once, in order"
            assert follower.client.welcome["limits"]["pingIntervalSeconds"] == 20 + reloads
            errors = [e for e in follower.client.events if e["type"] == "workflow_error"]
            assert len(errors) == answered[follower.workflow_id]
            follower.client.disconnect()
        wait_for(lambda: story.outcomes(), limit_s=LIMIT_S, what="the turn's end")
        assert story.outcomes() == ["completed"]
        story.check(inputs=1)
        assert not server.log_lines(level="error")
        assert not server.log_lines(level="warning")


def _all_new(server: BridgeServer, old: set[int], workers: int) -> bool:
    return len(set(server.worker_pids()) - old) == workers


def _history(follower: Follower) -> list[int]:
    answer = follower.client.http("GET", "/sessions/{sid}/events?limit=1000")
    return [event["seq"] for event in answer.json["events"]]
