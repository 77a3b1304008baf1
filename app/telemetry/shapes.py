"""What secrets look like in a text, and the clues that such a text cannot do without.

Every pattern is linear: what is repeated is bounded, or ends at a character that no other start can have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MASK = "[redacted]"

# What stands where a value would and is none: "password: is required", "secret = undefined".
_PLAIN = (
    r"(?!(?i:\(|\{\{|=\{\{|is|are|was|must|may|can|cannot|could|should|has|not|no|none|null|nil|undefined|true|false|"
    r"required|missing|invalid|expired|wrong|incorrect|failed|failure|empty|denied|unknown|unset|string|number|text|"
    r"header|the|this|your|please|check|change|with|for|and)(?![A-Za-z0-9]))"
)
# A word or words of a language, which "basic" and "token" often stand before: "basic authentication is required".
# Nothing is given back: a word can be split in two ways, and so many words in two to the power of that.
_WORDS = r"(?![A-Za-z]?+[a-z]*+(?:[-./][A-Za-z]?+[a-z]*+)*+[,;:!?'\")\]]*+(?:\s|$))"
_GAP = r"[^\S\r\n]"
_QUOTE = r"""\\{0,15}["'`]?"""
_IS = rf"{_QUOTE}{_GAP}{{0,8}}(?:=>|[:=]){_GAP}{{0,8}}{_QUOTE}"
_QUOTED = r"""(?<=["'`])[^"'`\\\r\n]{4,256}(?=\\{0,15}["'`])"""
_VALUE = r"""[^\s"'`,;&<>\\]{4,}"""


class Span(NamedTuple):
    """Where a secret stands in a text.

    :ivar named: it is known by what stands before it only, so it may be anything that stands for a value, code too.
    """

    start: int
    end: int
    named: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """:ivar secret: what is masked; its group ``lead``, where it has one, tells what was there and is kept.
    :ivar named: see :class:`Span`.
    :ivar clues: texts in lower case, one of which is in every text with such a secret.
    :ivar searches: do the same where no rare text would; each begins with what is searched for quickly.
    """

    secret: re.Pattern[str]
    clues: tuple[str, ...] = ()
    searches: tuple[re.Pattern[str], ...] = ()
    named: bool = False
    kept: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", rf"\g<lead>{MASK}" if "lead" in self.secret.groupindex else MASK)

    def suspected(self, lowered: str) -> bool:
        return any(clue in lowered for clue in self.clues) or any(found.search(lowered) for found in self.searches)

    def mask(self, text: str) -> str:
        return self.secret.sub(self.kept, text)

    def spans(self, text: str) -> Iterator[Span]:
        """What :meth:`mask` would mask."""
        for found in self.secret.finditer(text):
            start = found.end("lead") if "lead" in self.secret.groupindex else found.start()
            yield Span(start, found.end(), self.named)


def _shape(secret: str, *clues: str, search: tuple[str, ...] = (), named: bool = False) -> Shape:
    return Shape(re.compile(secret), clues, tuple(map(re.compile, search)), named)


_AFTER_UNDERSCORE = (r"_[a-z0-9]{16}",)
_AFTER_DASH = (r"-[a-z0-9_]{13}",)
_GIVEN = r"\\{0,15}[\"']?\s{0,8}[:=]"
_QUERY_NAMES = (
    r"(?:[a-z0-9_\-]{0,64}(?:api[_-]?key|access[_-]?key(?:id)?|secret(?:[_-]?key)?|token"
    r"|passw(?:or)?d|pwd|signature|sig|auth|credential|hmac)|key|code(?==[^&\s]{8}))"
)

SHAPES: tuple[Shape, ...] = (
    _shape(
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----[\s\S]*?(?:-----END [A-Z0-9 ]{0,40}-----|$)",
        "private key",
    ),
    # Headers: what is presented, whatever its scheme and shape.
    _shape(
        rf"(?P<lead>(?i:\b(?:set-)?cookie[\"']?{_GAP}{{0,8}}[:=]{_GAP}{{0,8}}))(?=[^\r\n]{{0,256}}=)[^\r\n]+",
        "cookie",
        named=True,
    ),
    _shape(
        rf"(?P<lead>(?i:authorization{_IS}(?:[a-z0-9-]{{2,24}}{_GAP}{{1,4}})?)){_PLAIN}{_VALUE}",
        "authorization",
        named=True,
    ),
    _shape(
        r"(?P<lead>(?i:\bbearer\s{1,8}))(?!(?i:auth|credential|scheme|challenge|realm|format|header))"
        r"[A-Za-z0-9._~+/=-]{8,}",
        "bearer",
    ),
    _shape(
        rf"(?P<lead>(?i:\b(?:basic|token|apikey)\s{{1,8}})){_WORDS}[A-Za-z0-9._~+/=-]{{8,}}",
        *("basic", "token", "apikey "),
    ),
    # A JWT; in a long run of its characters only the first start is tried without a bound, and none twice: a shorter
    # run would not end at a dot either.
    _shape(
        r"(?:(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+|\beyJ[A-Za-z0-9_-]{8,512}+)\.[A-Za-z0-9_-]{4,}+"
        r"(?:\.[A-Za-z0-9_-]*+){0,3}",
        "eyj",
    ),
    # Providers' keys.
    _shape(r"\bsk-[A-Za-z0-9_-]{16,}", "sk-"),  # Anthropic, OpenAI and those who took after them
    _shape(r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})", search=_AFTER_UNDERSCORE),
    _shape(
        r"\bgl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat)-[A-Za-z0-9_.-]{16,}",
        "glpat-",
        search=_AFTER_DASH,
    ),
    _shape(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", "akia", "asia"),
    _shape(r"\bAIza[A-Za-z0-9_-]{30,}", "aiza"),
    _shape(r"\b(?:ya29\.|GOCSPX-|1//0)[A-Za-z0-9_-]{20,}", "ya29.", "gocspx-", "1//0"),
    _shape(r"\b(?:xox[a-z](?:\.xox[a-z])?|xapp)-[A-Za-z0-9-]{10,}", "xox", "xapp-"),
    _shape(r"(?<=hooks\.slack\.com/)[a-z]{1,16}/[A-Za-z0-9/]{16,}", "hooks.slack.com/"),
    _shape(r"(?<=/api/webhooks/)\d{1,24}/[A-Za-z0-9_-]{20,}", "/api/webhooks/"),  # Discord
    _shape(r"\b(?:[rsp]k_(?:live|test)_|whsec_)[A-Za-z0-9+/]{16,}", "whsec_", search=_AFTER_UNDERSCORE),  # Stripe
    _shape(r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}", "sg."),  # SendGrid
    _shape(r"\bSK[0-9a-f]{32}\b", search=(r"sk[0-9a-f]{32}",)),  # Twilio
    _shape(r"\bkey-[0-9a-f]{32}\b", search=_AFTER_DASH),  # Mailgun
    _shape(r"\b(?:bot)?\d{8,10}:AA[A-Za-z0-9_-]{30,}", ":aa"),  # Telegram
    _shape(r"(?<=\dQ~)[A-Za-z0-9_~.-]{31,34}", "q~"),  # Azure
    _shape(r"\bU2FsdGVkX1[A-Za-z0-9+/=]{16,}", "u2fsdgvkx1"),  # what n8n keeps of a credential
    _shape(
        r"\b(?:n8n_api_|npm_|hf_|do[opr]_v1_|shp(?:at|ca|pa|ss)_|ntn_|lin_api_|gsk_|sbp_|r8_|secret_|glsa_|dckr_pat_"
        r"|rnd_|figd_)[A-Za-z0-9_.=-]{16,}",
        search=_AFTER_UNDERSCORE,
    ),
    _shape(
        r"\b(?:pypi-|sq0(?:atp|csp)-|xai-|pplx-|pat-(?:na|eu)1-|hvs\.|ATATT3|dapi)[A-Za-z0-9_.=-]{16,}",
        *("hvs.", "atatt3", "dapi"),
        search=_AFTER_DASH,
    ),
    # Addresses: who calls, and what signs.
    _shape(
        r"(?<=://)(?:[^\s/@:]{0,256}:[^\s/@]{1,256}|[A-Za-z0-9_.~%-]{16,256})(?=@)",
        search=(r"://[^\s/]{1,520}@",),
        named=True,
    ),
    _shape(
        rf"(?P<lead>(?i:(?<=[?&;]){_QUERY_NAMES}=))[^&\s\"'`<>\\]+",
        *("token=", "secret=", "password=", "passwd=", "pwd="),
        search=(r"=(?<=(?:key|yid|sig|ure|uth|ial|mac|ode)=)",),
        named=True,
    ),
    # Names that a value is given to in a text.
    _shape(
        r"(?P<lead>(?i:(?:pass(?:word|wd|phrase)|\bpwd|(?:api|access|account|private|encryption|signing|secret)[_-]?key"
        # But for what stands in the place of a secret: see ``n8n/secrets.py``.
        rf"|secret(?!:[0-9a-f]{{12}}\])|(?:access|refresh|auth|bot|api|session|id)[_-]?token|(?-i:_KEY|_TOKEN|_PASS)){_IS})){_PLAIN}(?:{_QUOTED}|{_VALUE})",
        *("pwd", "secret", "token"),
        search=(rf"key{_GIVEN}", rf"pass(?:word|wd|phrase)?{_GIVEN}"),
        named=True,
    ),
    _shape(
        rf"(?P<lead>(?i:\btoken{_IS})){_PLAIN}{_WORDS}[^\s\"'`,;&<>\\]{{8,}}",
        "token",
        named=True,
    ),
)

# Nearly every text has none of these, and looking for them is many times as fast as trying the shapes.
_ALL_CLUES = {clue for shape in SHAPES for clue in shape.clues}
_CLUES = tuple(sorted(clue for clue in _ALL_CLUES if not any(other in clue for other in _ALL_CLUES - {clue})))
# Names of JSON members, and in pairs of a name and a value, that no shape asks for.
_NAMED = re.compile(r"(?:auth|credential|session[_-]?id|signature|bearer|passphrase)s?\\{0,15}\"\s{0,8}[:,]")
_SEARCHES = (*dict.fromkeys(search for shape in SHAPES for search in shape.searches), _NAMED)


def may_hold_secret(text: str) -> bool:
    """Whether it is worth while to try the shapes; errs on the side of yes."""
    lowered = text.lower()
    for clue in _CLUES:
        if clue in lowered:
            return True
    return any(search.search(lowered) for search in _SEARCHES)


def mask_shapes(text: str) -> str:
    """``text`` without what has one of the shapes."""
    lowered = text.lower()
    for shape in SHAPES:
        if shape.suspected(lowered):
            text = shape.mask(text)
    return text


def shape_spans(text: str) -> Iterator[Span]:
    """Where :func:`mask_shapes` finds something, shape by shape; spans may overlap."""
    lowered = text.lower()
    for shape in SHAPES:
        if shape.suspected(lowered):
            yield from shape.spans(text)


_QUERY_NAME = re.compile(rf"(?i){_QUERY_NAMES}=")


def is_query_secret(name: str, value: str) -> bool:
    """Whether a value of this name in a URL's query is a secret."""
    return bool(_QUERY_NAME.match(f"{name}={value}"))
