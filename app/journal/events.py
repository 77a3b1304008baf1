"""The event types of a session's log, as functions that build them: the one place that knows each ``data`` shape.

Source: the wire contract, "Events". Values are redacted by whoever makes the event, before it comes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.journal import NewEvent

Body = Mapping[str, Any]


def _given(**values: Any) -> dict[str, Any]:
    """Only what is there: an optional field that has no value is left out on the wire."""
    return {name: value for name, value in values.items() if value is not None}


def iso(moment: datetime) -> str:
    """ISO 8601 UTC with milliseconds, as every time on the wire."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


# -- the conversation


def user_message(text: str, *, client_message_id: str | None, request_id: str | None) -> NewEvent:
    return NewEvent("user_message", _given(text=text, clientMessageId=client_message_id), request_id=request_id)


def turn_started(kind: str, *, turn_id: str, request_id: str | None = None, repair_id: str | None = None) -> NewEvent:
    return NewEvent("turn_started", {"kind": kind}, turn_id, request_id, repair_id)


def turn_finished(
    outcome: str,
    *,
    turn_id: str,
    duration_ms: int,
    cost_usd: float | None = None,
    error: str | None = None,
    repair_id: str | None = None,
) -> NewEvent:
    data = {"outcome": outcome, "durationMs": duration_ms, **_given(costUsd=cost_usd, error=error)}
    return NewEvent("turn_finished", data, turn_id, repair_id=repair_id)


def assistant_delta(message_id: str, text: str, *, turn_id: str) -> NewEvent:
    return NewEvent("assistant_delta", {"messageId": message_id, "text": text}, turn_id)


def assistant_reset(message_id: str, *, turn_id: str) -> NewEvent:
    return NewEvent("assistant_reset", {"messageId": message_id}, turn_id)


def assistant_message(message_id: str, text: str, *, turn_id: str) -> NewEvent:
    return NewEvent("assistant_message", {"messageId": message_id, "text": text}, turn_id)


def tool_started(tool: str, tool_use_id: str, arguments: Body, *, turn_id: str) -> NewEvent:
    return NewEvent("tool_started", {"tool": tool, "toolUseId": tool_use_id, "input": arguments}, turn_id)


def tool_finished(tool: str, tool_use_id: str, *, ok: bool, summary: str, turn_id: str) -> NewEvent:
    return NewEvent("tool_finished", {"tool": tool, "toolUseId": tool_use_id, "ok": ok, "summary": summary}, turn_id)


def tool_refused(tool: str, tool_use_id: str, rule: str, *, turn_id: str) -> NewEvent:
    return NewEvent("tool_refused", {"tool": tool, "toolUseId": tool_use_id, "rule": rule}, turn_id)


# -- workflows


def workflow_registered(workflow_id: str, name: str, autonomy: str, *, turn_id: str | None = None) -> NewEvent:
    data = {"workflowId": workflow_id, "name": name, "autonomy": autonomy}
    return NewEvent("workflow_registered", data, turn_id)


def autonomy_changed(workflow_id: str, autonomy: str, *, by: str) -> NewEvent:
    return NewEvent("autonomy_changed", {"workflowId": workflow_id, "autonomy": autonomy, "by": by})


def rolled_back(workflow_id: str, snapshot_id: str, *, by: str) -> NewEvent:
    return NewEvent("rolled_back", {"workflowId": workflow_id, "snapshotId": snapshot_id, "by": by})


# -- errors and repairs


def workflow_error(
    *,
    workflow_id: str,
    workflow_name: str,
    execution: Body | None,
    trigger: Body | None,
    error: Body,
    signature: str,
    repeat_count: int,
    source: str,
    request_id: str | None,
    repair_id: str | None,
) -> NewEvent:
    data = {
        "workflowId": workflow_id,
        "workflowName": workflow_name,
        **_given(execution=execution, trigger=trigger),
        "error": error,
        "signature": signature,
        "repeatCount": repeat_count,
        "source": source,
    }
    return NewEvent("workflow_error", data, request_id=request_id, repair_id=repair_id)


def repair_started(workflow_id: str, signature: str, attempt: int, *, repair_id: str, turn_id: str) -> NewEvent:
    data = {"workflowId": workflow_id, "signature": signature, "attempt": attempt}
    return NewEvent("repair_started", data, turn_id, repair_id=repair_id)


def repair_diagnosed(
    workflow_id: str, kind: str, summary: str, *, repair_id: str, turn_id: str | None = None
) -> NewEvent:
    data = {"workflowId": workflow_id, "kind": kind, "summary": summary}
    return NewEvent("repair_diagnosed", data, turn_id, repair_id=repair_id)


def repair_proposed(repair_id: str, workflow_id: str, diff: Sequence[Body], summary: str, *, turn_id: str) -> NewEvent:
    data = {"repairId": repair_id, "workflowId": workflow_id, "diff": diff, "summary": summary}
    return NewEvent("repair_proposed", data, turn_id, repair_id=repair_id)


def repair_waiting(repair_id: str, reason: str, expires_at: datetime, *, turn_id: str | None = None) -> NewEvent:
    data = {"repairId": repair_id, "reason": reason, "expiresAt": iso(expires_at)}
    return NewEvent("repair_waiting", data, turn_id, repair_id=repair_id)


def repair_decided(repair_id: str, decision: str, *, by: str) -> NewEvent:
    return NewEvent("repair_decided", {"repairId": repair_id, "decision": decision, "by": by}, repair_id=repair_id)


def repair_verified(repair_id: str, execution_id: str, *, turn_id: str | None = None) -> NewEvent:
    data = {"repairId": repair_id, "executionId": execution_id}
    return NewEvent("repair_verified", data, turn_id, repair_id=repair_id)


def repair_unverified(repair_id: str, reason: str, *, turn_id: str | None = None) -> NewEvent:
    return NewEvent("repair_unverified", {"repairId": repair_id, "reason": reason}, turn_id, repair_id=repair_id)


def repair_published(repair_id: str, snapshot_id: str) -> NewEvent:
    return NewEvent("repair_published", {"repairId": repair_id, "snapshotId": snapshot_id}, repair_id=repair_id)


def repair_failed(
    workflow_id: str, reason: str, *, repair_id: str | None = None, turn_id: str | None = None
) -> NewEvent:
    data = {**_given(repairId=repair_id), "workflowId": workflow_id, "reason": reason}
    return NewEvent("repair_failed", data, turn_id, repair_id=repair_id)


def repair_blocked(workflow_id: str, signature: str, reason: str, *, repair_id: str | None = None) -> NewEvent:
    data = {"workflowId": workflow_id, "signature": signature, "reason": reason}
    return NewEvent("repair_blocked", data, repair_id=repair_id)


# -- the rest


def notice(level: str, text: str, *, turn_id: str | None = None, repair_id: str | None = None) -> NewEvent:
    return NewEvent("notice", {"level": level, "text": text}, turn_id, repair_id=repair_id)


def session_closed(reason: str) -> NewEvent:
    return NewEvent("session_closed", {"reason": reason})
