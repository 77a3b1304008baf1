"""The bridge as the drill sees it: over HTTP like any script, with the operator's token and then the session's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from app.drill.patience import DrillError, Patience
from app.settings import Settings

ANSWER_S = 30.0
"""An approval is answered when it is published."""
ALIVE_S = 3.0
PAGE = 1000
SEEN = 6

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bridge:
    """One bridge. Every call raises ``DrillError`` where it does not answer as it should.

    :ivar access: the operator's token; ``None`` where this machine needs none.
    """

    url: str
    access: str | None

    def alive(self) -> bool:
        """Whether a bridge answers here at all."""
        return self._json_of("/healthz") == {"status": "ok"}

    def ready(self) -> bool:
        return self._json_of("/readyz").get("status") == "ready"

    def configured(self) -> Mapping[str, Any]:
        """What the bridge says it is set up for; empty where it does not say so now."""
        told = self._json_of("/health").get("configured")
        return told if isinstance(told, dict) else {}

    def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> dict[str, Any]:
        """:param token: the session's; the operator's where it is left out, and none where it is empty."""
        credential = self.access if token is None else token
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        what = f"{method} {path}"
        try:
            answer = urllib3.request(
                method, self.url + path, json=body, headers=headers, timeout=ANSWER_S, retries=False, redirect=False
            )
        except HTTPError as exc:
            raise DrillError(f"The bridge at {self.url} does not answer {what}; see its log.") from exc
        decoded = _decoded(answer.data)
        if not 200 <= answer.status < 300:
            told = decoded.get("detail") or "no reason given"
            hint = " Set ACCESS_TOKEN as the bridge has it." if answer.status == 401 else ""
            raise DrillError(f"The bridge answered {answer.status} to {what}: {told}{hint}")
        return decoded

    def _json_of(self, path: str) -> dict[str, Any]:
        try:
            answer = urllib3.request("GET", self.url + path, timeout=ALIVE_S, retries=False, redirect=False)
        except HTTPError:
            return {}
        return _decoded(answer.data)


class DrillSession:
    """The drill's own session, and how far its events have been read."""

    def __init__(self, bridge: Bridge, session_id: str, token: str, patience: Patience) -> None:
        self.session_id, self._bridge, self._token, self._patience = session_id, bridge, token, patience
        self._after = 0
        self._unread: list[Event] = []
        self._seen: list[str] = []

    def call(self, method: str, path: str = "", body: Any = None) -> dict[str, Any]:
        return self._bridge.call(method, f"/sessions/{self.session_id}{path}", body, token=self._token)

    def command(self, kind: str, **fields: Any) -> None:
        self.call("POST", "/commands", {"type": kind, **fields})

    def next_event(self, wanted: Callable[[Event], bool], *, hint: str) -> Event:
        """The next event like this; those before it are passed over.

        :param hint: what to do where none comes.
        """

        def look() -> Event | None:
            while event := self._next():
                if wanted(event):
                    return event
            return None

        def instead() -> str:
            return f"The session's last events: {', '.join(self._seen[-SEEN:]) or 'none'}. {hint}"

        return self._patience.wait(look, instead=instead)

    def _next(self) -> Event | None:
        if not self._unread:
            self._unread = self.call("GET", f"/events?after={self._after}&limit={PAGE}")["events"]
        if not self._unread:
            return None
        event = self._unread.pop(0)
        self._after = event["seq"]
        self._seen.append(event["type"])
        return event


def open_session(bridge: Bridge, patience: Patience) -> DrillSession:
    made = bridge.call("POST", "/sessions")
    return DrillSession(bridge, made["sessionId"], made["token"], patience)


def running_bridge(settings: Settings) -> Bridge | None:
    """The bridge that runs with these settings: on this machine, else where people reach it."""
    access = settings.access_token[0] if settings.access_token else None
    for url in dict.fromkeys((settings.local_url, settings.public_url)):
        found = Bridge(url, access)
        if found.alive():
            return found
    return None


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
