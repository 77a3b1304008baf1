"""Turns what a person asked of the offline agent into a workflow, the same one for the same words."""

from __future__ import annotations

import json
import uuid
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from app.agents.offline_chat import Interval, Wanted

Node = dict[str, Any]

_NAMESPACE = uuid.UUID("b1c2a1c8-53a5-4d0e-8d5b-0a6b1d3c9f11")
_STEP_PX = 220
_NAME_CHARS = 60


def build(wanted: Wanted, *, prompt: str, session_id: str) -> dict[str, Any]:
    """The input of ``create_workflow``: ``{"name", "nodes", "connections", "settings"}``.

    A turn that is run again must not make a second workflow, so every id follows from the prompt, and the webhook's
    path from the session too.
    """
    nodes = [_trigger(wanted.interval, str(uuid.uuid5(_NAMESPACE, f"{session_id}\n{prompt}")))]
    if wanted.get_url:
        nodes.append(_http("HTTP Request", {"method": "GET", "url": wanted.get_url}))
    if wanted.post_url:
        body = {"sendBody": True, "specifyBody": "json", "jsonBody": "={{ JSON.stringify($json) }}"}
        nodes.append(_http("HTTP Request1", {"method": "POST", "url": wanted.post_url, **body}))
    if wanted.interval is None:
        nodes.append(_respond(wanted.answer))
    for index, node in enumerate(nodes):
        node["id"] = str(uuid.uuid5(_NAMESPACE, f"{prompt}\n{node['name']}"))
        node["position"] = [_STEP_PX * index, 0]
    return {
        "name": _name(wanted),
        "nodes": nodes,
        "connections": {
            source["name"]: {"main": [[{"node": target["name"], "type": "main", "index": 0}]]}
            for source, target in pairwise(nodes)
        },
        "settings": {"executionOrder": "v1"},
    }


def _trigger(interval: Interval | None, path: str) -> Node:
    if interval is None:
        return {
            "name": "Webhook",
            "type": "n8n-nodes-base.webhook",
            "typeVersion": 2,
            "webhookId": path,
            "parameters": {"httpMethod": "GET", "path": path, "responseMode": "responseNode", "options": {}},
        }
    rule = {"field": interval.unit, f"{interval.unit}Interval": interval.count}
    return {
        "name": "Schedule Trigger",
        "type": "n8n-nodes-base.scheduleTrigger",
        "typeVersion": 1.2,
        "parameters": {"rule": {"interval": [rule]}},
    }


def _http(name: str, parameters: dict[str, Any]) -> Node:
    kind = {"type": "n8n-nodes-base.httpRequest", "typeVersion": 4.2}
    return {"name": name, **kind, "parameters": {**parameters, "options": {}}}


def _respond(text: str | None) -> Node:
    answer = {"respondWith": "firstIncomingItem"} if text is None else {"respondWith": "text", "responseBody": text}
    if text is not None and text.startswith("="):
        # n8n takes such a value for an expression; as an expression of its own it is plain text again.
        answer["responseBody"] = f"={{{{ {json.dumps(text)} }}}}"
    return {
        "name": "Respond to Webhook",
        "type": "n8n-nodes-base.respondToWebhook",
        "typeVersion": 1.1,
        "parameters": {**answer, "options": {}},
    }


def _name(wanted: Wanted) -> str:
    if wanted.get_url is None:
        return " ".join(f"Webhook that answers {wanted.answer}".split())[:_NAME_CHARS]
    when = str(wanted.interval).capitalize() if wanted.interval else "Webhook"
    steps = f"{when}: get {urlsplit(wanted.get_url).hostname}"
    return f"{steps}, post to {urlsplit(wanted.post_url).hostname}"[:128] if wanted.post_url else steps[:128]
