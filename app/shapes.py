"""How what comes from outside becomes values: JSON within bounds, models over it, and complaints in our own words.

Every frame, body, query, callback and tool call is read here, so all of them have the same bounds. Their models are
kept by whoever they belong to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from itertools import accumulate
from typing import Annotated, Any, NoReturn, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import ErrorDetails

from app.errors import ValidationError

MAX_DEPTH = 100
"""Levels of lists and objects in any JSON that is taken. n8n's own payloads have less than 20."""
MAX_ERRORS = 20
MAX_PATH_CHARS = 200
UNKNOWN_KEY = "is not known here"

Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Shape(BaseModel):
    """A frame or a body: types as they are, unknown keys ignored, so that an older bridge takes newer clients."""

    model_config = ConfigDict(strict=True, frozen=True)


class Query(BaseModel):
    """The parameters of an address: all are text, and numbers are read from it. Unknown ones are ignored."""

    model_config = ConfigDict(frozen=True)


def decode_json(data: bytes, *, finite: bool = False) -> Any:
    """The value in ``data``; a byte order mark is skipped, of doubled keys the last one counts.

    :param finite: whether numbers that no double can hold (``1e999``) are refused, or become infinite.
    :raises ValidationError: not UTF-8, not JSON (``NaN`` is none), nested over ``MAX_DEPTH``, or with a whole number of
        more than 4300 digits.
    """
    text = _utf8(data, "utf-8-sig")
    check_depth(text)
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite if finite else None)
    except json.JSONDecodeError as exc:
        raise refusal("is not JSON") from exc
    except ValueError as exc:
        raise refusal("has a number of too many digits") from exc


def read_json(adapter: TypeAdapter[T], text: str | bytes, *, tagged: bool = False) -> T:
    """JSON text as what ``adapter`` makes of it.

    :param tagged: it is a union told apart by a tag, which then stands in front of the library's paths.
    :raises ValidationError: as :func:`decode_json`, or not of that shape.
    """
    if isinstance(text, bytes):
        text = _utf8(text, "utf-8")
    check_depth(text)
    if "NaN" in text or "Infinity" in text:
        # Most probably words in a text; as numbers the library would let them pass where it ignores a key.
        decode_json(text.encode("utf-8", "replace"))
    try:
        return adapter.validate_json(text)
    except pydantic.ValidationError as exc:
        raise invalid(exc, tagged=tagged) from exc
    except UnicodeError as exc:
        raise refusal("is not UTF-8") from exc


def read_body(model: type[M], text: str | bytes) -> M:
    """:raises ValidationError: as :func:`read_json`."""
    adapter: TypeAdapter[M] = _adapter(model)
    return read_json(adapter, text)


def read_query(model: type[M], values: Mapping[str, str]) -> M:
    """:raises ValidationError: a parameter of the wrong shape."""
    return read_value(model, values)


def read_value(model: type[M], value: Any) -> M:
    """A decoded value as ``model``. :raises ValidationError: it has another shape."""
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as exc:
        raise invalid(exc) from exc


def check_depth(text: str) -> None:
    """:raises ValidationError: ``text``, if it is JSON, has lists and objects in more than ``MAX_DEPTH`` levels."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    # Escapes go first, pairs of backslashes before escaped quotes; then all that is neither quote nor bracket, then the
    # strings. Outside of strings no parser gets past a backslash, so what is mistaken there does not matter.
    slim = text.encode("utf-8", "replace").replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _PLAIN)
    if b'"' in slim:
        slim = b"".join(slim.split(b'"')[::2])
    for depth in accumulate(slim.translate(_STEPS), _step, initial=0):
        if depth > MAX_DEPTH:
            raise refusal(f"is nested more than {MAX_DEPTH} levels deep")


def refusal(message: str, path: str = "") -> ValidationError:
    """One complaint about the whole, or about what is at ``path``."""
    return ValidationError(f"{path or 'It'} {message}.", errors=[{"path": path, "message": message}])


def invalid(exc: pydantic.ValidationError, *, tagged: bool = False) -> ValidationError:
    """A library's complaints as ours: paths and plain words, nothing of the input."""
    errors = [
        {"path": _path(found["loc"], tagged=tagged), "message": _message(found)}
        for found in exc.errors(include_url=False, include_input=False)[:MAX_ERRORS]
    ]
    first = errors[0]
    return ValidationError(f"{first['path'] or 'It'} {first['message']}.", errors=errors)


# The library's kinds of complaint in our own words; its texts quote the input and name its own concepts.
_WORDS = {
    "json_invalid": "is not JSON",
    "missing": "is missing",
    "extra_forbidden": UNKNOWN_KEY,
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be text",
    "string_unicode": "must be text without lone surrogates",
    "string_pattern_mismatch": "has characters that are not allowed here",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is a number of too many digits",
    "int_from_float": "must be a whole number",
    "union_tag_not_found": "needs a type",
    "union_tag_invalid": "is of an unknown type",
    "literal_error": "is not one of the known values",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}

_NO_JSON = {
    "hex escape": "has a broken escape or half a surrogate pair",
    "number out of range": "has a number of too many digits",
}


def _message(found: ErrorDetails) -> str:
    context = found.get("ctx") or {}
    if found["type"] == "json_invalid":
        reason = str(context.get("error"))
        return next((words for known, words in _NO_JSON.items() if known in reason), _WORDS["json_invalid"])
    return _WORDS.get(found["type"], "is not as expected").format_map(context)


def _path(places: tuple[int | str, ...], *, tagged: bool) -> str:
    return ".".join(str(place) for place in places[1 if tagged else 0 :])[:MAX_PATH_CHARS]


def _utf8(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as exc:
        raise refusal("is not UTF-8") from exc


@cache
def _adapter(model: type[BaseModel]) -> TypeAdapter[Any]:
    return TypeAdapter(model)


_PLAIN = bytes(sorted(set(range(256)) - set(b'"[]{}')))
# Up or down one level, as a byte: 1 is up, 2 is down.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\x02\x02")


def _step(depth: int, step: int) -> int:
    return depth + 1 if step == 1 else depth - 1


def _no_constant(name: str) -> NoReturn:
    raise refusal("has NaN or Infinity, which JSON has not")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise refusal("has a number that is too large")
    return value
