"""n8n's public API as typed calls: bounded in time and size, repeated only where repeating is safe.

Source: requests and answers of n8n 2.41.1.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from app.errors import WorkflowNotFoundError
from app.n8n import Workflow
from app.n8n.errors import (
    ExecutionNotFoundError,
    N8nConflictError,
    N8nScopeError,
    N8nTooOldError,
)
from app.n8n.transport import Bare, Confirm, Request, Transport

RETRY_TIMEOUT_S = 60.0
"""A retry is answered only when its run has ended."""
UNPUBLISH_WAIT_S = 2.0
PAGE = 100
MAX_PAGES = 50
RETRY_PAGES = 4

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,20}")

Execution = dict[str, Any]
"""A run in n8n's JSON: ``id``, ``status``, ``mode``, ``retryOf``, ``workflowId``, ``workflowVersionId``, ``data`` …"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExecutionPage:
    """Newest first. ``next_cursor`` leads to older ones; ``None``: there are none."""

    executions: list[Execution]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Credential:
    """What may be known of a credential; its data never leaves n8n."""

    id: str
    name: str
    type: str


class N8nClient:
    """One n8n. Every call raises an :class:`app.errors.N8nError` of ``errors.py`` where n8n does not do it, and
    ``WorkflowNotFoundError`` or ``ExecutionNotFoundError`` where the thing is unknown to n8n or hidden from the key.

    Safe to share between greenlets and threads.

    Writes take a ``confirm``, called right before what makes the request whole is sent, at each try; what it raises is
    raised, and nothing was asked for.

    :param base_url: n8n's address before ``/api/v1``; it may have a path.
    :param timeout_s: for each try, to the first byte and to the last; a call with its repetitions takes at most
        ``transport.MAX_TRIES`` times as long.
    """

    def __init__(self, base_url: str, api_key: str, *, timeout_s: float = 10.0) -> None:
        self._transport = Transport(base_url, api_key, timeout_s=timeout_s)

    def close(self) -> None:
        """Let go of idle connections."""
        self._transport.close()

    def ask(self, method: str, path: str, *, key: bool = False, body: Any = None) -> Bare:
        """See :meth:`app.n8n.transport.Transport.ask`."""
        return self._transport.ask(method, path, key=key, body=body)

    # -- workflows

    def get_workflow(self, workflow_id: str) -> Workflow:
        """The saved draft, with ``versionId`` and ``activeVersionId`` (``None``: not published); no pinned data.

        ``activeVersion`` holds the nodes and connections that run.
        """
        path = f"/workflows/{_known(workflow_id)}"
        return _workflow(self._get(path, excludePinnedData=True), path)

    def iter_workflows(self) -> Iterator[Workflow]:
        """All that the key may see, page by page, at most ``MAX_PAGES`` pages; no pinned data, no fixed order."""
        for workflow in self._pages("/workflows", excludePinnedData=True):
            yield _workflow(workflow, "/workflows")

    def list_workflows(self, *, limit: int = 1000) -> list[Workflow]:
        """The first ``limit`` of :meth:`iter_workflows`."""
        return [workflow for workflow, _ in zip(self.iter_workflows(), range(limit), strict=False)]

    def create_workflow(self, body: Mapping[str, Any], *, confirm: Confirm | None = None) -> Workflow:
        """Never repeated: after an error with ``maybe_done`` the workflow may exist."""
        request = Request("POST", "/workflows", repeat=False, body=body, confirm=confirm)
        return _workflow(self._transport.call(request), "/workflows")

    def put_workflow(
        self,
        workflow_id: str,
        body: Mapping[str, Any],
        *,
        publish_if_active: bool = False,
        confirm: Confirm | None = None,
    ) -> Workflow:
        """Replace name, nodes and connections; settings are merged by n8n, what else is left out stays.

        :param publish_if_active: production gets it too; else it is a draft.
        """
        path = f"/workflows/{_known(workflow_id)}"
        query = {"publishIfActive": publish_if_active}
        request = Request("PUT", path, repeat=True, query=query, body=body, confirm=confirm)
        return _workflow(self._transport.call(request), path)

    def publish(self, workflow_id: str, version_id: str | None = None, *, confirm: Confirm | None = None) -> Workflow:
        """Activate that version, an older one too; the saved draft where none is named. Production follows within
        about 0.3 s after the answer.

        :raises N8nRefusedError: it has no trigger, or a required parameter is empty.
        :raises N8nConflictError: another workflow has its webhook's path.
        """
        path = f"/workflows/{_known(workflow_id)}/activate"
        body = {"versionId": version_id} if version_id else {}
        request = Request("POST", path, repeat=version_id is not None, body=body, confirm=confirm)
        return _workflow(self._transport.call(request), path)

    def unpublish(self, workflow_id: str, *, confirm: Confirm | None = None) -> Workflow:
        """Nothing happens where it is not active."""
        path = f"/workflows/{_known(workflow_id)}/deactivate"
        return _workflow(self._transport.call(Request("POST", path, repeat=True, body={}, confirm=confirm)), path)

    def delete_workflow(self, workflow_id: str) -> None:
        """Delete an inactive workflow and its runs; nothing happens where there is none.

        :raises N8nConflictError: it is active.
        """
        deadline = time.monotonic() + UNPUBLISH_WAIT_S
        while True:
            try:
                self._transport.call(Request("DELETE", f"/workflows/{_known(workflow_id)}", repeat=True))
            except WorkflowNotFoundError:
                return
            except N8nConflictError:
                # Right after it was deactivated n8n says so for some 50 ms.
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def history(self, workflow_id: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """Its versions, newest first: ``versionId``, ``authors``, ``createdAt`` …, without their nodes."""
        path = f"/workflows/{_known(workflow_id)}/history"
        return _rows(self._get(path, limit=limit), path)

    def version(self, workflow_id: str, version_id: str) -> dict[str, Any]:
        """One version's ``nodes`` and ``connections``; it has no settings of its own."""
        path = f"/workflows/{_known(workflow_id)}/versions/{_known(version_id)}"
        version = self._get(path)
        if not isinstance(version.get("nodes"), list):
            raise N8nTooOldError(f"GET {path}")
        return version

    # -- executions

    def get_execution(self, execution_id: str, *, include_data: bool = False) -> Execution:
        """One run; ``data`` and ``workflowData`` (the workflow as it ran) where asked for."""
        path = f"/executions/{_number(execution_id)}"
        return self._get(path, **({"includeData": True} if include_data else {}))

    def list_executions(
        self, *, workflow_id: str | None = None, status: str | None = None, limit: int = PAGE, cursor: str | None = None
    ) -> ExecutionPage:
        """Runs without their data.

        :param status: ``error``, ``crashed``, ``canceled``, ``success``, ``running`` or ``waiting``. Without it n8n
            leaves out what is running.
        :param limit: at most 250.
        """
        query = {"workflowId": workflow_id, "status": status, "limit": limit, "cursor": cursor}
        answer = self._get("/executions", **{key: value for key, value in query.items() if value is not None})
        return ExecutionPage(_rows(answer, "/executions"), _cursor(answer))

    def retry_execution(
        self,
        execution_id: str,
        *,
        load_workflow: bool = True,
        timeout_s: float = RETRY_TIMEOUT_S,
        confirm: Confirm | None = None,
    ) -> Execution:
        """Run a failed run again from its failed node, with that node's old input; answered when the run has ended.

        Never repeated: after an error with ``maybe_done`` look for it with :meth:`find_retries`.

        :param load_workflow: with the saved draft; else with the workflow as it was when it failed.
        :raises N8nConflictError: that run succeeded.
        """
        path = f"/executions/{_number(execution_id)}/retry"
        body = {"loadWorkflow": load_workflow}
        return self._transport.call(Request("POST", path, repeat=False, body=body, read_s=timeout_s, confirm=confirm))

    def find_retries(self, workflow_id: str, execution_id: str) -> list[Execution]:
        """The retries of a run, the newest first, running ones included. Looks at most ``RETRY_PAGES`` pages back."""
        found: dict[str, Execution] = {}
        for status in (None, "running", "waiting"):
            cursor = None
            for _ in range(RETRY_PAGES):
                page = self.list_executions(workflow_id=workflow_id, status=status, limit=PAGE, cursor=cursor)
                newer = [run for run in page.executions if _is_newer(run, execution_id)]
                found |= {str(run["id"]): run for run in newer if str(run.get("retryOf")) == execution_id}
                cursor = page.next_cursor
                # A retry is younger than what it retries, and so is every run listed before it.
                if cursor is None or len(newer) < len(page.executions):
                    break
        return sorted(found.values(), key=lambda run: int(run["id"]), reverse=True)

    def stop_execution(self, execution_id: str) -> Execution:
        return self._transport.call(Request("POST", f"/executions/{_number(execution_id)}/stop", repeat=False))

    # -- credentials

    def list_credentials(self) -> list[Credential] | None:
        """``None`` where this key or this n8n does not list them."""
        try:
            rows = list(self._pages("/credentials"))
        except (N8nScopeError, N8nTooOldError):
            return None
        return [Credential(str(row.get("id")), str(row.get("name")), str(row.get("type"))) for row in rows]

    def create_credential(self, name: str, type: str, data: Mapping[str, Any]) -> Credential:
        """Never repeated."""
        body = {"name": name, "type": type, "data": dict(data)}
        made = self._transport.call(Request("POST", "/credentials", repeat=False, body=body))
        if not isinstance(made.get("id"), str):
            raise N8nTooOldError("POST /credentials")
        return Credential(made["id"], name, type)

    # -- how it is done

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._transport.call(Request("GET", path, repeat=True, query=query))

    def _pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            answer = self._get(path, limit=PAGE, **query, **({"cursor": cursor} if cursor else {}))
            yield from _rows(answer, path)
            cursor = _cursor(answer)
            if cursor is None:
                return
        log.warning("n8n has more than the %(limit)d entries that are looked at", {"limit": PAGE * MAX_PAGES})


def _known(identifier: str) -> str:
    """The id as a part of a path. What cannot be an id of n8n's is not asked for."""
    if not _ID.fullmatch(identifier):
        raise WorkflowNotFoundError("This is not an id of n8n's.")
    return quote(identifier, safe="")


def _number(execution_id: str) -> str:
    if not _NUMBER.fullmatch(execution_id):
        raise ExecutionNotFoundError("This is not the id of a run.")
    return execution_id


def _is_newer(run: Execution, execution_id: str) -> bool:
    return _NUMBER.fullmatch(str(run.get("id"))) is not None and int(run["id"]) > int(execution_id)


def _workflow(answer: dict[str, Any], path: str) -> Workflow:
    kinds: Mapping[str, type | tuple[type, ...]]
    kinds = {"id": str, "versionId": str, "nodes": list, "connections": dict, "activeVersionId": (str, type(None))}
    if any(key not in answer or not isinstance(answer[key], kind) for key, kind in kinds.items()):
        # n8n 1 has no activeVersionId: what is saved there is what runs.
        raise N8nTooOldError(path)
    return answer


def _rows(answer: dict[str, Any], path: str) -> list[dict[str, Any]]:
    rows = answer.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise N8nTooOldError(path)
    return rows


def _cursor(answer: dict[str, Any]) -> str | None:
    cursor = answer.get("nextCursor")
    return cursor if isinstance(cursor, str) and cursor else None
