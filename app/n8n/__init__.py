"""The workflows' home, as the bridge sees it: a real n8n, or drafts in the journal where none is connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from app.journal import Lease

Workflow = dict[str, Any]
"""A workflow in n8n's JSON: ``id``, ``name``, ``nodes``, ``connections``, ``settings``, ``versionId`` …"""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial run showed. ``verified`` only with ``execution_id``; else ``reason`` says why not.

    ``running``: it has not ended; only a plain repetition is looked at before.
    """

    outcome: Literal["verified", "failed", "unverified", "running"]
    reason: str = ""
    execution_id: str | None = None


class Workflows(Protocol):
    """Reads and writes of workflows. A write is safe to repeat with the same arguments, and is refused with
    ``LeaseLostError`` once one of its ``fences`` is held by somebody else."""

    connected: bool

    def get(self, workflow_id: str, *, version: Literal["draft", "active"] = "draft") -> Workflow:
        """:raises WorkflowNotFoundError: unknown here, or without a version of that sort."""

    def create(self, body: Mapping[str, Any], *, intent: str, fences: Sequence[Lease] = ()) -> Workflow:
        """Create a workflow; the same ``intent`` creates once and afterwards returns what it created."""

    def put_draft(
        self,
        workflow_id: str,
        body: Mapping[str, Any],
        *,
        base_version_id: str,
        fences: Sequence[Lease] = (),
        instead: Mapping[str, Any] | None = None,
    ) -> Workflow:
        """Save a draft on top of ``base_version_id``; production keeps running what it ran.

        :param instead: what the draft is to be should this one come when its writer is not there any more; of a
            workflow that runs, what runs then. ``None``: it may stay.
        :raises ConflictError: the workflow was changed by somebody else meanwhile.
        """

    def publish(self, workflow_id: str, *, version_id: str, fences: Sequence[Lease] = ()) -> Workflow:
        """Make that version the one that runs."""

    def try_draft(
        self, workflow_id: str, *, version_id: str, execution_id: str | None, fences: Sequence[Lease] = ()
    ) -> Trial:
        """Run the failed execution again on the draft and judge it; once for each version, however often asked."""

    def run_again(self, workflow_id: str, *, execution_id: str, number: int, fences: Sequence[Lease] = ()) -> Trial:
        """Run the failed execution again as it was, with the workflow that failed; once for each ``number``."""

    def unpublish(self, workflow_id: str, *, fences: Sequence[Lease] = ()) -> Workflow:
        """Stop running it; :raises ConflictError: no n8n is connected."""

    def execution(self, workflow_id: str, execution_id: str) -> dict[str, Any]:
        """One of the workflow's runs in a few KiB, redacted. :raises NotFoundError: it has no such run."""

    def credentials(self) -> list[dict[str, str]]:
        """Names and types of the credentials, where the key may list them; never their data."""

    def has_foreign_draft(self, workflow_id: str) -> bool:
        """Whether somebody has an unpublished draft of their own there."""

    def seed(self, workflow_id: str, name: str, node: Mapping[str, Any]) -> Workflow:
        """Keep what a callback told of a workflow that cannot be read: its failing node. Where more is known already
        this changes nothing; it returns what is known."""
