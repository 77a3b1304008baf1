"""The operators' view: who may see it, the brake, readiness, numbers, sessions, dead letters."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.console.rig import Console
from tests.support.client import Client
from tests.support.server import UNLIMITED, BridgeServer

ACCESS = "access-token-of-these-tests"
SAMPLED_MS = 5_000
HEADERS = {"Authorization": f"Bearer {ACCESS}"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[BridgeServer]:
    with BridgeServer({**UNLIMITED, "ACCESS_TOKEN": ACCESS}) as server:
        yield server


def failure(workflow_id: str, name: str) -> dict[str, Any]:
    run = {"id": uuid.uuid4().hex, "error": {"message": "<b>boom</b>", "name": "Error"}, "lastNodeExecuted": "Ask"}
    return {"execution": run, "workflow": {"id": workflow_id, "name": name}}


@pytest.fixture
def ops(open_console: Callable[..., Console], guarded: BridgeServer) -> Console:
    """The view, with the token given in it."""
    console = open_console(guarded)
    console.expect_complaint("401")
    console.page.goto(f"{guarded.url}/#ops")
    console.button("Give the access token").click()
    console.page.get_by_role("dialog").get_by_label("Access token").fill(ACCESS)
    console.page.keyboard.press("Enter")
    console.page.get_by_role("region", name="Readiness").get_by_text("journal: ok").wait_for()
    return console


def test_the_brake_is_shown_and_set_and_a_refusal_is_told_beside_it(ops: Console) -> None:
    def autonomy() -> str:
        return str(ops.server.get("/autonomy", headers=HEADERS).json["autonomy"])

    brake = ops.page.get_by_role("group", name="The brake")
    expect(brake.get_by_role("button", name="auto", pressed=True)).to_be_visible()
    brake.get_by_role("button", name="observe").click()
    ops.page.get_by_text("The brake is on: failures are recorded").first.wait_for()
    ops.page.reload()
    expect(brake.get_by_role("button", name="observe", pressed=True)).to_be_visible()
    assert autonomy() == "observe"

    ops.expect_complaint("503")
    ops.page.route(
        "**/autonomy",
        lambda route: (
            route.fulfill(status=503, json={"detail": "The journal is away."})
            if route.request.method == "PUT"
            else route.continue_()
        ),
    )
    brake.get_by_role("button", name="auto").click()
    ops.page.get_by_text("It stays at \u201cobserve\u201d: The journal is away.").wait_for()
    assert autonomy() == "observe"
    ops.page.unroute("**/autonomy")
    brake.get_by_role("button", name="auto").click()
    ops.page.get_by_text("The brake is off").first.wait_for()
    assert autonomy() == "auto"


def test_what_is_not_ready_and_what_cannot_be_asked_is_told_in_place(ops: Console) -> None:
    ops.expect_complaint("503")
    ops.page.clock.install()
    ops.page.reload()
    ops.page.get_by_role("region", name="Readiness").get_by_text("journal: ok").wait_for()
    away = {"status": "not ready", "checks": {"journal": "disk is full", "worker": "ok"}}
    ops.page.route("**/readyz", lambda route: route.fulfill(status=503, json=away))
    ops.page.route("**/metrics", lambda route: route.fulfill(status=503, json={"detail": "Come back."}))
    numbers = ops.page.get_by_role("region", name="Now")
    expect(numbers.get_by_role("img", name="Live sessions: ")).to_be_visible()
    ops.page.clock.run_for(SAMPLED_MS)
    ops.page.get_by_role("region", name="Readiness").get_by_text("journal: disk is full").wait_for()
    numbers.get_by_role("alert").get_by_text("Come back.").wait_for()
    # What was known stays.
    expect(numbers.get_by_role("img", name="Live sessions: ")).to_be_visible()


def test_a_dead_letter_is_read_replayed_and_adopted(ops: Console, guarded: BridgeServer) -> None:
    with Client(guarded).connect(accessToken=ACCESS) as owner:
        hostile, other = uuid.uuid4().hex[:16], uuid.uuid4().hex[:16]
        guarded.post("/callbacks/n8n/error", json=failure(hostile, "<img src=x onerror=alert(1)>"))
        guarded.post("/callbacks/n8n/error", json=failure(other, "Other"))
        guarded.post("/callbacks/n8n/error", json={"no": "workflow"})
        ops.page.reload()
        letters = ops.page.get_by_role("region", name="Dead letters")
        ops.page.get_by_role("region", name="Live sessions").get_by_role("link").wait_for()
        letters.get_by_text("It cannot be replayed").wait_for()
        number = ops.page.locator("[data-metric=letters]")
        expect(number.get_by_text("3 in all")).to_be_visible()
        letters.get_by_label("Show those with the reason").select_option("no_session")
        expect(letters.get_by_text("Not what n8n sends").locator("visible=true")).to_have_count(0)
        letter = letters.locator("[data-letter]").filter(has_text=hostile)
        letter.get_by_text("What came").click()
        letter.get_by_text("<b>boom</b>").wait_for()
        ops.check_accessible()

        ops.expect_complaint("409")
        letter.get_by_role("button", name="Replay").click()
        letter.get_by_text("Not replayed: No open session owns this workflow").wait_for()
        letter.get_by_label("into").select_option(owner.session_id)
        letter.get_by_role("button", name="Replay").click()
        letter.get_by_text("Taken; its repair is queued.").wait_for()
        assert owner.receive("workflow_registered")["data"]["workflowId"] == hostile
        assert owner.receive("workflow_error")["data"]["source"] == "replay"
        letter.get_by_role("link", name="Open the session").click()
        ops.page.get_by_role("tabpanel", name="Workflows").get_by_text("<img src=x onerror=alert(1)>").wait_for()
