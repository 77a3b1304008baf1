"""n8n gets each write once, from whoever is in charge, and is left as the sessions say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.consistency.history import History, at_s

CLOCK_S = 0.002
"""Events' times are cut to milliseconds."""


def stale(history: History) -> Iterator[str]:
    """No write of a turn leaves its worker after the turn has ended, which is how another takes over."""
    ended = {event["turnId"]: at_s(event) for _, event in history.events("turn_finished")}
    for write in history.by_kind["write"]:
        late_s = write["sent_at"] - ended.get(write["turn"], write["sent_at"]) - CLOCK_S
        if late_s > 0:
            yield (
                f"a {write['step']} of workflow {write['workflow']} was sent {late_s:.3f} s after the end of its turn "
                f"{write['turn']}"
            )


def trials(history: History) -> Iterator[str]:
    tried = Counter((r["workflow"], r["retry_of"], r["version"]) for r in history.by_kind["run"] if r["retry_of"])
    for (workflow, run, version), count in tried.items():
        if count > 1:
            yield f"run {run} of workflow {workflow} was tried {count} times with version {version}"


def publications(history: History) -> Iterator[str]:
    """What became active was told. A publication makes one version active, but for one that found its proposal active
    already: that of another failure was the same. An undo makes one active at most."""
    switched = Counter(w["workflow"] for w in history.by_kind["write"] if w["active"][0] != w["active"][1])
    of_repair = {repair["repairId"]: repair["workflowId"] for repair in history.repairs}
    published = Counter(of_repair.get(e["data"]["repairId"], "") for _, e in history.events("repair_published"))
    undone = Counter(event["data"]["workflowId"] for _, event in history.events("rolled_back"))
    for workflow in {*switched, *published, *undone}:
        least, most = min(1, published[workflow]), published[workflow] + undone[workflow]
        if not least <= switched[workflow] <= most:
            yield (
                f"another version of workflow {workflow} was made active {switched[workflow]} times; its session tells "
                f"of {published[workflow]} publications and {undone[workflow]} undos"
            )


def left_behind(history: History) -> Iterator[str]:
    for workflow in history.by_kind["workflow"]:
        if not workflow["clean"]:
            yield f"workflow {workflow['workflow']} was left with a draft that is not what runs"
