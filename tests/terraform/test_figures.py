"""What reads the agreed figures out of a root's state sees each that is missing or another."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from dev.terraform_figures import ALARMS, FIGURES, LOG_GROUPS, LOGS_KEPT_DAYS, differing

ERRORS = [{"metric": []}, {"metric": [{"period": 300}]}, {"metric": [{"period": 300}]}]


def agreed() -> dict[str, Any]:
    """A state of no more than what the figures are about."""
    found: dict[str, dict[str, Any]] = {}
    for (name, where), value in FIGURES.items():
        _put(found.setdefault(name, {}), where.split("."), value)
    task = found["aws_ecs_task_definition.this"]
    task["container_definitions"] = json.dumps(task["container_definitions"])
    made = [resource(name, attributes) for name, attributes in found.items()]
    for alarm, figures in ALARMS.items():
        plain = {where: value for where, value in figures.items() if "*" not in where}
        more = {"metric_query": ERRORS if len(plain) < len(figures) else []}
        attributes = {"alarm_name": f"bridge-test-{alarm}", "alarm_actions": ["topic"], **more, **plain}
        made.append(resource("aws_cloudwatch_metric_alarm.one", attributes))
    groups = [{"name": f"group-{n}", "retention_in_days": LOGS_KEPT_DAYS} for n in range(LOG_GROUPS)]
    return {"resources": made + [resource("aws_cloudwatch_log_group.this", group) for group in groups]}


def resource(name: str, attributes: dict[str, Any]) -> dict[str, Any]:
    kind, _, own = name.partition(".")
    return {"type": kind, "name": own, "instances": [{"attributes": attributes}]}


def _put(target: Any, steps: list[str], value: Any) -> None:
    step, *rest = steps
    below = value if not rest else target.get(step, [{}] if rest[0] == "0" else {})
    target[step] = below
    if rest:
        inner, further = (below[0], rest[1:]) if rest[0] == "0" else (below, rest)
        _put(inner, further, value)


def test_what_is_as_agreed_is_passed() -> None:
    assert list(differing(agreed())) == []


@pytest.mark.parametrize("number", range(len(agreed()["resources"])))
def test_whatever_is_not_made_is_told(number: int) -> None:
    state = agreed()
    del state["resources"][number]

    assert list(differing(state))


@pytest.mark.parametrize(("name", "where"), FIGURES)
def test_each_other_figure_is_told(name: str, where: str) -> None:
    state = copy.deepcopy(agreed())
    text = json.dumps(state)
    wanted = FIGURES[name, where]
    (made,) = (one for one in state["resources"] if f"{one['type']}.{one['name']}" == name)
    attributes = made["instances"][0]["attributes"]
    if name.startswith("aws_ecs_task"):
        attributes["container_definitions"] = json.dumps([{"stopTimeout": wanted + 1}])
    else:
        _put(attributes, where.split("."), "another")
    assert json.dumps(state) != text

    (line,) = differing(state)
    assert where in line and repr(wanted) in line


@pytest.mark.parametrize(("alarm", "where"), [(alarm, where) for alarm, figures in ALARMS.items() for where in figures])
def test_each_other_figure_of_an_alarm_is_told(alarm: str, where: str) -> None:
    state = agreed()
    (found,) = (
        one["instances"][0]["attributes"]
        for one in state["resources"]
        if one["instances"][0]["attributes"].get("alarm_name") == f"bridge-test-{alarm}"
    )
    if "*" in where:
        found["metric_query"] = [{"metric": [{"period": 60}]}]
    else:
        found[where] = "another"

    (line,) = differing(state)
    assert line.startswith(f"{alarm}: {where} ")


def test_an_alarm_that_tells_nobody_and_a_group_that_forgets_early_are_told() -> None:
    state = agreed()
    for one in state["resources"]:
        attributes = one["instances"][0]["attributes"]
        if attributes.get("alarm_name") == "bridge-test-HighMemory":
            attributes["alarm_actions"] = []
        if attributes.get("name") == "group-1":
            attributes["retention_in_days"] = 7

    told = list(differing(state))
    assert [line.partition(":")[0] for line in told] == ["HighMemory", "log groups"]
