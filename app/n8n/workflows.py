"""Workflow JSON as pure functions: what may be written, whether n8n would take it, and what counts as the same.

Source: answers of n8n 2.41.1's public API to good and bad ``PUT /workflows/{id}`` bodies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

from app.n8n import Workflow
from app.n8n.structure import Problem, is_trigger, problems

__all__ = [
    "Problem",
    "canonical_hash",
    "canonical_json",
    "contents_hash",
    "editable",
    "find_node",
    "is_trigger",
    "validate",
]

MAX_JSON_BYTES = 512 * 1024
MAX_DEPTH = 40
MAX_PROBLEMS = 20


def editable(workflow: Mapping[str, Any]) -> Workflow:
    """What ``PUT /workflows/{id}`` takes of a workflow: n8n refuses the rest of what its own ``GET`` answers."""
    body: Workflow = {"name": workflow.get("name")}
    for key, empty in (("nodes", []), ("connections", {}), ("settings", {})):
        value = workflow.get(key)
        body[key] = empty if value is None else value
    if workflow.get("staticData") is not None:
        body["staticData"] = workflow["staticData"]
    return body


def canonical_json(value: Any) -> str:
    """One text per JSON value: keys sorted, ``1.0`` written like ``1``, as JavaScript sees it."""
    return json.dumps(_normal(value), sort_keys=True, separators=(",", ":"))


def canonical_hash(workflow: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over nodes, connections and settings; a restore is exact when this is what it was.

    A node's position and credential references count. The order of the list of nodes does not (connections go by
    name), nor does what n8n keeps beside them: name, ids, versions, times and static data of the workflow.
    """
    body = editable(workflow)
    nodes = sorted(map(canonical_json, body["nodes"]))
    content = canonical_json([nodes, body["connections"], body["settings"]])
    return hashlib.sha256(content.encode()).hexdigest()


def contents_hash(workflow: Mapping[str, Any]) -> str:
    """As :func:`canonical_hash`, of what has versions in n8n: nodes and connections alone."""
    return canonical_hash({"nodes": workflow["nodes"], "connections": workflow["connections"]})


def find_node(workflow: Mapping[str, Any], name: str | None = None, id: str | None = None) -> dict[str, Any] | None:
    """The node of that name, else the one with that id, else ``None``."""
    for key, wanted in (("name", name), ("id", id)):
        for node in workflow.get("nodes") or []:
            if wanted and isinstance(node, dict) and node.get(key) == wanted:
                return node
    return None


def validate(workflow: Mapping[str, Any], *, needs_trigger: bool = True) -> list[Problem]:
    """What n8n, or the bridge's own caps, would refuse; at most ``MAX_PROBLEMS``, none when it is fine.

    Only what :func:`editable` keeps is looked at. n8n alone knows its node types and their required parameters.

    :param needs_trigger: false for a draft that is known in part only.
    """
    body = editable(workflow)
    oversize = _oversize(body)
    if oversize:
        return [oversize]
    return list(islice(problems(body, needs_trigger=needs_trigger), MAX_PROBLEMS))


def _oversize(body: Workflow) -> Problem | None:
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
        if not level:
            break
    else:
        return Problem("", f"is nested more than {MAX_DEPTH} levels deep")
    try:
        size = len(json.dumps(body, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, TypeError):
        return Problem("", "holds a number or a text that JSON cannot carry")
    return Problem("", f"is larger than {MAX_JSON_BYTES} bytes") if size > MAX_JSON_BYTES else None


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _normal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
