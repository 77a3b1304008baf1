"""What an agent tried and may not: each is an event of its session and, in a repair's turn, in the repair's audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from app.errors import ConflictError
from app.journal import Change, Journal, Lease, events
from app.journal.records import Repair, retry_stale
from app.telemetry.redaction import redact_text

MAX_KEPT = 50
MAX_RULE_CHARS = 300
MAX_TOOL_CHARS = 128


class RefusedError(ConflictError):
    """The agent may not do this. ``rules``: why, one sentence each."""

    code, title = "refused", "An agent may not do that"

    def __init__(self, *rules: str, advice: str = "") -> None:
        super().__init__(" ".join(filter(None, (*rules, advice))))
        self.rules = list(rules)


@dataclass(frozen=True, slots=True)
class Refusals:
    """Those of one turn; the one way into the session's log and the audit, in one change.

    :ivar repair_id: empty in a chat's turn.
    """

    journal: Journal
    session_id: str
    turn_id: str
    lease: Lease
    repair_id: str = ""

    def record(self, tool: str, tool_use_id: str, rules: Sequence[str]) -> None:
        """Of what the agent wrote into its call only short, printable, redacted pieces are kept.

        :raises LeaseLostError: another worker has the turn. :raises BusyError: the repair is written all the time.
        """
        name = _shown(tool, MAX_TOOL_CHARS)
        shown = [_shown(rule, MAX_RULE_CHARS) for rule in rules]
        appended = [events.tool_refused(name, tool_use_id, rule, turn_id=self.turn_id) for rule in shown]

        def write() -> None:
            repair = Repair.get(self.journal, self.repair_id) if self.repair_id else None
            puts = []
            if repair is not None:
                at = events.iso(datetime.now(UTC))
                new = [{"tool": name, "rule": rule, "at": at} for rule in shown]
                # The first ones: what it began with cannot be pushed out by what is tried later.
                puts = [repair.put(refusals=[*repair.refusals, *new][:MAX_KEPT])]
            change = Change(session_id=self.session_id, events=appended, puts=puts, fences=[self.lease])
            self.journal.commit(change)

        retry_stale(write)


def _shown(text: str, limit: int) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * limit])
    return redact_text(printable, limit=limit)
