"""What running the failed execution again can prove of a change, and whether it may be run again at all.

n8n starts such a run at the failed node, with the input it had; the nodes before it do not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_READING_METHODS = ("GET", "HEAD", "OPTIONS")
# Nodes that change nothing outside n8n, so that a second run of them does no harm.
_HARMLESS = {
    *("code", "function", "functionItem", "set", "if", "switch", "filter", "merge", "sort", "limit", "aggregate"),
    *("splitOut", "splitInBatches", "itemLists", "dateTime", "crypto", "html", "markdown", "xml", "noOp", "wait"),
    *("renameKeys", "removeDuplicates", "summarize", "compareDatasets", "extractFromFile", "convertToFile"),
    *("stopAndError", "rssFeedRead", "webhook", "scheduleTrigger", "manualTrigger", "respondToWebhook"),
}


def cannot_prove(changes: Sequence[Mapping[str, Any]], workflow: Mapping[str, Any], failed_node: str | None) -> str:
    """Why a second run proves nothing of these changes; empty: it proves them.

    :param changes: the diff's entries. :param workflow: as proposed.
    """
    if not failed_node:
        return "the failed node is not known"
    seen = {failed_node, *_after(workflow, failed_node)}
    outside = sorted({str(entry["node"] or "the workflow itself") for entry in changes} - seen)
    if outside:
        return f'it changes "{outside[0]}", which does not run again'
    return ""


def may_not_repeat(node: Mapping[str, Any] | None) -> str:
    """Why the failed node must not run again unasked: it may have done part of its work; empty: it may."""
    if node is None:
        return "the failed node is not known"
    kind = str(node.get("type", "")).rpartition(".")[2]
    if kind == "httpRequest":
        parameters = node.get("parameters") or {}
        method = str(parameters.get("method") or parameters.get("requestMethod") or "GET").upper()
        return "" if method in _READING_METHODS else f'"{node.get("name")}" sends data ({method}), perhaps twice'
    if kind in _HARMLESS:
        return ""
    operation = str((node.get("parameters") or {}).get("operation", "")).lower()
    if operation.startswith(("get", "list", "search", "read", "find", "select", "download")):
        return ""
    return f'"{node.get("name")}" may change something outside n8n, perhaps twice'


def _after(workflow: Mapping[str, Any], name: str) -> set[str]:
    """The nodes that run after ``name``, however far."""
    found: set[str] = set()
    waiting = [name]
    connections = workflow.get("connections") or {}
    while waiting:
        for outputs in (connections.get(waiting.pop()) or {}).values():
            for target in (target for output in outputs for target in output or ()):
                if target.get("node") not in found:
                    found.add(target["node"])
                    waiting.append(target["node"])
    return found
