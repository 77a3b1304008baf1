"""Which parts of a node's text are secrets that somebody typed, and not code or an expression that only names one.

What looks like a secret is :mod:`app.telemetry.redaction`'s to say. Here its findings are read as n8n and JavaScript
would: ``password = "hunter22"`` holds a secret, ``password = getPassword()`` does not.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from operator import itemgetter

from app.telemetry.redaction import Span, secret_spans

PLACEHOLDER = re.compile(r"\[secret:[0-9a-f]{12}\]")
CODE_KEYS = frozenset({"jsCode", "functionCode", "pythonCode", "code"})
"""Parameters whose text is a program."""
SHORTEST_PART = 4
"""Letters and digits of a text beside an expression; a shorter one is a separator or a prefix."""
_ROUNDS = 8

Part = tuple[int, int]

# What a placeholder is looked at as: the end of nothing, part of no shape.
_BLANK = "[" + "·" * 19 + "]"
# ``{{ … }}`` is code anywhere in n8n; ``${…}`` names a value in templates and in shells.
_INSERTED = re.compile(r"\$\{[^{}]*\}")
# Texts and comments of JavaScript and Python; one that is not closed ends with its line.
_LITERAL = re.compile(
    r"""/\*.*?\*/|(?<!:)//[^\n]*|\#[^\n]*|\"{3}.*?\"{3}|'{3}.*?'{3}|`(?:[^`\\]|\\.)*`"""
    r"""|"(?:[^"\\\n]|\\.)*(?:"|$)|'(?:[^'\\\n]|\\.)*(?:'|$)""",
    re.DOTALL | re.MULTILINE,
)
_QUOTES = "\"'`"
_SCHEME = re.compile(r"\s*(?:(?:bearer|basic|token|apikey|api-key|digest|bot|negotiate|hmac|aws)\b\s*)?", re.IGNORECASE)
_NO_VALUE = re.compile(r"\s*(?:none|null|undefined|true|false)?\s*", re.IGNORECASE)
# What begins so in a text names a value that is known when it runs.
_NAMES_VALUE = re.compile(
    r"\$(?:json|node|input|items?|env|vars|parameter|execution|workflow|now|today|prevNode|secrets|fromAI|binary)\b|\$\("
    r"|\$[A-Z_][A-Z0-9_]*\b|%[A-Z_]+%|(?:await|process\.env|os\.environ)\b|[A-Za-z_$][\w$.]*\([^()\n]*\)"
)
_CODE_START = re.compile(r"[A-Za-z_$(\[{!`]")
# In an expression under a secret's name: before texts that choose, name or format a value and are none.
_CHOOSES = re.compile(
    r"(?:\$\(|\[|[!=]==?|\bcase|\.(?:get|has|first|last|all|item|toFormat|format|split|join|toString|replace|includes"
    r"|startsWith|endsWith|getWorkflowStaticData|digest|createHash|update)\()\s*$"
)
_CHOOSES_CHARS = 40
_FORMATS = frozenset({"base64", "base64url", "utf8", "utf-8", "hex", "ascii", "sha256", "sha512", "sha1", "md5"})


def secret_parts(text: str, *, whole: bool = False, code: bool = False) -> list[Part]:
    """Where ``text`` holds secrets, in order and apart; nothing more is found where they are replaced by placeholders.

    :param whole: it stands under a secret's name, so that all of it is a secret but for expressions.
    :param code: it is a program.
    """
    parts: list[Part] = []
    for _ in range(_ROUNDS):
        masked = _Masked(text, parts)
        found = [part for part in _Reading(masked.text, code).parts(whole) if _is_new(masked.text[slice(*part)])]
        if not found:
            return parts
        parts = _merged([*parts, *map(masked.origin, found)])
    return [(0, len(text))]


def _is_new(found: str) -> bool:
    """What stands beside a placeholder belongs to its secret, unless it is punctuation."""
    return bool(found) and ("·" not in found or any(map(str.isalnum, found)))


class _Masked:
    """``text`` with all placeholders blank, those too that its ``parts`` will get; knows where each character was."""

    def __init__(self, text: str, parts: list[Part]) -> None:
        pieces: list[str] = []
        self._begins: list[int] = []
        self._origins: list[Part] = []
        at = length = 0
        for start, end in [*parts, (len(text), len(text))]:
            for piece, origin in ((PLACEHOLDER.sub(_BLANK, text[at:start]), (at, 0)), (_BLANK, (start, end))):
                pieces.append(piece if origin != (len(text), len(text)) else "")
                self._begins.append(length)
                self._origins.append(origin)
                length += len(pieces[-1])
            at = end
        self.text = "".join(pieces)

    def origin(self, part: Part) -> Part:
        return self._char(part[0])[0], self._char(part[1] - 1)[1]

    def _char(self, number: int) -> Part:
        place = bisect_right(self._begins, number) - 1
        start, end = self._origins[place]
        if end:
            return start, end
        start += number - self._begins[place]
        return start, start + 1


class _Reading:
    """One look at a text."""

    def __init__(self, text: str, code: bool) -> None:
        self._text = text
        self._code = code

    def parts(self, whole: bool) -> Iterator[Part]:
        if whole:
            yield from self._under_name()
        for span in secret_spans(self._text):
            yield from self._typed(span) if span.named else [span[:2]]

    @cached_property
    def _expressions(self) -> list[Part]:
        found, at = [], 0
        while (start := self._text.find("{{", at)) >= 0 and (end := self._text.find("}}", start + 2)) >= 0:
            found.append((start, end + 2))
            at = end + 2
        return found

    @cached_property
    def _shell(self) -> list[Part]:
        return [found.span() for found in _INSERTED.finditer(self._text)]

    @cached_property
    def _literals(self) -> list[Part]:
        """Texts and comments of what is code."""
        within = [(0, len(self._text))] if self._code else [(a + 2, b - 2) for a, b in self._expressions]
        return [found.span() for a, b in within for found in _LITERAL.finditer(self._text, a, max(a, b))]

    def _under_name(self) -> Iterator[Part]:
        """All but a scheme, and what an expression names."""
        begin = 1 if self._text.startswith("=") else 0
        if _NO_VALUE.fullmatch(self._text, begin):
            return
        at, alone = begin, not self._expressions
        for start, end in [*self._expressions, (len(self._text), len(self._text))]:
            yield from self._plain(at, start, alone=alone)
            if start < end:
                yield from self._results(start + 2, end - 2)
            at = end

    def _results(self, start: int, end: int) -> Iterator[Part]:
        """The texts in an expression that become part of its value."""
        for found in _LITERAL.finditer(self._text, start, max(start, end)):
            quote, a, b = found[0][0], found.start() + 1, found.end()
            if quote not in _QUOTES:
                continue
            b = max(a, b - 1 if self._text[b - 1] == quote else b)
            before = self._text[max(start, found.start() - _CHOOSES_CHARS) : found.start()]
            if self._text[a:b].lower() not in _FORMATS and not _CHOOSES.search(before):
                yield from self._but_inserted(a, b, alone=False)

    def _typed(self, span: Span) -> Iterator[Part]:
        """What was found by the name before it, where it is text and not code."""
        text, (start, end, _) = self._text, span
        while start < end and text[start] in _QUOTES + "\\":
            start += 1
        if start > 0 and text[start - 1] in _QUOTES:
            end = self._closing(start, end)
        elif not self._is_text(start, end):
            return
        else:
            while end > start and text[end - 1] in ")]}":
                end -= 1
        if start < end and not _NO_VALUE.fullmatch(text, start, end):
            yield from self._but_inserted(start, end, alone=not _SCHEME.fullmatch(text, start, end))

    def _is_text(self, start: int, end: int) -> bool:
        """Whether a value without a quote before it is text, a comment say, and not code that names it."""
        in_code = self._code or any(a < start - 1 and start < b - 2 for a, b in _touching(self._expressions, start))
        if in_code and not any(a < start < b for a, b in _touching(self._literals, start)):
            return not _CODE_START.match(self._text, start)
        return not _NAMES_VALUE.match(self._text, start)

    def _closing(self, start: int, end: int) -> int:
        """The end of the text that begins at ``start`` behind a quote, on its line; else ``end``."""
        text, quote = self._text, self._text[start - 1]
        before = text[max(0, start - 16) : start - 1]
        escapes = len(before) - len(before.rstrip("\\"))
        line_end = text.find("\n", start)
        line_end = len(text) if line_end < 0 else line_end
        closing = re.compile(rf"(?<!\\)\\{{{escapes}}}{quote}")
        found = closing.search(text, start, line_end)
        return found.start() if found else end

    def _but_inserted(self, start: int, end: int, *, alone: bool) -> Iterator[Part]:
        at = start
        # One that holds all of it is where it stands.
        inserted = sorted([*_touching(self._expressions, start, end), *_touching(self._shell, start, end)])
        cuts = [(a, b) for a, b in inserted if not (a + 2 <= start and end <= b)]
        for a, b in [*cuts, (end, end)]:
            yield from self._plain(at, max(at, min(a, end)), alone=alone and not cuts)
            at = max(at, b)

    def _plain(self, start: int, end: int, *, alone: bool) -> Iterator[Part]:
        """A text without its scheme and the space around it."""
        scheme = _SCHEME.match(self._text, start, end)
        value = scheme.end() if scheme else start
        if alone and not self._text[value:end].strip():
            value = start
        while end > value and self._text[end - 1].isspace():
            end -= 1
        if value < end and (alone or sum(map(str.isalnum, self._text[value:end])) >= SHORTEST_PART):
            yield value, end


def _touching(ranges: list[Part], start: int, end: int = 0) -> Iterator[Part]:
    """Those, in order and apart, that have something of ``start`` to ``end``, by default of one character."""
    end = max(end, start + 1)
    for place in range(max(0, bisect_right(ranges, start, key=itemgetter(0)) - 1), len(ranges)):
        if ranges[place][0] >= end:
            break
        if ranges[place][1] > start:
            yield ranges[place]


def _merged(parts: list[Part]) -> list[Part]:
    merged: list[Part] = []
    for start, end in sorted(parts):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
