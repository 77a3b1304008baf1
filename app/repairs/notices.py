"""What an operator is told of repairs: which changes tell something, and the body that tells it.

A notification is journalled by the very change that it is about, so it exists exactly if that came to pass: whoever
writes such a state cannot forget it, and no crash comes in between.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from app.journal import Change, Put
from app.journal.events import iso
from app.journal.records import Case, Repair
from app.outbox import Outgoing
from app.telemetry.redaction import redact_text

NoticeType = Literal["repair_waiting", "repair_blocked", "repair_failed", "repair_published"]
TOPIC = "notifications"
"""Woken by each change that adds one."""
MAX_TEXT = 500

_TYPES: dict[str, NoticeType] = {
    # Told when it is entered, as the tally counts; what is written of such a repair later is no news.
    "waiting": "repair_waiting",
    "failed": "repair_failed",
    "published": "repair_published",
}
_TEXTS: dict[str, str] = {
    "repair_waiting": "A repair of {name} waits for a person's decision",
    "repair_blocked": "{name} fails, and is not repaired until a person asks for it",
    "repair_failed": "A repair of {name} failed",
    "repair_published": "A repair of {name} was published",
}
# Chats read links, mentions and markup out of a text, and a workflow's name may hold a stranger's words.
_MARKUP = re.compile(r"[^\w.,()#-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification(Outgoing):
    """Something to tell.

    :ivar notification_id: the same however often it is sent or the change is made.
    :ivar facts: members of the body, redacted and cut.
    """

    KIND: ClassVar[str] = "notification"
    notification_id: str
    type: NoticeType
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.notification_id

    @property
    def ids(self) -> Mapping[str, str | None]:
        return {"session_id": self.facts.get("sessionId"), "workflow_id": self.facts.get("workflowId")}

    @property
    def shown(self) -> Mapping[str, object]:
        return {"notificationId": self.notification_id, "type": self.type}

    def body(self, public_url: str) -> dict[str, Any]:
        """What is sent: equal at every try."""
        url = f"{public_url}/#session={self.facts['sessionId']}"
        name = _MARKUP.sub(" ", str(self.facts["workflowName"])).strip()
        text = _TEXTS[self.type].format(name=f'"{name}"' if name else "a workflow")
        at = {"at": iso(self.stored_at)} if self.stored_at else {}
        shown = {"id": self.notification_id, "type": self.type, **at, **self.facts, "url": url}
        return {**shown, "text": f"{text[:1].upper()}{text[1:]}: {url}"}


def with_notices(change: Change) -> Change:
    """``change``, and what is to be told of it."""
    blocked = next((event.data for event in change.events if event.type == "repair_blocked"), None)
    told = []
    for put in change.puts:
        if put.kind == Repair.KIND and put.body["entered"] and put.body["state"] in _TYPES:
            told.append(_of_repair(put.body))
        elif put.kind == Case.KIND and blocked and put.body["state"] == "blocked":
            told.append(_of_case(put, change, str(blocked.get("reason", ""))))
    if not told:
        return change
    return replace(change, puts=[*change.puts, *told], wake=[*change.wake, TOPIC])


def _of_repair(repair: Mapping[str, Any]) -> Put:
    state = repair["state"]
    # A published one's reason is that of a trial before, or why a person was asked.
    reason = None if state == "published" else repair["reason"]
    expires_at = iso(datetime.fromtimestamp(repair["expires_at_s"], UTC)) if state == "waiting" else None
    facts = _facts(
        sessionId=repair["session_id"],
        workflowId=repair["workflow_id"],
        workflowName=repair["workflow_name"],
        repairId=repair["repair_id"],
        signature=repair["signature"],
        kind=repair["diagnosis"],
        summary=repair["summary"],
        reason=reason,
        expiresAt=expires_at,
    )
    return _put(_TYPES[state], repair["repair_id"], facts)


def _of_case(put: Put, change: Change, reason: str) -> Put:
    case = put.body
    names = [event.data.get("workflowName") for event in change.events if event.type == "workflow_error"]
    names += [other.body["workflow_name"] for other in change.puts if other.kind == Repair.KIND]
    facts = _facts(
        sessionId=change.session_id or "",
        workflowId=case["workflow_id"],
        workflowName=next((name for name in names if name), ""),
        repairId=case["repair_id"],
        signature=case["signature"],
        kind=case["diagnosis"],
        reason=reason,
    )
    # A case may be blocked, tried once more and blocked again: each time is one of its own, by the version written.
    return _put("repair_blocked", f"{put.key}:{put.expect}", facts)


def _put(type_: NoticeType, about: str, facts: dict[str, Any]) -> Put:
    digest = hashlib.sha256(f"{type_}:{about}".encode("utf-8", "replace")).hexdigest()
    new = Notification(notification_id=f"msg_{digest[:24]}", type=type_, facts=facts)
    # Whatever is there: should the same be told again, it is the same one.
    return replace(new.put(), expect=None)


def _facts(**values: Any) -> dict[str, Any]:
    """Members of the body; what says nothing is left out, but for the ones that every body has."""
    always = ("sessionId", "workflowId", "workflowName", "signature")
    return {name: _cleaned(value) for name, value in values.items() if value or name in always}


def _cleaned(value: Any) -> str:
    # Half a surrogate pair is JSON that many a receiver refuses.
    return redact_text(str(value).encode("utf-8", "replace").decode(), limit=MAX_TEXT)
