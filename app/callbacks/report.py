"""n8n's error callback, parsed and checked: what its Error Trigger emits, in either shape."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from app.shapes import Id, Shape, read_value, refusal
from app.telemetry.redaction import redact

MAX_NAME = 256
MAX_ERROR_CHARS = 65_536
_SMALL_STRING = 512

_KEPT_OF_EXECUTION = ("url", "mode", "retryOf", "lastNodeExecuted")
_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """A callback, parsed, checked and redacted.

    :ivar execution: ``{id, url, mode, retryOf?, lastNodeExecuted?}``; ``None`` in the trigger shape.
    :ivar trigger: ``{mode}``; ``None`` in the execution shape.
    :ivar error: n8n's error object without the node, every field optional.
    :ivar node: the failing node with its parameters, where n8n sent it.
    :ivar node_name: name of the failing node, where it is known.
    :ivar parent_id: id of the run that called this one as a sub-workflow.
    :ivar idempotency_key: ``exec:<id>``, else ``key:<what the header said>``, else empty.
    :ivar failed_at_s: epoch seconds by n8n's clock, where n8n was asked; a callback does not tell.
    """

    workflow_id: str
    workflow_name: str
    execution: dict[str, Any] | None
    trigger: dict[str, Any] | None
    error: dict[str, Any]
    node: dict[str, Any] | None
    node_name: str | None
    idempotency_key: str
    parent_id: str | None = None
    failed_at_s: float | None = None

    @property
    def execution_id(self) -> str | None:
        return self.execution.get("id") if self.execution else None

    def as_body(self) -> dict[str, Any]:
        """The body it would have come in: what a dead letter keeps, and a replay parses again."""
        error = {**self.error, **({"node": self.node} if self.node else {})}
        context = {"executionContext": {"parentExecutionId": self.parent_id}} if self.parent_id else {}
        shape = (
            {"execution": {**self.execution, **context, "error": error}}
            if self.execution is not None
            else {"trigger": {**(self.trigger or {}), "error": error}}
        )
        return {**shape, "workflow": {"id": self.workflow_id, "name": self.workflow_name}}


def _as_text(value: Any) -> Any:
    """A number as text; everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):  # 1e999 is good JSON
            return value
        value = int(value) if value.is_integer() else value
    return str(value)


class _Workflow(Shape):
    id: Annotated[Id, BeforeValidator(_as_text)]
    name: Any = None


class _Callback(Shape):
    """What must be there. The rest is taken as it comes, whatever its type: an odd field is no reason to lose an
    error. Keys of any text, too: those of a ``dict[str, …]`` may have no lone surrogates."""

    workflow: _Workflow
    execution: dict[Any, Any] | None = None
    trigger: dict[Any, Any] | None = None


def parse_error_report(body: Any, *, header_key: str = "") -> ErrorReport:
    """Read an n8n error callback.

    n8n sends ``{"execution": {…}, "workflow": {…}}`` for a saved execution and ``{"trigger": {…}, "workflow": {…}}``
    when there is no execution id; some error workflows wrap it in a list of one.

    :param body: decoded JSON; its size was checked by the view.
    :param header_key: value of ``X-Idempotency-Key``, for callbacks without an execution id.
    :raises ValidationError: not of either shape, or ``workflow.id`` is missing or neither text nor a number.

    Source: n8n 2.41.1, measured; n8n docs, Error Trigger, "Error data".
    """
    taken = read_value(_Callback, body[0] if isinstance(body, list) and len(body) == 1 else body)
    is_execution = taken.execution is not None
    failed = taken.execution if taken.execution is not None else taken.trigger
    if failed is None:
        raise refusal("is missing, and so is trigger", "execution")
    workflow_id = taken.workflow.id
    raw_error = failed.get("error")
    error = raw_error if isinstance(raw_error, dict) else {"message": raw_error} if raw_error is not None else {}
    node = error.get("node") if isinstance(error.get("node"), dict) else None
    node_name = _text(failed.get("lastNodeExecuted")) or _text((node or {}).get("name"))
    execution_id = _identifier(failed.get("id"))
    # Told apart, so that a header cannot take the place of an execution.
    key = f"exec:{execution_id}" if is_execution and execution_id else f"key:{header_key}"
    return ErrorReport(
        workflow_id=workflow_id,
        workflow_name=_text(taken.workflow.name) or workflow_id,
        execution=_execution(failed, execution_id) if is_execution else None,
        trigger=None if is_execution else {"mode": _text(failed.get("mode")) or "trigger"},
        error=_bounded({key: value for key, value in error.items() if key != "node"}),
        node=_bounded(node) if node else None,
        node_name=node_name,
        idempotency_key=key if key != "key:" else "",
        parent_id=_parent_of(failed) if is_execution else None,
    )


def _execution(failed: Mapping[str, Any], execution_id: str | None) -> dict[str, Any]:
    kept = {key: failed[key] for key in _KEPT_OF_EXECUTION if isinstance(failed.get(key), str | int)}
    redacted: dict[str, Any] = redact({"id": execution_id, **kept} if execution_id else kept, limit=_SMALL_STRING)
    return redacted


def _parent_of(failed: Mapping[str, Any]) -> str | None:
    context = failed.get("executionContext")
    return _identifier(context.get("parentExecutionId")) if isinstance(context, dict) else None


def _bounded(value: Mapping[str, Any]) -> dict[str, Any]:
    """Redacted, and small enough to be kept with every event: long texts are cut harder where the whole is large."""
    redacted: dict[str, Any] = redact(value)
    if _length(redacted) > MAX_ERROR_CHARS:
        redacted = redact(value, limit=_SMALL_STRING, depth=6)
    if _length(redacted) > MAX_ERROR_CHARS:
        redacted = {key: item for key, item in redacted.items() if isinstance(item, str | int | float)}
        redacted = dict(list(redacted.items())[:40])
    return redacted


def _length(value: Any) -> int:
    return len(json.dumps(value))


def _identifier(value: Any) -> str | None:
    """An id as text: n8n's are text, other senders' may be numbers."""
    text = _as_text(value)
    return text if isinstance(text, str) and _ID.fullmatch(text) else None


def _text(value: Any) -> str | None:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    redacted = redact(str(value)[:MAX_NAME])
    return str(redacted) or None
