"""The figures that were agreed, in what a root really makes. ``python3 dev/terraform_figures.py STATE...``

Each module's tests assert them on the module alone; this reads the states of the roots' simulated applies, so no root
gives a module another figure or leaves it out. One line for each that is not as agreed, and then exit code 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TASK, SCALING = "aws_ecs_task_definition.this", "aws_appautoscaling_policy.cpu"
TRACKING = "target_tracking_scaling_policy_configuration.0"
PREDEFINED = "predefined_metric_specification.0.predefined_metric_type"

FIGURES: Mapping[tuple[str, str], Any] = {
    ("aws_appautoscaling_target.this", "min_capacity"): 1,
    ("aws_appautoscaling_target.this", "max_capacity"): 3,
    (
        SCALING,
        f"{TRACKING}.predefined_metric_specification.0.predefined_metric_type",
    ): "ECSServiceAverageCPUUtilization",
    (SCALING, f"{TRACKING}.target_value"): 70,
    (SCALING, f"{TRACKING}.scale_in_cooldown"): 300,
    (TASK, "container_definitions.0.stopTimeout"): 90,
    ("aws_lb.this", "idle_timeout"): 120,
    ("aws_lb_target_group.this", "deregistration_delay"): "60",
    ("aws_lb_target_group.this", "health_check.0.path"): "/healthz",
    ("aws_s3_bucket_lifecycle_configuration.dead_letters", "rule.0.expiration.0.days"): 30,
}
"""Of a resource, where in its attributes; a number is a place in a list, and a text that is JSON is looked into."""

ALARMS: Mapping[str, Mapping[str, Any]] = {
    "TaskUnhealthy": {"threshold": 0, "treat_missing_data": "breaching"},
    "HighErrorRate": {"threshold": 10, "evaluation_periods": 1, "metric_query.*.metric.0.period": {300}},
    "HighLatency": {"threshold": 5, "extended_statistic": "p99"},
    "HighMemory": {"threshold": 80},
    "UnroutedCallbacks": {"threshold": 0},
    "BlockedRepairs": {"threshold": 0},
    "DeadLetters": {"threshold": 0},
    "DeadLetterCopies": {"threshold": 0},
}
LOG_GROUPS = 3
"""The bridge's, the network's and the WAF's."""
LOGS_KEPT_DAYS = 30


def differing(state: Mapping[str, Any]) -> Iterator[str]:
    """What is not as agreed, a sentence each. ``state``: as terraform's local backend writes it, version 4."""
    made: dict[str, list[dict[str, Any]]] = {}
    for resource in state["resources"]:
        name = f"{resource['type']}.{resource['name']}"
        made.setdefault(name, []).extend(instance["attributes"] for instance in resource["instances"])

    for (name, where), wanted in FIGURES.items():
        found = [_at(attributes, where) for attributes in made.get(name, [])]
        if found != [wanted]:
            yield f"{name}: {where} is {found}, and not {wanted!r} once"

    alarms = {one["alarm_name"]: one for one in _all(made, "aws_cloudwatch_metric_alarm")}
    told = {full.rpartition("-")[2]: attributes for full, attributes in alarms.items()}
    if told.keys() != ALARMS.keys():
        yield f"the alarms are {sorted(told)}"
    for alarm, figures in ALARMS.items():
        for where, wanted in figures.items():
            if (found := _at(told.get(alarm, {}), where)) != wanted:
                yield f"{alarm}: {where} is {found!r}, and not {wanted!r}"
        if alarm in told and not told[alarm]["alarm_actions"]:
            yield f"{alarm}: nobody is told"

    kept = {one["name"]: one["retention_in_days"] for one in _all(made, "aws_cloudwatch_log_group")}
    if len(kept) != LOG_GROUPS or set(kept.values()) != {LOGS_KEPT_DAYS}:
        yield f"log groups: {kept}, and not {LOG_GROUPS} of {LOGS_KEPT_DAYS} days"


def _all(made: Mapping[str, list[dict[str, Any]]], kind: str) -> Iterator[dict[str, Any]]:
    for name, instances in made.items():
        if name.partition(".")[0] == kind:
            yield from instances


def _at(value: Any, where: str) -> Any:
    """What stands there; of ``*`` the set of what stands in each that has it. ``None`` where nothing does."""
    for number, step in enumerate(steps := where.split(".")):
        if isinstance(value, str):
            value = json.loads(value)
        if step == "*":
            below = (_at(one, ".".join(steps[number + 1 :])) for one in value or [])
            return {one for one in below if one is not None}
        try:
            value = value[int(step) if step.isdigit() else step]
        except (IndexError, KeyError, TypeError):
            return None
    return value


def main() -> int:
    wrong = [f"{path}: {line}" for path in map(Path, sys.argv[1:]) for line in differing(json.loads(path.read_text()))]
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    return 1 if wrong or len(sys.argv) < 2 else 0


if __name__ == "__main__":
    sys.exit(main())
