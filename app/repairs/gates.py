"""Nodes that hold data back: a repair may lead it elsewhere, but not past them to what they guard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.n8n.structure import is_trigger

_DECIDES = frozenset({"if", "filter", "switch"})
_Edges = Mapping[str, Mapping[int, set[str]]]


def passed_gates(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """``(gate, node)``: the node ran only behind that output of the gate, and would run without it from now on."""
    if before.get("connections") == after.get("connections"):
        return
    starts = {str(node.get("name")) for node in before.get("nodes") or [] if is_trigger(node)}
    old, new = _edges(before), _edges(after)
    for node in before.get("nodes") or []:
        gate = str(node.get("name"))
        if is_gate(node):
            for output in old.get(gate, {}):
                guarded = _reached(old, starts) - _reached(old, starts, (gate, output))
                passed = guarded & _reached(new, starts, (gate, output))
                if passed:
                    yield gate, min(passed)


def is_gate(node: Mapping[str, Any]) -> bool:
    """Whether what follows it runs only where it, or a person that it asks, says so."""
    kind = str(node.get("type", "")).rpartition(".")[2]
    asks = (node.get("parameters") or {}).get("operation") == "sendAndWait"
    return kind in _DECIDES or kind == "wait" or asks


def _edges(workflow: Mapping[str, Any]) -> _Edges:
    return {
        source: {
            number: {str(target.get("node")) for target in targets}
            for number, targets in enumerate(by_kind.get("main") or [])
            if targets
        }
        for source, by_kind in (workflow.get("connections") or {}).items()
    }


def _reached(edges: _Edges, starts: set[str], shut: tuple[str, int] | None = None) -> set[str]:
    seen, waiting = set(starts), list(starts)
    while waiting:
        source = waiting.pop()
        for output, targets in edges.get(source, {}).items():
            if (source, output) != shut:
                waiting += targets - seen
                seen |= targets
    return seen
