"""Every reader of a session sees the same events under the same growing numbers, and misses none."""

from __future__ import annotations

from collections.abc import Iterator

from tests.consistency.history import Frame, History, Reading


def numbers(history: History) -> Iterator[str]:
    for session, log in history.logs.items():
        yield from _growing(f"the log of session {session}", log)
        yield from _gaps(session, log)
    known: dict[tuple[str, int], tuple[Frame, str]] = {
        (session, event["seq"]): (event, "the log") for session, log in history.logs.items() for event in log
    }
    for reading in history.readings.values():
        yield from _growing(reading.reader, reading.events)
        for event in reading.events:
            first, where = known.setdefault((reading.session, event["seq"]), (event, reading.reader))
            if first != event:
                yield (
                    f"number {event['seq']} of session {reading.session} is {first['type']} for {where} "
                    f"and {event['type']} for {reading.reader}, or differs in its content"
                )
        yield from _missed(reading, history.logs.get(reading.session, []))


def _growing(reader: str, events: list[Frame]) -> Iterator[str]:
    last = 0
    for event in events:
        if event["seq"] <= last:
            yield f"{reader} got number {event['seq']} after {last}"
        last = event["seq"]


def _missed(reading: Reading, log: list[Frame]) -> Iterator[str]:
    """A reader has all that is kept between where it began and the last that it saw; what is not kept any more were
    deltas."""
    seen = {event["seq"]: event for event in reading.events}
    until = max(seen, default=0) if reading.last is None else max(seen, default=reading.after)
    kept = {event["seq"] for event in log}
    if reading.last is not None and kept and max(kept) > max(reading.after, until):
        yield f"{reading.reader} never got number {max(kept)} of session {reading.session}, which is open to it"
    for seq in sorted(kept - seen.keys()):
        if reading.after < seq < until:
            yield f"{reading.reader} got numbers around {seq} of session {reading.session}, and not {seq} itself"
    for seq, event in seen.items():
        if seq <= reading.after:
            yield f"{reading.reader} asked for numbers after {reading.after} and got {seq}"
        if seq not in kept and event["type"] != "assistant_delta":
            yield f"{reading.reader} got number {seq} ({event['type']}) of session {reading.session}, which is gone"


def _gaps(session: str, log: list[Frame]) -> Iterator[str]:
    """A number that is missing was a delta: it lies within a turn, before the end of the message that it was of."""
    begun = {event["turnId"]: event["seq"] for event in log if event["type"] == "turn_started"}
    spans = [
        (begun[event["turnId"]], event["seq"])
        for event in log
        if event["type"] in ("assistant_message", "assistant_reset") and event.get("turnId") in begun
    ]
    last = 0
    for event in log:
        for seq in range(last + 1, event["seq"]):
            if not any(first < seq < end for first, end in spans):
                yield f"number {seq} of session {session} is missing, and was no piece of a message"
                break
        last = event["seq"]
