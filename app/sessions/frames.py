"""The shapes of what clients send to a session: frames on a socket, bodies and queries of its routes.

Source: the wire contract, sections 1 and 3.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from app.journal.records import Autonomy
from app.shapes import Id, Query, Shape, read_json

MAX_TEXT_CHARS = 100_000
MAX_EVENTS = 1_000


class Hello(Shape):
    type: Literal["hello"]
    sessionId: Id | None = None
    token: str | None = Field(default=None, max_length=512)
    after: int = Field(default=0, ge=0, le=2**53)
    accessToken: str | None = Field(default=None, max_length=4096)


class MessageBody(Shape):
    text: str = Field(min_length=1, max_length=MAX_TEXT_CHARS)
    clientMessageId: str | None = Field(default=None, min_length=1, max_length=64)


class Message(MessageBody):
    type: Literal["message"]


class Ping(Shape):
    type: Literal["ping"]


class Cancel(Shape):
    type: Literal["cancel"]


class Decide(Shape):
    type: Literal["approve", "reject"]
    repairId: Id


class RetryRepair(Shape):
    type: Literal["retry_repair"]
    workflowId: Id
    signature: Id


class Rollback(Shape):
    type: Literal["rollback"]
    workflowId: Id
    snapshotId: Id | None = None


class SetAutonomy(Shape):
    type: Literal["set_autonomy"]
    workflowId: Id | None = None
    autonomy: Autonomy


Command = Cancel | Decide | RetryRepair | Rollback | SetAutonomy
Frame = Message | Ping | Command

_FRAME: TypeAdapter[Frame] = TypeAdapter(Annotated[Frame, Field(discriminator="type")])
_COMMAND: TypeAdapter[Ping | Command] = TypeAdapter(Annotated[Ping | Command, Field(discriminator="type")])
_HELLO: TypeAdapter[Hello] = TypeAdapter(Hello)


class AdoptBody(Shape):
    workflowId: Id
    name: str | None = Field(default=None, min_length=1, max_length=256)
    autonomy: Autonomy | None = None


class EventsQuery(Query):
    after: int = Field(default=0, ge=0, le=2**53)
    limit: int = Field(default=200, ge=1, le=MAX_EVENTS)


class SessionsQuery(Query):
    limit: int = Field(default=100, ge=1, le=MAX_EVENTS)


class VersionQuery(Query):
    version: Literal["draft", "active"] = "draft"


def read_hello(text: str | bytes) -> Hello:
    """:raises ValidationError: not a ``hello``."""
    return read_json(_HELLO, text)


def read_frame(text: str | bytes) -> Frame:
    """:raises ValidationError: no JSON object, an unknown type, or a field of the wrong shape."""
    return read_json(_FRAME, text, tagged=True)


def read_command(text: str | bytes) -> Ping | Command:
    """:raises ValidationError: as :func:`read_frame`."""
    return read_json(_COMMAND, text, tagged=True)
