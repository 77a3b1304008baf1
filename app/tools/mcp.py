"""The Model Context Protocol as far as a server of tools needs it: one JSON-RPC message in, one answer out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND = -32700, -32600, -32601
INVALID_PARAMS, INTERNAL_ERROR = -32602, -32603
PROTOCOL_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
MAX_TOOL_USE_ID_CHARS = 128
# Where the Claude CLI writes the id of its own tool_use block; the JSON-RPC id is only a counter.
TOOL_USE_ID_KEY = "claudecode/toolUseId"


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the agent sees it; ``input_schema`` is JSON Schema of an object."""

    name: str
    description: str
    input_schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call came to, as text for the agent; ``ok`` false tells it that the call failed."""

    text: str
    ok: bool = True


class TurnTools(Protocol):
    """What one turn may do."""

    def specs(self) -> Sequence[ToolSpec]: ...

    def call(self, name: str, arguments: Mapping[str, Any], tool_use_id: str) -> ToolResult:
        """Run the tool ``name``. Neither it nor ``arguments`` are checked yet: both are as the agent wrote them.

        May block its greenlet, and runs beside other calls of the same turn. Any ``BaseError`` it raises is told to the
        agent.
        """


class RpcError(Exception):
    """Ends a request with a JSON-RPC error object."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def answer(message: Any, tools: TurnTools) -> dict[str, Any] | None:
    """The answer to one decoded JSON-RPC message, or ``None`` where none is due (a notification, a response)."""
    try:
        method, request_id = _envelope(message)
    except RpcError as exc:
        return error_answer(exc.code, str(exc))
    if method is None or request_id is None:
        return None
    params = message.get("params", {})
    try:
        if not isinstance(params, dict):
            raise RpcError(INVALID_PARAMS, "params must be an object")
        result = _result(method, params, str(request_id), tools)
    except RpcError as exc:
        return error_answer(exc.code, str(exc), request_id)
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_answer(code: int, message: str, request_id: str | int | None = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}


def _envelope(message: Any) -> tuple[str | None, str | int | None]:
    """Method and id; a notification has no id, a response (of a client to a server's request) no method."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, "one JSON-RPC 2.0 object is expected")
    method, request_id = message.get("method"), message.get("id")
    if "method" not in message and ("result" in message or "error" in message):
        return None, None
    if not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "method must be a text")
    if "id" in message and (isinstance(request_id, bool) or not isinstance(request_id, str | int)):
        raise RpcError(INVALID_REQUEST, "id must be a text or a whole number")
    return method, request_id


def _result(method: str, params: dict[str, Any], request_id: str, tools: TurnTools) -> dict[str, Any]:
    match method:
        case "initialize":
            return _initialize(params)
        case "ping":
            return {}
        case "tools/list":
            return {"tools": [_described(spec) for spec in tools.specs()]}
        case "tools/call":
            return _call(params, request_id, tools)
        case _:
            raise RpcError(METHOD_NOT_FOUND, "there is no such method")


def _initialize(params: dict[str, Any]) -> dict[str, Any]:
    wanted = params.get("protocolVersion")
    if not isinstance(wanted, str):
        raise RpcError(INVALID_PARAMS, "protocolVersion must be a text")
    return {
        "protocolVersion": wanted if wanted in PROTOCOL_VERSIONS else PROTOCOL_VERSIONS[0],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "n8n", "version": "1"},
    }


def _described(spec: ToolSpec) -> dict[str, Any]:
    return {"name": spec.name, "description": spec.description, "inputSchema": dict(spec.input_schema)}


def _call(params: dict[str, Any], request_id: str, tools: TurnTools) -> dict[str, Any]:
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str):
        raise RpcError(INVALID_PARAMS, "the name of a tool must be a text")
    if arguments is not None and not isinstance(arguments, dict):
        raise RpcError(INVALID_PARAMS, "arguments must be an object")
    known = name in {spec.name for spec in tools.specs()}
    # One that is not there is called all the same: that it was tried is the turn's to tell.
    result = tools.call(name, arguments or {}, _tool_use_id(params) or request_id[:MAX_TOOL_USE_ID_CHARS])
    if not known:
        raise RpcError(INVALID_PARAMS, "there is no such tool")
    return {"content": [{"type": "text", "text": result.text}], "isError": not result.ok}


def _tool_use_id(params: dict[str, Any]) -> str | None:
    meta = params.get("_meta")
    found = meta.get(TOOL_USE_ID_KEY) if isinstance(meta, dict) else None
    return found if isinstance(found, str) and 0 < len(found) <= MAX_TOOL_USE_ID_CHARS else None
