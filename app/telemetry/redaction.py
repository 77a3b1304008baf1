"""What leaves the process without secrets: by key name, by the shape of the value, and cut to a size.

Used on everything that comes from outside and is kept or shown: callbacks, dead letters, prompts, tool inputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "[redacted]"
MAX_STRING = 8_192
MAX_ITEMS = 200
MAX_DEPTH = 24
SHORTEST_SECRET = 8
"""No shape is shorter, with what introduces it."""

_SECRET_KEY = re.compile(
    r"(?i)(?:^|[_\-.\s]|(?<=[a-z]))(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_\-]?key|access[_\-]?key|private[_\-]?key"
    r"|client[_\-]?secret|authorization|auth|cookie|set-cookie|credential|session[_\-]?id|signature|bearer)s?$"
    r"|^x-(?:api-key|auth-token|n8n-api-key)$"
)
# Names that end like a secret's and are none: structure and numbers of n8n and of language models.
_HARMLESS_KEY = re.compile(
    r"(?i)^(?:authentication|genericAuthType|nodeCredentialType|max_?tokens|tokens|(?:input|output)_?tokens|signature)$"
)
_SHAPES = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
            r"(?i:\b(?:bearer|basic|token)\s+)[A-Za-z0-9._~+/=-]{8,}",
            r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?",
            r"\bsk-[A-Za-z0-9_-]{16,}",
            r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,})",
            r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
            r"\bAIza[A-Za-z0-9_-]{30,}",
            r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
            r"\b(?:[rs]k|whsec|pk)_(?:live|test)?_?[A-Za-z0-9]{16,}",
            r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
            r"\bn8n_api_[A-Za-z0-9]{16,}",
            r"\b\d{8,10}:AA[A-Za-z0-9_-]{30,}",
            r"(?<=://)[^\s/@:]{0,256}:[^\s/@]{1,256}(?=@)",
            r"(?i:(?<=[?&;])(?:[a-z0-9_\-]*(?:key|token|secret|password|passwd|pwd|signature|sig|auth|code))=)[^&\s\"'<>]+",
            r"(?i:\b(?:set-)?cookie:\s*)[^\r\n]+",
            r"(?i:\b(?:api[_-]?key|password|passwd|secret|access[_-]?token|client[_-]?secret)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&]{4,}",
        )
    )
)

# What each shape must contain, in lower case. Searching for these is twenty times as fast as trying the shapes, and
# nearly every text that n8n sends has none of them.
_HINTS = (
    *("private key", "bearer", "basic", "token", "cookie", "eyj", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    *("github_pat_", "glpat-", "akia", "asia", "aiza", "xox", "sk_", "rk_", "pk_", "whsec_", "sg.", "n8n_api_", ":aa"),
    *("apikey", "api_key", "api-key", "password", "passwd", "secret"),
)


def _may_hold_secret(text: str) -> bool:
    lowered = text.lower()
    return (
        any(hint in lowered for hint in _HINTS)
        or ("://" in lowered and "@" in lowered)
        or ("=" in lowered and ("?" in lowered or "&" in lowered or ";" in lowered))
    )


# A member of JSON that stands in a text, its quotes escaped as often as it was embedded, up to its value; or n8n's
# pair of a name and a value.
_MEMBER = re.compile(
    r"""(?P<q>\\{0,15}")(?P<name>[\w.\- ]{2,64})(?P=q)\s*:\s*"""
    r"""(?:(?P=q)(?P<named>[\w.\- ]{2,64})(?P=q)\s*,\s*(?P=q)value(?P=q)\s*:\s*)?(?P=q)"""
)


def redact_text(text: str, *, limit: int = MAX_STRING) -> str:
    """``text`` without what looks like a secret, cut at ``limit`` characters with a note of how much is missing."""
    if len(text) > 2 * limit:
        # Nothing after the cut is kept, so nothing after it needs a look; the margin is for a secret across the cut.
        cut, text = len(text), text[: limit + 512]
    else:
        cut = len(text)
    if len(text) >= SHORTEST_SECRET and _may_hold_secret(text):
        text = _SHAPES.sub(_mask, _mask_members(text))
    return text if len(text) <= limit and cut <= limit else f"{text[:limit]}… [{cut} characters in all]"


def redact(value: Any, *, limit: int = MAX_STRING, depth: int = MAX_DEPTH) -> Any:
    """A JSON value of the same shape, redacted: values under secret names masked whole, strings by their shape.

    Lists and objects beyond ``MAX_ITEMS`` entries or ``MAX_DEPTH`` levels are cut; numbers that JSON cannot write
    become text.
    """
    if isinstance(value, str):
        return redact_text(value, limit=limit)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        if depth <= 0:
            return "[…]"
        if "value" in value and isinstance(value.get("name"), str) and is_secret_name(value["name"]):
            # n8n's parameter lists: {"name": "X-Api-Key", "value": "…"}
            value = {**value, "value": MASK}
        items = list(value.items())[:MAX_ITEMS]
        return {str(key)[:256]: _entry(str(key), entry, limit, depth - 1) for key, entry in items}
    if isinstance(value, list | tuple):
        return [redact(entry, limit=limit, depth=depth - 1) for entry in value[:MAX_ITEMS]] if depth > 0 else "[…]"
    return value


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a value under this name is a secret, whatever it looks like."""
    return bool(_SECRET_KEY.search(name)) and not _HARMLESS_KEY.match(name)


def _entry(key: str, value: Any, limit: int, depth: int) -> Any:
    if value and not isinstance(value, bool | Mapping) and is_secret_name(key):
        return [MASK] * min(len(value), MAX_ITEMS) if isinstance(value, list | tuple) else MASK
    return redact(value, limit=limit, depth=depth)


def _mask_members(text: str) -> str:
    kept, at = [], 0
    for found in _MEMBER.finditer(text):
        name = found["named"] if found["named"] and found["name"] == "name" else found["name"]
        if found.start() < at or not is_secret_name(name):
            continue
        end = re.compile(r"(?<!\\)" + re.escape(found["q"])).search(text, found.end())
        kept += [text[at : found.end()], MASK]
        at = end.start() if end else len(text)
    return "".join([*kept, text[at:]])


def _mask(match: re.Match[str]) -> str:
    """Keep the words that introduce a secret (``Bearer``, ``password=``), mask the rest."""
    found = match.group()
    lead = re.match(
        r"(?i)(?:bearer|basic|token)\s+|(?:set-)?cookie:\s*|[a-z0-9_\-]+[\"']?\s*[:=]\s*[\"']?(?=\S)", found
    )
    return (lead.group() if lead and "://" not in found else "") + MASK
