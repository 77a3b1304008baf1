"""The error workflow that tells the bridge of failures: put into n8n, kept up to date, found again.

Delivery is at least once: five tries 5 s apart, then one such round after each Wait of 70 s, for 24 hours or until the
bridge refuses the report itself. See ``error_workflow.json``; it can be imported by hand as well.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.errors import N8nError
from app.n8n import Workflow
from app.n8n.client import Credential, N8nClient
from app.n8n.saving import changed, holds
from app.n8n.workflows import find_node

VERSION = 1
"""To be raised with each change of ``error_workflow.json``, there too."""
CALLBACK_PATH = "/callbacks/n8n/error"
REMEMBER_S = 60.0

_FILE = Path(__file__).with_suffix(".json")
_MARK = re.compile(r"self-healing-bridge error workflow, version (\d{1,6})")
_POST_NODE = "Post to bridge"
_CREDENTIAL = "httpHeaderAuth"


@dataclass(frozen=True, slots=True)
class Installed:
    workflow_id: str
    outcome: Literal["created", "updated", "unchanged"]


@dataclass(frozen=True, slots=True)
class State:
    """What n8n has of it.

    :ivar version: ``None`` where there is none.
    :ivar callback_url: where it sends reports.
    :ivar problem: one sentence on what is wrong and what to do; empty when all is well.
    """

    workflow_id: str | None
    version: int | None
    callback_url: str
    problem: str


def install(client: N8nClient, *, callback_url: str, secret: str | None) -> Installed:
    """Put the error workflow into n8n and publish it; one of ours that is there is brought up to date.

    :param callback_url: the bridge as n8n reaches it, with or without ``CALLBACK_PATH``.
    :param secret: what the callback presents; ``None`` where the bridge asks for none.
    :raises N8nError: n8n could not; calling again goes on from there.
    """
    present = _find(client)
    credential = _credential(client, present, secret) if secret else None
    wanted = build(callback_url, credential)
    if present is None:
        created = client.create_workflow(wanted)
        _publish(client, created)
        return Installed(str(created["id"]), "created")
    if holds(present, wanted) and present["activeVersionId"] == present["versionId"]:
        return Installed(str(present["id"]), "unchanged")
    if not holds(present, wanted):
        client.put_workflow(str(present["id"]), changed(wanted, present))
        present = client.get_workflow(str(present["id"]))
        if not holds(present, wanted):
            raise N8nError("n8n took the error workflow and saved another; look at its credential in n8n.")
    _publish(client, present)
    return Installed(str(present["id"]), "updated")


def state(client: N8nClient, *, callback_url: str | None = None, secrets: Sequence[str] | None = None) -> State:
    """Look without changing anything.

    :param callback_url: where reports should go, if that is to be checked.
    :param secrets: those of which reports should present one, if that is to be checked; none: they should present none.
    """
    run_install = "run `flask n8n install-error-workflow`."
    present = _find(client)
    if present is None:
        return State(None, None, "", f"n8n has no error workflow of the bridge: {run_install}")
    post = find_node(present, _POST_NODE) or {}
    url = str((post.get("parameters") or {}).get("url", ""))
    problem = ""
    if not present["activeVersionId"]:
        problem = f"The error workflow is not published, so n8n does not run it: {run_install}"
    elif _version(present) != VERSION:
        problem = f"The error workflow is of another version than this bridge: {run_install}"
    elif callback_url is not None and url != _full(callback_url):
        problem = f"The error workflow reports to another address than this bridge's: {run_install}"
    elif secrets is not None and not _presents(post, secrets):
        problem = f"The error workflow presents another secret than N8N_CALLBACK_SECRET: {run_install}"
    return State(str(present["id"]), _version(present), url, problem)


def remembered(client: N8nClient, *, callback_url: str | None = None, for_s: float = REMEMBER_S) -> Callable[[], State]:
    """Its state, looked up when asked for, and kept for a while: n8n is asked for all its workflows.

    :returns: a function that gives it; it raises ``N8nError``.
    """
    known: list[tuple[float, State]] = []

    def remembered_state() -> State:
        if not known or time.monotonic() - known[0][0] > for_s:
            known[:] = [(time.monotonic(), state(client, callback_url=callback_url))]
        return known[0][1]

    return remembered_state


def build(callback_url: str, credential: Credential | None) -> Workflow:
    """The workflow as it is sent to n8n."""
    workflow: Workflow = json.loads(_FILE.read_text(encoding="utf-8"))
    post: dict[str, Any] = next(node for node in workflow["nodes"] if node["name"] == _POST_NODE)
    post["parameters"]["url"] = _full(callback_url)
    if credential is None:
        post["parameters"]["authentication"] = "none"
        del post["parameters"]["genericAuthType"]
    else:
        post["credentials"] = {_CREDENTIAL: {"id": credential.id, "name": credential.name}}
    return workflow


def _find(client: N8nClient) -> Workflow | None:
    """Ours, known by the note on its trigger; the one that runs, where somebody has copied it."""
    ours = [w for w in client.iter_workflows() if _version(w) is not None and not w.get("isArchived")]
    return max(ours, key=lambda workflow: workflow["activeVersionId"] is not None, default=None)


def _version(workflow: Workflow) -> int | None:
    for node in workflow["nodes"]:
        found = _MARK.search(str(node.get("notes", ""))) if isinstance(node, dict) else None
        if found:
            return int(found[1])
    return None


def _credential(client: N8nClient, present: Workflow | None, secret: str) -> Credential:
    """The credential with this secret: n8n never tells it, so the credential's name carries a fingerprint of it.

    That of a former secret is left, for reports that are on their way with it.
    """
    name = _credential_name(secret)
    listed = client.list_credentials()
    for credential in listed or []:
        if credential.name == name and credential.type == _CREDENTIAL:
            return credential
    post = (find_node(present, _POST_NODE) if present else None) or {}
    used = (post.get("credentials") or {}).get(_CREDENTIAL) or {}
    if listed is None and used.get("name") == name and isinstance(used.get("id"), str):
        return Credential(used["id"], name, _CREDENTIAL)
    return client.create_credential(name, _CREDENTIAL, {"name": "Authorization", "value": f"Bearer {secret}"})


def _presents(post: Mapping[str, Any], secrets: Sequence[str]) -> bool:
    """Whether the node's credential is, by its name, that of one of the secrets; where there are none, it has none."""
    authenticates = (post.get("parameters") or {}).get("authentication", "none") != "none"
    used = (post.get("credentials") or {}).get(_CREDENTIAL) or {}
    if not secrets:
        return not authenticates
    return authenticates and used.get("name") in [_credential_name(secret) for secret in secrets]


def _credential_name(secret: str) -> str:
    return f"Self-healing bridge callback ({_fingerprint(secret)})"


def _fingerprint(secret: str) -> str:
    # Slow on purpose, and only 32 bits: whoever reads the name in n8n learns nothing about the secret.
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), b"n8n credential", 200_000)[:4].hex()


def _publish(client: N8nClient, workflow: Workflow) -> None:
    answer = client.publish(str(workflow["id"]), str(workflow["versionId"]))
    if answer["activeVersionId"] != workflow["versionId"]:
        raise N8nError("n8n did not publish the error workflow; look at it in n8n.")


def _full(callback_url: str) -> str:
    base = callback_url.rstrip("/")
    return base if base.endswith(CALLBACK_PATH) else base + CALLBACK_PATH
