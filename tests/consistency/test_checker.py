"""The checker on small histories: what is right passes, and each kind of violation is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.consistency.checker import check

Record = dict[str, Any]
Break = Callable[[list[Record]], None]
SESSION, WORKFLOW = "s1", "w1"


def event(seq: int, type: str, turn: str = "", repair: str = "", /, **data: Any) -> Record:
    ids = {**({"turnId": turn} if turn else {}), **({"repairId": repair} if repair else {})}
    return {"type": type, "seq": seq, "at": f"2026-01-01T00:00:{seq:02}.000Z", "data": data, **ids}


LOG = [
    event(1, "user_message", text="slow 1", clientMessageId="m1"),
    event(2, "turn_started", "t1", kind="chat"),
    # 3 was a piece.
    event(4, "assistant_reset", "t1", messageId="t1-m"),
    event(5, "turn_finished", "t1", outcome="interrupted"),
    event(6, "turn_started", "t2", kind="chat"),
    event(7, "assistant_message", "t2", messageId="t2-m", text="slow 1"),
    event(8, "turn_finished", "t2", outcome="completed"),
    event(9, "workflow_error", repair="r1", workflowId=WORKFLOW, execution={"id": "7"}),
    event(10, "turn_started", "t3", "r1", kind="repair"),
    event(11, "repair_waiting", "t3", "r1", repairId="r1"),
    event(12, "turn_finished", "t3", "r1", outcome="completed"),
    event(13, "repair_decided", "", "r1", repairId="r1", decision="approved"),
    event(14, "repair_published", "", "r1", repairId="r1"),
    event(15, "rolled_back", workflowId=WORKFLOW),
]
PIECE = event(3, "assistant_delta", "t1", messageId="t1-m", text="piece")
NOON = 1767225600.0
"""Epoch seconds of ``event``'s minute: number N was journalled N seconds later."""


def read(reader: str, events: list[Record]) -> list[Record]:
    return [{"kind": "read", "reader": reader, "session": SESSION, "event": e} for e in copy.deepcopy(events)]


def write(step: str, turn: str, sent_at: float, *active: str) -> Record:
    return {"kind": "write", "step": step, "workflow": WORKFLOW, "turn": turn, "sent_at": sent_at, "active": active}


def told(what: str, status: int, /, **fields: Any) -> Record:
    return {"kind": "told", "what": what, "status": status, "session": SESSION, **fields}


@pytest.fixture
def records() -> list[Record]:
    """A run in which all is well."""
    repair = {"repairId": "r1", "workflowId": WORKFLOW, "state": "rolled_back", "errorSeq": 9}
    return [
        {"kind": "said", "session": SESSION, "key": "m1", "text": "slow 1"},
        told("message", 202, key="m1", seq=1),
        told("message", 202, key="m1", seq=1),
        {"kind": "opened", "reader": "socket 1", "session": SESSION, "after": 0},
        *read("socket 1", [LOG[0], LOG[1], PIECE, *LOG[2:]]),
        {"kind": "caught_up", "reader": "socket 1", "session": SESSION, "last": 15},
        {"kind": "opened", "reader": "socket 2", "session": SESSION, "after": 5},
        *read("socket 2", LOG[4:8]),
        told("callback", 202, key="7", seq=9, routed=True),
        told("callback", 200, key="7", routed=True, duplicate=True),
        told("callback", 0, key="7"),
        told("command", 202, command="approve", repair="r1"),
        told("command", 409, command="approve", repair="r1"),
        write("put", "t3", NOON + 10.5, "v0", "v0"),
        write("publish", "", NOON + 13.5, "v0", "v1"),
        write("publish", "", NOON + 14.5, "v1", "v2"),
        {"kind": "run", "run": "7", "workflow": WORKFLOW, "version": "v0", "retry_of": ""},
        {"kind": "run", "run": "8", "workflow": WORKFLOW, "version": "v1", "retry_of": "7"},
        {"kind": "run", "run": "9", "workflow": WORKFLOW, "version": "v2", "retry_of": "7"},
        {"kind": "workflow", "workflow": WORKFLOW, "clean": True},
        {"kind": "final", "session": SESSION, "events": copy.deepcopy(LOG), "repairs": [repair]},
    ]


def test_a_run_in_which_all_is_well_passes(records: list[Record]) -> None:
    assert check(records) == []


def log(records: list[Record]) -> list[Record]:
    found: list[Record] = next(r for r in records if r["kind"] == "final")["events"]
    return found


def of(records: list[Record], kind: str, **fields: Any) -> list[Record]:
    return [r for r in records if r["kind"] == kind and fields.items() <= r.items()]


def at(records: list[Record], seq: int) -> Record:
    return next(e for e in log(records) if e["seq"] == seq)


def lose(seq: int) -> Break:
    """From the log and from all who read it."""

    def broken(records: list[Record]) -> None:
        log(records).remove(at(records, seq))
        records[:] = [r for r in records if r["kind"] != "read" or r["event"]["seq"] != seq]

    return broken


def append(*added: Record) -> Break:
    """To the log and to the reader that has all of it."""

    def broken(records: list[Record]) -> None:
        log(records).extend(added)
        records[:0] = [{"kind": "opened", "reader": "socket 1", "session": SESSION, "after": 0}]
        of(records, "opened", reader="socket 1")[1]["reader"] = "socket 0"
        records.extend(read("socket 1", list(added)))

    return broken


def alone(*added: Record) -> Break:
    """To the log, where nobody has read it."""

    def broken(records: list[Record]) -> None:
        log(records).extend(added)
        of(records, "caught_up")[0]["kind"] = "left"

    return broken


def more(*added: Record) -> Break:
    return lambda records: records.extend(added)


def change(kind: str, index: int, **fields: Any) -> Break:
    return lambda records: of(records, kind)[index].update(fields)


def in_repair(**fields: Any) -> Break:
    return lambda records: of(records, "final")[0]["repairs"][0].update(fields)


def swap_reads(records: list[Record]) -> None:
    first, second = of(records, "read", reader="socket 2")[:2]
    first["event"], second["event"] = second["event"], first["event"]


def differ(records: list[Record]) -> None:
    of(records, "read", reader="socket 2")[0]["event"]["data"] = {"kind": "repair"}


def second_repair(records: list[Record]) -> None:
    final = of(records, "final")[0]
    final["repairs"].append({**final["repairs"][0], "repairId": "r2", "state": "unverified"})


def unpublished(records: list[Record]) -> None:
    for publication in of(records, "write", step="publish"):
        records.remove(publication)


def moved_on(records: list[Record]) -> None:
    """The log has numbers that the reader, which is open, has not got."""
    records[:] = [r for r in records if r["kind"] != "read" or r["reader"] != "socket 1" or r["event"]["seq"] < 15]


VIOLATIONS: dict[str, tuple[Break, str]] = {
    "a reader gets numbers out of order": (swap_reads, "socket 2 got number 6 after 7"),
    "a number is another event for another reader": (differ, "number 6 of session s1 is"),
    "a reader misses an event": (
        lambda records: records.remove(of(records, "read", reader="socket 2")[1]),
        "socket 2 got numbers around 7",
    ),
    "a reader is sent what it has": (change("opened", 1, after=6), "asked for numbers after 6 and got 6"),
    "an open reader is not told of the last": (moved_on, "socket 1 never got number 15"),
    "an event that was told is gone": (
        lambda records: log(records).remove(at(records, 14)),
        "got number 14 (repair_published) of session s1, which is gone",
    ),
    "a number is missing": (lose(11), "number 11 of session s1 is missing"),
    "an acknowledged message is lost": (
        lambda records: at(records, 1).update(type="notice"),
        "message m1 was acknowledged as number 1 and is at none",
    ),
    "a message is there twice": (
        alone(event(16, "user_message", text="slow 1", clientMessageId="m1")),
        "message m1 is in the log 2 times",
    ),
    "a repeated message is told another number": (change("told", 1, seq=2), "was acknowledged as number 2"),
    "a message that nobody has sent": (
        alone(event(16, "user_message", text="other", clientMessageId="m9")),
        "message m9 is in the log as nobody has sent it",
    ),
    "an acknowledged callback is lost": (
        lambda records: at(records, 9).update(type="notice"),
        "the callback of run 7 was acknowledged with 202 and is in no log",
    ),
    "a failure is there twice": (
        alone(event(16, "workflow_error", workflowId=WORKFLOW, execution={"id": "7"})),
        "the failure of run 7 is in the logs 2 times",
    ),
    "a callback is taken as new twice": (
        more(told("callback", 202, key="7", seq=9, routed=True)),
        "the callback of run 7 was taken as new 2 times",
    ),
    "a callback is told another number": (
        lambda records: of(records, "told", what="callback")[0].update(seq=8),
        "was acknowledged as number 8",
    ),
    "a callback is made a dead letter": (
        more(told("callback", 202, key="7", routed=False)),
        "the callback of run 7 was told to be nobody's",
    ),
    "a turn has no end": (lose(12), "turn t3 of session s1 has begun 1 and ended 0 times"),
    "a turn ends twice": (
        append(event(16, "turn_finished", "t2", outcome="completed")),
        "turn t2 of session s1 has begun 1 and ended 2 times",
    ),
    "a turn goes on after its end": (
        append(event(16, "tool_started", "t1", tool="x")),
        "tool_started (number 16) of session s1 comes after the end of its turn",
    ),
    "a message is answered twice": (
        append(
            event(16, "turn_started", "t4", kind="chat"),
            event(17, "assistant_message", "t4", messageId="t4-m", text="slow 1"),
            event(18, "turn_finished", "t4", outcome="completed"),
        ),
        "'slow 1' was said 1 and answered 2 times",
    ),
    "a message is not answered": (
        lambda records: at(records, 8)["data"].update(outcome="interrupted"),
        "session s1 has 1 messages and 0 ends of turns",
    ),
    "a turn that completed has no answer": (
        lambda records: at(records, 7).update(type="notice"),
        "session s1 has 1 completed turns and 0 answers",
    ),
    "a repair is answered by two turns": (
        append(
            event(16, "turn_started", "t4", "r1", kind="repair"),
            event(17, "turn_finished", "t4", "r1", outcome="completed"),
        ),
        "repair r1 of session s1 was answered by 2 turns",
    ),
    "a repair never ends": (in_repair(state="trying"), "repair r1 is still trying"),
    "a failed run has two repairs": (second_repair, "the failure of run 7 has 2 repairs"),
    "a repair is for no failure": (in_repair(errorSeq=8), "repair r1 is for number 8, which is no failure"),
    "a repair is published twice": (
        append(event(16, "repair_published", "", "r1", repairId="r1")),
        "repair r1 has 2 ends: repair_published, repair_published",
    ),
    "a repair fails after its publication": (
        append(event(16, "repair_failed", "", "r1", repairId="r1", workflowId=WORKFLOW)),
        "repair r1 has 2 ends: repair_published, repair_failed",
    ),
    "a repair is decided twice": (
        append(event(16, "repair_decided", "", "r1", repairId="r1", decision="rejected")),
        "repair r1 was decided 2 times: approved, rejected",
    ),
    "a publication is not in the repair": (in_repair(state="failed"), "repair r1 is failed, and its events end with"),
    "an acknowledged decision is lost": (
        more(told("command", 202, command="reject", repair="r1")),
        "repair r1 was acknowledged as rejected",
    ),
    "two decisions are acknowledged": (
        more(told("command", 202, command="approve", repair="r1")),
        "2 decisions on repair r1 were acknowledged",
    ),
    "one more try is acknowledged and lost": (
        more(told("command", 202, command="retry_repair")),
        "session s1 was told of 1 more tries and has 0",
    ),
    "a write comes from a stale lease": (
        more(write("put", "t1", NOON + 5.5, "v2", "v2")),
        "a put of workflow w1 was sent 0.498 s after the end of its turn t1",
    ),
    "a version is tried twice": (change("run", 2, version="v1"), "run 7 of workflow w1 was tried 2 times"),
    "a publication is not told": (
        more(write("publish", "", NOON + 14.8, "v2", "v3")),
        "was made active 3 times; its session tells of 1 publications and 1 undos",
    ),
    "a publication is told and not done": (
        unpublished,
        "was made active 0 times",
    ),
    "a draft is left behind": (change("workflow", 0, clean=False), "workflow w1 was left with a draft"),
    "the run does not come to rest": (more({"kind": "unsettled", "what": "all of it"}), "not at rest in time: all of"),
    "the server has a bug": (more({"kind": "bug", "line": "Traceback"}), "the server's log tells of a bug"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_the_checker_finds(records: list[Record], name: str) -> None:
    broken, sentence = VIOLATIONS[name]

    broken(records)

    found = check(records)
    assert any(sentence in one for one in found), found
