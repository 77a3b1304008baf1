"""Where a node reaches: the hosts and addresses that it names, those that only a run knows, and what its code uses.

Two nodes are compared by this, so what counts is that the same text gives the same tokens; an odd notation of a host is
simply another one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import gevent

from app.repairs import code_reach
from app.repairs.code_calls import hides_address

MAX_TOKEN_CHARS = 100
MAX_ADDRESS_CHARS = 8_192
"""A longer one is not read as such."""
LONG_TEXT_CHARS = 4_096
EXPRESSIONS_AT_ONCE = 500
WITHOUT_TLS = " without TLS"
_SKIPPED = frozenset({"id", "type", "typeVersion", "position", "webhookId", "credentials"})
_CODE_KEYS = frozenset({"jsCode", "functionCode", "javascriptCode", "code"})
_PYTHON_KEYS = frozenset({"pythonCode"})

# Up to the path. Backslashes belong to it, since programs do not agree on what they are. All repeats that others could
# be tried behind are bounded: the texts are an agent's, and half a megabyte long at most.
_AUTHORITY = r"((?:\{\{.{0,500}?\}\}|\$\{[^}]{0,500}\}|\[[0-9a-f:.%]{0,64}\]|[^\s/?#\"'<>`^|,;(){}\[\]]|\{\{|\$\{)*)"
_URL = re.compile(
    rf"(?is)((?:https?|wss?|ftps?):[/\\]*|[a-z][a-z0-9+.\-]{{1,20}}:[/\\]{{2,}}){_AUTHORITY}([/?#^|,;(){{}}\[\]][^\s/\"'<>`]*)?"
)
_RELATIVE = re.compile(rf"(?is)=?\s*[/\\]{{2}}{_AUTHORITY}")
# Of a mail address: each "@" is looked at once, and then what is before it.
_AT_DOMAIN = re.compile(r"(?<=[\w.+\-])@[\w\-]{1,63}(?:\.[\w\-]{1,63})+")
_LOCAL_PART = re.compile(r"[\w.+\-]{1,64}$")
_SCHEME = re.compile(r"(?i)(?:https?|wss?|ftps?):[/\\]*|[a-z][a-z0-9+.\-]{1,20}:[/\\]{2,}|[/\\]{2}")
_AUTHORITY_END = re.compile(r"[/?#\\]|\{\{|\$\{")
_HEADERS_KEY = re.compile(r"(?i)header")
_JSON_MEMBER = re.compile(r"\"([\w\-]{1,64})\"\s{0,8}:\s{0,8}\"([^\"]{0,300})\"")
_PLAIN_SCHEMES = ("http:", "ws:", "ftp:")
_PYTHON_OUT = re.compile(
    r"requests|httpx|urllib|socket|\bhttp\b|aiohttp|subprocess|\bos\b|exec|eval|compile|attr|builtins|__"
)
_CLOSE = re.compile(r"(?<!\\)\}\}")
_HOST_KEY = re.compile(r"(?i)(?:host|hostname|server|domain|proxy|broker)$")
# To whom mail goes.
_RECIPIENT_KEY = re.compile(
    r"(?i)^(?:to|cc|bcc|reply_?to)_?(?:e?mails?|list|addresses|recipients?)?$|^sendTo$|recipients?$"
)
_URL_KEY = re.compile(r"(?i)(?:url|uri|endpoint)$")


@dataclass(frozen=True, slots=True)
class Reach:
    """Of one node.

    :ivar hosts: as written, lower case, without user, path and the usual port; mail addresses whole. One that is asked
        without TLS is there a second time, and says so.
    :ivar asked: those of the hosts that the node itself asks, as far as its parameters' names tell.
    :ivar run_time: places whose host is put together while it runs, each with how.
    :ivar names: what its code and expressions use to get out of the run's own data.
    """

    hosts: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    run_time: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)


def reach_of(node: Mapping[str, Any]) -> Reach:
    """Of its parameters."""
    found = Reach()
    for key, value in (node.get("parameters") or {}).items():
        for path, name, leaf in leaves(value, str(key)):
            _leaf(found, path, name, leaf)
    return found


def new_hosts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Hosts that ``after`` names and ``before`` does not; one that is asked without TLS from now on says so.

    What stands in a name or a note may be talked about there, and is not known for that: only what a node's parameters
    hold is.
    """
    old = {str(node.get("name")): node for node in before.get("nodes") or []}
    known = {host for node in old.values() if not _is_note(node) for host in reach_of(node).hosts}
    new: set[str] = set()
    for node in after.get("nodes") or []:
        new |= _talk(node) - _talk(old.get(str(node.get("name")), {})) - known
        same = node.get("parameters") == old.get(str(node.get("name")), {}).get("parameters")
        new |= set() if same or _is_note(node) else reach_of(node).hosts - known
    return sorted(host for host in new if host.removesuffix(WITHOUT_TLS) not in new - {host})


def _is_note(node: Mapping[str, Any]) -> bool:
    return str(node.get("type")).endswith(".stickyNote")


def _talk(node: Mapping[str, Any]) -> set[str]:
    """Hosts in what does nothing: a node's name and notes, a sticky note's text."""
    found = Reach()
    skipped = _SKIPPED if _is_note(node) else _SKIPPED | {"parameters"}
    for key, value in node.items():
        if key not in skipped:
            for _, _, leaf in leaves(value, str(key)):
                _text(found, str(leaf))
    return found.hosts


def leaves(value: Any, path: str, name: str = "") -> Iterator[tuple[str, str, Any]]:
    """Path, name and value of everything that is neither list nor object. A pair ``{"name": …, "value": …}``, as n8n
    keeps lists of headers, gives its value that name, and a resource locator that of the parameter."""
    name = name or path
    if isinstance(value, Mapping):
        named = value.get("name")
        for key, item in value.items():
            own = str(key)
            if key == "value":
                own = named if isinstance(named, str) else name if "__rl" in value else own
            yield from leaves(item, f"{path}.{key}", own)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]", name)
    elif value is not None:
        yield path, name, value


def _leaf(found: Reach, path: str, name: str, value: Any) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, str):
        if _HOST_KEY.search(name) or _URL_KEY.search(name):
            found.hosts.add(str(value))
            found.asked.add(str(value))
        return
    if len(value) > LONG_TEXT_CHARS:
        gevent.sleep(0)  # the loop's turn: half a megabyte takes seconds
    if name in _PYTHON_KEYS:
        code = code_reach.python(value)
        _code(found, code)
        if any(map(_PYTHON_OUT.search, code.names)):
            found.run_time.add(f"its code {_digest(value)}")
        _built(found, value)
    elif name in _CODE_KEYS:
        code = code_reach.javascript(value.removeprefix("="))
        _code(found, code)
        if code.names & code_reach.NETWORK and hides_address(value):
            found.run_time.add(f"its code {_digest(value)}")
        _built(found, value)
    else:
        if value.startswith("="):
            for number, expression in enumerate(set(_expressions(value)), 1):
                if number % EXPRESSIONS_AT_ONCE == 0:
                    gevent.sleep(0)
                code = code_reach.javascript(f"({expression}\n)")
                _code(found, code)
                if _HEADERS_KEY.search(name):
                    for member, text in code.members:
                        _place(found, f"{path}.{member}", member, text)
        _text(found, value)
        _place(found, path, name, value)
        if _HEADERS_KEY.search(name):
            for member, text in _JSON_MEMBER.findall(value):
                _place(found, f"{path}.{member}", member, text)


def _code(found: Reach, code: code_reach.CodeReach) -> None:
    found.names.update(code.names)
    for text in code.texts:
        _text(found, text)
    if code.names & code_reach.NETWORK:
        for text in filter(_SCHEME.match, code.texts):
            _place(found, "url", "url", text)
        for name, value in code.members:
            _place(found, name, name, value)


def _built(found: Reach, code: str) -> None:
    """n8n takes code that begins with "=" as an expression whose value is the code."""
    if code.startswith("="):
        found.names.add(code_reach.BUILT)


def _text(found: Reach, text: str) -> None:
    """Hosts that stand in any text."""
    for written in {text, unquote(text)}:
        for scheme, authority, rest in _URL.findall(written):
            _authority(found, authority, tls=not scheme.lower().startswith(_PLAIN_SCHEMES))
            if "@" in rest:  # to a program that splits at the last "@" the host comes after it
                _authority(found, re.split(r"[\s/?#^|,;(){}\[\]]", rest.rpartition("@")[2], maxsplit=1)[0])
        if (relative := _RELATIVE.match(written)) and re.search(r"[.:\[{]|^\d+$|^localhost$", relative[1]):
            _authority(found, relative[1])
        found.hosts.update(_addresses(written))


def _addresses(text: str) -> Iterator[str]:
    for domain in _AT_DOMAIN.finditer(text):
        local = _LOCAL_PART.search(text[max(0, domain.start() - 64) : domain.start()])
        if local:
            yield f"{local[0]}{domain[0]}".lower()


def _place(found: Reach, path: str, name: str, value: str) -> None:
    """What a parameter that is to hold a host or an address holds, with or without a scheme."""
    if _RECIPIENT_KEY.search(name) and "{{" in value:
        found.run_time.add(_token(f"{path}: {_squeezed(value.removeprefix('='))}", 4 * MAX_TOKEN_CHARS))
    is_host = bool(_HOST_KEY.search(name))
    if not is_host and not _URL_KEY.search(name):
        return
    if len(value) > MAX_ADDRESS_CHARS:
        found.run_time.add(_token(f"{path}: {value}", 4 * MAX_TOKEN_CHARS))
        return
    # A URL parser drops these characters wherever they stand.
    written = re.sub(r"[\t\r\n]", "", value).strip().removeprefix("=").strip()
    if written != value:
        _text(found, written)
    scheme = _SCHEME.match(written)
    first = _first(written[scheme.end() :] if scheme else written)
    if scheme:
        # As a parser of URLs reads it, to which a comma or a quote is a part of the host or of the user.
        found.asked.update(_authority(found, first, tls=not scheme[0].lower().startswith(_PLAIN_SCHEMES)))
    elif "{{" in first or first.startswith("${"):
        found.run_time.add(_token(f"{path}: {_squeezed(written)}", 4 * MAX_TOKEN_CHARS))
    elif first and (is_host or re.search(r"[.:]|^\d+$|^(?i:localhost)$", first)):
        found.asked.update(_authority(found, first))


def _first(address: str) -> str:
    """Up to the path, which may begin in no expression."""
    at = 0
    while end := _AUTHORITY_END.search(address, at):
        if end[0] not in ("{{", "${"):
            return address[: end.start()]
        close = address.find("}}" if end[0] == "{{" else "}", end.end())
        if close < 0:
            break
        at = close + 1
    return address


def _authority(found: Reach, authority: str, *, tls: bool = True) -> set[str]:
    """Takes it in, and returns its host."""
    if "{{" in authority or "${" in authority:
        found.run_time.add(_token(_squeezed(authority), 4 * MAX_TOKEN_CHARS))
        return set()
    host = re.sub(r":(?:80|443)$", "", authority.rpartition("@")[2].lower()).rstrip(".")
    if not host:
        return set()
    found.hosts.add(_token(host))
    if not tls:
        found.hosts.add(_token(host) + WITHOUT_TLS)
    return {_token(host)}


def _token(text: str, limit: int = MAX_TOKEN_CHARS) -> str:
    """A long one by what it is as a whole."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 20]}… ({_digest(text)})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _expressions(text: str) -> Iterator[str]:
    """What stands between the braces of each ``{{ … }}``; n8n reads on behind ``\\}}``, and so it is read both ways."""
    end = read = 0
    while (start := text.find("{{", end)) >= 0 and (close := text.find("}}", start + 2)) >= 0:
        end = close + 2
        yield text[start + 2 : close]
        if start >= read and text[close - 1] == "\\":
            found = _CLOSE.search(text, start + 2)
            read = found.end() if found else len(text)
            yield text[start + 2 : found.start() if found else read].replace("\\}}", "}}")


def _squeezed(expression: str) -> str:
    """The expression without what changes nothing about where it leads: white space, optional chaining."""
    return re.sub(r"\s+", "", expression).replace("?.", ".")
