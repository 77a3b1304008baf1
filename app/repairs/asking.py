"""A proposal that waits for a person: what the session is told, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from app.journal import NewEvent, Put, events
from app.journal.records import Repair
from app.repairs import policy
from app.repairs.states import moved


def ask(
    repair: Repair,
    judged: NewEvent,
    reason: str,
    *,
    turn_id: str,
    told: Sequence[NewEvent] = (),
    changes: Mapping[str, Any] | None = None,
) -> tuple[list[NewEvent], Put]:
    """Let ``repair`` wait for a decision.

    :param judged: its ``repair_verified`` or ``repair_unverified``. :param told: what is told before that.
    """
    expires_at = datetime.now(UTC) + timedelta(seconds=policy.APPROVAL_S)
    waiting = {"reason": reason, "expires_at_s": expires_at.timestamp(), "trial_version_id": ""}
    appended = [*told, judged, events.repair_waiting(repair.repair_id, reason, expires_at, turn_id=turn_id)]
    return appended, moved(repair, "waiting", **{**(changes or {}), **waiting})
