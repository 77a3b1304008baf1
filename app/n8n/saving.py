"""What is sent to n8n to save a workflow, and whether n8n has kept it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from app.n8n import Workflow
from app.n8n.workflows import canonical_json, contents_hash

_NODE_IDS = uuid.UUID("0b5b0f1e-2f6a-4f0b-9f0e-5a3c1f1d7a52")


def node_ids(workflow: Mapping[str, Any]) -> set[str]:
    return {str(node.get("id")) for node in workflow["nodes"] if isinstance(node, dict)}


def marked(nodes: Sequence[Mapping[str, Any]], intent: str) -> list[dict[str, Any]]:
    return [{**node, "id": str(uuid.uuid5(_NODE_IDS, f"{intent}:{index}"))} for index, node in enumerate(nodes)]


def completed(nodes: Sequence[Mapping[str, Any]], present: Workflow) -> list[dict[str, Any]]:
    """``nodes`` with the ids that they have in n8n already; one without a ``webhookId`` would get another address.

    A new node's id follows from its name, so that the same write is the same write.
    """
    known = {node.get("name"): node for node in present["nodes"]}
    completed = []
    for node in nodes:
        former = known.get(node.get("name"), {})
        new_id = str(uuid.uuid5(_NODE_IDS, f"{present['id']}:{node.get('name')}"))
        given: dict[str, Any] = {"id": former.get("id") or new_id, "parameters": {}}
        if former.get("webhookId") and former.get("type") == node.get("type"):
            given["webhookId"] = former["webhookId"]
        completed.append({**given, **{key: value for key, value in node.items() if value is not None}})
    return completed


def changed(wanted: Workflow, present: Workflow) -> Workflow:
    """What is sent: of the settings only those that change, as n8n merges them and refuses some of its own."""
    settings = present.get("settings") or {}
    keep = {key: value for key, value in wanted["settings"].items() if settings.get(key) != value}
    if "errorWorkflow" in wanted["settings"]:
        keep["errorWorkflow"] = wanted["settings"]["errorWorkflow"]
    return {**wanted, "settings": keep}


def holds(present: Workflow, wanted: Workflow) -> bool:
    """Whether n8n has what was to be written, but for what it fills in or leaves out itself."""
    found = {node.get("name"): node for node in present["nodes"]}
    nodes = []
    for node in wanted["nodes"]:
        own = found.get(node.get("name"), {}).get("webhookId")
        nodes.append({"webhookId": own, **node} if own else node)
    if contents_hash({**wanted, "nodes": nodes}) != contents_hash(present) or present.get("name") != wanted["name"]:
        return False
    settings = present.get("settings") or {}
    differing = {
        key: value
        for key, value in wanted["settings"].items()
        if canonical_json(settings.get(key)) != canonical_json(value)
    }
    # n8n does not store a setting that says what goes without saying.
    return all(value in ("DEFAULT", -1) and key not in settings for key, value in differing.items())
