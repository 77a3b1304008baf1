"""What a newcomer sees: what is missing, and the whole story in a minute."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.console.rig import Console


def test_a_newcomer_sees_what_is_missing_and_plays_the_drill_to_its_diff(console: Console) -> None:
    setup = console.page.get_by_role("region", name="What is set up")
    for missing in ("Agent is not set.", "n8n is not set.", "Callbacks is not set.", "Access is not set."):
        setup.get_by_text(missing).wait_for()
    setup.get_by_text("How to set it").first.click()
    setup.get_by_text("ANTHROPIC_API_KEY").wait_for()
    console.check_accessible()

    console.button("Play the drill").click()
    console.wait_live()
    console.button("Break it").click()
    console.chat.get_by_label("A workflow failed").get_by_text("Service unavailable").wait_for()
    console.button("Look at the changes").click()
    console.check_accessible()
    repairs = console.page.get_by_role("tabpanel", name="Repairs")
    repairs.get_by_text("retryOnFail").wait_for()
    repairs.get_by_role("button", name="Approve and publish").click()

    console.page.get_by_text("The repair is published, and an undo is kept.").wait_for()
    workflow_id = console.http("GET", "")["workflows"][0]["workflowId"]
    nodes = console.http("GET", f"/workflows/{workflow_id}")["nodes"]
    assert [node["name"] for node in nodes if node.get("retryOnFail")] == ["HTTP Request"]


def test_a_drill_happens_once_however_often_it_is_clicked_and_ends_where_the_repair_is_refused(
    console: Console,
) -> None:
    console.button("Play the drill").dblclick()
    console.button("Break it").dblclick()
    look = console.button("Look at the changes")
    look.wait_for()
    # The button that the keyboard was at is gone, and had nothing in its place.
    expect(console.message).to_be_focused()
    look.click()
    console.button("Reject").click()
    drill = console.page.get_by_role("region", name="The drill")
    drill.get_by_text("You said no, so the workflow is as it was.").wait_for()
    assert drill.get_by_role("listitem").all_inner_texts()[-1] == "Over"
    expect(console.button("Rename: Drill")).to_have_count(1)
    failures = [
        event for event in console.http("GET", "/events?after=0")["events"] if event["type"] == "workflow_error"
    ]
    assert len(failures) == 1
    drill.get_by_role("button", name="Close this").click()
    expect(drill).to_have_count(0)
