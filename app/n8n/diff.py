"""What differs between two workflows, as bounded JSON for the wire and as lines for a person."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, TypedDict

from app.n8n.workflows import canonical_json

MAX_ENTRIES = 200
MAX_VALUE_CHARS = 500
# Of a text that is cut, so much of what both sides share stays in front of the first difference.
_CONTEXT_CHARS = 100

Change = Literal["added", "removed", "changed"]
_Leaf = tuple[Change, str, Any, Any]


class DiffEntry(TypedDict):
    """One difference.

    ``node`` is a node's name, or ``None`` for what belongs to the workflow itself (``name``, ``settings.…``).
    ``path`` is inside the node, empty for the node as a whole; connections stand with their source node as
    ``connections.main[0]``. ``before`` is ``None`` for what was added, ``after`` for what was removed; a value longer
    than ``MAX_VALUE_CHARS`` is shown as text, cut around the first difference.
    """

    node: str | None
    change: Change
    path: str
    before: Any
    after: Any


def diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[DiffEntry]:
    """What leads from ``before`` to ``after``, both valid workflows: nodes first, then connections, then the rest.

    At most ``MAX_ENTRIES``; the last one says so where there were more.
    """
    entries = list(islice(_entries(before, after), MAX_ENTRIES + 1))
    if len(entries) > MAX_ENTRIES:
        more = "more differences than are shown here"
        entries[MAX_ENTRIES - 1 :] = [DiffEntry(node=None, change="changed", path="…", before=None, after=more)]
    return entries


def describe(entries: Sequence[DiffEntry]) -> str:
    """One line for each entry, safe to print: values as JSON, no control or bidirectional characters."""
    return "\n".join(_printable(_line(entry)) for entry in entries)


def _entries(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[DiffEntry]:
    for old, new in _pairs(before.get("nodes") or [], after.get("nodes") or []):
        name = (new or old)["name"]
        for change, path, left, right in _leaves(old, new, ""):
            yield _entry(name, change, path, left, right)
    yield from _connection_entries(_outputs(before), _outputs(after))
    for key in ("name", "settings"):
        for change, path, left, right in _leaves(before.get(key) or {}, after.get(key) or {}, key):
            yield _entry(None, change, path, left, right)


def _pairs(old: list[Any], new: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Nodes of the same name, else of the same id (renamed), else alone."""
    by_name = {node["name"]: node for node in old}
    left = {node["name"]: node for node in old}
    for node in new:
        left.pop(node["name"], None)
    renamed = {node["id"]: node for node in left.values() if node.get("id")}
    for node in new:
        partner = by_name.get(node["name"]) or renamed.pop(node.get("id"), None)
        if partner:
            left.pop(partner["name"], None)
        yield partner, node
    for node in left.values():
        yield node, None


def _leaves(before: Any, after: Any, path: str) -> Iterator[_Leaf]:
    if before is None and after is not None:
        yield "added", path, None, after
    elif after is None and before is not None:
        yield "removed", path, before, None
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            yield from _leaves(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif _comparable_lists(before, after):
        for index, (left, right) in enumerate(zip(before, after, strict=True)):
            yield from _leaves(left, right, f"{path}[{index}]")
    elif canonical_json(before) != canonical_json(after):
        yield "changed", path, before, after


def _comparable_lists(before: Any, after: Any) -> bool:
    if not isinstance(before, list) or not isinstance(after, list) or len(before) != len(after):
        return False
    # A list of plain values, a position say, is easier to read whole.
    return all(isinstance(item, dict | list) for item in before + after)


def _outputs(workflow: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Targets (``"Set (main 0)"``) by source node and output (``"connections.main[0]"``)."""
    return {
        (source, f"connections.{kind}[{number}]"): [f"{t['node']} ({t['type']} {t['index']})" for t in targets]
        for source, by_type in (workflow.get("connections") or {}).items()
        for kind, outputs in by_type.items()
        for number, targets in enumerate(outputs)
        if targets
    }


_Outputs = Mapping[tuple[str, str], list[str]]


def _connection_entries(before: _Outputs, after: _Outputs) -> Iterator[DiffEntry]:
    for key in {**before, **after}:
        source, path = key
        old, new = before.get(key, []), after.get(key, [])
        for target in old:
            if target not in new:
                yield _entry(source, "removed", path, target, None)
        for target in new:
            if target not in old:
                yield _entry(source, "added", path, None, target)
        if old != new and sorted(old) == sorted(new):
            yield _entry(source, "changed", path, old, new)


def _entry(node: str | None, change: Change, path: str, before: Any, after: Any) -> DiffEntry:
    left, right = _text(before), _text(after)
    if max(len(left), len(right)) > MAX_VALUE_CHARS:
        # Only what both have can be left out in front of the difference.
        shared = _shared_chars(left, right) if change == "changed" else 0
        start = max(0, shared - _CONTEXT_CHARS)
        before = None if before is None else _window(left, start)
        after = None if after is None else _window(right, start)
    return DiffEntry(node=node, change=change, path=path[:MAX_VALUE_CHARS], before=before, after=after)


def _shared_chars(left: str, right: str) -> int:
    differing = (at for at, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(differing, min(len(left), len(right)))


def _window(text: str, start: int) -> str:
    shown = ("…" if start else "") + text[start:]
    return shown if len(shown) <= MAX_VALUE_CHARS else shown[: MAX_VALUE_CHARS - 1] + "…"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(entry: DiffEntry) -> str:
    owner = "workflow" if entry["node"] is None else f'"{entry["node"]}"'
    where = owner if not entry["path"] else f"{owner} {entry['path']}"
    before, after = json.dumps(entry["before"], ensure_ascii=False), json.dumps(entry["after"], ensure_ascii=False)
    match entry["change"]:
        case "added":
            return f"+ {where}: {after}"
        case "removed":
            return f"- {where}: {before}"
        case _:
            return f"~ {where}: {before} → {after}"


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in line)
