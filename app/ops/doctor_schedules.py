"""How often a workflow should run, as far as its triggers say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.n8n import Workflow

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
UNITS = {"seconds": 1.0, "minutes": MINUTE, "hours": HOUR, "days": DAY, "weeks": 7 * DAY, "months": 31 * DAY}
SCHEDULE = "n8n-nodes-base.scheduleTrigger"


def period_s(workflow: Workflow) -> float | None:
    """The longest time between two runs that its schedule allows, in seconds; ``None`` where it has none that can be
    read. Of several rules the one that runs most often counts."""
    found = [period for node in workflow["nodes"] for period in _of_node(node) if period]
    return min(found, default=None)


def _of_node(node: Any) -> Iterator[float | None]:
    if not isinstance(node, Mapping) or node.get("type") != SCHEDULE or node.get("disabled"):
        return
    rule = (node.get("parameters") or {}).get("rule") or {}
    for interval in rule.get("interval") or [{}]:
        if isinstance(interval, Mapping):
            yield _of_interval(interval)


def _of_interval(interval: Mapping[str, Any]) -> float | None:
    unit = interval.get("field", "days")
    if unit == "cronExpression":
        return cron_period_s(str(interval.get("expression", "")))
    if unit not in UNITS:
        return None
    count = interval.get(f"{unit}Interval", 30 if unit == "seconds" else 5 if unit == "minutes" else 1)
    return UNITS[unit] * count if isinstance(count, int) and count > 0 else None


def cron_period_s(expression: str) -> float | None:
    """By the largest unit that is not left open: ``0 9 * * 1-5`` is a week at most. ``None``: not a cron expression."""
    fields = expression.split()
    if len(fields) == 6:
        fields = fields[1:]
    if len(fields) != 5:
        return None
    minute, hour, day, month, weekday = (field in ("*", "?") for field in fields)
    for is_open, longest in ((month, 366 * DAY), (day, 31 * DAY), (weekday, 7 * DAY), (hour, DAY), (minute, HOUR)):
        if not is_open:
            return longest
    return MINUTE
