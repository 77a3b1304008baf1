"""Whether registered workflows that are active also run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from app.errors import WorkflowNotFoundError
from app.n8n import Workflow
from app.n8n.errors import clean
from app.ops.doctor_errors import MAX_LINES, open_registrations
from app.ops.doctor_findings import Examination, Finding
from app.ops.doctor_schedules import DAY, HOUR, MINUTE, period_s

NAME = "runs"
LOOK_S = 60.0
PERIODS = 3
QUIET_S = 30 * DAY
SLACK_S = 5 * MINUTE
KEPT_S = 7 * DAY
"""So long n8n surely keeps runs: it removes them after two weeks, and where there are very many."""


def check_runs(examination: Examination) -> Iterator[Finding]:
    deadline = time.monotonic() + LOOK_S
    found: list[Finding] = []
    active = inactive = 0
    for registration in open_registrations(examination.opened):
        if time.monotonic() > deadline:
            found.append(Finding(NAME, "note", f"not all workflows were looked at within {LOOK_S:g} s"))
            break
        workflow = _workflow(examination, registration.workflow_id)
        if workflow is None:
            continue
        if not workflow["activeVersionId"]:
            inactive += 1
            continue
        active += 1
        title = f'"{clean(str(workflow.get("name")))}" ({registration.workflow_id})'
        found += _quiet(workflow, title, _last_run(examination, registration.workflow_id))
    found.sort(key=lambda finding: finding.state != "problem")
    yield from found[:MAX_LINES]
    if len(found) > MAX_LINES:
        yield Finding(NAME, found[MAX_LINES].state, f"{len(found) - MAX_LINES} more active workflows do not run")
    if inactive:
        detail = f"{inactive} registered workflow{'s are' if inactive > 1 else ' is'} not active, so nothing runs there"
        yield Finding(NAME, "note", detail, "Publish in n8n what is meant to run.")
    if not found:
        detail = "no active workflow is quiet for longer than it should be" if active else "no workflow is active"
        yield Finding(NAME, "ok", detail)


def _quiet(workflow: Workflow, title: str, last: datetime | None) -> Iterator[Finding]:
    # A workflow that was published or edited just now had no time to run.
    since = max(filter(None, (last, _time(workflow.get("updatedAt")))), default=None)
    if since is None:
        return
    age_s = (datetime.now(UTC) - since).total_seconds()
    period = period_s(workflow)
    ran = f"ran last {_ago(last)}" if last else "has no run that n8n knows of"
    if period is not None and age_s > PERIODS * period + SLACK_S:
        if last is None and (PERIODS * period > KEPT_S or not _saves(workflow)):
            return  # its runs are not kept for so long
        detail = f"{title} should run every {_length(period)} at least, and {ran}"
        yield Finding(NAME, "problem", detail, "Look at its trigger in n8n; unpublish and publish it to start it anew.")
    elif period is None and age_s > QUIET_S:
        yield Finding(NAME, "note", f"{title} {ran}", "See whether its trigger still gets anything.")


def _last_run(examination: Examination, workflow_id: str) -> datetime | None:
    page = examination.n8n.list_executions(workflow_id=workflow_id, limit=1)
    return _time(page.executions[0].get("startedAt")) if page.executions else None


def _workflow(examination: Examination, workflow_id: str) -> Workflow | None:
    known = examination.workflows.get(workflow_id)
    try:
        return known or examination.n8n.get_workflow(workflow_id)
    except WorkflowNotFoundError:
        return None  # told by the check before


def _saves(workflow: Workflow) -> bool:
    settings: Mapping[str, Any] = workflow.get("settings") or {}
    return settings.get("saveDataSuccessExecution") != "none"


def _time(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _ago(moment: datetime) -> str:
    return f"{_length((datetime.now(UTC) - moment).total_seconds())} ago"


def _length(seconds: float) -> str:
    for name, unit in (("days", DAY), ("hours", HOUR), ("minutes", MINUTE)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
