"""A change with its JSON written: what both backends do before they wait for anybody."""

from __future__ import annotations

import json
from dataclasses import dataclass

from app.journal import Change, NewEvent

# Made once: ``json.dumps`` makes an encoder for each call that asks for anything.
_document = json.JSONEncoder(default=dict, separators=(",", ":")).encode
_frame = json.JSONEncoder(allow_nan=False, default=dict, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Prepared:
    """A change with its JSON already written, so that a backend only numbers and stores.

    :ivar tails: of each event's frame, what follows ``{"type":"…","seq":…,"at":"…",``.
    """

    change: Change
    tails: tuple[str, ...]
    bodies: tuple[str, ...]
    result: str


def prepare(change: Change) -> Prepared:
    """Encode a change's JSON; done by the caller, before it waits for the writer."""
    return Prepared(
        change,
        tuple(_tail(event) for event in change.events),
        tuple(_document(put.body) for put in change.puts),
        _document(change.once.result) if change.once else "",
    )


def delta_of(event: NewEvent) -> str | None:
    """The message id by which an event leaves the log again; ``None``: it stays."""
    return event.data.get("messageId") if event.type == "assistant_delta" else None


def _tail(event: NewEvent) -> str:
    """The part of a frame that does not depend on its number. ASCII only: any text a JSON string holds can be kept."""
    text = f'"data":{_frame(event.data)}'
    for name, value in (
        ("turnId", event.turn_id),
        ("requestId", event.request_id),
        ("repairId", event.repair_id),
    ):
        if value is not None:
            text += f',"{name}":{json.dumps(value)}'
    return text + "}"
