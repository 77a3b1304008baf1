"""A small client of the tools server for an agent inside the bridge: JSON-RPC, one POST for each call."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.agents import ToolsAccess
from app.errors import ClaudeExecutionError

# As long as a turn may last: a call that tries a repair in n8n waits for the run.
TIMEOUT_S = 600.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    text: str
    ok: bool


class McpClient:
    """Calls one turn's tools, a connection for each call. Blocks only its greenlet where sockets are patched."""

    def __init__(self, access: ToolsAccess, *, timeout_s: float = TIMEOUT_S) -> None:
        self._access = access
        self._timeout_s = timeout_s

    def call(self, name: str, arguments: Mapping[str, Any], *, tool_use_id: str) -> ToolAnswer:
        """Call a tool and wait for what it says; ``ok`` is false where the tool, or the server, refused.

        :raises ClaudeExecutionError: no proper answer came, or the token opens nothing (any more).
        """
        meta = {"claudecode/toolUseId": tool_use_id}
        params = {"name": name, "arguments": dict(arguments), "_meta": meta}
        body = self._post({"jsonrpc": "2.0", "id": tool_use_id, "method": "tools/call", "params": params})
        try:
            if "error" in body:
                return ToolAnswer(str(body["error"]["message"]), ok=False)
            result = body["result"]
            text = "\n".join(part["text"] for part in result["content"] if part["type"] == "text")
            return ToolAnswer(text, ok=not result.get("isError", False))
        except (KeyError, TypeError, AttributeError) as exc:
            raise ClaudeExecutionError("The tools answered something else than expected.") from exc

    def _post(self, message: Mapping[str, Any]) -> dict[str, Any]:
        address = urlsplit(self._access.url)
        connection = http.client.HTTPConnection(address.netloc, timeout=self._timeout_s)
        headers = {
            "Authorization": f"Bearer {self._access.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Connection": "close",
        }
        try:
            connection.request("POST", address.path, json.dumps(message).encode(), headers)
            response = connection.getresponse()
            raw = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as exc:
            raise ClaudeExecutionError("The tools did not answer.") from exc
        finally:
            connection.close()
        if response.status != http.client.OK or len(raw) > MAX_ANSWER_BYTES:
            raise ClaudeExecutionError(f"The tools refused the call (HTTP {response.status}).")
        try:
            body = json.loads(raw)
        except ValueError as exc:
            raise ClaudeExecutionError("The tools answered something else than expected.") from exc
        return body if isinstance(body, dict) else {}
