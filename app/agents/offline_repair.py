"""The offline agent's one repair: an HTTP node that gives up at the first hiccup gets retries and a fair timeout."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.n8n.workflows import editable, find_node

HTTP_REQUEST = "n8n-nodes-base.httpRequest"
MAX_TRIES = 3
WAIT_BETWEEN_TRIES_MS = 2000
FAIR_TIMEOUT_MS = 10_000

Hiccup = Literal["timeout", "refused", "server_error"]

_CODES: Mapping[str, Hiccup] = {
    "ECONNREFUSED": "refused",
    "ECONNRESET": "refused",
    "ECONNABORTED": "timeout",
    "ETIMEDOUT": "timeout",
}
# What n8n writes where it sends no httpCode, most telling first.
_WORDS: tuple[tuple[re.Pattern[str], Hiccup], ...] = (
    (re.compile(r"ETIMEDOUT|ECONNABORTED|timeout of \d+ ?ms exceeded"), "timeout"),
    (re.compile(r"ECONNREFUSED|ECONNRESET|socket hang up"), "refused"),
    (re.compile(r"^5\d\d - |status code 5\d\d\b"), "server_error"),
)
_LIMIT = re.compile(r"timeout of (\d{1,9}) ?ms exceeded")


@dataclass(frozen=True, slots=True)
class Fix:
    """A whole workflow to propose, ``{"name", "nodes", "connections", "settings"}``, and what changed in a sentence."""

    workflow: dict[str, Any]
    summary: str


def find_fix(workflow: Mapping[str, Any], error: Mapping[str, Any], node_name: str | None) -> Fix | None:
    """The repair for ``error`` (n8n's error object, any field may be missing), or ``None`` where the rule does not fit.

    :param node_name: the node that failed, where the report names it.
    """
    hiccup = _hiccup(error)
    if hiccup is None:
        return None
    body = copy.deepcopy(editable(workflow))
    fragile = [node for node in _suspects(body, error, node_name) if _is_fragile(node)]
    if not fragile:
        return None
    changes = [_strengthen(node, _limit_ms(node, error) if hiccup == "timeout" else None) for node in fragile]
    body.pop("staticData", None)
    return Fix(body, "; ".join(changes))


def _hiccup(error: Mapping[str, Any]) -> Hiccup | None:
    code = str(error.get("httpCode") or "")
    if code:
        return "server_error" if re.fullmatch(r"5\d\d", code) else _CODES.get(code)
    for pattern, hiccup in _WORDS:
        if any(pattern.search(text) for text in _texts(error)):
            return hiccup
    return None


def _texts(error: Mapping[str, Any]) -> list[str]:
    messages = error.get("messages")
    texts = [error.get("message"), error.get("description"), *(messages if isinstance(messages, list) else [])]
    return [text for text in texts if isinstance(text, str)]


def _suspects(body: Mapping[str, Any], error: Mapping[str, Any], node_name: str | None) -> list[dict[str, Any]]:
    """The node that failed; where nothing tells which, all of them."""
    told = error.get("node")
    told = told if isinstance(told, Mapping) else {}
    found = find_node(body, name=node_name or told.get("name")) or find_node(body, id=told.get("id"))
    if found:
        return [found]
    # The node that failed was of another kind, and is gone by now.
    return [] if told.get("type", HTTP_REQUEST) != HTTP_REQUEST else list(body["nodes"])


def _is_fragile(node: Mapping[str, Any]) -> bool:
    return node.get("type") == HTTP_REQUEST and not node.get("retryOnFail")


def _limit_ms(node: Mapping[str, Any], error: Mapping[str, Any]) -> float | None:
    """The time limit that was too short, in milliseconds; ``None`` where it is unknown or an expression."""
    own = _at(node, "parameters", "options", "timeout")
    if own is None:
        own = _at(error, "context", "request", "timeout")
    if own is None:
        own = next((int(found[1]) for text in _texts(error) if (found := _LIMIT.search(text))), None)
    return own if isinstance(own, int | float) and not isinstance(own, bool) else None


def _strengthen(node: dict[str, Any], limit_ms: float | None) -> str:
    node |= {"retryOnFail": True, "maxTries": MAX_TRIES, "waitBetweenTries": WAIT_BETWEEN_TRIES_MS}
    change = f'"{node["name"]}" is tried up to {MAX_TRIES} times, {WAIT_BETWEEN_TRIES_MS // 1000} s apart'
    if limit_ms is None or limit_ms >= FAIR_TIMEOUT_MS:
        return change
    parameters = node.setdefault("parameters", {})
    options = parameters.get("options")
    parameters["options"] = {**(options if isinstance(options, Mapping) else {}), "timeout": FAIR_TIMEOUT_MS}
    return f"{change}, and waits {FAIR_TIMEOUT_MS // 1000} s for an answer instead of {limit_ms / 1000:g} s"


def _at(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
