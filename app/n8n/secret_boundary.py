"""Where secrets stop: workflows that come from n8n get placeholders, those that go there get the values back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from itertools import chain
from typing import Any

from app.errors import ConflictError, WorkflowNotFoundError
from app.journal import Journal
from app.journal.records import Snapshot
from app.n8n import Workflow
from app.n8n.client import N8nClient
from app.n8n.errors import N8nScopeError, N8nTooOldError
from app.n8n.secrets import UnknownSecretError, hide, key_of, known_secrets, mask, placeholders, unmask

MAX_SNAPSHOTS = 20
MAX_VERSIONS = 20
"""So many of the newest versions in n8n are looked through for a value, after those that snapshots were taken of."""


class SecretLostError(ConflictError):
    """n8n has no value any more for a placeholder of what was to be written."""

    def __init__(self, places: list[str]) -> None:
        super().__init__(
            f"Nothing was written: a secret at {', '.join(places)} was removed, and no version of the workflow that "
            "n8n still has holds it. Type that value into a node of the workflow in n8n and try again, or choose "
            "another snapshot."
        )


class SecretBoundary:
    """For one n8n and one journal; the key of the placeholders is read once."""

    def __init__(self, client: N8nClient, journal: Journal) -> None:
        self._client = client
        self._journal = journal

    @cached_property
    def _key(self) -> bytes:
        return key_of(self._journal)

    def shown(self, workflow: Workflow) -> Workflow:
        return mask(workflow, self._key)

    def hides(self, run: Mapping[str, Any]) -> Callable[[Any], Any]:
        """Replaces the secrets of the workflow as it ran in what the run tells."""
        return partial(hide, known=known_secrets(run.get("workflowData") or {}, self._key))

    def filled(self, body: Mapping[str, Any], present: Workflow | None = None) -> Workflow:
        """``body`` with its secrets, from what n8n has now (draft and active version), else from older versions.

        :raises UnknownSecretError: a placeholder was never one of this workflow's: an agent's mistake.
        :raises SecretLostError: it was, and n8n has no version with its value any more.
        """
        wanted = placeholders(body)
        if present is None or not wanted:
            return unmask(body, (), self._key)
        snapshots = self._snapshots(str(present["id"]), wanted)
        try:
            return unmask(body, chain([present], self._versions(present, snapshots)), self._key)
        except UnknownSecretError as exc:
            if exc.missing & set().union(*(placeholders(snapshot.workflow) for snapshot in snapshots)):
                raise SecretLostError(exc.places) from exc
            raise

    def _snapshots(self, workflow_id: str, wanted: set[str]) -> list[Snapshot]:
        """Those that hold one of the placeholders, the newest first."""
        found = Snapshot.find(self._journal, f"workflow:{workflow_id}", limit=MAX_SNAPSHOTS)
        return [snapshot for snapshot in found if wanted & placeholders(snapshot.workflow)]

    def _versions(self, present: Workflow, snapshots: list[Snapshot]) -> Iterator[dict[str, Any]]:
        """Older versions, one by one: those that the snapshots were taken of, then the newest."""
        workflow_id = str(present["id"])
        seen = {present["versionId"], (present.get("activeVersion") or {}).get("versionId")}
        for version_id in chain((snapshot.version_id for snapshot in snapshots), self._history(workflow_id)):
            if version_id in seen:
                continue
            seen.add(version_id)
            try:
                yield self._client.version(workflow_id, version_id)
            except (WorkflowNotFoundError, N8nScopeError, N8nTooOldError):
                # n8n removes old versions.
                continue

    def _history(self, workflow_id: str) -> Iterator[str]:
        try:
            versions = self._client.history(workflow_id, limit=MAX_VERSIONS)
        except (WorkflowNotFoundError, N8nScopeError, N8nTooOldError):
            return
        yield from (str(version.get("versionId")) for version in versions)
