"""Whether the JavaScript in a workflow parses: Code nodes and expressions. n8n saves what does not, and fails later."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import tree_sitter_javascript
from tree_sitter import Language, Node, Parser

from app.n8n.secret_texts import PLACEHOLDER
from app.n8n.structure import Problem

CODE = "n8n-nodes-base.code"
MAX_CHARS = 65_536
MAX_PROBLEMS = 10
_EXPRESSION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def code_problems(workflow: Mapping[str, Any]) -> list[Problem]:
    """Where JavaScript does not parse, at most ``MAX_PROBLEMS``; longer texts than ``MAX_CHARS`` are not looked at.

    What runs is n8n's to know: names, types and n8n's own helpers are not checked.
    """
    found: list[Problem] = []
    for index, node in enumerate(workflow.get("nodes") or []):
        parameters = node.get("parameters") if isinstance(node, Mapping) else None
        if not isinstance(parameters, Mapping):
            continue
        path = f"nodes[{index}].parameters"
        if node.get("type") == CODE and parameters.get("language", "javaScript") == "javaScript":
            code = parameters.get("jsCode")
            if isinstance(code, str) and not code.startswith("=") and (problem := _problem(code)):
                found.append(Problem(f"{path}.jsCode", problem))
        for where, text in _expressions(parameters, path):
            if problem := _problem(f"({text}\n)"):
                found.append(Problem(where, f"has an expression that does not parse: {text.strip()[:80]} ({problem})"))
        if len(found) >= MAX_PROBLEMS:
            break
    return found[:MAX_PROBLEMS]


def new_code_problems(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Problem]:
    """What does not parse in ``after`` and was not broken in the same way before: an old mistake elsewhere must not
    keep a node from being mended."""
    known = code_problems(before)
    return [problem for problem in code_problems(after) if problem not in known]


def syntax(code: str) -> Node:
    """The syntax tree of ``code``; where that does not parse, with error nodes in it."""
    return _parser().parse(code.encode("utf-8", "replace")).root_node


def _expressions(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """``{{ … }}`` of the texts that begin with ``=``, with their places."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _expressions(item, f"{path}.{key}"[:200])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _expressions(item, f"{path}[{index}]"[:200])
    elif isinstance(value, str) and value.startswith("=") and len(value) <= MAX_CHARS:
        yield from ((path, text) for text in _EXPRESSION.findall(value) if text.strip())


def _problem(code: str) -> str | None:
    if len(code) > MAX_CHARS:
        return None
    # The placeholder of a secret may stand where a number did.
    root = syntax(PLACEHOLDER.sub(lambda found: "_" * len(found[0]), code))
    if not root.has_error:
        return None
    wrong = _first_error(root)
    return f"does not parse as JavaScript, line {wrong.start_point.row + 1}"


def _first_error(node: Node) -> Node:
    while not (node.is_error or node.is_missing):
        child = next((child for child in node.children if child.has_error or child.is_missing), None)
        if child is None:
            break
        node = child
    return node


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_javascript.language()))
