"""Strategies: any JSON, with what is odd in it; and recorded callbacks with places of them replaced."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from app.shapes import MAX_ERRORS, MAX_PATH_CHARS

# The same examples in every run: a failure is the code's, never the day's.
BOUNDED = settings(
    derandomize=True,
    deadline=None,
    max_examples=100,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
PAYLOADS = [
    body
    for path in sorted((Path(__file__).parents[1] / "payloads").glob("*.json"))
    if "workflow" in (body := json.loads(path.read_bytes()))
]

_SECRETS = (
    "Bearer abcdefghijkl",
    "password=hunter22",
    "sk-" + "a" * 30,
    "https://me:secret@host/a?token=abcdefgh",
    "Cookie: a=b",
)
_WORDS = ("id", "name", "error", "message", "node", "password", "token", "value", "type", "workflow", "parameters")

texts = st.one_of(
    st.text(max_size=30),
    st.text(alphabet=st.characters(codec=None, categories=None), max_size=9),  # lone surrogates, too
    st.sampled_from(_SECRETS),
    st.builds(
        lambda text, times: text * times, st.sampled_from((*_SECRETS, "x", "é", '\\"', "🎉 ")), st.integers(1, 1_500)
    ),
)
numbers = st.one_of(st.integers(), st.integers(0, 300).map(lambda n: 10**n), st.floats(), st.booleans())
keys = st.one_of(st.sampled_from(_WORDS), texts)
values = st.recursive(
    st.one_of(st.none(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(keys, inner, max_size=6)),
    max_leaves=25,
)


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """``valid``, up to four of its places replaced, removed or doubled under another key."""
    body = [copy.deepcopy(valid)]
    for _ in range(draw(st.integers(0, 4))):
        spots = list(_spots(body))
        parent, key = spots[draw(st.integers(0, len(spots) - 1))]
        match draw(st.integers(0, 3)):
            case 0 if isinstance(parent, dict):
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[draw(keys)] = parent[key]
            case _:
                parent[key] = draw(values)
    return body[0]


def has_our_words(errors: list[dict[str, str]]) -> bool:
    """Whether complaints have their shape, their bound, and nothing of the library's own language."""
    return 0 < len(errors) <= MAX_ERRORS and all(
        set(error) == {"path", "message"}
        and len(error["path"]) <= MAX_PATH_CHARS
        and 0 < len(error["message"]) < 100
        and not any(word in error["message"] for word in ("Input", "pydantic", "Value error", "column", "input_value"))
        for error in errors
    )


def _spots(at: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    for key in range(len(at)) if isinstance(at, list) else list(at):
        found.append((at, key))
        if isinstance(at[key], list | dict):
            found += _spots(at[key])
    return found
