"""A failed run, as n8n's API shows it, told as its callback would have told it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.callbacks.report import ErrorReport, parse_error_report
from app.n8n.workflows import find_node

FAILED = ("error", "crashed", "canceled")
"""Statuses of what may be a failure; n8n lists them one by one."""
TIMER_SLACK_S = 0.1
"""A timer may be early by a little, and n8n's times are whole milliseconds."""

# A person's run in the editor, what is said about another failure, and tries of a run that was told by itself.
_NOT_PRODUCTION = ("manual", "error", "retry", "evaluation")
# What the bridge's own error workflow sends of each.
_ERROR_KEYS = ("name", "message", "description", "stack", "lineNumber", "httpCode")
_BY_HAND = "ManualExecutionCancelledError"
_NODE_KEYS = ("id", "name", "type", "typeVersion", "retryOnFail", "maxTries")


def number_of(run: Mapping[str, Any]) -> int:
    """Its id, which grows; 0 where n8n has given none that does."""
    text = str(run.get("id"))
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


def is_production(run: Mapping[str, Any]) -> bool:
    """Whether n8n calls back, or should, where it fails by itself."""
    return run.get("mode") not in _NOT_PRODUCTION and not run.get("retryOf")


def failed_at_s(run: Mapping[str, Any]) -> float | None:
    """Epoch seconds by n8n's clock; ``None`` where it does not say."""
    moments = (_moment(run.get(key)) for key in ("stoppedAt", "startedAt", "createdAt"))
    return next((moment.timestamp() for moment in moments if moment), None)


def report_of_run(run: Mapping[str, Any], *, workflow_name: str, base_url: str) -> ErrorReport | None:
    """The error report of a failed run; ``None`` where it is no failure: a person has stopped it.

    :param run: as ``GET /executions/{id}?includeData=true`` answers; without its data little is told.
    :param workflow_name: used where the run does not hold its workflow.
    :param base_url: n8n's address that people open.
    """
    result = _at(run, "data", "resultData")
    workflow = _at(run, "workflowData")
    error = _error(run, result, workflow)
    if error is None:
        return None
    workflow_id, last = str(run.get("workflowId")), result.get("lastNodeExecuted")
    nodes = workflow.get("nodes")
    node = find_node(workflow, str(last)) if last and isinstance(nodes, list) else None
    if node is not None:
        error["node"] = {key: node[key] for key in _NODE_KEYS if key in node}
    failed: dict[str, Any]
    if run.get("mode") == "trigger" and run.get("startedAt") is None:
        # It never ran: the trigger itself failed.
        failed = {"trigger": {"mode": "trigger", "error": error}}
    else:
        parent = _at(run, "data", "executionData", "runtimeData").get("parentExecutionId")
        told = {
            "id": run.get("id"),
            "url": f"{base_url.rstrip('/')}/workflow/{workflow_id}/executions/{run.get('id')}",
            "mode": run.get("mode"),
            "lastNodeExecuted": last,
            "error": error,
            "executionContext": {"parentExecutionId": parent} if parent else {},
        }
        failed = {"execution": told}
    name = workflow.get("name") or workflow_name
    report = parse_error_report({**failed, "workflow": {"id": workflow_id, "name": name}})
    return replace(report, failed_at_s=failed_at_s(run))


def _error(run: Mapping[str, Any], result: Mapping[str, Any], workflow: Mapping[str, Any]) -> dict[str, Any] | None:
    told = _at(result, "error")
    if run.get("status") == "canceled":
        return _timed_out(run, workflow) if told.get("name") != _BY_HAND else None
    error = {key: told[key] for key in _ERROR_KEYS if told.get(key) is not None}
    if not error and run.get("status") == "crashed":
        return {"name": "WorkflowCrashedError", "message": "Workflow did not finish, possible out-of-memory issue"}
    return error


def _timed_out(run: Mapping[str, Any], workflow: Mapping[str, Any]) -> dict[str, Any] | None:
    """n8n tells no error of such a run, and calls nobody; ``None``: it was stopped before its time was up."""
    limit_s = _at(workflow, "settings").get("executionTimeout")
    if not isinstance(limit_s, int | float) or isinstance(limit_s, bool) or limit_s <= 0:
        return None
    started, stopped = _moment(run.get("startedAt")), _moment(run.get("stoppedAt"))
    if started is None or stopped is None or (stopped - started).total_seconds() < limit_s - TIMER_SLACK_S:
        return None
    message = f"n8n stopped this run: it took longer than the {limit_s:g} s that the workflow's settings allow."
    return {"name": "ExecutionTimeoutError", "message": message}


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def _at(value: Any, *path: str) -> Mapping[str, Any]:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
