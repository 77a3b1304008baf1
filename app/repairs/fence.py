"""What a repair may change: parameters, retries and error handling of nodes that are there, and their connections.

Everything else needs a person's yes, and some of it no person can allow. The agent's text is never asked; the two
workflows are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.n8n.secrets import moved_secrets, placeholders
from app.n8n.structure import is_trigger
from app.repairs.gates import is_gate, passed_gates
from app.repairs.reach import Reach, leaves, new_hosts, reach_of

MAX_TRIES, MAX_WAIT_MS = 5, 5_000
MAX_BREACHES = 20
MAX_NAME_CHARS = 80

_CHANGEABLE = {
    *("parameters", "position", "notes", "notesInFlow"),
    *("retryOnFail", "maxTries", "waitBetweenTries", "onError", "continueOnFail", "alwaysOutputData", "executeOnce"),
}

# Parameters that decide more than what a node does with its data, by their own name or by the kind of their node.
_CREDENTIAL_CHOICE = re.compile(
    r"(?i)^\w*authentication$|^(?:genericAuthType|nodeCredentialType|credentialType|authType)$"
    r"|^sendCredentialsOnCrossOriginRedirect$"
)
_TLS = re.compile(
    r"(?i)^(?:allow|ignore|skip|disable|verify|check|reject)_?.*(?:cert|ssl|tls)|^rejectUnauthorized$"
    r"|^(?:ssl|tls|secure|insecure)(?:Mode)?$"
)
_CALLED_BY = frozenset(
    {
        *("path", "httpMethod", "multipleMethods", "ipWhitelist", "public", "allowedOrigins"),
        *("responseMode", "responseData"),
    }
)
_SUBWORKFLOW = frozenset({"workflowId", "source", "workflowJson", "workflowPath", "workflowUrl"})
_COMMANDS: Mapping[str, frozenset[str] | None] = {
    "executeCommand": None,
    "ssh": None,
    "readWriteFile": None,
    "readBinaryFile": None,
    "readBinaryFiles": None,
    "writeBinaryFile": None,
    "localFileTrigger": None,
    "n8n": None,
    "git": None,
    "merge": frozenset({"query"}),  # its SQL can run JavaScript
    "executeWorkflow": _SUBWORKFLOW,
    "toolWorkflow": _SUBWORKFLOW,
    "retrieverWorkflow": _SUBWORKFLOW,
}
"""Nodes that act on the server or on other workflows, with those of their parameters that say how; ``None``: all."""


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that a change breaks, as one sentence. ``never``: nobody's yes allows it."""

    rule: str
    never: bool = False


def breaches(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Breach]:
    """The rules that a repair from ``before`` to ``after`` breaks, at most ``MAX_BREACHES``; empty: it may go on.

    Those that no person can allow come first. An ``after`` without an id is the same workflow.
    """
    found = [*_workflow(before, after), *(Breach(rule, never=True) for rule in moved_secrets(before, after))]
    old, new = _by_name(before), _by_name(after)
    found += [Breach(f"A repair may not add a node ({_named(new[name])}).") for name in new if name not in old]
    found += [Breach(f'A repair may not remove a node ("{_cut(name)}").') for name in old if name not in new]
    found += [Breach(f"A repair may not bring in a new host ({host}).") for host in new_hosts(before, after)]
    found += [
        Breach(f'A repair may not lead to "{_cut(node)}" past "{_cut(gate)}", which decides whether it runs.')
        for gate, node in passed_gates(before, after)
    ]
    for name, node in new.items():
        if name in old:
            found += _node(_cut(name), old[name], node)
        if node.get("parameters") != old.get(name, {}).get("parameters"):
            found += _reach(_cut(name), reach_of(old.get(name, {})), reach_of(node), _has_secrets(node))
    unique = {breach.rule: breach for breach in found}
    return sorted(unique.values(), key=lambda breach: not breach.never)[:MAX_BREACHES]


def _workflow(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Breach]:
    if after.get("id", before.get("id")) != before.get("id"):
        yield Breach("A repair may not change another workflow.", never=True)
    if after.get("name") != before.get("name"):
        yield Breach("A repair may not rename the workflow.")
    old, new = before.get("settings") or {}, after.get("settings") or {}
    for key in sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        if key == "errorWorkflow":
            yield Breach("A repair may not change the workflow's error workflow.", never=True)
        else:
            yield Breach(f'A repair may not change the workflow\'s settings ("{_cut(key)}").')


def _node(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Breach]:
    for key in sorted(old.keys() | new.keys()):
        if key not in _CHANGEABLE and old.get(key) != new.get(key):
            what = "credentials" if key == "credentials" else f'"{_cut(key)}"'
            yield Breach(f'A repair may not change {what} of the node "{name}".')
    for key, limit in (("maxTries", MAX_TRIES), ("waitBetweenTries", MAX_WAIT_MS)):
        if new.get(key) != old.get(key) and not _within(new.get(key), limit):
            yield Breach(f'"{key}" of "{name}" may be at most {limit}.', never=True)
    goes_on = any(old.get(key) != new.get(key) for key in ("onError", "continueOnFail"))
    if is_gate(old) and (goes_on or not is_gate(new)):
        yield Breach(f'A repair may not let "{name}", which decides whether others run, go on without a decision.')
    yield from _parameters(name, old, new)


def _parameters(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Breach]:
    before, after = _flat(old), _flat(new)
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            keys = {name for side in (before, after) for name in side.get(path, ((), None))[0]}
            what = next(filter(None, (_decides(new, key) for key in sorted(keys))), "")
            if what:
                yield Breach(f'A repair may not change {what} of the node "{name}" ("{_cut(path)}").')


def _decides(node: Mapping[str, Any], key: str) -> str:
    """What the parameter ``key`` decides that is not a repair's to change; empty for an ordinary one."""
    kind = kind_of(node)
    if _CREDENTIAL_CHOICE.search(key):
        return "which credential is used by"
    if _TLS.search(key):
        return "how TLS is checked by"
    if key in _CALLED_BY and is_trigger(node):
        return "how callers reach"
    if kind in _COMMANDS and (_COMMANDS[kind] is None or key in (_COMMANDS[kind] or ())):
        return "what is run by"
    return ""


def _reach(name: str, old: Reach, new: Reach, has_secrets: bool) -> Iterator[Breach]:
    if has_secrets:
        for host in sorted(new.asked - old.asked):
            yield Breach(f'A repair may not send what "{name}" signs in with to another host ({_cut(host)}).')
    for place in sorted(new.run_time - old.run_time):
        yield Breach(f'A repair may not leave it to the run which host "{name}" asks ({_cut(place)}).')
    for used in sorted(new.names - old.names):
        yield Breach(f'A repair may not let the code of "{name}" begin to use {used}.')


def kind_of(node: Mapping[str, Any]) -> str:
    """The last part of its type: ``httpRequest``, for an AI agent's ``httpRequestTool`` too."""
    return str(node.get("type", "")).rpartition(".")[2].removesuffix("Tool")


def _flat(node: Mapping[str, Any]) -> dict[str, tuple[tuple[str, str], Any]]:
    """Names and value by path: its own and that of the parameter that it stands in."""
    return {
        path: ((str(key), name), leaf)
        for key, value in (node.get("parameters") or {}).items()
        for path, name, leaf in leaves(value, str(key))
    }


def _by_name(workflow: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(node.get("name")): node for node in workflow.get("nodes") or []}


def _within(value: Any, high: int) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high)


def _has_secrets(node: Mapping[str, Any]) -> bool:
    return bool(node.get("credentials") or placeholders(node.get("parameters")))


def _named(node: Mapping[str, Any]) -> str:
    return f'"{_cut(node.get("name"))}", {_cut(kind_of(node))}'


def _cut(text: Any) -> str:
    return str(text)[:MAX_NAME_CHARS]
