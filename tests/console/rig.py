"""The console in a real Chromium: a page that fails its test for whatever a browser complains of."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.support.server import BridgeServer

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    *("--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
LIMIT_MS = 20_000
WIDE, PHONE = {"width": 1360, "height": 850}, {"width": 390, "height": 780}
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
expect.set_options(timeout=LIMIT_MS)
TOLD = """addEventListener('securitypolicyviolation', (event) =>
    console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`))"""


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Console:
    """One browser profile, with the page of one bridge; ``tab`` opens more tabs of it.

    :ivar page: the first tab.
    :ivar complaints: console errors, CSP violations, and errors that nobody caught, but for those ``expected``.
    """

    def __init__(self, browser: Browser, server: BridgeServer, **options: Any) -> None:
        self.server = server
        self.complaints: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        self.context: BrowserContext = browser.new_context(viewport=WIDE, **options)
        self.context.set_default_timeout(LIMIT_MS)
        self.context.add_init_script(TOLD)
        self.page = self.tab()

    def tab(self, place: str = "") -> Page:
        page = self.context.new_page()
        page.on("console", lambda message: message.type == "error" and self._complain(message.text))
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.goto(f"{self.server.url}/{place}")
        return page

    def expect_complaint(self, pattern: str) -> None:
        """Such a console error is no failure: Chromium reports each answer that is one."""
        self._expected.append(re.compile(pattern))

    def close(self) -> None:
        """:raises AssertionError: the browser complained."""
        self.context.close()
        left = [text for text in self.complaints if not any(known.search(text) for known in self._expected)]
        assert not left, left

    def _complain(self, text: str) -> None:
        self.complaints.append(text)

    # -- what a person does and sees

    @property
    def message(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message")

    @property
    def chat(self) -> Locator:
        return self.page.get_by_role("log", name="Conversation")

    @property
    def status(self) -> Locator:
        return self.page.locator("#status")

    @property
    def session_id(self) -> str:
        return self.page.url.rpartition("#")[2]

    def say(self, text: str) -> None:
        self.message.fill(text)
        self.message.press("Enter")

    def button(self, name: str, *, exact: bool = True) -> Locator:
        return self.page.get_by_role("button", name=name, exact=exact)

    def wait_live(self) -> None:
        self.status.get_by_text("Live").wait_for()

    def http(self, method: str, path: str, body: Any = None) -> Any:
        """As the open session; gives the decoded JSON."""
        stored = self.page.evaluate("() => JSON.parse(localStorage['bridge.sessions'])")
        headers = {"Authorization": f"Bearer {stored[self.session_id]['token']}"}
        answer = self.server.request(method, f"/sessions/{self.session_id}{path}", json=body, headers=headers)
        assert answer.status < 300, answer
        return answer.json if answer.body else None

    def check_accessible(self, page: Page | None = None) -> None:
        """axe-core's rules for WCAG 2.2 A and AA.

        :raises AssertionError: with what breaks them.
        """
        page = page or self.page
        page.evaluate(AXE)
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        found = page.evaluate("(tags) => axe.run(document, {runOnly: {type: 'tag', values: tags}})", tags)
        broken = [
            f"{rule['id']}: {rule['help']}\n    " + "\n    ".join(node["html"][:200] for node in rule["nodes"][:5])
            for rule in found["violations"]
        ]
        assert not broken, "\n" + "\n".join(broken)
