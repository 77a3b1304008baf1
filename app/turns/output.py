"""What a turn appends: every event under its lease, deltas gathered into at most one event per 50 ms."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import gevent
from gevent.lock import RLock

from app.agents import AgentEvent, TextDelta, TextFinal, TextReset, ToolFinished, ToolRefused, ToolStarted
from app.errors import BaseError, LeaseLostError
from app.journal import Change, Journal, Lease, NewEvent, Once, Postpone, Put, StartInput, events
from app.repairs.refusals import Refusals
from app.telemetry.redaction import redact, redact_text
from app.turns.shown_text import ShownText

DELTA_INTERVAL_S = 0.05
TOOL_INPUT_CHARS = 2_000
TOOL_SUMMARY_CHARS = 500

log = logging.getLogger(__name__)


class TurnOutput:
    """The one writer of a turn's events. Raises ``LeaseLostError`` from any method once another worker has the turn.

    :param repair_id: of a repair's turn; what its agent may not is in that repair's audit, too.
    """

    def __init__(self, journal: Journal, *, session_id: str, turn_id: str, lease: Lease, repair_id: str = "") -> None:
        self._journal = journal
        self._session_id = session_id
        self._turn_id = turn_id
        self._lease = lease
        self._refusals = Refusals(journal, session_id, turn_id, lease, repair_id)
        self._lock = RLock()
        self._pending: list[tuple[str, str]] = []
        self._open: dict[str, str] = {}
        self._shown: dict[str, ShownText] = {}
        self._flushed_at = 0.0
        self._flusher: gevent.Greenlet | None = None
        self._failure: BaseError | None = None
        self._over = False

    def put(self, event: AgentEvent) -> None:
        """Append what the agent yielded."""
        turn_id = self._turn_id
        if self._failure is not None:
            raise self._failure
        match event:
            case TextDelta(message_id, text):
                self._delta(message_id, text)
            case TextReset(message_id):
                self._forget(message_id)
                self.append([events.assistant_reset(message_id, turn_id=turn_id)], drop_deltas=[message_id])
            case TextFinal(message_id, text):
                self._forget(message_id)
                final = events.assistant_message(message_id, redact_text(text, limit=None), turn_id=turn_id)
                self.append([final], drop_deltas=[message_id])
            case ToolStarted(tool, tool_use_id, arguments):
                shown = redact(dict(arguments), limit=TOOL_INPUT_CHARS)
                self.append([events.tool_started(tool, tool_use_id, shown, turn_id=turn_id)])
            case ToolFinished(tool, tool_use_id, ok, summary):
                short = redact_text(summary, limit=TOOL_SUMMARY_CHARS)
                self.append([events.tool_finished(tool, tool_use_id, ok=ok, summary=short, turn_id=turn_id)])
            case ToolRefused(tool, tool_use_id, rule):
                with self._lock:
                    self.append([])
                    self._refusals.record(tool, tool_use_id, [rule])

    def append(self, appended: Sequence[NewEvent], *, drop_deltas: Sequence[str] = ()) -> None:
        """Append events after whatever text is still held back."""
        with self._lock:
            if self._over:
                # An agent that would not stop: the lease may be held for a moment more, but its turn has ended.
                raise LeaseLostError("This turn has ended.")
            change = Change(
                session_id=self._session_id,
                events=[*self._take_pending(), *appended],
                drop_deltas=drop_deltas,
                fences=[self._lease],
            )
            self._journal.commit(change)

    def finish(
        self,
        appended: Sequence[NewEvent],
        *,
        puts: Sequence[Put] = (),
        answer: int | None = None,
        park: StartInput | None = None,
        postpone: Postpone | None = None,
    ) -> None:
        """The turn's last change: its input is answered, or parked for whoever goes on.

        Text whose message never became final is kept as it stands; in a parked turn it is void, for it will be said
        again.
        """
        with self._lock:
            self._over = True
            if self._flusher is not None:
                self._flusher.kill(block=False)
            self._pending = []
            ends = [
                events.assistant_reset(message_id, turn_id=self._turn_id)
                if park is not None
                else events.assistant_message(message_id, redact_text(text, limit=None), turn_id=self._turn_id)
                for message_id, text in self._open.items()
            ]
            change = Change(
                session_id=self._session_id,
                events=[*ends, *appended],
                drop_deltas=list(self._open),
                puts=puts,
                answer=answer,
                start=park,
                postpone=postpone,
                # A parked input can be parked again: what went without an answer and was done must not be done twice.
                once=Once(f"parked:{self._turn_id}") if park is not None else None,
                fences=[self._lease],
            )
            self._journal.commit(change)

    def _delta(self, message_id: str, text: str) -> None:
        self._pending.append((message_id, text))
        self._open[message_id] = self._open.get(message_id, "") + text
        wait_s = self._flushed_at + DELTA_INTERVAL_S - time.monotonic()
        if wait_s <= 0:
            self.append([])
        elif self._flusher is None or self._flusher.dead:
            # The model may pause: what it has said so far is not held back for longer than the interval.
            self._flusher = gevent.spawn(self._flush)

    def _flush(self) -> None:
        try:
            # Again and again: what is said during a commit waits for the next one, and nobody else may come for it.
            while self._pending:
                gevent.sleep(max(0.0, self._flushed_at + DELTA_INTERVAL_S - time.monotonic()))
                with self._lock:
                    if self._pending:
                        self.append([])
        except BaseError as exc:
            # Raised again in the agent's greenlet at its next event.
            self._failure = exc

    def _forget(self, message_id: str) -> None:
        self._pending = [held for held in self._pending if held[0] != message_id]
        self._open.pop(message_id, None)
        self._shown.pop(message_id, None)

    def _take_pending(self) -> list[NewEvent]:
        gathered: dict[str, str] = {}
        for message_id, text in self._pending:
            gathered[message_id] = gathered.get(message_id, "") + text
        self._pending = []
        if gathered:
            self._flushed_at = time.monotonic()
        shown = {m: self._shown.setdefault(m, ShownText()).take(text) for m, text in gathered.items()}
        return [events.assistant_delta(m, text, turn_id=self._turn_id) for m, text in shown.items() if text]
