"""The conversation: answers that stream, whatever is in them, and messages that get through."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.console.rig import Console
from tests.support.server import BridgeServer

OVERRIDE = "\u202e"
EVIL = f'<img src=x onerror="window.pwned=1">{OVERRIDE}live'
SHOWN = '<img src=x onerror="window.pwned=1">⟨U+202E⟩live'


def test_an_answer_goes_on_through_a_reload_of_the_bridge(console: Console, bridge: BridgeServer, plays: Path) -> None:
    words = [f"word{n}" for n in range(60)]
    (plays / "reload.md").write_text(" ".join(words[:30]) + "\n%hold\n" + " ".join(words[30:]))
    console.say("play reload")
    console.chat.get_by_text("word29").wait_for()
    expect(console.button("Stop")).to_be_visible()
    console.page.evaluate(
        """() => {
            const status = document.querySelector('#status');
            window.seen = [];
            new MutationObserver(() => window.seen.push(status.innerText))
                .observe(status, {childList: true, subtree: true, characterData: true});
        }"""
    )

    bridge.hup(wait=False)
    console.page.wait_for_function("() => window.seen.some((text) => text.includes('Reconnecting in'))")
    console.wait_live()
    (plays / "reload.go").touch()

    expect(console.button("Stop")).to_be_hidden()
    answer = console.chat.get_by_label("Answer", exact=True)
    expect(answer).to_have_count(1)
    assert answer.inner_text().split() == words
    seen = " ".join(console.page.evaluate("() => window.seen"))
    assert "The bridge restarts." in seen and "lost" not in seen


def test_what_others_wrote_is_shown_as_text(console: Console, bridge: BridgeServer, plays: Path) -> None:
    asked: list[str] = []
    console.expect_complaint("404")  # a workflow that is adopted by its id has no draft
    console.page.on("request", lambda request: asked.append(request.url))
    call = {"tool": f"tool{OVERRIDE}", "input": {"url": "</pre><script>pwned=1</script>"}, "ok": False, "summary": EVIL}
    lines = [
        f"%tool {json.dumps(call)}",
        f"%refused {json.dumps({'tool': 'no_tool', 'rule': EVIL})}",
        f"# Title {EVIL}",
        "",
        "**bold** `code` <script>window.pwned = 1</script> [click](javascript:window.pwned=1) [fine](https://n8n.io/)",
        "",
        "![pixel](https://evil.example/p.png)",
        "",
        "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
        "",
        "| a | b |\n|---|---|\n| <b>1</b> | &lt;2&gt; |",
    ]
    (plays / "evil.md").write_text("\n".join(lines))
    console.say("play evil")
    answer = console.chat.get_by_label("Answer", exact=True)
    answer.get_by_role("cell", name="<2>").wait_for()
    # A file in an error message: sixty kilobytes without a space.
    _fail(console, bridge, name=EVIL, message=EVIL + "A" * 60_000, node=EVIL)
    failure = console.chat.get_by_label("A workflow failed")
    failure.wait_for()

    answer.get_by_role("heading", name=f"Title {SHOWN}").wait_for()
    assert answer.locator("strong").inner_text() == "bold" and answer.locator("code").inner_text() == "code"
    assert "<script>window.pwned = 1</script>" in answer.inner_text() and "<iframe srcdoc=" in answer.inner_text()
    links = answer.get_by_role("link").evaluate_all("(found) => found.map((one) => [one.innerText, one.href, one.rel])")
    assert [link[:2] for link in links] == [["fine", "https://n8n.io/"], ["pixel", "https://evil.example/p.png"]]
    assert all("noopener" in link[2] for link in links)
    assert failure.inner_text().count(SHOWN) == 3
    refused = console.chat.locator("details").nth(1)
    assert "refused" in refused.inner_text() and "<img src=x" in refused.inner_text()
    tool = console.chat.locator("details").first
    assert "tool⟨U+202E⟩" in tool.inner_text() and "</pre><script>" not in tool.inner_text()
    tool.locator("summary").click()
    assert "</pre><script>pwned=1</script>" in tool.inner_text() and SHOWN in tool.inner_text()
    for panel in ("Workflows", "Repairs"):
        console.page.get_by_role("tab", name=panel).click()
        console.page.get_by_role("tabpanel", name=panel).get_by_text("⟨U+202E⟩").first.wait_for()
    console.button("Rename: play evil").click(force=True)
    console.page.get_by_role("dialog").get_by_label("Name").fill(EVIL)
    console.page.keyboard.press("Enter")
    expect(console.page).to_have_title(f"(1) {SHOWN} · self-healing bridge")
    assert console.page.locator("main img, iframe, script:not([src]), main b").count() == 0
    assert console.page.evaluate("() => window.pwned") is None
    assert all(url.startswith((bridge.url, bridge.url.replace("http", "ws"))) for url in asked)
    console.check_accessible()


def test_messages_wait_their_turn_and_one_can_be_stopped(console: Console, plays: Path) -> None:
    (plays / "held.md").write_text("begun\n%hold\nnever\n")
    console.say("play held")
    console.chat.get_by_text("begun").wait_for()
    console.say("Build a webhook that answers hello")
    waiting = console.chat.get_by_label("You").filter(has_text="answers hello")
    waiting.get_by_text("Queued").wait_for()
    console.page.get_by_text("1 message waits for its turn.").wait_for()

    console.message.fill("half a thou")
    console.page.reload()
    console.chat.get_by_text("begun").wait_for()
    expect(console.message).to_have_value("half a thou")

    console.button("Stop").click()
    console.chat.get_by_text("Stopped").wait_for()
    console.chat.get_by_text("I built the workflow").wait_for()
    expect(waiting.get_by_text("Queued")).to_be_hidden()
    console.page.get_by_role("tabpanel", name="Workflows").get_by_text("Webhook that answers hello").wait_for()


def test_without_a_network_messages_wait_and_are_said_once(console: Console) -> None:
    console.say("Build a webhook that answers one")
    console.chat.get_by_text("I built the workflow").wait_for()
    console.expect_complaint("ERR_INTERNET_DISCONNECTED")

    console.context.set_offline(True)
    console.status.get_by_text("Offline").wait_for()
    console.say("list workflows")
    console.page.get_by_label("Messages on their way").get_by_text("as soon as the connection is back").wait_for()
    console.check_accessible()
    console.context.set_offline(False)

    console.wait_live()
    console.chat.get_by_text("These are the workflows").wait_for()
    expect(console.chat.get_by_text("list workflows", exact=True)).to_have_count(1)
    expect(console.page.get_by_label("Messages on their way").get_by_label("You")).to_have_count(0)
    assert [e["data"]["text"] for e in _events(console, "user_message")] == [
        "Build a webhook that answers one",
        "list workflows",
    ]


def test_earlier_events_come_when_they_are_wanted(console: Console) -> None:
    console.expect_complaint("404")  # as above
    console.say("Build a webhook that answers one")
    console.chat.get_by_text("I built the workflow").wait_for()
    for n in range(19):
        console.http("POST", "/workflows", {"workflowId": f"{console.session_id[:8]}-{n}", "autonomy": "observe"})
    for n in range(21):
        # An event for each of the 20 workflows.
        console.http("POST", "/commands", {"type": "set_autonomy", "autonomy": ("ask", "auto")[n % 2]})
    console.expect_complaint("404")  # nothing but their ids is known of those that were adopted
    console.page.reload()
    console.chat.get_by_text("How far repairs may go").first.wait_for()
    expect(console.chat.get_by_text("I built the workflow")).to_have_count(0)
    console.page.get_by_role("tabpanel", name="Workflows").get_by_text("Webhook that answers one").wait_for()
    fetched: list[str] = []
    console.page.on("request", lambda request: fetched.append(request.url))
    place = "() => document.querySelector('#log').scrollTop"
    console.page.evaluate("() => document.querySelector('#log').scrollTo(0, 0)")

    while console.button("Show earlier").is_visible():
        before = console.chat.get_by_role("article").count()
        console.button("Show earlier").click()
        console.page.wait_for_function(
            "([n]) => document.querySelectorAll('[role=log] article').length > n", arg=[before]
        )
    expect(console.chat.get_by_text("I built the workflow")).to_have_count(1)
    expect(console.chat.get_by_text("How far repairs may go")).to_have_count(420)
    assert console.page.evaluate(place) > 0
    assert any("/events?after=" in url for url in fetched)


def _events(console: Console, kind: str) -> list[dict[str, Any]]:
    return [event for event in console.http("GET", "/events?limit=1000")["events"] if event["type"] == kind]


def _fail(console: Console, bridge: BridgeServer, *, name: str, message: str, node: str) -> None:
    """A workflow of this name is adopted, and fails."""
    workflow_id, run_id = uuid.uuid4().hex[:16], uuid.uuid4().hex[:8]
    console.http("POST", "/workflows", {"workflowId": workflow_id, "name": name})
    failed = {
        "name": node,
        "type": "n8n-nodes-base.httpRequest",
        "typeVersion": 4,
        "position": [0, 0],
        "parameters": {},
    }
    error = {"message": message, "httpCode": "503", "node": failed}
    execution = {"id": run_id, "mode": "webhook", "lastNodeExecuted": node, "error": error}
    body = {"execution": execution, "workflow": {"id": workflow_id, "name": name}}
    assert bridge.post("/callbacks/n8n/error", json=body).status == 202
