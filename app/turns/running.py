"""A turn that runs in this worker."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from gevent.event import Event as GreenEvent

from app.journal import Claim, Input, Journal

LOOK_S = 1.0
StopReason = Literal["cancelled", "timeout", "drained", "lost", "n8n_away", "journal_away"]


@dataclass(slots=True)
class RunningTurn:
    """A turn of this worker. ``stop``: why it must end, once somebody has said so; ``wake`` tells its watcher.

    :ivar begun: its ``turn_started`` is in the journal. :ivar takeovers: turns for its input that were lost before.
    :ivar bug: the ``exc_info`` of what failed the agent and should not have.
    """

    claim: Claim
    turn_id: str
    begun: bool = False
    takeovers: int = 0
    started_at: float = field(default_factory=time.monotonic)
    stop: StopReason | None = None
    wake: GreenEvent = field(default_factory=GreenEvent)
    bug: Any = None

    def stop_for(self, reason: StopReason) -> None:
        self.stop = self.stop or reason
        self.wake.set()

    @property
    def duration_ms(self) -> int:
        return int((time.monotonic() - self.started_at) * 1000)

    def input_in(self, journal: Journal) -> Input | None:
        """Its input as it is now; ``None``: it was answered, another turn has it, or its session has ended."""
        pending = journal.pending(self.claim.input.session_id)
        return next((found for found in pending if found.turn_id == self.turn_id), None)
