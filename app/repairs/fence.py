"""What a repair may change: parameters, retries and error handling of nodes that are there, and their connections.

Everything else needs a person, who makes it in the chat or in n8n. The agent's text is never asked; the two workflows
are compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_URL = re.compile(r"https?://[^\s\"'<>\\)]+", re.IGNORECASE)
_CHANGEABLE = {
    *("parameters", "position", "notes", "notesInFlow"),
    *("retryOnFail", "maxTries", "waitBetweenTries", "onError", "continueOnFail", "alwaysOutputData", "executeOnce"),
}
MAX_TRIES, MAX_WAIT_MS = 5, 5_000


def breaches(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The rules that a repair from ``before`` to ``after`` breaks, each as one sentence; empty: it may go on."""
    found: list[str] = []
    if after.get("name") != before.get("name"):
        found.append("A repair may not rename the workflow.")
    if (after.get("settings") or {}) != (before.get("settings") or {}):
        found.append("A repair may not change the workflow's settings.")
    old = {node.get("name"): node for node in before.get("nodes", [])}
    new = {node.get("name"): node for node in after.get("nodes", [])}
    found += [f'A repair may not add a node ("{name}").' for name in new.keys() - old.keys()]
    found += [f'A repair may not remove a node ("{name}").' for name in old.keys() - new.keys()]
    for name in sorted(old.keys() & new.keys(), key=str):
        found += _node(str(name), old[name], new[name])
    known = _hosts(before)
    found += [f"A repair may not bring in a new host ({host})." for host in sorted(_hosts(after) - known)]
    return found[:20]


def _node(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        if key not in _CHANGEABLE and old.get(key) != new.get(key):
            what = "credentials" if key == "credentials" else f'"{key}"'
            found.append(f'A repair may not change {what} of the node "{name}".')
    if new.get("maxTries") != old.get("maxTries") and not _within(new.get("maxTries"), MAX_TRIES):
        found.append(f'"maxTries" of "{name}" may be at most {MAX_TRIES}.')
    if new.get("waitBetweenTries") != old.get("waitBetweenTries") and not _within(
        new.get("waitBetweenTries"), MAX_WAIT_MS
    ):
        found.append(f'"waitBetweenTries" of "{name}" may be at most {MAX_WAIT_MS} ms.')
    return found


def _within(value: Any, high: int) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high)


def _hosts(workflow: Mapping[str, Any]) -> set[str]:
    """The hosts that a workflow's text names. An address that is put together at run time counts as its expression."""
    text = json.dumps(workflow.get("nodes", []), ensure_ascii=False)
    hosts = set()
    for url in _URL.findall(text):
        try:
            hosts.add((urlsplit(url).hostname or url).lower())
        except ValueError:
            hosts.add(url)
    return hosts
