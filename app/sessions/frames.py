"""The shapes of what clients send: frames on a socket, bodies and queries of the session routes.

Unknown keys are ignored, so that an older bridge takes a newer client's frames. Source: the wire contract, sections 1
and 3.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.errors import ValidationError
from app.journal.records import Autonomy

MAX_TEXT_CHARS = 100_000
MAX_EVENTS = 1_000

Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Hello(_Shape):
    type: Literal["hello"]
    sessionId: Id | None = None
    token: str | None = Field(default=None, max_length=512)
    after: int = Field(default=0, ge=0, le=2**53)
    accessToken: str | None = Field(default=None, max_length=4096)


class MessageBody(_Shape):
    text: str = Field(min_length=1, max_length=MAX_TEXT_CHARS)
    clientMessageId: str | None = Field(default=None, min_length=1, max_length=64)


class Message(MessageBody):
    type: Literal["message"]


class Ping(_Shape):
    type: Literal["ping"]


class Cancel(_Shape):
    type: Literal["cancel"]


class Decide(_Shape):
    type: Literal["approve", "reject"]
    repairId: Id


class RetryRepair(_Shape):
    type: Literal["retry_repair"]
    workflowId: Id
    signature: Id


class Rollback(_Shape):
    type: Literal["rollback"]
    workflowId: Id
    snapshotId: Id | None = None


class SetAutonomy(_Shape):
    type: Literal["set_autonomy"]
    workflowId: Id | None = None
    autonomy: Autonomy


Command = Cancel | Decide | RetryRepair | Rollback | SetAutonomy
Frame = Message | Ping | Command

_FRAME: TypeAdapter[Frame] = TypeAdapter(Annotated[Frame, Field(discriminator="type")])
_COMMAND: TypeAdapter[Ping | Command] = TypeAdapter(Annotated[Ping | Command, Field(discriminator="type")])
_HELLO: TypeAdapter[Hello] = TypeAdapter(Hello)


class AdoptBody(_Shape):
    workflowId: Id
    name: str | None = Field(default=None, min_length=1, max_length=256)
    autonomy: Autonomy | None = None


class AutonomyBody(_Shape):
    autonomy: Autonomy


class ReplayBody(_Shape):
    sessionId: Id | None = None


class EventsQuery(BaseModel):
    after: int = Field(default=0, ge=0, le=2**53)
    limit: int = Field(default=200, ge=1, le=MAX_EVENTS)


class DeadLettersQuery(BaseModel):
    reason: Literal["no_session", "session_closed", "bad_schema", "too_large", "rate_limited"] | None = None
    limit: int = Field(default=100, ge=1, le=MAX_EVENTS)


class SessionsQuery(BaseModel):
    limit: int = Field(default=100, ge=1, le=MAX_EVENTS)


class VersionQuery(BaseModel):
    version: Literal["draft", "active"] = "draft"


M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def read_hello(text: str | bytes) -> Hello:
    """:raises ValidationError: not a ``hello``."""
    return _read(_HELLO, text)


def read_frame(text: str | bytes) -> Frame:
    """:raises ValidationError: no JSON object, an unknown type, or a field of the wrong shape."""
    return _read(_FRAME, text)


def read_command(text: str | bytes) -> Ping | Command:
    """:raises ValidationError: as :func:`read_frame`."""
    return _read(_COMMAND, text)


def read_body(model: type[M], text: bytes) -> M:
    """:raises ValidationError: as :func:`read_frame`."""
    adapter: TypeAdapter[M] = _adapter(model)
    return _read(adapter, text)


@cache
def _adapter(model: type[BaseModel]) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def read_query(model: type[M], values: dict[str, str]) -> M:
    """:raises ValidationError: a parameter of the wrong shape."""
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as exc:
        raise invalid(exc) from exc


def invalid(exc: pydantic.ValidationError) -> ValidationError:
    """A library's complaints as ours: paths and plain words, nothing of the input."""
    errors = [
        {"path": ".".join(str(part) for part in found["loc"] if part not in _TAGS), "message": _message(found)}
        for found in exc.errors(include_url=False, include_input=False)[:20]
    ]
    first = errors[0] if errors else {"path": "", "message": "is not as expected"}
    return ValidationError(f"{first['path'] or 'The request'}: {first['message']}.", errors=errors)


_TAGS = {
    *("hello", "message", "ping", "cancel", "approve", "reject", "retry_repair", "rollback", "set_autonomy"),
}


# The library's kinds of complaint in our own words; its texts quote the input and name its own concepts.
_WORDS = {
    "json_invalid": "is not JSON",
    "missing": "is missing",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "string_type": "must be text",
    "string_unicode": "must be text without lone surrogates",
    "string_pattern_mismatch": "must be visible ASCII characters",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "union_tag_not_found": "needs a type",
    "union_tag_invalid": "is of an unknown type",
    "literal_error": "is not one of the known values",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _message(found: Any) -> str:
    return _WORDS.get(found["type"], "is not as expected").format_map(found.get("ctx") or {})


def _read(adapter: TypeAdapter[T], text: str | bytes) -> T:
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as exc:
            raise ValidationError("Not UTF-8.", errors=[{"path": "", "message": "is not UTF-8"}]) from exc
    try:
        return adapter.validate_json(text)
    except pydantic.ValidationError as exc:
        raise invalid(exc) from exc
    except (ValueError, UnicodeError, RecursionError) as exc:
        raise ValidationError("Not JSON.", errors=[{"path": "", "message": "is not JSON"}]) from exc
