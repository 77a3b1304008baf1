"""The table of a repair's states: complete, drawn as it is, and the only way to change one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from app.journal.records import Repair, RepairState
from app.repairs.states import TABLE, UNSETTLED, diagram, moved

ROOT = Path(__file__).parents[2]
STATES = get_args(RepairState)


def repair(state: RepairState) -> Repair:
    return Repair(
        repair_id="r", session_id="s", workflow_id="w", workflow_name="W", signature="x", attempt=1, state=state
    )


def test_every_state_has_its_row_and_can_be_reached() -> None:
    reached = {after for known in TABLE.values() for after in known.next}
    assert set(TABLE) == set(STATES)
    assert reached | {"queued"} == set(STATES)


def test_every_unsettled_repair_can_be_settled() -> None:
    ends = set(STATES) - UNSETTLED
    for _ in STATES:
        ends |= {state for state, known in TABLE.items() if set(known.next) & ends}
    assert ends == set(STATES)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("after", STATES)
def test_only_the_tables_steps_are_taken(state: RepairState, after: RepairState) -> None:
    if after in TABLE[state].next:
        put = moved(repair(state), after, reason="so")
        assert (put.body["state"], put.body["entered"], put.body["reason"]) == (after, True, "so")
        assert after in put.body["times"]
    else:
        with pytest.raises(RuntimeError):
            moved(repair(state), after)


def test_the_time_of_the_first_step_stays() -> None:
    put = moved(repair("trying"), "running")
    again = Repair(**{name: put.body[name] for name in Repair.__slots__})
    later = moved(again, "running")
    assert later.body["times"]["running"] == put.body["times"]["running"]


def test_nobody_else_writes_a_state() -> None:
    written = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "app").rglob("*.py")
        if path.name != "states.py"
        for line in path.read_text().splitlines()
        if re.search(r"\brepair\w*(?:\(\))?\.put\(.*\bstate=", line)
    ]
    assert written == []


def test_the_picture_in_the_docs_is_the_table() -> None:
    text = (ROOT / "docs" / "healing.md").read_text()
    drawn = text.partition("<!-- states -->\n```mermaid\n")[2].partition("```\n<!-- /states -->")[0]
    assert drawn.strip() == diagram()
