"""One socket of a session: what is known of it while it is open."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

MAX_PER_SESSION = 5
RECONNECT = {"afterMs": 500, "jitterMs": 3000}
DONE, RESTART, REPLACED = 1000, 1012, 4409
EVENTS, UNSURE = 1, 2


class Socket(Protocol):
    """What a connection needs of a WebSocket; see ``web.socket_io.SocketIO``."""

    close_code: int | None
    sent_code: int | None

    def send(self, data: str) -> None: ...
    def close(self, code: int = 1000, reason: str = "") -> None: ...
    def beat(self) -> None: ...


@dataclass(eq=False, slots=True)
class Connection:
    """One socket after its ``hello``. At most one greenlet at a time writes its events.

    :ivar cursor: number of the last event that was written to the socket.
    :ivar before_restart: called before a drain closes the socket.
    :ivar write: begins a greenlet that writes; ``None`` while the session is not followed.
    :ivar failed: what is done where that fails by a bug.
    :ivar writing: such a greenlet runs. It goes on until there is no news.
    :ivar news: why to look: ``EVENTS``, or ``UNSURE`` whether others have removed this connection meanwhile.
    """

    connection_id: str
    session_id: str
    socket: Socket
    cursor: int
    request_id: str | None = None
    opened_at: float = field(default_factory=time.monotonic)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    sent: int = 0
    received: int = 0
    leaving: tuple[int, str] | None = None
    before_restart: Callable[[], None] | None = None
    write: Callable[[Connection], None] | None = None
    failed: Callable[[Exception], None] | None = None
    writing: bool = False
    news: int = 0

    @property
    def topics(self) -> tuple[str, str]:
        return f"session:{self.session_id}", f"connection:{self.connection_id}"

    def wake(self, topic: str = "") -> None:
        """In the loop, or from any greenlet: there may be something to write. Never waits."""
        self.news |= EVENTS if topic.startswith("session:") else UNSURE
        if self.write is not None and not self.writing:
            self.writing = True
            self.write(self)

    def leave(self, code: int, reason: str) -> None:
        """Have the socket closed with ``code`` by the greenlet that writes to it, after what it is writing."""
        self.leaving = self.leaving or (code, reason)
        self.wake()


def shutdown_frame(session_id: str | None, last_seq: int) -> str:
    """What is said before a close with 1012; a socket that has said no ``hello`` has no session to come back to."""
    reconnect = {**RECONNECT, "sessionId": session_id, "lastSeq": last_seq}
    return json.dumps({"type": "server_shutdown", "reconnect": reconnect})
