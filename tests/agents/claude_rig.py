"""What the tests of the Claude agent stand on: the real CLI, a scripted Messages API, a real tools server."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import gevent

from app.agents import AgentEvent, Finished, TextDelta, TextFinal, ToolFinished, TurnRequest
from app.agents.claude import ClaudeAgent
from app.agents.claude_command import ClaudeOptions
from app.errors import BaseError
from app.tools.server import ToolsServer
from tests.fakes.messages_api import MessagesApi, Reply, Request, Rule
from tests.fakes.turn_tools import FakeTurnTools

KEY = "sk-ant-test-0123456789abcdef0123456789"
RULES = "RULES: you build workflows."


class MemoryTranscripts:
    """Transcripts in a dictionary; ``said`` is the history of every session."""

    def __init__(self) -> None:
        self.saved: dict[str, bytes] = {}
        self.said: list[tuple[str, str]] = []

    def load(self, session_id: str) -> bytes | None:
        return self.saved.get(session_id)

    def save(self, session_id: str, data: bytes) -> None:
        self.saved[session_id] = data

    def history(self, session_id: str) -> list[tuple[str, str]]:
        return list(self.said)


class Rig:
    """One machine with its working folder, and one session on it."""

    def __init__(self, folder: Path, server: ToolsServer) -> None:
        self.folder = folder
        self.server = server
        self.transcripts = MemoryTranscripts()
        self.tools = FakeTurnTools()
        self.session_id = str(uuid.uuid4())
        self.machine = "a"
        self.pids: set[int] = set()

    @property
    def work_dir(self) -> Path:
        return self.folder / self.machine

    def agent(self, api: MessagesApi | str, **options: Any) -> ClaudeAgent:
        url = api if isinstance(api, str) else api.url
        given = {"work_dir": self.work_dir, "api_key": KEY, "base_url": url, "model": "claude-sonnet-5-5", **options}
        return ClaudeAgent(ClaudeOptions(**given), self.transcripts)

    def turn(
        self, prompt: str = "Hello", *, session_id: str = "", kind: Literal["chat", "repair"] = "chat"
    ) -> TurnRequest:
        access = self.server.open(self.tools)
        return TurnRequest(session_id or self.session_id, uuid.uuid4().hex, kind, prompt, RULES, access)

    def run(self, api: MessagesApi | str, prompt: str = "Hello", **options: Any) -> list[AgentEvent]:
        events = list(self.agent(api, **options).run(self.turn(prompt)))
        assert self.processes() == []
        assert list((self.work_dir / "turns").iterdir()) == []
        return events

    def side_by_side(self, api: MessagesApi, prompts: Sequence[str], **options: Any) -> list[Any]:
        """Each prompt in a session of its own, at the same time; gives the events of each, or what it raised."""
        agent = self.agent(api, **options)
        turns = [self.turn(prompt, session_id=str(uuid.uuid4())) for prompt in prompts]
        running = [gevent.spawn(_events_or_error, agent, turn) for turn in turns]
        gevent.joinall(running, timeout=50)
        assert self.processes() == []
        return [one.value for one in running]

    def processes(self) -> list[int]:
        """The CLI's processes on this machine, by the marker that is their home."""
        marker = f"HOME={self.work_dir / 'home'}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and marker in _environ(int(entry.name)) + b"\0":
                found.append(int(entry.name))
        self.pids.update(found)
        return found

    def session_files(self) -> list[Path]:
        return list((self.work_dir / "config" / "projects").glob("*/*.jsonl"))


class Collector:
    """A turn that runs beside the test."""

    def __init__(self, agent: ClaudeAgent, turn: TurnRequest) -> None:
        self.events: list[AgentEvent] = []
        self._events = agent.run(turn)
        self.greenlet = gevent.spawn(self._collect)

    def _collect(self) -> None:
        for event in self._events:
            self.events.append(event)

    def until(self, kind: type, *, limit_s: float = 15.0) -> None:
        until(lambda: any(isinstance(event, kind) for event in self.events), limit_s=limit_s)

    def stop(self) -> float:
        """Kill the greenlet, as the runner does; gives the seconds that it took."""
        began = time.monotonic()
        self.greenlet.kill(block=True, timeout=5)
        return time.monotonic() - began


def until(met: Callable[[], Any], *, limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < deadline, "the condition was not met in time"
        gevent.sleep(0.02)


def by_step(*replies: Reply) -> Rule:
    """Reply number n to a request that holds the results of n tools, so that sessions do not disturb each other."""

    def rule(request: Request) -> Reply:
        content = [m["content"] for m in request.body["messages"] if m["role"] == "user"]
        done = sum(1 for c in content if isinstance(c, list) for block in c if block["type"] == "tool_result")
        return replies[done]

    return rule


def streamed(events: Sequence[AgentEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def finals(events: Sequence[AgentEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextFinal)]


def tool_results(events: Sequence[AgentEvent]) -> list[tuple[str, bool]]:
    return [(event.tool, event.ok) for event in events if isinstance(event, ToolFinished)]


def end(events: Sequence[AgentEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def alive(pid: int) -> bool:
    """Also of a child of ours that has ended and was not reaped; what was left to others is theirs to reap."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status or f"PPid:\t{os.getpid()}\n" in status


def _events_or_error(agent: ClaudeAgent, turn: TurnRequest) -> Any:
    try:
        return list(agent.run(turn))
    except BaseError as exc:
        return exc


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes() if pid != os.getpid() else b""
    except OSError:  # it has just ended, or is somebody else's
        return b""
