"""Attacks on the tools server of a running turn, with its token and without: JSON-RPC and arguments of any shape."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from tests.fuzz import inputs
from tests.fuzz.answers import tells_inside
from tests.fuzz.findings import Findings
from tests.support.wire import Broken, Wire

WORKFLOW: dict[str, Any] = {
    "name": "w",
    "nodes": [
        {
            "id": "1",
            "name": "Webhook",
            "type": "n8n-nodes-base.webhook",
            "typeVersion": 2,
            "position": [0, 0],
            "parameters": {"path": "a"},
        },
        {
            "id": "2",
            "name": "Code",
            "type": "n8n-nodes-base.code",
            "typeVersion": 2,
            "position": [200, 0],
            "parameters": {"jsCode": "return []"},
        },
    ],
    "connections": {"Webhook": {"main": [[{"node": "Code", "type": "main", "index": 0}]]}},
    "settings": {},
}


@dataclass
class ToolsAttack:
    rng: Random
    folder: Path
    findings: Findings
    workflow_ids: list[str] = field(default_factory=lambda: ["w"])

    def step(self) -> None:
        """One call to a turn that is open; nothing where there is none."""
        found = sorted(self.folder.glob("*.json"))
        if not found:
            return
        path = self.rng.choice(found)
        try:
            access = json.loads(path.read_text())
        except OSError:
            return
        self._call(access)
        if self.rng.random() < 0.002:
            path.unlink(missing_ok=True)  # ends the turn

    def _call(self, access: dict[str, str]) -> None:
        rng = self.rng
        data = inputs.encoded(rng, self._message()) if rng.random() < 0.95 else inputs.junk(rng)
        if rng.random() < 0.01:
            data = data.ljust(2 * 1024 * 1024 + rng.randrange(2))
        at = urlsplit(access["url"])
        token = access["token"].encode() if rng.random() < 0.9 else inputs.header_value(rng)
        method = rng.choice((*(b"POST",) * 20, b"GET", b"DELETE", b"FOO"))
        target = at.path.encode() if rng.random() < 0.97 else b"/" + rng.choice((b"", b"%ff", b"mcp/", b"x" * 9_000))
        lines = [
            method + b" " + target + b" HTTP/1.1",
            b"Host: " + at.netloc.encode(),
            b"Authorization: Bearer " + token,
        ]
        length = (
            b"%d" % len(data) if rng.random() < 0.97 else rng.choice((b"-1", b"x", b"9" * 30, b"\xff", b"0", b"1e3"))
        )
        lines += [b"Connection: close", b"Content-Type: application/json", b"Content-Length: " + length]
        while rng.random() < 0.1:
            name = rng.choice((b"Origin", b"Host", b"Expect", b"Transfer-Encoding", b"X-\xff", b"Content-Length"))
            lines.append(name + b": " + inputs.header_value(rng))
        sent = b"\r\n".join(lines) + b"\r\n\r\n" + data
        self.findings.did("tool call", sent)
        try:
            wire = Wire(at.port or 0)
        except ConnectionRefusedError:
            return
        try:
            wire.send(sent, end=True)
            answer = wire.answer()
        except Broken as exc:
            self.findings.add("tools: no HTTP", exc, sent)
            return
        except TimeoutError:
            self.findings.add("tools: no answer in time", "", sent)
            return
        finally:
            wire.close()
        if answer is None:
            return
        self.findings.did(f"tool call {answer.status}")
        if answer.status >= 500 and answer.status != 501:
            self.findings.add(f"tools: status {answer.status}", answer.body[:2_000], sent)
        if answer.status == 200:
            self._check(answer.json, sent)
        elif told := tells_inside(answer.body.decode("latin-1")):
            self.findings.add(f"tools: tells {told!r}", answer.body[:2_000], sent)

    def _check(self, body: dict[str, Any], sent: bytes) -> None:
        error, result = body.get("error") or {}, body.get("result") or {}
        if error.get("code") == -32603:
            self.findings.add("tools: internal error", body, sent)
        if "content" not in result:
            return
        text = "".join(part["text"] for part in result["content"])
        self.findings.did(f"tool {'failed' if result['isError'] else 'ok'}")
        if text == "internal error":
            self.findings.add("tools: call failed by a bug", body, sent)
        if result["isError"] and (told := tells_inside(text)):
            self.findings.add(f"tools: tells {told!r}", body, sent)
        if not result["isError"] and "workflowId" in text:
            answered = json.loads(text)
            if isinstance(answered, dict) and answered["workflowId"] not in self.workflow_ids:
                self.workflow_ids = [*self.workflow_ids[-9:], answered["workflowId"]]

    def _message(self) -> Any:
        rng = self.rng
        workflow_id = rng.choice(self.workflow_ids)
        changed = inputs.mutated(rng, WORKFLOW)
        parts = changed if isinstance(changed, dict) else {"name": changed}
        name, arguments = rng.choice(
            (
                ("list_workflows", {}),
                ("get_workflow", {"workflowId": workflow_id}),
                ("get_workflow", {}),
                ("get_execution", {}),
                ("validate_workflow", {"workflow": changed}),
                ("create_workflow", parts),
                ("update_workflow", {"workflowId": workflow_id, **parts}),
                ("propose_repair", {"workflow": changed, "summary": "s"}),
            )
        )
        if rng.random() < 0.4:
            arguments = inputs.mutated(rng, arguments)
        params: Any = {"name": name, "arguments": arguments}
        if rng.random() < 0.5:
            params["_meta"] = {"claudecode/toolUseId": f"t{rng.randrange(10**6)}"}
        message = {"jsonrpc": "2.0", "id": rng.randrange(10**6), "method": "tools/call", "params": params}
        if rng.random() < 0.15:
            message["method"] = rng.choice(("initialize", "ping", "tools/list", "notifications/x", inputs.text(rng)))
        return inputs.mutated(rng, message) if rng.random() < 0.2 else message
