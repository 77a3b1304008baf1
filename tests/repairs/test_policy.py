"""The rules that decide on an error, against the payloads of a real n8n."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.callbacks.report import parse_error_report
from app.journal.records import Case
from app.repairs import policy

PAYLOADS = Path(__file__).parents[1] / "payloads"
CLASSES = {
    "big_http_500": "workflow_bug",
    "big_input": "workflow_bug",
    "big_message": "workflow_bug",
    "code_bad_return": "workflow_bug",
    "code_syntax": "workflow_bug",
    "code_throw": "workflow_bug",
    "code_throw_custom": "workflow_bug",
    "code_throw_item": "workflow_bug",
    "crashed": "unknown",
    "expression_missing_node": "workflow_bug",
    "handler_failed": "workflow_bug",
    "handler_with_header_auth": "workflow_bug",
    "http_401": "credentials",
    "http_429": "quota",
    "http_500": "workflow_bug",
    "http_bad_url": "workflow_bug",
    "http_econnrefused": "workflow_bug",
    "http_retry_on_fail": "remote_outage",
    "http_timeout": "workflow_bug",
    "missing_credentials": "credentials",
    "not_saved": "workflow_bug",
    "respond_last_node": "workflow_bug",
    "same_workflow_twice": "workflow_bug",
    "schedule_trigger": "workflow_bug",
    "stop_and_error_message": "workflow_bug",
    "subworkflow": "workflow_bug",
    "trigger_poll": "workflow_bug",
}


def report(name: str):
    return parse_error_report(json.loads((PAYLOADS / f"{name}.json").read_text()))


def test_every_payload_has_a_class_in_the_table():
    taken = {path.stem for path in PAYLOADS.glob("*.json") if "activation-refused" not in path.name}
    assert taken == set(CLASSES)


@pytest.mark.parametrize(("name", "kind"), CLASSES.items())
def test_triage_tells_what_a_workflow_change_could_mend(name, kind):
    found = report(name)
    triage = policy.triage(found.error, node=found.node, node_name=found.node_name)
    assert triage.kind == kind
    assert triage.for_agent == (kind in ("workflow_bug", "unknown"))
    assert found.node_name is None or found.node_name in triage.summary or kind == "unknown"


def test_retries_that_the_workflow_has_by_now_make_it_an_outage():
    found = report("http_500")
    node = {**found.node, "retryOnFail": True}
    assert policy.triage(found.error, node=node, node_name="HTTP Request").kind == "remote_outage"


def test_what_a_code_node_throws_is_not_taken_for_the_other_sides_word():
    error = {"name": "WrappedExecutionError", "message": "too many requests: token expired, timed out"}
    assert policy.triage(error, node=None, node_name="Code").kind == "workflow_bug"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 7 is invalid", "order 12345 is invalid"),
        ("timeout of 1000ms exceeded", "timeout of 30000ms  exceeded"),
        ("no 3f0e4d0f-9a7b-4f0c-8f1f-6f5e6d9f5b52 here", "NO 11111111-2222-3333-4444-555555555555 here"),
    ],
)
def test_the_same_failure_with_other_numbers_has_the_same_signature(one, other):
    signatures = {policy.signature("w", "Node", {"message": message}) for message in (one, other)}
    assert len(signatures) == 1


def test_another_workflow_node_or_message_has_another_signature():
    signatures = {
        policy.signature(workflow, node, {"message": message})
        for workflow, node, message in [("a", "N", "x"), ("b", "N", "x"), ("a", "M", "x"), ("a", "N", "y")]
    }
    assert len(signatures) == 4


def test_a_failure_without_a_message_still_has_a_signature():
    assert policy.signature("w", None, {}) != policy.signature("w", None, {"name": "WorkflowCrashedError"})


def case(**changes) -> Case:
    return Case(workflow_id="w", signature="s", **changes)


def take(known: Case, autonomy="auto", now_s=1_000_000.0):
    return policy.take(known, autonomy=autonomy, repair_id="r", now_s=now_s)


def test_a_first_error_begins_a_repair():
    taken = take(case())
    assert (taken.verdict, taken.case["state"], taken.case["attempts"], taken.case["count"]) == ("queued", "open", 1, 1)


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (case(state="open", repair_id="r1", count=1), "coalesced"),
        (case(state="blocked", count=3), "blocked"),
        (case(outcome="published", closed_at_s=1_000_000.0 - 6 * 86_400), "blocked"),
        (case(outcome="published", closed_at_s=1_000_000.0 - 8 * 86_400), "queued"),
        (case(outcome="rolled_back", closed_at_s=999_999.0), "blocked"),
        (case(outcome="not_a_bug", closed_at_s=999_000.0), "coalesced"),
        (case(outcome="not_a_bug", closed_at_s=900_000.0), "queued"),
        (case(outcome="failed", attempts=1, closed_at_s=999_999.0), "queued"),
        (case(outcome="rejected", attempts=2, closed_at_s=999_999.0), "queued"),
        (case(outcome="failed", attempts=3, closed_at_s=999_999.0), "blocked"),
        (case(outcome="expired", attempts=3, closed_at_s=0.0), "blocked"),
    ],
)
def test_what_was_before_decides_on_the_next_error(known, verdict):
    taken = take(known)
    assert taken.verdict == verdict
    assert taken.case["count"] == known.count + 1


def test_a_run_that_began_before_the_repair_was_live_says_nothing_about_it():
    published = case(outcome="published", closed_at_s=999_990.0)
    taken = policy.take(published, autonomy="auto", repair_id="r", now_s=1_000_000.0, late=True)
    assert (taken.verdict, taken.case) == ("coalesced", {"count": 1})


def test_attempts_go_on_counting_until_the_case_is_good_again():
    assert take(case(outcome="failed", attempts=1)).case["attempts"] == 2
    assert take(case(outcome="published", attempts=2, closed_at_s=0.0)).case["attempts"] == 1


def test_an_observed_workflow_is_counted_and_left_alone():
    taken = take(case(state="open", count=4), autonomy="observe")
    assert (taken.verdict, taken.case) == ("observed", {"count": 5})
