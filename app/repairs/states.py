"""The states of a repair: what each means, where it may go from there, and by what. Nothing else changes a state.

``docs/healing.md`` draws :func:`diagram`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.journal import Put
from app.journal.records import Repair, RepairState


@dataclass(frozen=True, slots=True)
class State:
    """:ivar meaning: for people. :ivar next: by what it goes where.
    :ivar settled: nobody has to go on with it; what it has in n8n is as it is to be.
    """

    meaning: str
    next: Mapping[RepairState, str] = field(default_factory=dict)
    settled: bool = False


TABLE: Mapping[RepairState, State] = {
    "queued": State(
        "its turn is due, or will be when it may begin",
        {
            "running": "the agent is asked",
            "retrying": "a service is away",
            "not_a_bug": "credentials, a quota, or a run that must not be repeated",
            "failed": "unknown workflow, undo, only observed by now, end of the session",
        },
    ),
    "retrying": State(
        "a service was away: the failed run is repeated after 5 min, 30 min and 2 h, the workflow is left as it is",
        {
            "not_a_bug": "the run went through, or goes on still",
            "failed": "the service stayed away, undo, end of the session",
        },
    ),
    "running": State(
        "an agent looks for a change",
        {
            "running": "its worker was lost",
            "trying": "a proposal inside the fence",
            "waiting": "it cannot be tried, or goes beyond the fence",
            "unverified": "only a suggestion is wanted",
            "failed": "nothing was proposed, or nothing that worked",
        },
    ),
    "trying": State(
        "the proposal is n8n's draft, and the failed run is repeated on it",
        {
            "running": "the trial failed; the draft is put back",
            "publishing": "verified, and the autonomy is auto",
            "waiting": "not proven, or the autonomy is ask; the draft is put back",
            "unverified": "the autonomy was lowered, or somebody else edits; the draft is put back",
            "restoring": "broken off",
        },
    ),
    "waiting": State(
        "a person decides, within 24 hours",
        {
            "publishing": "approved",
            "rejected": "rejected",
            "expired": "24 hours, or end of the session",
        },
    ),
    "publishing": State(
        "decided; the version is being made the one that runs",
        {
            "published": "n8n runs it",
            "failed": "somebody else changed the workflow meanwhile",
            "restoring": "n8n refuses it, or the brake was put on",
        },
    ),
    "restoring": State("the trial's draft is still to be put back", {"failed": "it is as it was"}),
    "published": State(
        "n8n runs the repaired version",
        {"rolled_back": "a person's undo, or the same error within the hour"},
        settled=True,
    ),
    "rolled_back": State("the workflow is as it was before the repair", settled=True),
    "rejected": State("a person said no; the workflow is as it was", settled=True),
    "expired": State("nobody decided in time; the workflow is as it was", settled=True),
    "unverified": State("only suggested; nothing was written", settled=True),
    "not_a_bug": State("no change of the workflow would mend it", settled=True),
    "failed": State("ended without a change; the workflow is as it was", settled=True),
}

UNSETTLED: frozenset[RepairState] = frozenset(state for state, known in TABLE.items() if not known.settled)


def moved(repair: Repair, state: RepairState, **changes: Any) -> Put:
    """The write that takes ``repair`` to ``state``, with the time of its first being there.

    :raises RuntimeError: the table has no such step: a bug of whoever asks.
    """
    if state not in TABLE[repair.state].next:
        raise RuntimeError(f"a repair does not go from {repair.state} to {state}")
    times = {**repair.times, state: repair.times.get(state, round(time.time(), 3))}  # in the order of their coming
    return repair.put(state=state, entered=True, times=times, **changes)


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> queued: an error of a registered workflow"]
    lines.append("    queued --> [*]: its sub-workflow failed, and is repaired instead")
    for state, known in TABLE.items():
        lines += [f"    {state} --> {after}: {why.replace(';', ',')}" for after, why in known.next.items()]
        if not known.next:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)
