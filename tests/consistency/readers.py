"""Readers of a session: sockets, and walks through its history; what they get is recorded as it comes."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import websocket

from tests.consistency.lines import GONE
from tests.consistency.recording import Recorder
from tests.support.client import Client, Refused
from tests.support.server import BridgeServer, wait_for

PAGE = 50
_numbers = itertools.count(1)


class Reader(Client):
    """A socket of a session that exists; another one is another reader."""

    def __init__(self, server: BridgeServer, recorder: Recorder, session: str, token: str, after: int) -> None:
        super().__init__(server)
        self.session_id, self.token = session, token
        self._recorder, self._after = recorder, after
        self.name = f"socket {next(_numbers)}"

    def begin(self) -> bool:
        """Connect; whether that worked."""
        self._recorder.add("opened", reader=self.name, session=self.session_id, after=self._after)
        try:
            self.connect(after=self._after)
        except (AssertionError, Refused, websocket.WebSocketException, *GONE):
            self.leave(politely=False)
            return False
        return True

    @property
    def seen(self) -> int:
        """The number to go on after."""
        return max(self._after, self.last_seq)

    @property
    def is_open(self) -> bool:
        return self._socket is not None and self.close_code is None

    def leave(self, *, politely: bool) -> None:
        if politely or not self.is_open:
            self.disconnect()
            return
        # Its own reader may be closing it.
        with contextlib.suppress(AttributeError):
            self.drop()

    def catch_up(self, last_seq: int, *, limit_s: float) -> None:
        """Wait until it has all of its session."""
        # What it has not got then is for the checker to find.
        with contextlib.suppress(AssertionError):
            wait_for(lambda: self.seen >= last_seq or not self.is_open, limit_s=limit_s)
        if self.is_open:
            self._recorder.add("caught_up", reader=self.name, session=self.session_id, last=self.seen)

    def _add(self, frame: dict[str, Any]) -> None:
        if "seq" in frame:
            self._recorder.add("read", reader=self.name, session=self.session_id, event=frame)
        super()._add(frame)


def walk(server: BridgeServer, recorder: Recorder, session: str, token: str, *, after: int, limit_s: float) -> None:
    """Read the history from there on, page by page, up to its end."""
    name = f"walk {next(_numbers)}"
    recorder.add("opened", reader=name, session=session, after=after)
    while found := page(server, session, token, after=after, limit_s=limit_s):
        for event in found:
            recorder.add("read", reader=name, session=session, event=event)
        after = found[-1]["seq"]


def page(server: BridgeServer, session: str, token: str, *, after: int, limit_s: float) -> list[dict[str, Any]]:
    """:raises OSError: nobody answered (or ``http.client.HTTPException``), or not with a page."""
    headers = {"Authorization": f"Bearer {token}"}
    answer = server.get(f"/sessions/{session}/events?limit={PAGE}&after={after}", headers=headers, limit_s=limit_s)
    if answer.status != 200:
        raise ConnectionError(f"answered {answer.status}")
    found: list[dict[str, Any]] = answer.json["events"]
    return found
