"""What the doctor makes of settings, of a check that fails, and of schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import N8nError
from app.n8n.version import Version
from app.ops.doctor import take
from app.ops.doctor_findings import Examination, Finding, Step
from app.ops.doctor_schedules import DAY, HOUR, MINUTE, cron_period_s, period_s
from app.ops.doctor_settings import check_settings
from app.settings import load

N8N = {"N8N_API_URL": "https://n8n.example.com", "N8N_API_KEY": "key"}
OPEN = {"BIND": "0.0.0.0:3000"}


def examination(**values: str) -> Examination:
    return Examination(load(values, "/dev/null"))


def found(**values: str) -> list[tuple[str, str]]:
    return [(finding.state, finding.detail) for finding in check_settings(examination(**values))]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**OPEN, "ALLOW_ANONYMOUS": "true"}, "ALLOW_ANONYMOUS"),
        ({"N8N_API_URL": "https://n8n.example.com"}, "N8N_API_KEY is not"),
        ({"N8N_API_KEY": "key"}, "N8N_API_URL is not"),
        ({**N8N, "N8N_CALLBACK_URL": "https://bridge.example.com"}, "N8N_CALLBACK_SECRET is unset"),
        ({**N8N, "N8N_CALLBACK_SECRET": "s" * 20}, "n8n's own machine"),
        ({**N8N, **OPEN, "N8N_API_URL": "http://127.0.0.1:5678", "ACCESS_TOKEN": "a" * 20}, "this machine only"),
    ],
)
def test_settings_that_contradict_each_other_are_a_problem(values: dict[str, str], said: str) -> None:
    ((state, detail),) = found(**values)
    assert state == "problem" and said in detail


@pytest.mark.parametrize(
    "values",
    [
        {},
        {**N8N, "N8N_API_URL": "http://127.0.0.1:5678"},
        {**OPEN, "ACCESS_TOKEN": "a" * 20, "ALLOW_ANONYMOUS": "true"},
        {**N8N, "N8N_CALLBACK_SECRET": "s" * 20, "N8N_CALLBACK_URL": "https://bridge.example.com"},
    ],
)
def test_settings_that_fit_are_ok(values: dict[str, str]) -> None:
    assert [state for state, _ in found(**values)] == ["ok"]


def test_a_bridge_that_refuses_others_is_a_note() -> None:
    assert [state for state, _ in found(**OPEN)] == ["note", "ok"]


def test_notifications_that_are_not_signed_are_a_note() -> None:
    url = {"NOTIFY_URL": "https://hooks.example.com/x"}
    assert [state for state, _ in found(**url)] == ["note", "ok"]
    assert [state for state, _ in found(**url, NOTIFY_SECRET="s" * 20)] == ["ok"]


def raises(error: Exception) -> Any:
    def check(_: Examination) -> Iterator[Finding]:
        yield Finding("first", "ok", "this much was found")
        raise error

    return check


def test_a_check_with_a_bug_is_told_without_its_text_and_what_stands_on_it_is_not_checked() -> None:
    one = examination()
    broken = Step("broken", raises(ValueError("secret")), gives=("n8n",))

    first, problem = take(broken, one)
    (after,) = take(Step("after", raises(ValueError()), needs=("n8n",), gives=("api",)), one)
    (last,) = take(Step("last", raises(ValueError()), needs=("api",)), one)

    assert first.state == "ok" and problem.state == "problem"
    assert "secret" not in problem.detail + problem.todo
    assert after.detail == last.detail == "not checked: the check of broken failed"


def test_an_error_that_a_check_does_not_take_says_what_to_do() -> None:
    *_, problem = take(Step("n8n", raises(N8nError("n8n is at lunch."))), examination())
    assert (problem.state, problem.detail) == ("problem", "n8n is at lunch.")


@pytest.mark.parametrize(
    ("expression", "period"),
    [
        ("* * * * *", MINUTE),
        ("*/10 * * * *", HOUR),
        ("0 9 * * *", DAY),
        ("0 9 * * 1-5", 7 * DAY),
        ("0 0 9 1 * *", 31 * DAY),
        ("0 0 1 1 *", 366 * DAY),
        ("nonsense", None),
    ],
)
def test_a_cron_expression_has_a_longest_pause(expression: str, period: float | None) -> None:
    assert cron_period_s(expression) == period


@pytest.mark.parametrize(
    ("parameters", "period"),
    [
        ({}, DAY),
        ({"rule": {"interval": [{}]}}, DAY),
        ({"rule": {"interval": [{"field": "minutes", "minutesInterval": 10}]}}, 10 * MINUTE),
        ({"rule": {"interval": [{"field": "hours"}, {"field": "weeks"}]}}, HOUR),
        ({"rule": {"interval": [{"field": "cronExpression", "expression": "0 9 * * *"}]}}, DAY),
        ({"rule": {"interval": [{"field": "hours", "hoursInterval": "={{ 2 }}"}]}}, None),
        ({"rule": {"interval": [{"field": "moons"}]}}, None),
    ],
)
def test_a_schedule_has_a_period(parameters: dict[str, Any], period: float | None) -> None:
    trigger = {"type": "n8n-nodes-base.scheduleTrigger", "parameters": parameters}
    assert period_s({"nodes": [{"type": "n8n-nodes-base.webhook", "parameters": {}}, trigger]}) == period


def test_a_workflow_without_a_schedule_has_no_period() -> None:
    disabled = {"type": "n8n-nodes-base.scheduleTrigger", "parameters": {}, "disabled": True}
    assert period_s({"nodes": [disabled]}) is None


def test_a_version_that_nothing_is_known_of_is_not_judged() -> None:
    assert Version("", None).range == "unknown"
    assert Version("", 1).range == "too old"
