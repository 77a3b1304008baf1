"""The workflows of a session: their graph, how far repairs may go, snapshots and the way back, adoption."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import expect

from app.n8n.diff import diff
from app.n8n.workflows import canonical_hash
from tests.console.healing import HOSTILE, SHOWN, Another, branching, look_at
from tests.console.rig import Console
from tests.heal.rig import FIXED, Healing, soon, to, workflow

Open = Callable[..., Console]
Begin = Callable[..., Healing]
PANEL = "Workflows"
PLACES = """(card) => [...card.querySelectorAll('.node')].map((node) => {
    const {x, y} = node.querySelector('.shape').getBBox();
    return [node.dataset.node, [x, y]];
})"""


def test_a_graph_has_its_nodes_where_n8n_has_them_and_marks_the_failing_one(open_console: Open, healing: Begin) -> None:
    first = healing()
    drawn = Another(first)
    drawn.workflow_id = drawn.n8n.add(branching(drawn.path))
    console = open_console(first.server)
    look_at(console, first)
    panel = console.page.get_by_role("tabpanel", name=PANEL)
    panel.get_by_text("Adopt a workflow that exists").click()
    field = panel.get_by_label("Its id, or its address")
    field.fill("nobody-knows-this")
    console.expect_complaint("404")
    panel.get_by_role("button", name="Adopt").click()
    panel.get_by_role("alert").get_by_text("It could not be adopted").wait_for()
    field.fill(f"https://n8n.example/flows/workflow/{drawn.workflow_id}?from=list")
    panel.get_by_role("button", name="Adopt").click()

    card = panel.locator(f"[data-workflow='{drawn.workflow_id}']")
    card.get_by_role("button", name=f"Orders {SHOWN}", expanded=True).wait_for()
    picture = card.get_by_role("img", name="Graph of 6 nodes.")
    picture.wait_for()
    drawn.fail()
    picture.locator(".fails").wait_for()
    assert picture.locator(".fails").get_attribute("data-node") == HOSTILE
    expect(picture.locator(".fails title")).to_have_text(f"{SHOWN} (httpRequest), failing")
    card.get_by_text("failed: The resource could not be found").wait_for()
    assert dict(card.evaluate(PLACES)) == {one["name"]: one["position"] for one in drawn.shown()["nodes"][:6]}
    expect(picture.locator("path.link")).to_have_count(6)
    expect(picture.locator("path.link.part")).to_have_count(1)
    expect(console.page.locator("img")).to_have_count(1)  # the page's own

    link = card.get_by_role("link", name="Open in n8n")
    expect(link).to_have_attribute("href", f"https://n8n.example/flows/workflow/{drawn.workflow_id}")
    card.get_by_text("n8n reports its failures here").wait_for()
    with console.page.expect_download() as download:
        card.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "Orders _img src_x onerror_alert_1_txt.exe.json"
    assert json.loads(download.value.path().read_text())["nodes"] == drawn.shown()["nodes"]
    console.check_accessible()


def test_the_dial_is_turned_by_the_keyboard_and_a_refusal_is_told_beside_it(open_console: Open, healing: Begin) -> None:
    one = healing()
    console = open_console(one.server)
    look_at(console, one)
    dial = console.page.get_by_role("tabpanel", name=PANEL).get_by_role("group", name="How far repairs may go")
    expect(dial.get_by_role("button", name="auto", pressed=True)).to_be_visible()
    dial.get_by_role("button", name="suggest").focus()
    console.page.keyboard.press("Enter")
    soon(lambda: one.data("autonomy_changed"))
    assert one.data("autonomy_changed")[-1]["autonomy"] == "suggest"

    console.expect_complaint("503")
    console.page.route("**/commands", lambda route: route.fulfill(status=503, json={"detail": "Try it later."}))
    dial.get_by_role("button", name="observe").click()
    console.page.get_by_text("It stays at \u201csuggest\u201d: Try it later.").wait_for()
    expect(dial.get_by_role("button", name="suggest", pressed=True)).to_be_visible()


def test_a_snapshot_is_compared_side_by_side_and_restored(open_console: Open, healing: Begin) -> None:
    one = healing(to(FIXED))
    one.heal()
    console = open_console(one.server)
    look_at(console, one)
    panel = console.page.get_by_role("tabpanel", name=PANEL)
    panel.get_by_text("Snapshots, and the way back").click()
    panel.get_by_text("before a repair").click()
    changed = panel.get_by_role("table", name="Ask")
    expect(changed.locator("th.path")).to_have_text(["parameters.url"])
    expect(changed.locator("td")).to_have_text(["http://api.test/gone", "http://api.test/here"])
    expect(changed.locator("del, ins")).to_have_text(["gone", "here"])
    console.check_accessible()

    panel.get_by_role("button", name="Roll back to this").click()
    console.page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    panel.get_by_text("before an undo").wait_for()
    panel.get_by_text("The workflow is like this now.").wait_for()
    assert canonical_hash(one.n8n.draft(one.workflow_id)) == canonical_hash(one.before)


def test_the_page_tells_differences_as_the_bridge_does(open_console: Open, healing: Begin) -> None:
    """Of snapshots the page finds them itself; the bridge tells those of repairs."""
    console = open_console(healing().server)
    before, after = workflow("a"), workflow("a")
    after["nodes"][1] |= {"name": "Renamed", "id": "same"}
    before["nodes"][1]["id"] = "same"
    after["nodes"][2]["parameters"] = {"url": "x", "list": [{"a": 1}, {"b": [1, 2]}], "options": {"deep": None}}
    before["nodes"][2]["parameters"] = {"url": "x", "list": [{"a": 2}, {"b": [1]}], "gone": False}
    after["nodes"][3:] = [{**after["nodes"][3], "name": "New"}]
    after["connections"]["Hook"] = {"main": [[], [{"node": "Ask", "type": "main", "index": 0}]]}
    after["settings"] = {"executionOrder": "v1", "timezone": "UTC"}
    version = console.page.locator("script[type=module]").get_attribute("src")
    module = f"./{(version or '').replace('main.js', 'panels/diff.js')}"
    found = console.page.evaluate(
        "async ([module, one, other]) => (await import(new URL(module, document.baseURI))).differences(one, other)",
        [module, before, after],
    )

    def plain(entries: list[dict[str, object]]) -> list[list[object]]:
        return sorted([str(e["node"]), str(e["path"]), str(e["change"])] for e in entries)

    assert len(found) > 10
    assert plain(found) == plain(diff(before, after))
