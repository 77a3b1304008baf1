"""What n8n takes as nodes and connections: the checks behind :func:`app.n8n.workflows.validate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.n8n import Workflow

MAX_NODES = 200
MAX_NAME_CHARS = 128

NODE_KEYS: Mapping[str, tuple[type, ...]] = {
    "id": (str,),
    "name": (str,),
    "type": (str,),
    "typeVersion": (int, float),
    "position": (list,),
    "parameters": (dict,),
    "credentials": (dict,),
    "webhookId": (str,),
    "disabled": (bool,),
    "notes": (str,),
    "notesInFlow": (bool,),
    "executeOnce": (bool,),
    "alwaysOutputData": (bool,),
    "retryOnFail": (bool,),
    "maxTries": (int, float),
    "waitBetweenTries": (int, float),
    "continueOnFail": (bool,),
    "onError": (str,),
    "customTelemetryTags": (dict,),
}
"""The keys that n8n takes in a node, with their types; any other is refused by it with a 400."""

# Trigger nodes whose type does not end in "Trigger".
_OTHER_TRIGGERS = frozenset({"webhook", "cron", "interval", "start", "emailReadImap"})

_REQUIRED = ("name", "type", "typeVersion", "position")
_TYPE_NAMES = {str: "text", int: "number", bool: "boolean", list: "list", dict: "JSON object"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a workflow cannot be written. ``path`` is as in n8n's own messages: ``nodes[2].name``."""

    path: str
    message: str


def is_trigger(node: Mapping[str, Any]) -> bool:
    """Whether runs begin at this node, judged by its type's name."""
    kind = str(node.get("type", "")).rpartition(".")[2]
    return kind.endswith("Trigger") or kind in _OTHER_TRIGGERS


def problems(body: Workflow, *, needs_trigger: bool) -> Iterator[Problem]:
    """Everything wrong with an editable workflow whose size and depth are within bounds, part by part."""
    name, nodes = body["name"], body["nodes"]
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME_CHARS:
        yield Problem("name", f"must be a text of 1 to {MAX_NAME_CHARS} characters")
    if not isinstance(body["settings"], dict):
        yield Problem("settings", "must be an object")
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        yield Problem("nodes", "must be a list of objects")
        return
    if len(nodes) > MAX_NODES:
        yield Problem("nodes", f"must be at most {MAX_NODES}")
        return
    seen: dict[str, set[Any]] = {"name": set(), "id": set()}
    for index, node in enumerate(nodes):
        yield from _node_problems(node, f"nodes[{index}]", seen)
    if needs_trigger and not any(is_trigger(node) and not node.get("disabled") for node in nodes):
        yield Problem("nodes", "has no trigger; at least one trigger, webhook or polling node is required")
    yield from _connection_problems(body["connections"], seen["name"])


def _node_problems(node: dict[str, Any], path: str, seen: dict[str, set[Any]]) -> Iterator[Problem]:
    for key in _REQUIRED:
        if node.get(key) in (None, ""):
            yield Problem(f"{path}.{key}", "is missing")
    for key, value in node.items():
        if key in _REQUIRED and value in (None, ""):
            continue
        if message := _value_problem(key, value, seen.get(key)):
            yield Problem(f"{path}.{key}"[:200], message)


def _value_problem(key: str, value: Any, taken: set[Any] | None) -> str | None:
    kinds = NODE_KEYS.get(key)
    if kinds is None:
        return "is not a key of a node"
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        return f"must be a {_TYPE_NAMES[kinds[0]]}"
    if key == "position" and not _is_position(value):
        return "must be two numbers"
    if taken is not None:
        if value in taken:
            return f"is already that of another node: {str(value)[:80]!r}"
        taken.add(value)
    return None


def _connection_problems(connections: Any, names: set[Any]) -> Iterator[Problem]:
    """``{source: {type: [[{"node", "type", "index"}, …] per output, or null]}}``."""
    if not isinstance(connections, dict):
        yield Problem("connections", "must be an object")
        return
    for source, by_type in connections.items():
        path = f"connections.{source}"[:200]
        if source not in names:
            yield Problem(path, "does not start at an existing node")
        if not isinstance(by_type, dict) or not all(isinstance(outputs, list) for outputs in by_type.values()):
            yield Problem(path, "must be an object of lists, one list for each kind of connection")
            continue
        for kind, outputs in by_type.items():
            for number, targets in enumerate(outputs):
                yield from _target_problems(targets, f"{path}.{kind}[{number}]", names)


def _target_problems(targets: Any, path: str, names: set[Any]) -> Iterator[Problem]:
    if targets is None:  # n8n's own way to write an output that leads nowhere
        return
    if not isinstance(targets, list):
        yield Problem(path, "must be a list")
        return
    for number, target in enumerate(targets):
        here = f"{path}[{number}]"
        if not isinstance(target, dict) or not isinstance(target.get("node"), str):
            yield Problem(here, "must be an object with node, type and index")
        elif target["node"] not in names:
            yield Problem(f"{here}.node", f"does not reference an existing node: {target['node'][:80]!r}")
        elif not isinstance(target.get("type"), str) or not _is_index(target.get("index")):
            yield Problem(here, "must have a text as type and a whole number from 0 as index")


def _is_position(value: Any) -> bool:
    return len(value) == 2 and all(isinstance(part, int | float) and not isinstance(part, bool) for part in value)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
