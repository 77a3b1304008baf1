"""A run's records, put in order for those who check them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.consistency.recording import Record

Frame = dict[str, Any]


@dataclass(slots=True)
class Reading:
    """What one reader (a socket, a walk through the history by HTTP) saw of a session.

    :ivar after: the number that it asked to begin after. :ivar events: in the order of their arrival.
    :ivar last: what it had when it was given time to see everything; ``None``: it ended before.
    """

    reader: str
    session: str
    after: int
    events: list[Frame] = field(default_factory=list)
    last: int | None = None


@dataclass(slots=True)
class History:
    """:ivar logs: each session's events at the end, all that are kept, in order. :ivar repairs: of all sessions."""

    logs: dict[str, list[Frame]] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)
    repairs: list[Record] = field(default_factory=list)
    by_kind: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))

    def told(self, what: str) -> Iterator[Record]:
        return (record for record in self.by_kind["told"] if record["what"] == what)

    def events(self, kind: str) -> Iterator[tuple[str, Frame]]:
        """All events of this type, each with its session."""
        return ((session, event) for session, log in self.logs.items() for event in log if event["type"] == kind)


def history_of(records: Sequence[Record]) -> History:
    history = History()
    for record in records:
        history.by_kind[record["kind"]].append(record)
        match record["kind"]:
            case "opened":
                reader = record["reader"]
                history.readings[reader] = Reading(reader, record["session"], record["after"])
            case "read":
                history.readings[record["reader"]].events.append(record["event"])
            case "caught_up":
                history.readings[record["reader"]].last = record["last"]
            case "final":
                history.logs[record["session"]] = record["events"]
                history.repairs += [{"session": record["session"], **repair} for repair in record["repairs"]]
    return history


def at_s(event: Frame) -> float:
    """When an event was journalled, in epoch seconds; cut to milliseconds."""
    return datetime.fromisoformat(event["at"]).timestamp()


def run_of(event: Frame) -> str:
    """The run that a ``workflow_error`` tells of."""
    return str((event["data"].get("execution") or {}).get("id") or "")
