"""What the operator's address is told of repairs: each once, whatever becomes of it and of the worker meanwhile."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.receiver import Post, Receiver
from tests.heal.conftest import planned_bridge
from tests.heal.rig import FIXED, SECRET, Healing, HealN8n, Json, healing_n8n, soon, to
from tests.heal.test_kills import documents
from tests.support.server import BridgeServer, wait_for

PATH, QUERY = "/services/T0123/B0456/q7Wk2mZx9LtR", "token=vN5pGh83sYbd&x=1"
SIGNING = ("first-secret-of-the-signature", "whsec_" + base64.b64encode(b"old secret of the signature").decode())
LATER = count(900_000)
"""Ids of runs that come after those of the fake n8n."""
SHORT = """
from app import lifecycle
from app.repairs import delivery, notify
lifecycle.NOTIFY_INTERVAL_S = 0.1
lifecycle.PUBLICATION_SETTLES_S = 0.0
notify.PAUSES_S = (0.2, 0.2, 0.5, 1.0, 1.0, 1.0, 1.0)
delivery.POST_TIMEOUT_S = 1.0
delivery.ANSWER_TIMEOUT_S = 0.2
"""


class Stage:
    """A bridge that tells a receiver."""

    def __init__(self, server: BridgeServer, n8n: HealN8n, folder: Path, receiver: Receiver) -> None:
        self.server, self.n8n, self.folder, self.receiver = server, n8n, folder, receiver
        self.made: list[Healing] = []

    def heal(self, *proposals: Json, **options: Any) -> Healing:
        self.made.append(Healing(self.server, self.n8n, self.folder))
        return self.made[-1].adopt(*proposals, **options)

    def told(self, one: Healing, kind: str) -> Post:
        """The first such notification of this workflow, as soon as it is there."""
        return wait_for(lambda: next(iter(self.receiver.about(one.workflow_id, kind)), None), what=kind)  # type: ignore[return-value]

    def left(self) -> list[dict[str, Any]]:
        return documents(self.server, "notification", "")

    def done(self) -> None:
        """Wait until there is nothing left that anybody could send."""
        soon(lambda: not self.left(), what="the last notification to be dealt with")

    def close(self) -> None:
        for one in self.made:
            one.close()


@contextmanager
def staged(
    folder: Path, receiver: Receiver, *, url: str | None = None, more: str = "", **settings: Any
) -> Iterator[Stage]:
    """:param more: Python that is run after ``SHORT``."""
    address = receiver.url + PATH + "?" + QUERY if url is None else url
    given = {"NOTIFY_URL": address, "NOTIFY_SECRET": ",".join(SIGNING), "LOG_LEVEL": "debug", **settings}
    with healing_n8n() as n8n, planned_bridge(n8n, folder, prelude=SHORT + more, **given) as server:
        stage = Stage(server, n8n, folder, receiver)
        try:
            yield stage
        finally:
            stage.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Receiver() as receiver, staged(tmp_path_factory.mktemp("notify"), receiver, WEB_CONCURRENCY=2) as stage:
        yield stage


@pytest.fixture
def two(shared: Stage) -> Iterator[Stage]:
    """Two workers, and a receiver that takes everything."""
    shared.receiver.posts.clear()
    yield shared
    shared.receiver.hang = False
    shared.receiver.released.set()
    shared.receiver.answers.clear()
    shared.done()
    shared.receiver.released.clear()


def come_again(one: Healing) -> str:
    """n8n tells of the same error in a run that is younger than all others; gives what became of it."""
    (told,) = [d.body for d in one.n8n.deliveries if d.body["workflow"]["id"] == one.workflow_id]
    body = {**told, "execution": {**told["execution"], "id": str(next(LATER))}}
    return str(one.client.http("POST", "/callbacks/n8n/error", body, SECRET).json["repair"])


def verified(post: Post) -> list[bool]:
    """Whether each of our secrets has signed it, computed as the standard says."""
    signed = f"{post.headers['webhook-id']}.{post.headers['webhook-timestamp']}.".encode() + post.raw
    keys = (SIGNING[0].encode(), b"old secret of the signature")
    wanted = ["v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    return [one in post.headers["webhook-signature"].split(" ") for one in wanted]


# -- what is told


def test_a_published_repair_and_then_its_blocked_error_are_told_once_each(two: Stage) -> None:
    one = two.heal(to(FIXED))
    one.heal()
    published = two.told(one, "repair_published")
    assert come_again(one) == "blocked"
    assert come_again(one) == "blocked"
    blocked = two.told(one, "repair_blocked")
    two.done()

    assert Counter(post.type for post in two.receiver.about(one.workflow_id)) == {
        "repair_published": 1,
        "repair_blocked": 1,
    }
    (repair,) = one.repairs()
    body = published.body
    assert (published.method, published.target) == ("POST", f"{PATH}?{QUERY}")
    assert published.headers["content-type"] == "application/json"
    assert published.headers["user-agent"].startswith("n8n-self-healing-bridge/")
    assert published.headers["webhook-id"] == body["id"] != blocked.body["id"]
    assert body.keys() == {
        *("id", "type", "at", "sessionId", "workflowId", "workflowName", "repairId", "signature"),
        *("kind", "summary", "url", "text"),
    }
    assert (body["sessionId"], body["repairId"]) == (one.client.session_id, repair["repairId"])
    assert (body["signature"], body["kind"]) == (repair["signature"], "workflow_bug")
    assert body["url"] == f"{two.server.url}/#session={one.client.session_id}"
    assert body["text"] == f'A repair of "{body["workflowName"]}" was published: {body["url"]}'
    assert blocked.body["reason"] == "The same error came back after its repair. The repair is undone."
    assert blocked.body["workflowName"] == body["workflowName"]
    assert [verified(post) for post in (published, blocked)] == [[True, True]] * 2


def test_a_repair_that_waits_says_until_when_and_then_that_it_was_published(two: Stage) -> None:
    one = two.heal(to(FIXED), autonomy="ask")
    one.fail()
    waiting = one.receive("repair_waiting")
    told = two.told(one, "repair_waiting").body
    assert (told["reason"], told["expiresAt"]) == (waiting["reason"], waiting["expiresAt"])
    assert one.command("approve", repairId=waiting["repairId"]) == 202
    published = two.told(one, "repair_published").body
    two.done()

    assert "reason" not in published and "expiresAt" not in published
    assert [post.type for post in two.receiver.about(one.workflow_id)] == ["repair_waiting", "repair_published"]


def test_a_repair_that_fails_is_told_once(two: Stage) -> None:
    one = two.heal()
    one.heal()
    told = two.told(one, "repair_failed").body
    two.done()

    assert told["reason"] == one.data("repair_failed")[0]["reason"]
    assert len(two.receiver.about(one.workflow_id)) == 1


def test_many_repairs_at_once_are_told_once_each(two: Stage) -> None:
    many = [two.heal(to(FIXED)) for _ in range(8)]
    for one in many:
        one.fail()
    for one in many:
        one.receive("repair_published")
    two.done()

    assert Counter(post.body["workflowId"] for post in two.receiver.posts) == {one.workflow_id: 1 for one in many}
    assert len({post.body["id"] for post in two.receiver.posts}) == 8


# -- a receiver that does not take it


def test_what_is_answered_with_500_comes_again_with_the_same_id_and_body(two: Stage) -> None:
    two.receiver.answers += [(500, {}), (503, {"Retry-After": "1"})]
    one = two.heal(to(FIXED))
    one.heal()
    two.done()

    posts = two.receiver.about(one.workflow_id)
    assert len(posts) == 3
    assert len({(post.headers["webhook-id"], post.raw) for post in posts}) == 1
    assert all(verified(post) == [True, True] for post in posts)
    asked, came = (int(post.headers["webhook-timestamp"]) for post in posts[1:])
    assert came > asked  # after the second that was asked for


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_receiver_that_will_never_take_it_is_asked_once(two: Stage, status: int) -> None:
    two.receiver.answers.append((status, {}))
    one = two.heal(to(FIXED))
    one.heal()
    two.done()

    (post,) = two.receiver.about(one.workflow_id)
    line = two.server.wait_log(f"a notification was given up: it was answered with {status}")
    assert (line["level"], line["workflowId"]) == ("error", one.workflow_id)
    assert line["notificationId"] == post.headers["webhook-id"]


@pytest.mark.parametrize("status", [408, 425, 429])
def test_a_receiver_that_says_later_is_asked_again(two: Stage, status: int) -> None:
    two.receiver.answers.append((status, {}))
    one = two.heal(to(FIXED))
    one.heal()
    two.done()

    assert len(two.receiver.about(one.workflow_id)) == 2


def test_a_redirect_is_not_followed_and_the_tries_end(two: Stage) -> None:
    two.receiver.answers += [(307, {"Location": f"{two.receiver.url}/elsewhere"})] * 8
    one = two.heal(to(FIXED))
    one.heal()
    two.done()

    posts = two.receiver.about(one.workflow_id)
    assert len(posts) == 8
    assert {post.target for post in posts} == {f"{PATH}?{QUERY}"}
    assert two.server.wait_log("a notification was given up: it was answered with 307")["tries"] == 8


def test_a_receiver_that_hangs_delays_neither_callbacks_nor_repairs(two: Stage) -> None:
    two.receiver.hang = True
    first = two.heal(to(FIXED))
    first.heal()
    two.told(first, "repair_published")
    second = two.heal(to(FIXED))
    second.heal()
    assert second.state() == "published"
    assert come_again(second) == "blocked"
    assert not two.receiver.released.is_set()  # not one was answered until here
    assert two.left()
    assert two.server.wait_log("a notification was not taken: it took too long")["level"] == "warning"
    two.receiver.hang = False
    two.receiver.released.set()
    two.told(second, "repair_published")
    two.done()

    assert len({post.body["id"] for post in two.receiver.about(first.workflow_id)}) == 1


def test_what_is_held_longer_than_the_lease_of_the_chore_is_sent_by_one_worker(tmp_path: Path) -> None:
    settings = {"WEB_CONCURRENCY": 2, "LEASE_SECONDS": 0.3, "more": "delivery.POST_TIMEOUT_S = 20.0"}
    with Receiver() as receiver, staged(tmp_path, receiver, **settings) as stage:
        receiver.hang = True
        first, second = stage.heal(to(FIXED)), stage.heal(to(FIXED))
        first.heal()
        stage.told(first, "repair_published")
        second.heal()
        # The first one's worker still waits for its answer, so this one comes from the other.
        stage.told(second, "repair_published")
        receiver.released.set()
        stage.done()

        assert Counter(post.body["workflowId"] for post in receiver.posts) == {
            first.workflow_id: 1,
            second.workflow_id: 1,
        }


def test_a_receiver_that_is_down_for_a_while_gets_it_when_it_is_back(two: Stage) -> None:
    two.receiver.go_down()
    one = two.heal(to(FIXED))
    one.heal()
    two.server.wait_log("a notification was not taken: nobody listens there", workflowId=one.workflow_id)
    two.receiver.come_back()
    two.done()

    assert len(two.receiver.about(one.workflow_id)) == 1


def test_no_secret_is_told_or_logged(two: Stage) -> None:
    key, password = "sk-ant-api03-" + "aB3dE6gH9" * 5, "hunter2-of-the-shop"
    one = two.heal()
    error = {"message": f"no {key}", "description": f"postgres://shop:{password}@db/x", "stack": f"at {key}"}
    body = {
        "execution": {"id": str(next(LATER)), "mode": "trigger", "error": error, "lastNodeExecuted": "Ask"},
        "workflow": {"id": one.workflow_id, "name": f"Shop <!channel> {key} Authorization: Bearer {key}"},
    }
    assert one.client.http("POST", "/callbacks/n8n/error", body, SECRET).status == 202
    told = two.told(one, "repair_failed")
    two.done()

    assert told.body["text"].startswith('A repair of "Shop channel')
    sent = told.raw + json.dumps(dict(told.headers)).encode()
    planted = [key, password, *SIGNING, PATH, QUERY, "vN5pGh83sYbd", "q7Wk2mZx9LtR"]
    assert [secret for secret in planted if secret.encode() in sent] == []
    log = "\n".join(two.server.raw_lines())
    assert '"logger":"urllib3' in log.replace('": "', '":"')  # it says what it does, at this level
    assert [secret for secret in planted if secret in log] == []


# -- a worker that dies, settings that change


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One worker, which can be told to die."""
    with Receiver() as receiver, staged(tmp_path_factory.mktemp("mortal"), receiver) as stage:
        yield stage


@pytest.mark.parametrize(
    "moment", ["before repair_published 1", "after repair_published 1", "after put:notification 1"]
)
def test_a_worker_that_dies_before_it_sends_leaves_it_to_the_next(mortal: Stage, moment: str) -> None:
    one = mortal.heal(to(FIXED))
    (pid,) = mortal.server.worker_pids()
    (mortal.folder / "die").write_text(moment)
    one.fail()
    told = mortal.told(one, "repair_published")
    mortal.done()

    assert pid not in mortal.server.worker_pids()
    assert [post.raw for post in mortal.receiver.about(one.workflow_id)] == [told.raw]


def test_a_worker_that_dies_while_it_is_taken_lets_it_be_sent_again_with_the_same_id(mortal: Stage) -> None:
    one = mortal.heal(to(FIXED))
    mortal.receiver.hang = True
    one.fail()
    first = mortal.told(one, "repair_published")
    mortal.server.kill_worker()
    mortal.receiver.hang = False
    mortal.receiver.released.set()
    mortal.done()

    posts = mortal.receiver.about(one.workflow_id)
    assert [post.raw for post in posts] == [first.raw] * 2
    assert {post.headers["webhook-id"] for post in posts} == {first.body["id"]}


def test_only_what_happens_while_there_is_an_address_is_told(tmp_path: Path) -> None:
    with Receiver() as receiver, staged(tmp_path, receiver, url="") as stage:
        before = stage.heal(to(FIXED))
        before.heal()
        assert not stage.left()

        stage.server.write_env(f"NOTIFY_URL={receiver.url}/x\n")
        stage.server.hup()
        during = stage.heal(to(FIXED), autonomy="ask")
        during.fail()
        stage.told(during, "repair_waiting")
        receiver.go_down()
        assert during.command("approve", repairId=during.repairs()[0]["repairId"]) == 202
        soon(stage.left)

        stage.server.write_env("")
        stage.server.hup()
        stage.done()
        receiver.come_back()
        assert [(post.type, post.body["workflowId"]) for post in receiver.posts] == [
            ("repair_waiting", during.workflow_id)
        ]
        assert stage.server.worker_pids()
