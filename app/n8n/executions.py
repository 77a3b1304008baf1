"""A run of a workflow, told in a few KiB: where it failed, how, and what went into the node that failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from app.telemetry.redaction import redact, redact_text

MAX_CHARS = 4_096
_SAMPLE_STRING = 200
_ERROR_KEYS = ("name", "message", "description", "httpCode", "lineNumber", "messages")


def summarize(execution: Mapping[str, Any], *, hide: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
    """Status, failed node, error, and the shape and a sample of that node's input; redacted, at most ``MAX_CHARS``.

    :param execution: as ``GET /executions/{id}?includeData=true`` answers; without data there is less to tell.
    :param hide: replaces in a JSON value what is known to be secret, before anything is cut.
    """
    result = _at(execution, "data", "resultData")
    node = result.get("lastNodeExecuted")
    error = _at(result, "error")
    told: dict[str, Any] = {
        "id": execution.get("id"),
        "status": execution.get("status"),
        "mode": execution.get("mode"),
        "workflowVersionId": execution.get("workflowVersionId"),
        "failedNode": redact(hide(node)),
        "error": redact(hide({key: error[key] for key in _ERROR_KEYS if key in error}), limit=800),
        "nodesRun": redact(hide(list(result.get("runData") or {})[:50])),
    }
    item = _input_of(result, node)
    if item is not None:
        item = hide(item)
        told["inputShape"] = _shape(item)
        told["inputSample"] = redact(item, limit=_SAMPLE_STRING, depth=5)
    for key in ("inputSample", "inputShape", "nodesRun"):
        if len(json.dumps(told)) <= MAX_CHARS:
            break
        told[key] = "(too large to show)"
    return told


def _input_of(result: Mapping[str, Any], node: Any) -> Any:
    """The first item that the failed node got: what the node before it gave."""
    runs = _at(result, "runData").get(str(node)) or [{}]
    source = (_first(runs[-1].get("source")) if isinstance(runs[-1], Mapping) else None) or {}
    before = _at(result, "runData").get(str(source.get("previousNode"))) or []
    number = source.get("previousNodeRun") or 0
    if not isinstance(number, int) or number >= len(before):
        return None
    outputs = _at(before[number], "data").get("main") or []
    index = source.get("previousNodeOutput") or 0
    item = _first(outputs[index]) if isinstance(index, int) and index < len(outputs) else None
    return item.get("json") if isinstance(item, Mapping) else None


def _shape(value: Any, depth: int = 3) -> Any:
    """Types instead of values."""
    if isinstance(value, Mapping):
        entries = list(value.items())[:30]
        return {redact_text(str(key)): _shape(item, depth - 1) for key, item in entries} if depth else "object"
    if isinstance(value, list):
        return [_shape(value[0], depth - 1)] if value and depth else "list"
    return {str: "text", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _at(value: Any, *path: str) -> Mapping[str, Any]:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None
