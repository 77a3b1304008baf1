"""Each failed run is repaired once at most, each repair has one end, and who decided it was told the truth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.consistency.history import Frame, History, run_of

AT_REST = {"waiting", "published", "rolled_back", "rejected", "expired", "unverified", "not_a_bug", "failed"}
_ENDS = ("repair_published", "repair_failed")


def repairs(history: History) -> Iterator[str]:
    begun: dict[str, list[str]] = defaultdict(list)
    errors = {(session, event["seq"]): run_of(event) for session, event in history.events("workflow_error")}
    for repair in history.repairs:
        name, state = repair["repairId"], repair["state"]
        if state not in AT_REST:
            yield f"repair {name} is still {state}"
        # One with a dash was asked for by a person, for a failure that was repaired before.
        if "-" not in name and repair["errorSeq"]:
            run = errors.get((repair["session"], repair["errorSeq"]))
            if run is None:
                yield f"repair {name} is for number {repair['errorSeq']}, which is no failure"
            else:
                begun[run].append(name)
    for run, names in begun.items():
        if len(names) > 1:
            yield f"the failure of run {run} has {len(names)} repairs"


def ends(history: History) -> Iterator[str]:
    told: dict[str, list[Frame]] = defaultdict(list)
    decided: dict[str, list[Frame]] = defaultdict(list)
    for kind in (*_ENDS, "repair_decided"):
        for _, event in history.events(kind):
            name = event["data"].get("repairId")
            if name:
                (decided if kind == "repair_decided" else told)[name].append(event)
    states = {repair["repairId"]: repair["state"] for repair in history.repairs}
    for name in {*told, *decided, *states}:
        decisions = [event["data"]["decision"] for event in decided[name]]
        found = [event["type"] for event in told[name]] + [f"repair_{d}" for d in decisions if d != "approved"]
        if len(decisions) > 1:
            yield f"repair {name} was decided {len(decisions)} times: {', '.join(decisions)}"
        if len(found) > 1:
            yield f"repair {name} has {len(found)} ends: {', '.join(found)}"
        if ("repair_published" in found) != (states.get(name) in ("published", "rolled_back")):
            yield f"repair {name} is {states.get(name)}, and its events end with {', '.join(found) or 'nothing'}"
    yield from _what_people_were_told(history, decided)


def _what_people_were_told(history: History, decided: dict[str, list[Frame]]) -> Iterator[str]:
    taken: Counter[str] = Counter()
    retries: Counter[str] = Counter()
    for told in history.told("command"):
        if told["status"] != 202:
            continue
        if told["command"] in ("approve", "reject"):
            taken[told["repair"]] += 1
            wanted = {"approve": "approved", "reject": "rejected"}[told["command"]]
            if wanted not in [event["data"]["decision"] for event in decided[told["repair"]]]:
                yield f"repair {told['repair']} was acknowledged as {wanted}, and its session does not say so"
        elif told["command"] == "retry_repair":
            retries[told["session"]] += 1
    for name, count in taken.items():
        if count > 1:
            yield f"{count} decisions on repair {name} were acknowledged"
    for session, count in retries.items():
        made = sum("-" in repair["repairId"] for repair in history.repairs if repair["session"] == session)
        if made < count:
            yield f"session {session} was told of {count} more tries and has {made}"
