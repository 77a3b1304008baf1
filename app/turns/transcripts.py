"""The agent's own transcript of a session, kept in the journal, so that its next turn may run on any worker."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from app.errors import StaleDocumentError
from app.journal import Change, Journal, Lease, Put

KIND = "transcript"
HISTORY_EVENTS = 2_000


@dataclass(frozen=True, slots=True)
class JournalTranscripts:
    """See ``agents.claude_sessions.Transcripts``.

    :ivar leases: by session, of the turns that run here now; a transcript is kept under its turn's lease only.
    """

    journal: Journal
    leases: dict[str, Lease] = field(default_factory=dict)

    def load(self, session_id: str) -> bytes | None:
        document = self.journal.get(KIND, session_id)
        return base64.b64decode(document.body["data"]) if document and document.body["data"] else None

    def save(self, session_id: str, data: bytes) -> None:
        """:raises LeaseLostError: another worker has the session's turn, and its transcript counts."""
        lease = self.leases.get(session_id)
        if lease is None:
            raise StaleDocumentError("No turn of this session runs here.")
        body = {"data": base64.b64encode(data).decode()}
        self.journal.commit(Change(puts=[Put(KIND, session_id, body)], fences=[lease]))

    def history(self, session_id: str) -> list[tuple[str, str]]:
        session = self.journal.session(session_id)
        after, said = max(0, session.last_seq - HISTORY_EVENTS) if session else 0, []
        while found := self.journal.events(session_id, after=after, types=("user_message", "assistant_message")):
            after = found[-1].seq
            said += [("user" if e.type == "user_message" else "assistant", str(e.data["text"])) for e in found]
        return said
