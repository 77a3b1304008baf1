"""Which changes tell the operator something, and what the body says."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from app.journal import Change, Put, events
from app.journal.records import Case, Repair, RepairState
from app.repairs.notices import MAX_TEXT, TOPIC, Notification, with_notices

URL = "https://bridge.example.com"


def repair(**more: Any) -> Repair:
    fields = {"workflow_name": "Orders", "diagnosis": "workflow_bug", "reason": "why", "summary": "what", **more}
    return Repair(repair_id="r1", session_id="s1", workflow_id="w1", signature="abc", attempt=1, **fields)


def told(change: Change) -> list[Put]:
    return [put for put in with_notices(change).puts if put.kind == Notification.KIND]


def body(put: Put) -> dict[str, Any]:
    return Notification(**put.body).body(URL)


@pytest.mark.parametrize("state", get_args(RepairState))
def test_a_repair_is_told_in_the_change_that_brings_it_into_these_states_and_no_other(state: RepairState) -> None:
    change = Change(puts=[repair().put(entered=True, state=state, expires_at_s=1e9)])
    found = [put.body["type"] for put in told(change)]
    assert found == ([f"repair_{state}"] if state in ("waiting", "failed", "published") else [])
    assert with_notices(change).wake == ([TOPIC] if found else ())


def test_a_change_that_tells_nothing_is_left_as_it_is() -> None:
    change = Change(session_id="s1", puts=[repair().put(entered=True, state="running")])
    assert with_notices(change) is change


def test_what_is_written_of_a_repair_later_is_no_news() -> None:
    assert told(Change(puts=[repair().put(state="published", costs={"turn": 0.1})])) == []


def test_the_same_change_made_again_is_the_same_notification() -> None:
    (first,), (again,) = (told(Change(puts=[repair(version=v).put(entered=True, state="published")])) for v in (3, 4))
    assert (first.key, first.expect) == (again.key, None)
    (other,) = told(Change(puts=[repair().put(entered=True, state="failed")]))
    assert other.key != first.key


def test_a_case_is_told_when_it_becomes_blocked_each_time_and_not_for_each_error() -> None:
    def blocked(version: int, *, event: bool) -> list[Put]:
        case = Case(workflow_id="w1", signature="abc", repair_id="r1", version=version)
        appended = [events.repair_blocked("w1", "abc", "It came back.")] if event else []
        return told(Change(session_id="s1", events=appended, puts=[case.put(state="blocked")]))

    (first,), (second,) = blocked(3, event=True), blocked(9, event=True)
    assert first.key != second.key
    assert blocked(4, event=False) == []
    shown = body(first)
    assert (shown["type"], shown["reason"], shown["repairId"]) == ("repair_blocked", "It came back.", "r1")
    assert (shown["sessionId"], shown["workflowId"], shown["signature"]) == ("s1", "w1", "abc")


def test_the_body_of_one_that_waits() -> None:
    (put,) = told(Change(puts=[repair().put(entered=True, state="waiting", expires_at_s=1_800_000_000.25)]))
    assert body(put) == {
        "id": put.key,
        "type": "repair_waiting",
        "sessionId": "s1",
        "workflowId": "w1",
        "workflowName": "Orders",
        "repairId": "r1",
        "signature": "abc",
        "kind": "workflow_bug",
        "summary": "what",
        "reason": "why",
        "expiresAt": "2027-01-15T08:00:00.250Z",
        "url": f"{URL}/#session=s1",
        "text": f'A repair of "Orders" waits for a person\'s decision: {URL}/#session=s1',
    }


def test_texts_are_redacted_and_cut_and_can_be_written() -> None:
    key = "sk-ant-api03-" + "aB3dE6gH9" * 5
    long = repair(workflow_name=f"N \ud83d {key}", reason=f"no {key} " + "x" * 9_000, summary=f"Bearer {key}")
    (put,) = told(Change(puts=[long.put(entered=True, state="failed")]))
    sent = json.dumps(body(put))
    assert key not in sent and "\\ud83d" not in sent
    assert len(body(put)["reason"]) < MAX_TEXT + 50


def test_a_name_cannot_mention_link_or_mark_up_in_a_chat() -> None:
    name = "Hi <!channel> @everyone *bold* [a](http://evil.test) `x`"
    (put,) = told(Change(puts=[repair(workflow_name=name).put(entered=True, state="failed")]))
    said = body(put)["text"].removesuffix(f"{URL}/#session=s1")
    assert not set("<>@*[]`/!|") & set(said)
    assert said.startswith('A repair of "Hi channel everyone bold')


def test_a_workflow_without_a_name_gives_a_sentence_too() -> None:
    (put,) = told(Change(puts=[repair(workflow_name="").put(entered=True, state="failed")]))
    assert body(put)["text"] == f"A repair of a workflow failed: {URL}/#session=s1"
    assert body(put)["workflowName"] == ""
