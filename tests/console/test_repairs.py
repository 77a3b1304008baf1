"""Repairs as a timeline for each failure: decided with the change in view, blocked, counted, and from long ago."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from playwright.sync_api import Locator, expect

from tests.console.healing import Another, look_at
from tests.console.rig import PHONE, Console
from tests.heal.rig import BROKEN, FIXED, SECRET, Healing, to, url_of

Open = Callable[..., Console]
Begin = Callable[..., Healing]
LOCKED = "http://api.test/locked"
MANY = 310
"""More failures than events that a page begins with."""


def panel_of(console: Console) -> Locator:
    console.page.get_by_role("tab", name="Repairs").click()
    return console.page.get_by_role("tabpanel", name="Repairs")


def steps_of(case: Locator) -> list[str]:
    return case.locator(".timeline").first.locator(".what strong").all_text_contents()


def test_a_repair_is_decided_with_its_change_in_view_and_can_be_undone(open_console: Open, healing: Begin) -> None:
    one = healing(to(FIXED), autonomy="ask")
    one.fail()
    one.receive("repair_waiting")
    other = Another(one)
    other.adopt(to(FIXED), autonomy="ask")
    other.fail()
    other.receive("repair_waiting")
    console = open_console(one.server, color_scheme="dark")
    look_at(console, one)
    panel = panel_of(console)
    case = panel.get_by_role("listitem").filter(has_text=f"Orders {one.path}").first
    case.get_by_text("waits for you").wait_for()
    assert steps_of(case) == ["Error", "A fault in the workflow", "Change", "Trial", "Your decision"]
    expect(case.get_by_role("table", name="Ask").locator("td")).to_have_text([BROKEN, FIXED])
    case.get_by_text("went through").wait_for()
    case.get_by_text("It expires in 24 h.").wait_for()
    console.check_accessible()

    case.get_by_role("button", name="Larger").click()
    console.check_accessible()
    console.page.get_by_role("dialog").get_by_role("button", name="Approve and publish").click()
    case.get_by_text("Published by you or a colleague").wait_for()
    assert url_of(one.n8n.active(one.workflow_id)) == FIXED
    case.get_by_role("button", name="Undo this repair").click()
    console.page.get_by_role("dialog").get_by_role("button", name="Undo").click()
    case.get_by_text("The workflow is as it was before the repair.").wait_for()
    assert url_of(one.n8n.active(one.workflow_id)) == BROKEN

    rejected = panel.get_by_role("listitem").filter(has_text=f"Orders {other.path}").first
    # What was not done is told where it was asked for, and can be asked for again.
    away = {"detail": "The journal is away."}
    console.page.route("**/commands", lambda route: route.fulfill(status=503, json=away), times=1)
    console.expect_complaint("503")
    rejected.get_by_role("button", name="Reject").click()
    rejected.get_by_role("alert").get_by_text("The journal is away.").wait_for()
    rejected.get_by_role("button", name="Reject").click()
    rejected.get_by_text("Rejected by you or a colleague").wait_for()
    assert {repair["state"] for repair in other.repairs()} == {"rolled_back", "rejected"}


def test_a_blocked_one_says_what_to_do_and_gets_one_more_try(open_console: Open, healing: Begin) -> None:
    one = healing()
    for _ in range(3):
        one.heal()
        one.n8n.settle()
    for _ in range(3):
        one.fail()
    one.n8n.settle()
    locked = Another(one)
    locked.n8n.http[LOCKED] = [401]
    locked.adopt(url=LOCKED)
    locked.fail()
    locked.receive("repair_diagnosed", workflowId=locked.workflow_id)
    console = open_console(one.server)
    console.page.set_viewport_size(PHONE)
    look_at(console, one)
    console.page.get_by_role("navigation", name="Views").get_by_role("button", name="Repairs").click()
    panel = console.page.get_by_role("tabpanel", name="Repairs")
    todo = panel.locator("[data-case]").filter(has_text=f"Orders {locked.path}")
    todo.get_by_text("needs you").wait_for()
    assert steps_of(todo) == ["Error", "A credential", "For you to do"]
    todo.get_by_text("Renew it in n8n, then run the workflow again.").wait_for()
    case = panel.locator("[data-case]").filter(has_text=f"Orders {one.path}")
    case.get_by_text("6 times", exact=True).wait_for()
    expect(case).to_have_count(1)
    case.get_by_text("blocked: needs you").wait_for()
    case.get_by_text("3 attempts to repair it failed.").wait_for()
    case.get_by_text("2 earlier attempts").wait_for()
    assert console.page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    console.check_accessible()

    one.plan(to(FIXED))
    case.get_by_role("button", name="Try once more").click()
    case.get_by_text("healed").wait_for()
    assert url_of(one.n8n.active(one.workflow_id)) == FIXED
    expect(case.get_by_role("button", name="Try once more")).to_have_count(0)


def test_what_lies_before_the_events_of_the_page_is_asked_for(open_console: Open, healing: Begin) -> None:
    one = healing(to(FIXED))
    one.heal()
    assert one.command("set_autonomy", autonomy="observe") == 202
    error = {"message": '<script>alert("x")</script>', "name": "Error"}

    def fail(number: int) -> str:
        run = {"id": f"{one.path}-{number}", "url": "javascript:alert(1)", "error": error, "lastNodeExecuted": "Tell"}
        body = {"execution": run, "workflow": {"id": one.workflow_id, "name": "Orders"}}
        answer = one.server.post("/callbacks/n8n/error", json=body, headers={"Authorization": f"Bearer {SECRET}"})
        return str(answer.json["repair"])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fail, range(MANY))) == {"observed"}
    console = open_console(one.server)
    look_at(console, one)
    panel = panel_of(console)

    healed = panel.locator("[data-case]").filter(has_text="healed")
    healed.locator("summary").first.click()
    assert steps_of(healed) == ["Error", "A fault in the workflow", "Change", "Trial", "Published"]
    expect(healed.get_by_role("table", name="Ask").locator("td")).to_have_text([BROKEN, FIXED])
    recorded = panel.locator("[data-case]").filter(has_text="is only recorded")
    recorded.get_by_text(f"{MANY} times", exact=True).wait_for()
    recorded.get_by_text('<script>alert("x")</script>').wait_for()
    expect(recorded.locator("a[href]")).to_have_count(0)
