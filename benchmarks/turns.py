"""What the bridge adds to Claude's own program: one turn's first delta, and twenty turns that are asked at once.

The program is the real one, from the wheel of ``claude-agent-sdk``; what it talks to is a scripted Messages API on
loopback. Alone it is started exactly as the bridge starts it, with a tools server that has as many tools.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import gevent
from gevent.lock import BoundedSemaphore

from app.agents.claude_command import ClaudeOptions, TurnFiles, command_line, environment
from app.tools.server import ToolsServer
from benchmarks.bridge import PROJECT, WebSocket, running_bridge
from tests.fakes.turn_tools import FakeTurnTools

KEY = "sk-bench"
REPLY = {"text": "This is what was asked for, in a few words.", "times": 0}
TOOLS = ("get_workflow", "create_workflow", "update_workflow", "publish_workflow", "list_workflows", "get_execution")
SYSTEM_PROMPT = "You build workflows."
TURN_LIMIT_S = 90.0
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Program:
    """Claude's own program, started without the bridge."""

    options: ClaudeOptions
    server: ToolsServer

    def first_delta_s(self) -> float:
        """From its start to the first piece of text; waits for its end."""
        firsts: list[float] = []
        began = time.perf_counter()
        self._run(lambda: firsts.append(time.perf_counter()))
        return firsts[0] - began

    def _run(self, on_first_delta: Callable[[], object]) -> None:
        access = self.server.open(FakeTurnTools(**dict.fromkeys(TOOLS, KeyError())))
        with tempfile.TemporaryDirectory(dir=self.options.turns_dir) as folder, gevent.Timeout(TURN_LIMIT_S):
            files, spoke = TurnFiles(Path(folder)), False
            files.write(tools=access, system_prompt=SYSTEM_PROMPT)
            argv = command_line(self.options, files, session=str(uuid.uuid4()), resume=False)
            with (
                files.stdin("Say it.") as stdin,
                subprocess.Popen(
                    argv,
                    env=environment(self.options, files),
                    cwd=self.options.cwd,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                ) as child,
            ):
                assert child.stdout is not None
                for line in child.stdout:
                    if not spoke and b'"text_delta"' in line:
                        spoke = True
                        on_first_delta()
            assert spoke, "the program said nothing"

    def all_first_deltas_s(self, count: int) -> float:
        """From the first one's start to the last one's first piece of text, one at a time for each core."""
        began, firsts = time.perf_counter(), list[float]()
        free = BoundedSemaphore(CORES)

        def one() -> None:
            with ExitStack() as held:
                held.enter_context(free)
                self._run(lambda: (firsts.append(time.perf_counter()), held.close()))

        gevent.joinall([gevent.spawn(one) for _ in range(count)], raise_error=True)
        return max(firsts) - began


class Bridge:
    """A bridge with the same program."""

    def __init__(self, port: int) -> None:
        self._port = port

    def first_delta_s(self) -> float:
        """From a message in a new session to its first ``assistant_delta``; waits for the turn's end."""
        socket = WebSocket(self._port, {})
        began = time.perf_counter()
        return _ask(socket) - began

    def all_first_deltas_s(self, count: int) -> float:
        """From the moment at which ``count`` sessions ask to the last one's first ``assistant_delta``."""
        sockets = [WebSocket(self._port, {}) for _ in range(count)]
        began = time.perf_counter()
        asked = [gevent.spawn(_ask, socket) for socket in sockets]
        gevent.joinall(asked, raise_error=True)
        return max(one.value for one in asked) - began


def _ask(socket: WebSocket) -> float:
    """When the first delta came."""
    socket.send({"type": "message", "text": "Say it."})
    first = 0.0
    with gevent.Timeout(TURN_LIMIT_S):
        while (kind := socket.receive()["type"]) != "turn_finished":
            # Where we are late, the pieces have given way to the whole message.
            if kind in ("assistant_delta", "assistant_message") and not first:
                first = time.perf_counter()
    assert first, "the turn said nothing"
    socket.close()
    return first


@contextmanager
def scripted_api() -> Iterator[str]:
    """Its address. A process of its own, so that it answers whatever we do."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as script:
        json.dump([REPLY], script)
        script.flush()
        argv = [sys.executable, "-m", "tests.fakes.messages_api", script.name]
        with subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE) as api:
            assert api.stdout is not None
            try:
                yield api.stdout.readline().decode().strip()
            finally:
                api.terminate()


@contextmanager
def both() -> Iterator[tuple[Program, Bridge]]:
    """The program alone, and a bridge, warmed up."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bridge-bench-")))
        url = stack.enter_context(scripted_api())
        options = ClaudeOptions(work_dir=folder, api_key=KEY, base_url=url)
        for needed in (options.home, options.config_dir, options.cwd, options.turns_dir):
            needed.mkdir()
        server = ToolsServer()
        server.start()
        stack.callback(server.stop)
        settings = {"AGENT": "claude", "ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url}
        program, bridge = Program(options, server), Bridge(stack.enter_context(running_bridge(**settings)))
        program.first_delta_s()
        bridge.first_delta_s()
        yield program, bridge
