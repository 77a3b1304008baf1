"""A long session for the console's benchmark: ``python -m benchmarks.console_events JOURNAL EVENTS``."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys
from pathlib import Path

from app.journal import Change, NewEvent, OpenSession, events
from app.journal.sqlite import SqliteJournal
from app.web.auth import hash_token

TOKEN, SESSION = "token-of-the-benchmark", "bench"
LAST = "the last word"
TEXT = "A paragraph with **bold words**, `code`, a [link](https://n8n.io/) and more. " * 4 + "\n\n- one\n- two\n\n"


def turn(number: int, text: str) -> list[NewEvent]:
    """Six events: a message, one tool call, an answer of about 400 characters."""
    name = f"t{number}"
    return [
        events.user_message(f"Message {number}", client_message_id=None, request_id=None),
        events.turn_started("chat", turn_id=name),
        events.tool_started("get_workflow", f"{name}-1", {"workflowId": "w"}, turn_id=name),
        events.tool_finished("get_workflow", f"{name}-1", ok=True, summary="as it was", turn_id=name),
        events.assistant_message(f"{name}-m", text, turn_id=name),
        events.turn_finished("completed", turn_id=name, duration_ms=1000),
    ]


def fill(path: Path, count: int) -> None:
    journal = SqliteJournal(path)
    journal.commit(Change(session_id=SESSION, open_session=OpenSession(hash_token(TOKEN), 10)))
    turns = count // 6
    for number in range(turns):
        text = LAST if number == turns - 1 else TEXT
        journal.commit(Change(session_id=SESSION, events=turn(number, text)))
    journal.close()


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))
