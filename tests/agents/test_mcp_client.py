"""The agents' own client, against the real tools server."""

from __future__ import annotations

import socket

import pytest

from app.agents import ToolsAccess
from app.agents.mcp_client import McpClient
from app.errors import ClaudeExecutionError
from app.tools.server import ToolResult
from tests.fakes.turn_tools import FakeTurnTools, off_loop


def test_a_call_brings_back_text_and_verdict_and_carries_its_id(server):
    tools = FakeTurnTools(good=ToolResult("yes"), bad=ToolResult("no", ok=False))
    client = McpClient(server.open(tools))

    good = off_loop(lambda: client.call("good", {"a": 1}, tool_use_id="turn-1-t1"))
    bad = off_loop(lambda: client.call("bad", {}, tool_use_id="turn-1-t2"))

    assert (good.text, good.ok) == ("yes", True)
    assert (bad.text, bad.ok) == ("no", False)
    assert tools.calls == [("good", {"a": 1}, "turn-1-t1"), ("bad", {}, "turn-1-t2")]


def test_a_tool_that_does_not_exist_is_a_refused_call(server):
    client = McpClient(server.open(FakeTurnTools()))
    assert off_loop(lambda: client.call("nothing", {}, tool_use_id="t")).ok is False


def test_a_token_that_was_closed_fails_the_agent(server):
    access = server.open(FakeTurnTools(good=ToolResult("yes")))
    server.close(access.token)
    with pytest.raises(ClaudeExecutionError, match="401"):
        off_loop(lambda: McpClient(access).call("good", {}, tool_use_id="t"))


def test_an_answer_that_is_too_long_fails_the_agent(server):
    client = McpClient(server.open(FakeTurnTools(flood=ToolResult("x" * 5_000_000))))
    with pytest.raises(ClaudeExecutionError):
        off_loop(lambda: client.call("flood", {}, tool_use_id="t"))


def test_nobody_listening_fails_the_agent():
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        client = McpClient(ToolsAccess(f"http://127.0.0.1:{unheard.getsockname()[1]}/mcp", "token"))
        with pytest.raises(ClaudeExecutionError):
            off_loop(lambda: client.call("good", {}, tool_use_id="t"))


def test_an_answer_that_never_comes_fails_the_agent_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        access = ToolsAccess(f"http://127.0.0.1:{silent.getsockname()[1]}/mcp", "token")
        with pytest.raises(ClaudeExecutionError):
            off_loop(lambda: McpClient(access, timeout_s=0.2).call("good", {}, tool_use_id="t"))
