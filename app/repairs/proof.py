"""What running the failed execution again can prove of a change, and whether it may be run again at all.

n8n starts such a run at the failed node, with the input it had; the nodes before it do not run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from app.repairs import code_reach

# "findOneAndUpdate", "getOrCreate".
_WRITES = re.compile(r"and|update|replace|delete|create|upsert|write|remove|send")
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


def may_not_try(base: Mapping[str, Any], wanted: Mapping[str, Any], failed_node: str | None) -> str:
    """Why the proposal must not run unasked, or its success would say nothing; empty: it may be tried.

    :param base: as it failed. The trial runs what the agent wrote, so a write that is new or another is a person's.
    """
    old, new = _nodes(base), _nodes(wanted)
    failed = str(failed_node)
    seen = {failed, *_after(wanted, failed)}
    if lost := sorted(_after(base, failed) - seen):
        return f'"{lost[0]}" would not run any more, so its success proves nothing'
    led_to = _targets(wanted, seen) - _targets(base, seen)
    for name in sorted(seen & new.keys()):
        node, was = new[name], old.get(name, {})
        if _tolerates(node) - _tolerates(was):
            return f'"{name}" would go on after an error, so its success proves nothing'
        is_other = _does(node) != _does(was) or any(target == name for _, target in led_to)
        if is_other and (reason := may_not_repeat(node)):
            return reason.replace("perhaps twice", "in another way than before")
    return ""


def _nodes(workflow: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(node.get("name")): node for node in workflow.get("nodes") or []}


def _does(node: Mapping[str, Any]) -> tuple[Any, ...]:
    return node.get("type"), node.get("parameters") or {}, node.get("credentials") or {}


def _tolerates(node: Mapping[str, Any]) -> set[str]:
    """How a node hides that it failed, or does a part of its work only."""
    found = {key for key in ("continueOnFail", "executeOnce", "alwaysOutputData") if node.get(key) is True}
    if str(node.get("onError", "")).startswith("continue"):
        found.add("onError")
    options = json.dumps(node.get("parameters") or {})
    return found | {key for key in ("neverError", "ignoreResponseCode") if re.search(rf'"{key}": (?!false)', options)}


def _targets(workflow: Mapping[str, Any], sources: set[str]) -> set[tuple[str, str]]:
    """Where these lead: by output, and the node there."""
    connections = workflow.get("connections") or {}
    return {
        (f"{source}.{kind}[{number}]", str(target.get("node")))
        for source in sources
        for kind, outputs in (connections.get(source) or {}).items()
        for number, output in enumerate(outputs)
        for target in output or ()
    }


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
        return f'"{node.get("name")}" sends data, perhaps twice' if _sends(node) else ""
    operation = str((node.get("parameters") or {}).get("operation", "")).lower()
    reads = operation.startswith(("get", "list", "search", "read", "find", "select", "download"))
    if reads and not _WRITES.search(operation):
        return ""
    return f'"{node.get("name")}" may change something outside n8n, perhaps twice'


def _sends(node: Mapping[str, Any]) -> bool:
    """Whether its code calls out with another method than those that read."""
    codes = [node["parameters"][key] for key in ("jsCode", "functionCode") if key in (node.get("parameters") or {})]
    for code in map(code_reach.javascript, map(str, codes)):
        methods = {text.upper() for name, text in code.members if name == "method"}
        if code.names & code_reach.NETWORK and methods - set(_READING_METHODS):
            return True
    return False


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
