"""Workflows where no n8n is connected: complete n8n JSON, kept as drafts in the journal, ready to be imported."""

from __future__ import annotations

import hashlib
import string
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from app.errors import ConflictError, NotFoundError, StaleDocumentError, WorkflowNotFoundError
from app.journal import Change, Document, Journal, Lease, Put
from app.n8n import Trial, Workflow
from app.n8n.structure import MAX_NAME_CHARS, NODE_KEYS
from app.n8n.workflows import canonical_hash, canonical_json, editable, is_trigger

KIND = "draft"
ID_CHARS = 16
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_STAND_INS = {"name": "Unknown node", "typeVersion": 1, "position": [0, 0], "parameters": {}}
_VERSIONS = uuid.UUID("6d9f5b52-3f0e-4d0f-9a7b-0f0c8f1f6f5e")


class Drafts:
    """See :class:`app.n8n.Workflows`. There is no other production than the draft, so nothing can be tried either.

    Bodies are stored as they are given: who calls has validated them. No secret that a person typed into n8n comes
    here: messages and callbacks, all that a draft is made of, are redacted before anybody works on them.
    """

    connected = False

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def get(self, workflow_id: str, *, version: Literal["draft", "active"] = "draft") -> Workflow:
        if version == "active":
            raise WorkflowNotFoundError("No n8n is connected, so no version of this workflow is running.")
        return self._read(workflow_id).body

    def create(self, body: Mapping[str, Any], *, intent: str, fences: Sequence[Lease] = ()) -> Workflow:
        return self._add(workflow_id_for(intent), editable(body), meta=None, fences=fences)

    def seed(self, workflow_id: str, name: str, node: Mapping[str, Any]) -> Workflow:
        """Keep the one node that an error report told of, for a workflow that is known by its id alone.

        A report may name a node without its version, position or parameters, or carry rubbish there: the draft gets
        stand-ins, so that it can be worked on. It is marked ``"meta": {"partial": true}`` until it has a trigger.
        Where a draft exists, that one is returned as it is.
        """
        known = {key: value for key, value in node.items() if isinstance(value, NODE_KEYS.get(key, ()))}
        body = {"name": name[:MAX_NAME_CHARS] or f"Workflow {workflow_id}", "nodes": [{**_STAND_INS, **known}]}
        return self._add(workflow_id, editable(body), meta={"partial": True})

    def put_draft(
        self,
        workflow_id: str,
        body: Mapping[str, Any],
        *,
        base_version_id: str,
        fences: Sequence[Lease] = (),
        instead: Mapping[str, Any] | None = None,  # nothing comes late to the journal
    ) -> Workflow:
        """See the protocol; the settings are replaced, not merged. The new ``versionId`` follows from base and content.

        :raises WorkflowNotFoundError: no draft has this id.
        """
        present = self._read(workflow_id)
        wanted = editable(body)
        if _same(present.body, wanted):
            return present.body
        if present.body["versionId"] != base_version_id:
            raise ConflictError("The workflow was changed meanwhile.")
        draft = {**present.body, "staticData": None, **wanted, "versionId": _version_id(base_version_id, wanted)}
        if any(map(is_trigger, wanted["nodes"])):
            draft["meta"] = None
        try:
            self._write(workflow_id, draft, expect=present.version, fences=fences)
        except StaleDocumentError:
            present = self._read(workflow_id)
            if not _same(present.body, wanted):
                raise ConflictError("The workflow was changed meanwhile.") from None
            return present.body
        return draft

    def publish(self, workflow_id: str, *, version_id: str, fences: Sequence[Lease] = ()) -> Workflow:
        """:raises ConflictError: the draft has another version by now."""
        draft = self._read(workflow_id).body
        if draft["versionId"] != version_id:
            raise ConflictError("The draft has another version by now.")
        return draft

    def try_draft(
        self, workflow_id: str, *, version_id: str, execution_id: str | None, fences: Sequence[Lease] = ()
    ) -> Trial:
        return Trial("unverified", "no n8n connected")

    def run_again(self, workflow_id: str, *, execution_id: str, number: int, fences: Sequence[Lease] = ()) -> Trial:
        return Trial("unverified", "no n8n connected")

    def unpublish(self, workflow_id: str, *, fences: Sequence[Lease] = ()) -> Workflow:
        raise ConflictError("No n8n is connected, so nothing is running.")

    def execution(self, workflow_id: str, execution_id: str) -> dict[str, Any]:
        raise NotFoundError("No n8n is connected, so no runs are known.")

    def credentials(self) -> list[dict[str, str]]:
        return []

    def has_foreign_draft(self, workflow_id: str) -> bool:
        return False

    def _read(self, workflow_id: str) -> Document:
        document = self._journal.get(KIND, workflow_id)
        if document is None:
            raise WorkflowNotFoundError("There is no draft of this workflow.")
        return document

    def _add(
        self,
        workflow_id: str,
        body: Workflow,
        *,
        meta: Mapping[str, Any] | None,
        fences: Sequence[Lease] = (),
    ) -> Workflow:
        wanted = {**body, "settings": {"executionOrder": "v1", **body["settings"]}}
        draft = {
            "id": workflow_id,
            "active": False,
            "versionId": _version_id(workflow_id, wanted),
            "staticData": None,
            "pinData": {},
            "meta": meta,
            "tags": [],
            **wanted,
        }
        try:
            self._write(workflow_id, draft, expect=0, fences=fences)
        except StaleDocumentError:
            return self._read(workflow_id).body
        return draft

    def _write(self, workflow_id: str, draft: Workflow, *, expect: int, fences: Sequence[Lease]) -> None:
        self._journal.commit(Change(puts=[Put(KIND, workflow_id, draft, expect=expect)], fences=fences))


def workflow_id_for(intent: str) -> str:
    """An id like n8n's own, 16 letters and digits, that follows from ``intent``: what creates twice, creates once."""
    number = int.from_bytes(hashlib.sha256(intent.encode("utf-8", "surrogatepass")).digest())
    chars = []
    for _ in range(ID_CHARS):
        number, digit = divmod(number, len(_ALPHABET))
        chars.append(_ALPHABET[digit])
    return "".join(chars)


def _version_id(base: str, wanted: Workflow) -> str:
    return str(uuid.uuid5(_VERSIONS, f"{base}:{canonical_hash(wanted)}"))


def _same(present: Workflow, wanted: Workflow) -> bool:
    return canonical_json(editable(present)) == canonical_json(wanted)
