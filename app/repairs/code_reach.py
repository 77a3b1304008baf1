"""What code and expressions use to get out of their run's own data, and the texts that they put together.

JavaScript is judged by its syntax tree: comments do not count, escapes are read, and texts that are added up are one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import gevent
from tree_sitter import Node

from app.n8n.javascript import MAX_CHARS, syntax

NETWORK = frozenset({"fetch", "helpers", "require", "import", "axios", "XMLHttpRequest", "WebSocket", "EventSource"})
REACHING = NETWORK | {
    *(
        "$env",
        "$secrets",
        "$vars",
        "process",
        "child_process",
        "global",
        "globalThis",
        "getCredentials",
        "importScripts",
    ),
    *("eval", "Function", "constructor", "__proto__", "Reflect", "Deno", "Bun", "NODE_TLS_REJECT_UNAUTHORIZED"),
    *("rejectUnauthorized", "skipSslCertificateValidation"),
    *("getPrototypeOf", "setPrototypeOf", "getOwnPropertyDescriptor", "__lookupGetter__", "prepareStackTrace"),
    # n8n's own: a text as an expression, a model's choice, and a way past a Wait node that asks a person.
    *("$evaluateExpression", "$fromAI", "$fromAi", "$fromai", "resumeUrl", "resumeFormUrl", "signedResumeUrl"),
    # Parameters, in which people type secrets: the agent sees placeholders, and an expression the values.
    *("$parameter", "$rawParameter"),
    # By these a text is written so that nobody reads it.
    *("atob", "unescape", "fromCharCode", "fromCodePoint", "Buffer", "TextDecoder"),
}
_PARAMETERS = frozenset({"params", "parameter"})
"""``$('Ask').params``, ``$node['Ask'].parameter``; of an item these are data."""
_ITEM = frozenset({"$json", "json", "body", "query", "data"})
_MEMBERS = ("member_expression", "subscript_expression")
BUILT = "code that an expression puts together"
TOO_LONG = "code that is too long or too deep to be looked at"

_PYTHON = re.compile(
    r"\b(?:import\s+[\w.]+|from\s+[\w.]+\s+import|__\w+__|eval|exec|open|compile|getattr|setattr|globals|locals|vars"
    r"|subprocess|socket|urllib|requests|httpx|builtins|b64decode|fromhex)\b"
)
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_MAX_DEPTH = 10
# What stands in another such part is read with each of them: deep code of 30 KB took 20 seconds.
_READ_WHOLE = frozenset({"template_string", "template_substitution", "binary_expression", "pair"})
_MAX_READ_BYTES = 1_000_000
NODES_AT_ONCE = 5_000


@dataclass(slots=True)
class CodeReach:
    """Of one piece of code.

    :ivar names: those of ``REACHING`` that it uses, however they are spelled.
    :ivar texts: its texts; what only a run knows stands in them as ``${…}``.
    :ivar members: ``(name, text)`` of each member of an object whose value is a text; ``(name, ${…})`` of any other.
    """

    names: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    members: set[tuple[str, str]] = field(default_factory=set)


def javascript(code: str) -> CodeReach:
    """:param code: a Code node's text, or what stands between the braces of an expression."""
    found = CodeReach()
    if len(code) > MAX_CHARS or not _walk(syntax(code), found):
        # By what it is, so that no other such code passes for it.
        found.names.add(f"{TOO_LONG} ({_digest(code)})")
        found.texts.add(code)
    return found


def python(code: str) -> CodeReach:
    names = {" ".join(word.split()) for word in _PYTHON.findall(code)}
    return CodeReach(names, {code})


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()[:12]


def _walk(root: Node, found: CodeReach) -> bool:
    """``False``: it is too deep, and was read in part."""
    waiting, left, seen = [root], _MAX_READ_BYTES, 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen % NODES_AT_ONCE == 0:
            gevent.sleep(0)  # the loop's turn
        if node.type in _READ_WHOLE:
            left -= node.end_byte - node.start_byte
            if left < 0:
                return False
        match node.type:
            case "identifier" | "property_identifier" | "shorthand_property_identifier" | "import":
                _name(found, _unescaped(_source(node)))
            case "subscript_expression" if (index := node.child_by_field_name("index")) is not None:
                said = text_of(index)
                _name(found, said)
                _of_node(found, said, node)
                whole = node.child_by_field_name("object")
                if said is None and whole is not None and whole.type == "this":
                    # ``this['$' + name]``: in an expression all that it may use is in there.
                    found.names.add("this")
            case "member_expression" if (part := node.child_by_field_name("property")) is not None:
                _of_node(found, _unescaped(_source(part)), node)
            case "this" if node.parent is None or node.parent.type not in _MEMBERS:
                found.names.add("this")
            case "string" | "template_string" | "binary_expression" if (operands := _operands(node)) is not None:
                text = _joined(operands)
                if text is not None:
                    found.texts.add(text)
                    # The texts among them have been read; what stands in holes is looked at all the same.
                    waiting += [inner for operand in operands for inner in _unread(operand)]
                else:
                    waiting += operands
                continue
            case "pair" if (key := node.child_by_field_name("key")) is not None:
                value = node.child_by_field_name("value")
                name = text_of(key) if key.type in ("string", "computed_property_name") else _unescaped(_source(key))
                if value is not None and name:
                    said = text_of(value)
                    found.members.add((name, _hole(value) if said is None else said))
                    _name(found, name)
        waiting += node.children
    return True


def _name(found: CodeReach, name: str | None) -> None:
    if name in REACHING:
        found.names.add(name)


def _of_node(found: CodeReach, name: str | None, member: Node) -> None:
    whole = member.child_by_field_name("object")
    if name in _PARAMETERS and whole is not None and not _is_data(whole):
        found.names.add(name)


def _is_data(node: Node) -> bool:
    """Whether it is a member of an item's data."""
    for _ in range(_MAX_DEPTH):
        named = node.child_by_field_name("property") or (node if node.type == "identifier" else None)
        if named is not None and _source(named) in _ITEM:
            return True
        inner = node.child_by_field_name("object") if node.type in _MEMBERS else None
        if inner is None:
            break
        node = inner
    return False


def text_of(node: Node, depth: int = 0) -> str | None:
    """The text that the node is, with holes; ``None`` where it is no text."""
    operands = _operands(node)
    return None if operands is None else _joined(operands, depth)


def _operands(node: Node) -> list[Node] | None:
    """What is added up in it, in order; a text is a sum of one; ``None`` where it is neither."""
    found: list[Node] = []
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one.type in ("parenthesized_expression", "computed_property_name") and len(one.named_children) == 1:
            waiting.append(one.named_children[0])
        elif one.type == "binary_expression" and len(one.children) == 3 and one.children[1].type == "+":
            waiting += [one.children[2], one.children[0]]
        else:
            found.append(one)
    return found if len(found) > 1 or found[0].type in ("string", "template_string") else None


def _joined(operands: list[Node], depth: int = 0) -> str | None:
    texts = [_literal(operand, depth) for operand in operands]
    if all(text is None for text in texts):
        return None
    return "".join(_hole(at) if text is None else text for at, text in zip(operands, texts, strict=True))


def _literal(node: Node, depth: int) -> str | None:
    match node.type:
        case "string":
            return _unescaped(_source(node)[1:-1])
        case "template_string":
            return "".join(_pieces(node, depth))
    return None


def _unread(operand: Node) -> list[Node]:
    match operand.type:
        case "string":
            return []
        case "template_string":
            return [child for child in operand.children if child.type == "template_substitution"]
    return [operand]


def _pieces(template: Node, depth: int) -> Iterator[str]:
    at = template.start_byte + 1
    source = template.text or b""
    for child in template.children:
        if child.type == "template_substitution":
            yield _unescaped(_between(source, template, at, child.start_byte))
            inner = child.named_children
            text = text_of(inner[0], depth + 1) if len(inner) == 1 and depth < _MAX_DEPTH else None
            yield _hole(child) if text is None else text
            at = child.end_byte
    yield _unescaped(_between(source, template, at, template.end_byte - 1))


def _between(source: bytes, node: Node, start: int, end: int) -> str:
    return source[start - node.start_byte : end - node.start_byte].decode("utf-8", "replace")


def _hole(node: Node) -> str:
    inside = (
        _source(node).removeprefix("${").removesuffix("}") if node.type == "template_substitution" else _source(node)
    )
    return "${" + inside.replace("}", ")") + "}"


def _source(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def _character(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if digits is None:
        return {"n": "\n", "t": "\t", "r": "\r", "\n": ""}.get(found[4], found[4])
    number = int(digits, 16)
    return chr(number) if number <= 0x10FFFF else "\ufffd"
