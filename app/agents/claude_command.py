"""How the Claude CLI is started: its options, its command line, its environment, and the files of one turn.

No prompt, key or token stands in the command line, which every user of the machine can read: the prompt comes by stdin,
the rest by files of mode 600 in a folder that ends with the turn.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from app.agents import ToolsAccess
from app.errors import ClaudeExecutionError

SERVER_NAME = "n8n"
TOOL_PREFIX = f"mcp__{SERVER_NAME}__"
PASSED_ON = ("HTTPS_PROXY", "NO_PROXY", "NODE_EXTRA_CA_CERTS")
LOOPBACK = "127.0.0.1,localhost,::1"
MCP_START_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeOptions:
    """What an operator decides about the agent.

    :ivar work_dir: a folder of the bridge's own; workers of one machine may share it.
    :ivar binary: the program, or ``None`` for the one in the wheel of ``claude-agent-sdk``.
    :ivar model: or ``None`` for the program's own choice.
    :ivar budget_usd: of one turn; it is looked at after each answer of the model, so the last one may go over it.
    :ivar max_turns: answers of the model within one turn.
    :ivar silence_s: how long nothing may come from the program while the model is to speak.
    :ivar tool_silence_s: the same while a tool runs, or while an answer comes as a whole after its stream broke.
    :ivar starts_at_once: a start is 0.3 s of pure CPU; ``None`` is one for each core.
    :ivar extra_env: values for names of ``PASSED_ON``.
    """

    work_dir: Path
    api_key: str | None = field(repr=False)
    base_url: str | None = None
    binary: str | None = None
    model: str | None = None
    budget_usd: float = 0.50
    max_turns: int = 40
    silence_s: float = 60.0
    tool_silence_s: float = 300.0
    starts_at_once: int | None = None
    extra_env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if unknown := set(self.extra_env) - set(PASSED_ON):
            raise ValueError(f"not handed to Claude: {', '.join(sorted(unknown))}")

    @property
    def home(self) -> Path:
        return self.work_dir / "home"

    @property
    def config_dir(self) -> Path:
        return self.work_dir / "config"

    @property
    def cwd(self) -> Path:
        """Always empty: a working directory is where the program looks for instructions."""
        return self.work_dir / "empty"

    @property
    def turns_dir(self) -> Path:
        return self.work_dir / "turns"

    @property
    def program(self) -> str:
        """:raises ClaudeExecutionError: there is none."""
        if self.binary is not None:
            return self.binary
        spec = importlib.util.find_spec("claude_agent_sdk")
        bundled = Path(spec.origin).parent / "_bundled" / "claude" if spec and spec.origin else None
        if bundled is None or not bundled.is_file():
            raise ClaudeExecutionError(
                "The Claude program is not installed: install claude-agent-sdk, or set CLAUDE_BIN.", permanent=True
            )
        return str(bundled)


@dataclass(frozen=True, slots=True)
class TurnFiles:
    """What the program reads during one turn, in a folder that only the bridge's user may open."""

    folder: Path

    @property
    def mcp_config(self) -> Path:
        return self.folder / "mcp.json"

    @property
    def system_prompt(self) -> Path:
        return self.folder / "system.txt"

    def write(self, *, tools: ToolsAccess, system_prompt: str) -> None:
        headers = {"Authorization": f"Bearer {tools.token}"}
        server = {"type": "http", "url": tools.url, "headers": headers}
        _write_private(self.mcp_config, json.dumps({"mcpServers": {SERVER_NAME: server}}))
        _write_private(self.system_prompt, system_prompt)

    def stdin(self, prompt: str) -> IO[bytes]:
        """The prompt as the program's stdin: a file without a name, so nobody has to stand by and write a pipe."""
        message = {"type": "user", "message": {"role": "user", "content": as_text(prompt)}}
        file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - the caller closes it
        file.write(json.dumps(message).encode() + b"\n")
        file.seek(0)
        return file


def as_text(prompt: str) -> str:
    """The prompt so that the program hands it to the model: what begins with ``/`` it would take for its command."""
    return f" {prompt}" if prompt.startswith("/") else prompt


def command_line(options: ClaudeOptions, files: TurnFiles, *, session: str, resume: bool) -> list[str]:
    """:param session: a UUID as text, with dashes."""
    return [
        options.program,
        "-p",
        "--bare",
        "--verbose",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--include-partial-messages",
        "--tools=",
        "--strict-mcp-config",
        f"--mcp-config={files.mcp_config}",
        f"--allowedTools=mcp__{SERVER_NAME}",
        "--permission-mode=dontAsk",
        "--setting-sources=",
        "--disable-slash-commands",
        f"--system-prompt-file={files.system_prompt}",
        *([f"--model={options.model}"] if options.model else []),
        f"--max-turns={options.max_turns}",
        f"--max-budget-usd={options.budget_usd:g}",
        f"--resume={session}" if resume else f"--session-id={session}",
    ]


def environment(options: ClaudeOptions, files: TurnFiles) -> dict[str, str]:
    """The whole environment of the program; nothing of the bridge's own gets there by itself."""
    built = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(options.home),
        "CLAUDE_CONFIG_DIR": str(options.config_dir),
        "TMPDIR": str(files.folder),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_MAX_RETRIES": "2",
        # A stream that stands still is asked for anew before it counts as silence here. (Less than 10 s counts as 10.)
        "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": _milliseconds(options.silence_s / 2),
        "MCP_TIMEOUT": _milliseconds(MCP_START_S),
        # A call that is too long fails by itself, and the model is told, before it counts as silence here.
        "MCP_TOOL_TIMEOUT": _milliseconds(options.tool_silence_s * 0.9),
    }
    if options.api_key:
        built["ANTHROPIC_API_KEY"] = options.api_key
    if options.base_url:
        built["ANTHROPIC_BASE_URL"] = options.base_url
    built.update(options.extra_env)
    if "HTTPS_PROXY" in built:
        # The program sends plain HTTP there as well, and with it what is meant for the tools server.
        built["NO_PROXY"] = ",".join(filter(None, (built.get("NO_PROXY", ""), LOOPBACK)))
    return built


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
