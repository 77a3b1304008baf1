"""Sessions with workflows in the fake n8n that fail and are healed, for the panels that show it."""

from __future__ import annotations

from typing import Any

from tests.console.rig import Console
from tests.heal.rig import BROKEN, Healing, Json, node

HOSTILE = "<img src=x onerror=alert(1)>\u202etxt.exe"
SHOWN = "<img src=x onerror=alert(1)>\u27e8U+202E\u27e9txt.exe"


class Another(Healing):
    """One more workflow, in the session of ``first``."""

    def __init__(self, first: Healing) -> None:
        super().__init__(first.server, first.n8n, first.folder)
        self.client = first.client

    def open(self) -> Healing:
        return self


def branching(path: str) -> Json:
    """As people draw them: a branch, a way back, a sub-node, a note; and a hostile name."""
    place = {
        "Hook": (0, 0),
        "If": (220, 0),
        HOSTILE: (440, -100),
        "Wait a little": (440, 120),
        "Agent": (660, -100),
        "Model": (640, 120),
    }
    kinds = {"Hook": "webhook", "If": "if", HOSTILE: "httpRequest", "Wait a little": "noOp", "Agent": "noOp"}
    nodes = [node(name, kinds.get(name, "lmChat"), position=list(place[name])) for name in place]
    nodes[0]["parameters"] = {"path": path, "httpMethod": "POST"}
    nodes[2]["parameters"] = {"url": BROKEN}
    note = {"content": "Look here", "width": 300, "height": 120}
    nodes.append(node("Note", "stickyNote", position=[-20, -160], parameters=note))

    def to(*names: str) -> list[Json]:
        return [{"node": name, "type": "main", "index": 0} for name in names]

    return {
        "name": f"Orders {HOSTILE}",
        "nodes": nodes,
        "connections": {
            "Hook": {"main": [to("If")]},
            "If": {"main": [to(HOSTILE), to("Wait a little")]},
            "Wait a little": {"main": [to("If")]},
            HOSTILE: {"main": [to("Agent")]},
            "Model": {"ai_languageModel": [[{"node": "Agent", "type": "ai_languageModel", "index": 0}]]},
        },
        "settings": {"executionOrder": "v1"},
    }


def look_at(console: Console, one: Healing, **shown: Any) -> None:
    """Open the session in the page, as whoever has its token and follows a notification's link."""
    console.page.evaluate(
        "([id, token]) => localStorage.setItem('bridge.sessions', JSON.stringify({[id]: {token, at: Date.now()}}))",
        [one.client.session_id, one.client.token],
    )
    console.page.goto(f"{console.server.url}/#session={one.client.session_id}")
    console.page.reload()
    console.wait_live()
