"""What a person may ask of the offline agent: English sentences of two fixed kinds, read into what they want."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

MAX_READ_CHARS = 2000
"""Longer prompts are not read: they never are one plain sentence."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Every ``count`` ``unit``; always one that n8n's Schedule Trigger can express."""

    count: int
    unit: Literal["seconds", "minutes", "hours", "days"]

    def __str__(self) -> str:
        return f"every {self.unit[:-1]}" if self.count == 1 else f"every {self.count} {self.unit}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A workflow that was asked for.

    :ivar interval: when it runs; ``None``: when its webhook is called.
    :ivar get_url: what it fetches; ``None``: nothing, the webhook answers ``answer``.
    :ivar post_url: where it posts what was fetched, if anywhere.
    """

    interval: Interval | None = None
    get_url: str | None = None
    post_url: str | None = None
    answer: str | None = None


# Stands for an address while the words around it are read: a character that no sentence holds.
_AT = "\ue000"
_URL = re.compile(r"https?://[^\s<>\"'`“”\u2018\u2019«»]+", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "\u2018": "\u2019", "«": "»"}
_PUNCTUATION = ".,;:!?… "

_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "five": 5, "ten": 10, "fifteen": 15, "thirty": 30}
_UNITS: dict[str, Literal["seconds", "minutes", "hours", "days"]] = {
    "s": "seconds",
    "m": "minutes",
    "h": "hours",
    "d": "days",
}
# n8n writes an interval as a cron step, which starts anew with each minute, hour, day or month.
_LARGEST = {"seconds": 59, "minutes": 59, "hours": 23, "days": 31}
_NEXT: dict[str, tuple[int, Literal["minutes", "hours", "days"]]] = {
    "seconds": (60, "minutes"),
    "minutes": (60, "hours"),
    "hours": (24, "days"),
}
_EVERY = re.compile(
    rf"\b(?:once )?(?:every|each) ?(?:(\d{{1,5}}|(?:{'|'.join(_NUMBERS)})\b) ?)?"
    r"(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)\b"
    r"(?! (?:seconds?|minutes?|hours?|days?)\b)"
)

# How such a sentence may begin. Any other word there may ask for something that would be left out silently.
_LEAD = (
    r"(?:please|hi|hello|hey|can|could|would|you|i|i'd|we|like|want|wants|need|us|me|let's|to|have|do|set|up|for|just|now|"
    r"build|create|make|add|write|give|generate|new|a|an|the|my|simple|small|n8n|http|workflow|flow|automation|job|it|"
    r"one|that|which|and|should|will|runs?|schedule[ds]?|simply|always|then) "
)
_WORD = r"(?!(?:with|using|via|as|and|then|or)\b)[\w'/-]+ "
_GET = r"(?:gets?|getting|(?:fetch|check|download|call|request|poll|read|pull|ping|load)(?:s|es|ing)?|retrieves?) "
_POST = r"(?:post|send|forward|push|submit|deliver)(?:s|es|ing)? "
_ANSWER = r"(?:answers?|responds?|returns?|repl(?:y|ies)|says?)"
_FETCH = (
    rf"{_GET}(?:{_WORD}){{0,6}}?{_AT}"
    rf"(?: (?:and )?(?:then )?{_POST}(?:{_WORD}){{0,5}}?to (?:{_WORD}){{0,3}}?{_AT}(?: as json)?)?"
)
_THANKS = r"(?: please| thanks| thank you)*"
_THAT = r"(?:that|which|and|to|it|always|simply|just|should|will|can)"
_TIMED = re.compile(rf"(?:{_LEAD}){{0,15}}{_FETCH}{_THANKS}")
_CALLED = re.compile(
    rf"(?:{_LEAD}){{0,15}}webhook (?:{_THAT} ){{0,3}}{_FETCH}"
    rf"(?: (?:and )?{_ANSWER} (?:with )?(?:it|(?:the|its|what) (?:{_WORD}){{0,2}}\w+))?{_THANKS}"
)
_ANSWERED = re.compile(
    rf"(?P<lead>(?:[\w'-]+\s+){{0,15}}?)webhook,?\s+(?:{_THAT}\s+){{0,3}}{_ANSWER}:?\s+(?:(?:with|back)\s+)*"
    r"(?:(?:the\s+)?(?:text|message|string|word)s?:?\s+)?(?P<text>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
# Words that turn a sentence into one that these rules do not understand.
_CONDITION = re.compile(
    r"\b(?:don'?t|not|never|stop|unless|if|when|while|except|only|without|delete|remove|until|between|weekdays?|"
    r"at (?:\d+|noon|midnight)|(?:mon|tues|wednes|thurs|fri|satur|sun)days?)\b"
)
_MARKS = re.compile(r"[,;:\"`“”«»<>()]|[.!?…]+(?=\s|$)|(?<!\w)'|'(?!\w)")


def read_request(prompt: str) -> Wanted | None:
    """What ``prompt`` asks for, or ``None``: nothing is guessed, a sentence fits as a whole or not at all."""
    prompt = prompt.strip()
    if len(prompt) > MAX_READ_CHARS:
        return None
    return _read_fetch(prompt) or _read_answer(prompt)


def asks_for_list(prompt: str) -> bool:
    words = " ".join(prompt[:MAX_READ_CHARS].lower().split()).strip(_PUNCTUATION)
    return bool(re.fullmatch(r"(?:please )?(?:list|show)(?: me)?(?: all| my| the| of)* workflows?(?: please)?", words))


def _read_fetch(prompt: str) -> Wanted | None:
    urls = [_trimmed(found) for found in _URL.findall(prompt)]
    words = _URL.sub(lambda found: _AT + found[0][len(_trimmed(found[0])) :], prompt.replace(_AT, ""))
    words = " ".join(_MARKS.sub(" ", words.lower()).split())
    if _CONDITION.search(words) or not all(map(_is_usable, urls)):
        return None
    schedules = list(_EVERY.finditer(words))
    if len(schedules) > 1:
        return None
    interval = _interval(schedules[0]) if schedules else None
    if schedules:
        words = " ".join((words[: schedules[0].start()] + " " + words[schedules[0].end() :]).split())
    if (schedules and interval is None) or not (_TIMED if schedules else _CALLED).fullmatch(words):
        return None
    return Wanted(interval, urls[0], urls[1] if len(urls) > 1 else None)


def _interval(found: re.Match[str]) -> Interval | None:
    number, word = found.groups()
    count = _NUMBERS.get(number, 0) or int(number) if number else 1
    unit = _UNITS[word[0]]
    while count > _LARGEST[unit] and unit in _NEXT and count % _NEXT[unit][0] == 0:
        size, unit = _NEXT[unit]
        count //= size
    return Interval(count, unit) if 0 < count <= _LARGEST[unit] else None


def _read_answer(prompt: str) -> Wanted | None:
    found = _ANSWERED.fullmatch(prompt)
    if not found or _CONDITION.search(found["lead"].lower()):
        return None
    text = _unquoted(found["text"])
    return Wanted(answer=text) if text else None


def _unquoted(text: str) -> str | None:
    """The text between quotes, else without its last punctuation; ``None`` where more follows the closing quote."""
    closing = _QUOTES.get(text[0])
    if closing is None:
        return text.rstrip(_PUNCTUATION)
    inner, quote, rest = text[1:].partition(closing)
    return inner if quote and not rest.strip(_PUNCTUATION) else None


def _trimmed(url: str) -> str:
    """An address without the sentence's own punctuation behind it."""
    url = url.rstrip(_PUNCTUATION)
    return url.rstrip(")]" + _PUNCTUATION) if "(" not in url and "[" not in url else url


def _is_usable(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False
