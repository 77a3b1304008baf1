"""The page with a long session: ``python -m benchmarks.console``; Debian's chromium, driven by Playwright.

Prints one JSON line; times are milliseconds. ``first_paint``: from the navigation until the session's last answer is
painted; ``first_paint_cpu``: what that took of the page's thread, whatever else the machine does. ``long_tasks``: what
kept the page from answering for 50 ms and longer: while it opened, while an answer of ``stream_kb`` streamed, and while
a tab that has missed everything took all events at once (``whole``, and how long that took).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext

from benchmarks.bridge import quantiles, running_bridge
from tests.console.rig import WIDE, chromium

# As in console_events.py, which is a program of its own: what patches the process for gevent may not be imported here.
TOKEN, SESSION, LAST = "token-of-the-benchmark", "bench", "the last word"
STREAM_KB = 40
LIMIT_MS = 120_000
WATCH = """([sessions, last]) => {
    localStorage['bridge.sessions'] = sessions;
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((one) => one.duration)))
        .observe({type: 'longtask', buffered: true});
    const look = () => {
        if (document.querySelector('[role=log]')?.textContent.includes(last)) {
            requestAnimationFrame(() => setTimeout(() => (window.painted = performance.now())));
        } else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as folder:
        journal = Path(folder, "journal.db")
        subprocess.run([sys.executable, "-m", "benchmarks.console_events", journal, str(options.events)], check=True)
        sentence = "Words that are **bold**, `code`, or none of both, again and again. "
        Path(folder, "long.md").write_text("\n\n".join([sentence * 8] * (STREAM_KB * 1024 // len(sentence * 8))))
        with running_bridge(journal, "tests.console.wsgi:app", PLAY_FOLDER=folder) as port, chromium() as browser:
            url = f"http://127.0.0.1:{port}/#{SESSION}"
            line = measure(browser, url, options.rounds)
    print(json.dumps({"benchmark": "console", "events": options.events, "stream_kb": STREAM_KB, **line}))


def measure(browser: Browser, url: str, rounds: int) -> dict[str, Any]:
    paints, cpu, opening = [], [], []
    for _ in range(rounds):
        with profile(browser) as context:
            opened = Opened(context, url)
            paints.append(opened.painted_ms())
            cpu.append(opened.cpu_ms())
            opening += opened.long_tasks()
    with profile(browser) as context:
        opened = Opened(context, url)
        opened.long_tasks()
        opened.hear_out("play long")
        streaming = opened.long_tasks()
    with profile(browser) as context:
        # Where the session cannot be asked for first, the page follows all of it from the beginning.
        context.route("**/sessions/bench", lambda route: route.abort())
        opened = Opened(context, url)
        whole_ms, whole = opened.painted_ms(), opened.long_tasks()
    paint = {"first_paint": quantiles(paints), "first_paint_cpu": quantiles(cpu), "whole_ms": round(whole_ms)}
    long = {"opening": quantiles(opening), "streaming": quantiles(streaming), "whole": quantiles(whole)}
    return {**paint, "long_tasks": long}


def profile(browser: Browser) -> BrowserContext:
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(LIMIT_MS)
    sessions = json.dumps({SESSION: {"token": TOKEN, "at": 1}})
    context.add_init_script(f"({WATCH})({json.dumps([sessions, LAST])})")
    return context


class Opened:
    """The session in a tab, when its last answer is painted."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self._page = context.new_page()
        self._thread = context.new_cdp_session(self._page)
        self._thread.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._page.goto(url)
        self._page.wait_for_function("() => window.painted")

    def painted_ms(self) -> float:
        return float(self._page.evaluate("() => window.painted"))

    def cpu_ms(self) -> float:
        """Processor time of the page's thread."""
        told = self._thread.send("Performance.getMetrics")["metrics"]
        return 1000 * next(float(one["value"]) for one in told if one["name"] == "TaskDuration")

    def long_tasks(self) -> list[float]:
        """Since the last look."""
        found: list[float] = self._page.evaluate("() => window.tasks.splice(0)")
        return found

    def hear_out(self, text: str) -> None:
        """Say it, and wait for the end of the answer."""
        self._page.get_by_role("textbox", name="Message").fill(text)
        self._page.keyboard.press("Enter")
        stop = self._page.get_by_role("button", name="Stop")
        stop.wait_for()
        stop.wait_for(state="hidden")


if __name__ == "__main__":
    main()
