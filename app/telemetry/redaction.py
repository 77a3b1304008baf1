"""What leaves the process without secrets: by key name, by shape, by value where they are our own, and cut to a size.

Used on everything that is kept or shown: log lines, callbacks, dead letters, prompts, tool inputs, events, errors.
Imported by a relative name, as all that gunicorn's master runs of this package.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any
from urllib.parse import quote

from .shapes import MASK, Span, is_query_secret, mask_shapes, may_hold_secret, shape_spans

__all__ = [
    "MASK",
    "Span",
    "is_query_secret",
    "is_secret_name",
    "know_secrets",
    "needs_redaction",
    "pair_name",
    "redact",
    "redact_text",
    "secret_spans",
]

MAX_STRING = 8_192
MAX_ITEMS = 200
MAX_DEPTH = 24
MAX_KEY = 256
LONG_NAME = 20
"""Names that are shorter are words; a longer one may hold what a value may."""
SHORTEST_SECRET = 8
"""No shape is shorter, with what introduces it."""
SHORT_TEXT = 96
SHORTEST_OWN = 6
"""A configured secret that is shorter would be found in too many words."""
WHOLE_WORD = 12
"""A configured secret that is shorter is masked only where it stands for itself."""

_SECRET_KEY = re.compile(
    r"(?i)(?:^|[_\-.\s]|(?<=[a-z]))(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_\-]?key|access[_\-]?key|private[_\-]?key"
    r"|client[_\-]?secret|authorization|auth|cookie|set-cookie|credential|session[_\-]?id|signature|bearer)s?$"
    r"|^x-(?:api-key|auth-token|n8n-api-key)$"
)
# Names that end like a secret's and are none: structure and numbers of n8n and of language models.
_HARMLESS_KEY = re.compile(
    r"(?i)^(?:authentication|genericAuthType|nodeCredentialType|max_?tokens|tokens|(?:input|output)_?tokens|signature)$"
)
# A member of JSON that stands in a text, its quotes escaped as often as it was embedded, up to its value; or n8n's
# pair of a name and a value.
_MEMBER = re.compile(
    r"""(?P<q>\\{0,15}")(?P<name>[\w.\- ]{2,64})(?P=q)\s*:\s*"""
    r"""(?:(?P=q)(?P<named>[\w.\- ]{2,64})(?P=q)\s*,\s*(?P=q)value(?P=q)\s*:\s*)?(?P=q)"""
)


class _Own:
    """The secrets that this process was configured with, in each way they may be written."""

    written: tuple[str, ...] = ()
    pattern: re.Pattern[str] = re.compile(r"(?!)")


def know_secrets(values: Iterable[str | None]) -> None:
    """Mask these from now on, whatever they look like; instead of those that were known before."""
    known = {value for value in values if value and len(value) >= SHORTEST_OWN}
    written = {form for value in known for form in (value, json.dumps(value)[1:-1], quote(value, safe=""))}
    # The longest first: one may be the beginning of another.
    _Own.written = tuple(sorted(written, key=lambda form: (-len(form), form)))
    alone = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])"
    patterns = [re.escape(form) if len(form) >= WHOLE_WORD else alone.format(re.escape(form)) for form in _Own.written]
    _Own.pattern = re.compile("|".join(patterns) or r"(?!)")
    _short_needs.cache_clear()


def redact_text(text: str, *, limit: int | None = MAX_STRING) -> str:
    """``text`` without what looks like a secret or is one of ours, cut at ``limit`` characters with a note of how much
    is missing; ``None``: not cut."""
    if limit is None:
        return _without_secrets(text)
    if len(text) > 2 * limit:
        # Nothing after the cut is kept, so nothing after it needs a look; the margin is for a secret across the cut.
        cut, text = len(text), text[: limit + 512]
    else:
        cut = len(text)
    text = _without_secrets(text)
    return text if len(text) <= limit and cut <= limit else f"{text[:limit]}… [{cut} characters in all]"


def _without_secrets(text: str) -> str:
    return mask_shapes(_mask_members(_Own.pattern.sub(MASK, text))) if needs_redaction(text) else text


def needs_redaction(text: str) -> bool:
    """Whether :func:`redact_text` may change it, but for its length; quick, and errs on the side of yes."""
    return _short_needs(text) if len(text) <= SHORT_TEXT else _needs(text)


def _needs(text: str) -> bool:
    for own in _Own.written:
        if own in text:
            return True
    return len(text) >= SHORTEST_SECRET and may_hold_secret(text)


# The same short texts come again and again: paths, names of nodes, types.
_short_needs = lru_cache(maxsize=4096)(_needs)


def redact(value: Any, *, limit: int = MAX_STRING, depth: int = MAX_DEPTH) -> Any:
    """A JSON value of the same shape, redacted: values under secret names masked whole, strings by their shape.

    Lists and objects beyond ``MAX_ITEMS`` entries or ``MAX_DEPTH`` levels are cut; numbers that JSON cannot write
    become text.
    """
    if isinstance(value, str):
        return redact_text(value, limit=limit)
    texts: list[str] = []
    _gather(value, texts, limit, depth)
    # One look at all of them instead of one at each: nearly every document has nothing that looks like a secret.
    return _redacted(value, limit, depth, needs_redaction("\n".join(texts)))


def _gather(value: Any, texts: list[str], limit: int, depth: int) -> None:
    """The texts in ``value``, long names too, that :func:`_redacted` will show."""
    if isinstance(value, str):
        texts.append(value if len(value) <= 2 * limit else value[: limit + 512])
    elif depth <= 0:
        return
    elif isinstance(value, Mapping):
        for key, entry in islice(value.items(), MAX_ITEMS):
            name = str(key)
            if len(name) >= LONG_NAME:
                texts.append(name[:MAX_KEY])
            _gather(entry, texts, limit, depth - 1)
    elif isinstance(value, list | tuple):
        for entry in value[:MAX_ITEMS]:
            _gather(entry, texts, limit, depth - 1)


def _redacted(value: Any, limit: int, depth: int, look: bool) -> Any:
    """:param look: whether a text may hold a secret; else texts are only cut."""
    if isinstance(value, str):
        return redact_text(value, limit=limit) if look or len(value) > limit else value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        if depth <= 0:
            return "[…]"
        name = pair_name(value)
        if name is not None and is_secret_name(name):
            value = {**value, "value": MASK}
        shown = {}
        for key, entry in islice(value.items(), MAX_ITEMS):
            name = str(key)
            masked = bool(entry) and not isinstance(entry, bool | Mapping) and is_secret_name(name)
            if len(name) >= LONG_NAME:
                name = redact_text(name[:MAX_KEY]) if look else name[:MAX_KEY]
            shown[name] = _masked(entry) if masked else _redacted(entry, limit, depth - 1, look)
        return shown
    if isinstance(value, list | tuple):
        return [_redacted(entry, limit, depth - 1, look) for entry in value[:MAX_ITEMS]] if depth > 0 else "[…]"
    return value


def _masked(value: Any) -> Any:
    return [MASK] * min(len(value), MAX_ITEMS) if isinstance(value, list | tuple) else MASK


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a value under this name is a secret, whatever it looks like."""
    return bool(_SECRET_KEY.search(name)) and not _HARMLESS_KEY.match(name)


def pair_name(value: Mapping[str, Any]) -> str | None:
    """The name under which ``value["value"]`` stands in n8n's lists of parameters, if this is an entry of one:
    ``{"name": "X-Api-Key", "value": "…"}``."""
    if "value" in value:
        for key in ("name", "key"):
            if isinstance(value.get(key), str):
                return str(value[key])
    return None


def secret_spans(text: str) -> Iterator[Span]:
    """Where :func:`redact_text` finds something in the whole of ``text``; spans may overlap."""
    if needs_redaction(text):
        for found in _Own.pattern.finditer(text):
            yield Span(found.start(), found.end(), named=False)
        for start, end in _members(text):
            yield Span(start, end, named=True)
        yield from shape_spans(text)


def _mask_members(text: str) -> str:
    kept, at = [], 0
    for start, end in _members(text):
        kept += [text[at:start], MASK]
        at = end
    return "".join([*kept, text[at:]])


def _members(text: str) -> Iterator[tuple[int, int]]:
    """The values under secret names in the JSON of a text."""
    at = 0
    for found in _MEMBER.finditer(text):
        is_pair = found["named"] and found["name"] in ("name", "key")
        if found.start() < at or not is_secret_name(found["named"] if is_pair else found["name"]):
            continue
        end = re.compile(r"(?<!\\)" + re.escape(found["q"])).search(text, found.end())
        at = end.start() if end else len(text)
        yield found.end(), at
