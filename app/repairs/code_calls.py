"""Whether code that calls out says itself whom it calls: then a change of that is seen, and else any change counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import gevent
from tree_sitter import Node

from app.n8n.javascript import syntax
from app.repairs.code_reach import NETWORK, NODES_AT_ONCE, text_of

_NAMES = ("identifier", "property_identifier", "shorthand_property_identifier", "import")
# Of n8n's helpers, those that ask nobody.
_AT_HOME = frozenset(
    {
        *("getBinaryDataBuffer", "prepareBinaryData", "setBinaryDataBuffer", "assertBinaryData", "getBinaryStream"),
        *("returnJsonArray", "normalizeItems", "constructExecutionMetaData", "binaryToBuffer", "binaryToString"),
    }
)
_HOSTED = re.compile(r"(?i)https?:[/\\]{2}[^\s$/?#\\{]+(?:[/?#]|$)")
_ADDRESS = frozenset({"url", "uri", "baseURL", "baseUrl"})
_STEERS = re.compile(r"(?i)^(?:proxy|host(?:name)?|port|socketPath|.*agent)$")

_Bound = Mapping[str, Sequence[Node]]


def hides_address(code: str) -> bool:
    """Whether one of its calls has an address that does not stand in the call, or in the one constant that it names."""
    uses: list[Node] = []
    bound: dict[str, list[Node]] = {}
    waiting, seen = [syntax(code)], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen % NODES_AT_ONCE == 0:
            gevent.sleep(0)
        if node.type in (*_NAMES, "shorthand_property_identifier_pattern"):
            name = _source(node)
            if name in NETWORK:
                uses.append(node)
            elif node.type != "property_identifier":
                bound.setdefault(name, []).append(node)
        waiting += node.children
    return any(not _is_plain(use, bound) for use in uses)


def _is_plain(use: Node, bound: _Bound) -> bool:
    name, callee = _source(use), use
    if (whole := _member(callee)) is not None and whole.child_by_field_name("property") == callee:
        callee = whole  # this.helpers
    if name in ("helpers", "axios"):
        method = _member(callee)
        if method is not None and method.child_by_field_name("object") == callee:
            if name == "helpers" and _source(method.child_by_field_name("property")) in _AT_HOME:
                return True
            callee = method
        elif name == "helpers":
            return False
    elif name != "fetch":
        return False
    call = callee.parent
    if call is None or call.type != "call_expression" or call.child_by_field_name("function") != callee:
        return False
    arguments = call.child_by_field_name("arguments")
    return arguments is not None and bool(arguments.named_children) and _says(arguments.named_children[0], bound)


def _says(value: Node, bound: _Bound) -> bool:
    """Whether this argument has its address as a text with a host."""
    value = _value(value, bound)
    said = text_of(value)
    if said is not None:
        return bool(_HOSTED.match(said))
    if value.type != "object":
        return False
    addresses = []
    for member in value.named_children:
        key = member.child_by_field_name("key") if member.type == "pair" else member
        if key is None or key.type not in ("property_identifier", "shorthand_property_identifier", "comment"):
            return False
        if _STEERS.match(_source(key)):
            return False
        if _source(key) in _ADDRESS:
            address = text_of(_value(member.child_by_field_name("value") or key, bound))
            addresses.append(address is not None and bool(_HOSTED.match(address)))
    return bool(addresses) and all(addresses)


def _value(node: Node, bound: _Bound) -> Node:
    """What a name stands for that is given once and used once, so that nothing else can change it."""
    places = bound.get(_source(node), ()) if node.type in ("identifier", "shorthand_property_identifier") else ()
    if len(places) == 2:
        for place in places:
            holder = place.parent
            if holder is not None and holder.type == "variable_declarator":
                return holder.child_by_field_name("value") or node
    return node


def _member(node: Node) -> Node | None:
    return node.parent if node.parent is not None and node.parent.type == "member_expression" else None


def _source(node: Node | None) -> str:
    return ((node.text if node is not None else None) or b"").decode("utf-8", "replace")
