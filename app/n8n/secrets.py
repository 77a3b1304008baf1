"""Secrets that people typed into a workflow's nodes: placeholders for everybody but n8n.

A placeholder follows from the value by a keyed hash, so equal values have equal placeholders, the canonical hash of a
masked workflow is as exact as that of the original, and nobody keeps the values: what is written back is filled in from
what n8n has.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from app.errors import StaleDocumentError, ValidationError
from app.journal import Change, Journal
from app.journal.records import Record
from app.n8n import Workflow
from app.n8n.secret_texts import CODE_KEYS, PLACEHOLDER, secret_parts
from app.n8n.workflows import canonical_json
from app.telemetry.redaction import is_query_secret, is_secret_name, needs_redaction, pair_name

KEY_BYTES = 32
MAX_TRIED_TEXTS = 50
MAX_TRIED_ENDS = 64
"""So many places are tried as the end of one secret, where it is looked for by the text around it."""
SHORTEST_KNOWN = 6
"""A shorter value is not looked for in other texts: it would be found in too many words."""
WHOLE_WORD = 12
"""A shorter value is looked for where it stands for itself."""
Secret = str | int | float
_LEAD = re.compile(r"\w*\W{0,6}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowKey(Record):
    """The key of the placeholders. Snapshots outlive every setting, so it is kept beside them and never changes."""

    KIND = "workflow_key"
    hex: str

    @property
    def key(self) -> str:
        return "secrets"


def key_of(journal: Journal) -> bytes:
    """The journal's key, made by whoever asks first."""
    known = WorkflowKey.get(journal, "secrets")
    while known is None:
        # Refused where another worker was faster.
        with suppress(StaleDocumentError):
            journal.commit(Change(puts=[WorkflowKey(hex=secrets.token_hex(KEY_BYTES)).put()]))
        known = WorkflowKey.get(journal, "secrets")
    return bytes.fromhex(known.hex)


class UnknownSecretError(ValidationError):
    """A placeholder stands for no value that is known.

    :ivar places: where, in words, at most three. :ivar missing: the placeholders.
    """

    title = "A secret's placeholder is not known"

    def __init__(self, places: list[str], missing: set[str]) -> None:
        self.places, self.missing = places[:3], missing
        super().__init__(
            f"The placeholder of a secret at {', '.join(self.places)} stands for no value that this workflow has: "
            "leave placeholders where they are, unchanged, and write none yourself."
        )


def mask(workflow: Mapping[str, Any], key: bytes) -> Workflow:
    """The workflow with a placeholder for each secret in any of its texts; the same again for what is masked already.

    Nothing is cut, and nothing else is changed: expressions and code that only name a secret can be read.
    """
    masked: Workflow = _Masker(key).walk(workflow)
    return masked


def unmask(body: Mapping[str, Any], sources: Iterable[Mapping[str, Any]], key: bytes) -> Workflow:
    """``body`` with the values that its placeholders stand for, as found in ``sources``: workflows that are not masked,
    asked for one by one while a value is missing.

    A placeholder that is itself a text in a source, because somebody put it there, stays.

    :raises UnknownSecretError: no source has the value of one.
    """
    missing, known = placeholders(body), dict[str, Secret]()
    if missing:
        for source in sources:
            found = {name: name for name in placeholders(source)} | known_secrets(source, key)
            if missing - found.keys():
                found |= _around(body, source, missing - found.keys(), key)
            known = {**found, **known}
            missing -= known.keys()
            if not missing:
                break
        else:
            raise UnknownSecretError(_places(body, missing), missing)
    filled: Workflow = _filled(body, known)
    return filled


def placeholders(value: Any) -> set[str]:
    """All that stand in the texts and names of a JSON value."""
    return {found for _, _, text in _texts(value) for found in PLACEHOLDER.findall(text)}


def known_secrets(workflow: Mapping[str, Any], key: bytes) -> dict[str, Secret]:
    """The secrets of a workflow that is not masked, by their placeholders."""
    masker = _Masker(key)
    masker.walk(workflow)
    return masker.known


def hide(value: Any, known: Mapping[str, Secret]) -> Any:
    """A JSON value with placeholders for these secrets, wherever one stands in a text, whatever it looks like there."""
    written = {str(secret): name for name, secret in known.items() if len(str(secret)) >= SHORTEST_KNOWN}
    if not written:
        return value
    # The longest first: one may be the beginning of another.
    ordered = sorted(written, key=lambda secret: (-len(secret), secret))
    forms = [
        re.escape(s) if len(s) >= WHOLE_WORD else rf"(?<![A-Za-z0-9]){re.escape(s)}(?![A-Za-z0-9])" for s in ordered
    ]
    pattern = re.compile("|".join(forms))

    def hidden(part: Any) -> Any:
        if isinstance(part, str):
            return pattern.sub(lambda found: written[found[0]], part)
        if isinstance(part, Mapping):
            return {hidden(str(name)): hidden(item) for name, item in part.items()}
        return [hidden(item) for item in part] if isinstance(part, list) else part

    return hidden(value)


def moved_secrets(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One sentence for each place where ``after`` has a secret that ``before``, masked too, has not there.

    A place is a node's name, a path in it with the names of parameters instead of their numbers, and the word in front
    of the secret: a secret may stay or go, never move into another header, or from a header into the URL.
    """
    had, found = Counter(_secret_places(before)), []
    by_id = {node["id"]: str(node.get("name")) for node in before.get("nodes") or [] if node.get("id")}
    # Under the name that its node had, should that be another now.
    former = {str(n.get("name")): by_id.get(n.get("id"), str(n.get("name"))) for n in after.get("nodes") or []}
    for place, times in Counter(_secret_places(after)).items():
        if times > had[former.get(place[0], place[0]), *place[1:]]:
            where = f'"{place[1]}" of the node "{place[0]}"' if place[0] else f'"{place[1]}"'
            found.append(f"A hidden secret may not be moved, copied or made up, as in {where}.")
    return list(dict.fromkeys(found))


class _Masker:
    def __init__(self, key: bytes) -> None:
        self._key = key
        self.known: dict[str, Secret] = {}

    def walk(self, value: Any, name: str = "", *, whole: bool = False, query: bool = False) -> Any:
        """:param whole: all of it is a secret. :param query: it belongs to the query of a URL."""
        if isinstance(value, str):
            return self.text(value, whole=whole, code=name in CODE_KEYS)
        if isinstance(value, Mapping):
            query = query or "query" in name.lower()
            paired = self._is_secret_pair(value, query)
            return {
                self.text(str(key)): self.walk(
                    item,
                    str(key),
                    # An object under a secret's name is a group of parameters; what is in a list there is not.
                    whole=whole
                    or (paired and key == "value")
                    or (not isinstance(item, Mapping) and is_secret_name(str(key))),
                    query=query,
                )
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.walk(item, name, whole=whole, query=query) for item in value]
        if whole and isinstance(value, int | float) and not isinstance(value, bool) and value:
            return self._placeholder(value)
        return value

    def text(self, text: str, *, whole: bool = False, code: bool = False) -> str:
        if not whole and not needs_redaction(text):
            return text
        pieces, at = [], 0
        for start, end in secret_parts(text, whole=whole, code=code):
            pieces += [text[at:start], self._placeholder(text[start:end])]
            at = end
        return "".join([*pieces, text[at:]])

    def _placeholder(self, secret: Secret) -> str:
        name = placeholder(secret, self._key)
        self.known.setdefault(name, secret)
        return name

    @staticmethod
    def _is_secret_pair(value: Mapping[str, Any], query: bool) -> bool:
        name = pair_name(value)
        if name is None or isinstance(value["value"], Mapping):
            return False
        return is_secret_name(name) or (query and is_query_secret(name, str(value["value"])))


def placeholder(secret: Secret, key: bytes) -> str:
    # A number and its digits as a text are two secrets: each is written back as what it was.
    kind, text = ("text", secret) if isinstance(secret, str) else ("number", canonical_json(secret))
    digest = hmac.digest(key, f"{kind}:{text}".encode("utf-8", "surrogatepass"), "sha256")
    return f"[secret:{digest.hex()[:12]}]"


def _filled(value: Any, known: Mapping[str, Secret]) -> Any:
    if isinstance(value, str):
        if value in known:
            return known[value]
        return PLACEHOLDER.sub(lambda found: str(known[found[0]]), value)
    if isinstance(value, Mapping):
        return {PLACEHOLDER.sub(lambda f: str(known[f[0]]), str(k)): _filled(item, known) for k, item in value.items()}
    return [_filled(item, known) for item in value] if isinstance(value, list | tuple) else value


def _texts(value: Any, node: str = "", path: str = "") -> Iterator[tuple[str, str, str]]:
    """Texts and names in a JSON value, each with its node's name and its path in it."""
    if isinstance(value, str):
        yield node, path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield node, path, str(key)
            yield from _texts(item, node, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            name = str(item.get("name") or item.get("key") or "") if isinstance(item, Mapping) else ""
            if path == "nodes" and not node:
                yield from _texts(item, name, "")
            else:
                yield from _texts(item, node, f"{path}[{name}]")


def _secret_places(workflow: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Node, path, the word before it and the placeholder, for each placeholder that is there."""
    for node, path, text in _texts(workflow):
        for found in PLACEHOLDER.finditer(text):
            lead = _LEAD.search(text[max(0, found.start() - 40) : found.start()])
            yield node, path, lead[0] if lead else "", found[0]


def _places(body: Mapping[str, Any], missing: set[str]) -> list[str]:
    found = [
        f'"{path}" of "{node}"' if node else f'"{path}"'
        for node, path, text in _texts(body)
        for name in missing
        if name in text
    ]
    return list(dict.fromkeys(found))


def _around(body: Mapping[str, Any], source: Mapping[str, Any], missing: set[str], key: bytes) -> dict[str, Secret]:
    """Secrets that are masked in another way today than when ``body`` was (a setting or a shape has changed): found by
    the text around them, and known by their hash."""
    there: dict[tuple[str, str], list[str]] = {}
    for node, path, text in _texts(source):
        there.setdefault((node, path), []).append(text)
    known: dict[str, Secret] = {}
    for node, path, text in _texts(body):
        if any(name in text for name in missing):
            for original in there.get((node, path), [])[:MAX_TRIED_TEXTS]:
                known |= _aligned(text, original, key)
    return known


def _aligned(masked: str, original: str, key: bytes) -> dict[str, Secret]:
    """The secrets in ``original``, where ``masked`` is made of it."""
    names, pieces = PLACEHOLDER.findall(masked), PLACEHOLDER.split(masked)
    if not original.startswith(pieces[0]):
        return {}
    known: dict[str, Secret] = {}
    at = len(pieces[0])
    for number, (name, piece) in enumerate(zip(names, pieces[1:], strict=True)):
        is_last = number == len(names) - 1
        end = len(original) - len(piece) if is_last else original.find(piece, at + 1)
        for _ in range(MAX_TRIED_ENDS):
            if end <= at or placeholder(original[at:end], key) == name:
                break
            end = -1 if is_last else original.find(piece, end + 1)
        if end <= at or not original.startswith(piece, end):
            return known
        known[name] = original[at:end]
        at = end + len(piece)
    return known
