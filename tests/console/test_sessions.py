"""Sessions: in several tabs and browsers, by the keyboard, and where a token is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.console.rig import PHONE, WIDE, Console
from tests.support.client import Client, Refused
from tests.support.server import UNLIMITED, BridgeServer

ACCESS = "access-token-of-these-tests"
DRAFTED = "Build a webhook that answers hello"


@pytest.fixture(scope="module")
def guarded(project: Path, plays: Path) -> Iterator[BridgeServer]:
    """A bridge with an access token, one message and ten handshakes a minute, and a key that its agent does not use."""
    limits = {"RATE_LIMIT_MESSAGES_PER_MINUTE": 1, "RATE_LIMIT_WS_PER_MINUTE": 10}
    settings = {**UNLIMITED, **limits, "ACCESS_TOKEN": ACCESS, "ANTHROPIC_API_KEY": "k-1", "PLAY_FOLDER": plays}
    with BridgeServer(settings, project=project) as server:
        yield server


def test_the_access_token_opens_any_session_in_another_browser(
    open_console: Callable[..., Console], guarded: BridgeServer
) -> None:
    first = open_console(guarded)
    first.expect_complaint("401|429")
    first.page.get_by_text("Only the sessions of this browser are shown.").wait_for()
    first.page.get_by_text(".venv/bin/flask drill").wait_for()
    first.say(DRAFTED)
    dialog = first.page.get_by_role("dialog")
    for given in ("wrong", ACCESS):
        dialog.get_by_label("Access token").fill(given)
        dialog.get_by_role("button", name="Keep it").click()
        dialog.wait_for(state="hidden")
        if given == "wrong":
            first.page.get_by_text("The access token is not accepted.").wait_for()
            first.button("Access token").click()
    # What was typed is still there.
    expect(first.message).to_have_value(DRAFTED)
    first.message.press("Enter")
    first.chat.get_by_text("I built the workflow").wait_for()

    first.say("list workflows")
    unsent = first.page.get_by_label("Messages on their way")
    unsent.get_by_text("Too many messages in a minute. Sent in").wait_for()
    first.check_accessible()
    unsent.get_by_role("button", name="Discard").click()
    expect(unsent.get_by_label("You")).to_have_count(0)

    second = open_console(guarded)
    second.button("Access token").click()
    second.page.get_by_role("dialog").get_by_label("Access token").fill(ACCESS)
    second.page.keyboard.press("Enter")
    second.page.get_by_role("region", name="Sessions").get_by_role("button").filter(
        has_text="Webhook that answers hello"
    ).first.click()
    second.chat.get_by_text("I built the workflow").wait_for()
    assert second.page.evaluate("() => JSON.stringify(localStorage)").count(ACCESS) == 1

    second.page.get_by_role("button", name="End: ").click(force=True)
    second.page.get_by_role("dialog").get_by_role("button", name="End it").click()
    second.page.get_by_role("heading", name="New session").wait_for()
    first.status.get_by_text("This session has ended.").wait_for()
    expect(first.message).to_be_disabled()
    assert '"gone":true' in first.page.evaluate("() => localStorage['bridge.sessions']")

    # It has no draft until then, which the page asks for.
    second.expect_complaint("404")
    # With a model the drill builds nothing in the chat: what is to fail is known by what its callback tells.
    second.button("Play the drill").click()
    second.button("Break it").click()
    second.button("Look at the changes").click()
    second.page.get_by_role("tabpanel", name="Repairs").get_by_text("retryOnFail").wait_for()

    # Handshakes without a hello keep their places for a minute.
    second.expect_complaint("WebSocket connection")
    for _ in range(10):
        with suppress(Refused):
            Client(guarded).open().disconnect()
    second.page.reload()
    second.status.get_by_text("The bridge takes no more connections just now. Reconnecting in").wait_for()


def test_tabs_share_a_session_and_the_sixth_lets_the_first_go(console: Console) -> None:
    console.say(DRAFTED)
    console.chat.get_by_text("I built the workflow").wait_for()
    place = f"#{console.session_id}"
    second = console.tab(place)
    second.get_by_role("textbox", name="Message").fill("list workflows")
    second.keyboard.press("Enter")
    for tab in (console.page, second):
        tab.get_by_role("log", name="Conversation").get_by_text("These are the workflows").wait_for()

    token = console.page.evaluate(
        "([id]) => JSON.parse(localStorage['bridge.sessions'])[id].token", [console.session_id]
    )
    others = [Client(console.server) for _ in range(4)]
    for other in others:
        other.connect(sessionId=console.session_id, token=token)
    console.status.get_by_text("more than five tabs").wait_for()
    for other in others:
        other.disconnect()
    console.button("Use it here").click()
    console.wait_live()


def test_everything_is_done_by_the_keyboard_alone(console: Console) -> None:
    keys = console.page.keyboard
    keys.press("Tab")
    expect(console.page.get_by_role("link", name="Skip to the message box")).to_be_focused()
    keys.press("Enter")
    keys.type(DRAFTED)
    keys.press("Shift+Enter")
    keys.press("Backspace")
    keys.press("Enter")
    console.chat.get_by_text("I built the workflow").wait_for()

    tool = console.chat.locator("summary").first
    _tab_to(console, tool, back=True)
    keys.press("Enter")
    console.chat.get_by_text("Result").wait_for()
    _tab_to(console, console.page.get_by_role("tab", name="Workflows"))
    keys.press("ArrowRight")
    expect(console.page.get_by_role("tab", name="Repairs")).to_be_focused()
    console.page.get_by_text("Nothing has failed.").wait_for()

    rename = (
        console.page.get_by_role("listitem")
        .filter(has=console.page.locator("[aria-current]"))
        .get_by_role("button", name="Rename: ")
    )
    _tab_to(console, rename, back=True)
    keys.press("Enter")
    keys.press("Escape")
    expect(rename).to_be_focused()
    keys.press("Enter")
    keys.type("My greeting")
    keys.press("Enter")
    console.page.get_by_role("heading", name="My greeting").wait_for()
    console.page.reload()
    console.page.get_by_role("heading", name="My greeting").wait_for()


def test_on_a_phone_one_thing_is_shown_at_a_time(open_console: Callable[..., Console], bridge: BridgeServer) -> None:
    console = open_console(bridge, color_scheme="dark", has_touch=True)
    console.page.set_viewport_size(PHONE)
    console.message.fill(DRAFTED)
    console.message.press("Enter")
    expect(console.message).to_have_value(f"{DRAFTED}\n")
    console.button("Send").click()
    console.chat.get_by_text("I built the workflow").wait_for()
    views = console.page.get_by_role("navigation", name="Views")
    for view in ("Sessions", "Workflows", "Repairs", "Chat"):
        views.get_by_role("button", name=view).click()
        assert console.page.locator("main > section:visible").count() == 1
        assert console.page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
        if view in ("Sessions", "Chat"):
            console.check_accessible()

    views.get_by_role("button", name="Repairs").click()
    console.page.set_viewport_size(WIDE)
    console.page.get_by_role("tab", name="Workflows").click()
    console.page.set_viewport_size(PHONE)
    expect(views.get_by_role("button", name="Workflows")).to_have_attribute("aria-current", "page")


def _tab_to(console: Console, wanted: object, *, back: bool = False) -> None:
    for _ in range(60):
        console.page.keyboard.press("Shift+Tab" if back else "Tab")
        if wanted.evaluate("(one) => one === document.activeElement"):  # type: ignore[attr-defined]
            return
    raise AssertionError(f"the keyboard does not come to {wanted}")
