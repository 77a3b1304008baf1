"""The console's main states as pictures: ``python -m tests.console.screenshots`` writes ``docs/images/*.png``.

The story is the drill, played in a bridge of its own, so the pictures are of what a newcomer sees.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page

from tests.console.rig import PHONE, Console, chromium
from tests.support.projects import PROJECT
from tests.support.server import UNLIMITED, BridgeServer

IMAGES = PROJECT / "docs" / "images"
LARGEST_BYTES = 200_000
FIRST_MESSAGE = 'Build a webhook that answers "hello"'


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with BridgeServer(UNLIMITED) as server, chromium() as browser:
        console = Console(browser, server, reduced_motion="reduce")
        console.button("Play the drill").wait_for()
        both(console.page, "welcome")
        console.say(FIRST_MESSAGE)
        console.chat.get_by_text("I built the workflow").wait_for()
        console.button("New session").click()
        console.button("Play the drill").click()
        console.button("Break it").click()
        console.button("Look at the changes").click()
        both(console.page, "repair-waits")
        console.page.set_viewport_size(PHONE)
        console.page.get_by_role("navigation", name="Views").get_by_role("button", name="Chat").click()
        both(console.page, "phone-chat")
        console.button("Look at the changes and decide").click()
        both(console.page, "phone-repair")
        console.page.set_viewport_size({"width": 1360, "height": 850})
        console.page.get_by_role("tab", name="Workflows").click()
        console.page.locator("svg.graph").wait_for()
        both(console.page, "workflow-fails")
        console.page.get_by_role("tab", name="Repairs").click()
        console.button("Approve and publish").click()
        console.page.get_by_text("The repair is published").wait_for()
        both(console.page, "healed")
        console.page.get_by_role("link", name="Operations").click()
        console.page.locator("[data-metric]").first.wait_for()
        both(console.page, "operations")
        console.close()
    large = [path for path in IMAGES.glob("*.png") if path.stat().st_size > LARGEST_BYTES]
    if large:
        sys.exit(f"larger than {LARGEST_BYTES} bytes: {', '.join(path.name for path in large)}")


def both(page: Page, name: str) -> None:
    """Light and dark."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        path: Path = IMAGES / f"{name}-{scheme}.png"
        page.screenshot(path=path, animations="disabled", caret="hide")
        print(path.relative_to(PROJECT), path.stat().st_size)


if __name__ == "__main__":
    main()
