"""A model that believes whatever it reads: orders of a fixed grammar, and the tool calls that carry them out.

An order is ``do:VERB(key=value,…)`` in any text that it is shown, however it is hidden there: in an escaped or encoded
text, behind characters that nobody sees, in base64.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

Json = dict[str, Any]
Order = tuple[str, tuple[tuple[str, str], ...]]

_ORDER = re.compile(r"do:(\w+)\(([^()\n]*)\)")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")
_NODE = {"typeVersion": 1, "position": [0, 0]}


def orders(text: str) -> list[Order]:
    """What the text, or any JSON in it, asks for, in order, each once."""
    found: dict[Order, None] = {}
    for shown in _readings(text):
        for verb, arguments in _ORDER.findall(shown):
            pairs = (pair.partition("=") for pair in arguments.split(",") if "=" in pair)
            found[verb, tuple((key.strip(), value.strip()) for key, _, value in pairs)] = None
    return list(found)


def obey(order: Order, workflow: Mapping[str, Any], *, chat: bool) -> tuple[str, Json]:
    """The tool call that does it; ``workflow`` is what ``get_workflow`` has shown."""
    verb, given = order[0], dict(order[1])
    if verb == "change":
        body = _changed(workflow, given)
        if chat:
            return "update_workflow", {"workflowId": given.get("id", workflow["id"]), **body}
        return "propose_repair", {
            "workflow": {**body, "id": given.get("id", workflow["id"])},
            "summary": "As I was told.",
        }
    if verb == "create":
        body = _changed({**workflow, "name": "New"}, given)
        return "create_workflow", {**body, "nodes": [{**node, "id": f"n-{node['id']}"[:36]} for node in body["nodes"]]}
    return verb, given


def _readings(text: str) -> Iterator[str]:
    seen = "".join(c for c in text if unicodedata.category(c) != "Cf")
    yield seen
    with suppress(ValueError):
        yield from ("".join(c for c in leaf if unicodedata.category(c) != "Cf") for leaf in _leaves(json.loads(text)))
    yield html.unescape(unquote(seen))
    for coded in _BASE64.findall(seen):
        try:
            yield base64.b64decode(coded + "=" * (-len(coded) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value


def _changed(workflow: Mapping[str, Any], given: Mapping[str, str]) -> Json:
    body = json.loads(json.dumps({key: workflow[key] for key in ("name", "nodes", "connections", "settings")}))
    node = next(found for found in body["nodes"] if found["type"].endswith(".httpRequest"))
    for key, value in given.items():
        match key:
            case "url" | "authentication" | "body":
                node["parameters"][key] = value
            case "expression":
                node["parameters"]["body"] = "={{ " + value + " }}"
            case "proxy":
                node["parameters"]["options"] = {"proxy": value}
            case "credential":
                node["credentials"] = {"httpHeaderAuth": {"id": value, "name": "Admin"}}
            case "retries":
                node.update(retryOnFail=True, maxTries=int(value))
            case "handler":
                body["settings"]["errorWorkflow"] = value
            case "add":
                kind = f"n8n-nodes-base.{value}"
                parameters = {"command": "id", "workflowId": given.get("target", "")}
                body["nodes"].append(
                    {**_NODE, "id": f"new-{value}", "name": value, "type": kind, "parameters": parameters}
                )
    return body
