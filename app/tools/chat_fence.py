"""What a chat may write into a workflow: what the person named, and nothing that text from elsewhere could have asked.

Before a session has seen such text the person's words are its only input, so any host may be used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.journal import Journal
from app.journal.records import Registration, Repair
from app.n8n.secrets import moved_secrets
from app.repairs.fence import kind_of
from app.repairs.reach import WITHOUT_TLS, new_hosts, reach_of

MAX_READ_CHARS = 4_000_000
"""So much of the person's words is looked through, the oldest first."""
UNTRUSTED_TOOLS = frozenset({"get_execution", "test_workflow"})
"""Tools that show the agent what others have written."""

_FILES = r"\bfiles?\b|\bfolders?\b|\bdisk\b|\bdirector(?:y|ies)\b"
_SUB = (
    r"sub[- ]?workflow|(?:call|run|start|execut|invok|trigger|use)\w*\b.{0,40}\bworkflow|(?:an)?other workflow"
    r"|execute ?workflow"
)
_COMMAND = (
    r"execute ?command|\bshell\b|\bbash\b|command line"
    r"|(?:run|runs|running|execut\w*|start\w*)\b.{0,40}\b(?:commands?|scripts?|programs?)\b"
)
_NAMED: Mapping[str, str] = {
    "executeCommand": _COMMAND,
    "ssh": r"\bssh\b",
    "readWriteFile": _FILES,
    "readBinaryFile": _FILES,
    "readBinaryFiles": _FILES,
    "writeBinaryFile": _FILES,
    "localFileTrigger": _FILES,
    "executeWorkflow": _SUB,
    "toolWorkflow": _SUB,
    "retrieverWorkflow": _SUB,
    "git": r"\bgit\b|\brepositor(?:y|ies)\b",
    "n8n": r"\bn8n[- ](?:node|api)\b|n8n's (?:own )?api",
}
"""Nodes that act on the server or reach other workflows, with the words by which a person asks for one."""
_ENGLISH = frozenset(
    {
        *("process", "global", "import", "open", "compile", "Function", "constructor", "require", "fetch", "helpers"),
        *("params", "parameter", "this", "Buffer", "eval", "exec", "requests", "vars", "locals", "globals", "socket"),
    }
)
_OF_N8N = frozenset(
    {"json", "node", "input", "item", "first", "last", "body", "query", "headers", "params", "https", "http"}
)
_SUBWORKFLOWS = ("executeWorkflow", "toolWorkflow", "retrieverWorkflow")


class ChatFence:
    """For one turn of a session."""

    def __init__(self, journal: Journal, session_id: str) -> None:
        self._journal = journal
        self._session_id = session_id
        self._words: str | None = None
        self.seen_untrusted = False

    def rules(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
        """The rules that writing ``after`` over ``before`` (empty: a new workflow) breaks, one sentence each.

        :param after: is valid.
        """
        found = [*self._strong_nodes(before, after), *_error_workflow(before, after)]
        found += [f"{rule} Use a credential of n8n for it." for rule in moved_secrets(before, after)]
        if self._is_tainted():
            found += self._reach(before, after)
        return list(dict.fromkeys(found))[:20]

    def _strong_nodes(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
        old = {str(node.get("name")): node for node in before.get("nodes") or []}
        for node in after["nodes"]:
            kind = kind_of(node)
            was = old.get(str(node.get("name"))) or {}
            same = all(node.get(key) == was.get(key) for key in ("type", "parameters", "credentials"))
            if kind not in _NAMED or same:
                continue
            if not re.search(_NAMED[kind], self._said(), re.IGNORECASE | re.DOTALL):
                yield f'A node of the type "{kind}" is used only where the person asks for it in their own words.'
            if kind in _SUBWORKFLOWS and not self._is_own(node.get("parameters") or {}):
                yield f'A node of the type "{kind}" may start only workflows of this session, named by their id.'

    def _is_own(self, parameters: Mapping[str, Any]) -> bool:
        target = parameters.get("workflowId")
        target = target.get("value") if isinstance(target, Mapping) else target
        if parameters.get("source", "database") != "database" or not isinstance(target, str) or not target:
            return False
        registration = Registration.get(self._journal, target)
        return registration is not None and registration.session_id == self._session_id

    def _reach(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
        for host in new_hosts(before, after):
            if not self._names_host(host.removesuffix(WITHOUT_TLS)):
                yield f"The person has not named the host {host}, and text of others has been read here."
        old = {str(node.get("name")): node for node in before.get("nodes") or []}
        for node in after["nodes"]:
            was, now = reach_of(old.get(str(node.get("name")), {})), reach_of(node)
            for used in sorted(now.names - was.names):
                if not self._names_code(used):
                    yield f"The person has not asked for code that uses {used}, and text of others has been read here."
            for place in sorted(now.run_time - was.run_time):
                if not self._names_parts(place):
                    yield (
                        f"The person has not named what makes up the address {place[:80]}, and text of others has been "
                        "read here."
                    )

    def _names_host(self, host: str) -> bool:
        """Whether the person wrote it, or a domain that it belongs to."""
        labels = host.split(".")
        domains = [".".join(labels[at:]) for at in range(max(1, len(labels) - 1))]
        if not re.fullmatch(r"[a-z0-9.\-]+", host) or labels[-1].isdigit():
            domains = [host]  # a number, or with a port: only as it is
        return any(re.search(rf"(?<![\w.\-]){re.escape(one)}(?![\w\-]|\.\w)", self._said()) for one in domains)

    def _names_code(self, used: str) -> bool:
        """Whether the person wrote it, as a word of its own; one that is a word of English, as code."""
        name = re.escape(used.lower())
        if used in _ENGLISH:
            return bool(re.search(rf"[`'\"]{name}[`'\"(]|(?<![\w$.]){name}(?:\(|\.\w)", self._said()))
        return bool(re.search(rf"(?<![\w$]){name}(?!\w)", self._said()))

    def _names_parts(self, place: str) -> bool:
        """Whether the person wrote all that is not n8n's own in an address that only a run knows."""
        address = place.partition(": ")[2] or place
        parts = set(re.findall(r"\w+", address.lower())) - _OF_N8N
        return all(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", self._said()) for part in parts)

    def _is_tainted(self) -> bool:
        """Whether text that others wrote has come into this session: by an error, or by a tool that shows a run."""
        if not self.seen_untrusted:
            self.seen_untrusted = bool(
                Repair.find(self._journal, f"session:{self._session_id}", limit=1)
                or self._journal.events(self._session_id, types=("workflow_error",), limit=1)
                or any(data.get("tool") in UNTRUSTED_TOOLS for data in self._data("tool_started"))
            )
        return self.seen_untrusted

    def _said(self) -> str:
        if self._words is None:
            words, size = [], 0
            for data in self._data("user_message"):
                words.append(str(data.get("text", "")).lower())
                size += len(words[-1])
                if size > MAX_READ_CHARS:
                    break
            self._words = "\n".join(words)
        return self._words

    def _data(self, kind: str) -> Iterator[dict[str, Any]]:
        after = 0
        while page := self._journal.events(self._session_id, after=after, types=(kind,)):
            yield from (event.data for event in page)
            after = page[-1].seq


def _error_workflow(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    old, new = (workflow.get("settings") or {} for workflow in (before, after))
    if new.get("errorWorkflow") != old.get("errorWorkflow"):
        yield "A workflow's error workflow is the bridge's to set; leave it out."
