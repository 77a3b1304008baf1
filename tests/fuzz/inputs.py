"""Random input of all kinds, each from one ``Random``: JSON, mutations of what is valid, bytes, header values."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

PAYLOADS = [json.loads(path.read_bytes()) for path in sorted((Path(__file__).parents[1] / "payloads").glob("*.json"))]
CALLBACKS = [body for body in PAYLOADS if isinstance(body, dict) and isinstance(body.get("workflow"), dict)]

TEXTS = (
    *("", " ", "a", "\0", "a\0b", "\ud800", "\udc00\ud800", "\ufeff", "\u202eabc", "é" * 300, "🎉" * 50, "x" * 200),
    *("x" * 129, "x" * 70_000, "null", "NaN", "__proto__", "../../etc/passwd", "%00", "'; DROP TABLE events; --"),
    *("{{ $json }}", "<script>", "\r\nX-Injected: 1", "Bearer abcdefghijkl", "password=hunter22", "[" * 150, '"' * 9),
)
NUMBERS = (0, 1, -1, 7, 2**31, 2**53, 2**63, 2**64, 10**30, 10**400, -(10**400), 0.5, -0.0, 1e308, 5e-324)
# JSON's own text, where Python's values cannot say it.
RAW_JSON = (
    *(b"1e999", b"-1e999", b"NaN", b"Infinity", b"1" * 4_301, b"9" * 100_000, b"01", b"1.", b"+1", b"'a'", b"tru"),
    *(b'"\\ud800"', b'"\\u12"', b'"\xff"', b'"\xed\xa0\x80"', b'"\n"', b"[" * 60 + b"]" * 60, b"[" * 99 + b"]" * 99),
    *(b"[" * 150 + b"]" * 150, b"[" * 3_000 + b"]" * 3_000, b'{"a":' * 5_000, b"[" * 100_000, b"\xef\xbb\xbf{}", b""),
)
_HOLE = '"@@hole@@"'


def text(rng: Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(TEXTS)
    return "".join(
        chr(rng.choice((rng.randrange(128), rng.randrange(0xD800), 0x10000 + rng.randrange(999))))
        for _ in range(rng.randrange(40))
    )


def value(rng: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind <= 2:
        return rng.choice(NUMBERS)
    if kind <= 5:
        return text(rng)
    if kind == 6:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {text(rng)[:300]: value(rng, depth - 1) for _ in range(rng.randrange(4))}


def mutated(rng: Random, valid: Any, *, times: int | None = None) -> Any:
    """``valid`` with some places replaced, removed, renamed, doubled or wrapped."""
    body = [copy.deepcopy(valid)]
    for _ in range(rng.choice((0, 1, 1, 2, 4)) if times is None else times):
        spots = list(_spots(body))
        parent, key = rng.choice(spots)
        match rng.randrange(6):
            case 0 if isinstance(parent, dict):
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[text(rng)[:300]] = parent.pop(key)
            case 2:
                parent[key] = [parent[key]]
            case 3:
                parent[key] = {"a": parent[key], "b": parent[key]}
            case _:
                parent[key] = value(rng)
    return body[0]


def encoded(rng: Random, body: Any) -> bytes:
    """``body`` as JSON; now and then with a value that is none, or with bytes that were damaged."""
    if rng.random() < 0.2:
        body = [copy.deepcopy(body)]
        parent, key = rng.choice(list(_spots(body)))
        parent[key] = "@@hole@@"
        return json.dumps(body[0]).encode().replace(_HOLE.encode(), rng.choice(RAW_JSON), 1)
    data = json.dumps(body, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        data = damaged(rng, data)
    return data


def damaged(rng: Random, data: bytes) -> bytes:
    """Bytes cut, doubled, flipped, inserted."""
    cut = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(cut) + 1)
        match rng.randrange(5):
            case 0:
                del cut[at:]
            case 1:
                del cut[at : at + rng.randrange(20)]
            case 2:
                cut[at:at] = rng.randbytes(rng.randrange(1, 8))
            case 3:
                cut[at:at] = cut[at : at + rng.randrange(60)]
            case _ if at < len(cut):
                cut[at] = rng.randrange(256)
    return bytes(cut)


def junk(rng: Random, most: int = 200) -> bytes:
    return rng.randbytes(rng.randrange(most)) if rng.random() < 0.5 else rng.choice(RAW_JSON)


def header_value(rng: Random) -> bytes:
    """Bytes for a header's value: without line ends, else it would not be one."""
    data = rng.choice(
        (
            *(
                b"",
                b" ",
                b"a" * 8,
                b"\xff\xfe\x80",
                "é🎉".encode(),
                b"a" * 7_000,
                b"1",
                b"-1",
                b"gzip",
                b"null",
                b"*",
                b"\t\x01\x7f",
            ),
            *(
                b"Bearer",
                b"Bearer x",
                b"Basic eDp5",
                b"https://evil.example",
                b"application/json; charset=utf-7",
                b"a,b",
                b'"',
            ),
            rng.randbytes(rng.randrange(1, 30)),
        )
    )
    return data.replace(b"\r", b"").replace(b"\n", b"")


def _spots(at: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    places = range(len(at)) if isinstance(at, list) else list(at)
    for key in places:
        found.append((at, key))
        if isinstance(at[key], list | dict):
            found += _spots(at[key])
    return found
