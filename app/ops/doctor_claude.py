"""Whether the Claude program starts, and, where there is a key, answers: one tiny turn, with folders of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from app.agents import claude_errors
from app.agents.claude_command import ClaudeOptions, TurnFiles, command_line, environment
from app.errors import ClaudeExecutionError
from app.lifecycle import claude_options
from app.ops.doctor_findings import Examination, Finding

NAME = "agent"
VERSION_S, CALL_S = 10.0, 30.0
CALL_BUDGET_USD = 0.05
MAX_OUTPUT_BYTES = 1024 * 1024
PROMPT, RULES = "Say k.", "Answer with one letter."


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended. ``returncode`` is ``None`` where it was stopped for its time was up."""

    returncode: int | None
    output: str
    took_s: float


def check_claude(examination: Examination) -> Iterator[Finding]:
    settings = examination.settings
    if settings.agent_name == "offline":
        why = "AGENT=offline" if settings.agent == "offline" else "ANTHROPIC_API_KEY is unset"
        yield Finding(NAME, "note", f"rules answer instead of Claude ({why})")
        return
    with tempfile.TemporaryDirectory(prefix="bridge-doctor-", ignore_cleanup_errors=True) as folder:
        # Silence is the whole time that there is; the turn's own limits are not to interfere.
        options = replace(claude_options(settings, work_dir=Path(folder)), silence_s=CALL_S)
        for place in (options.home, options.config_dir, options.cwd, options.turns_dir):
            place.mkdir(mode=0o700)
        version = _version(options)
        if isinstance(version, Finding):
            yield version
            return
        yield _call(replace(options, max_turns=1, budget_usd=CALL_BUDGET_USD), version)


def _version(options: ClaudeOptions) -> Finding | str:
    """What the program says of itself, or the finding that it does not."""
    install = "Install claude-agent-sdk, or set CLAUDE_BIN to a program that runs here."
    try:
        program = options.program
        ended = _run([program, "--version"], options, limit_s=VERSION_S)
    except ClaudeExecutionError as exc:
        return Finding(NAME, "problem", exc.detail, install)
    if ended.returncode is None:
        return Finding(NAME, "problem", f"{program} --version did not end within {VERSION_S:g} s", install)
    if ended.returncode != 0:
        return Finding(NAME, "problem", f"{program} --version ended with {ended.returncode}", install)
    first = next(iter(ended.output.splitlines()), "").strip()
    return "".join(char for char in first[:60] if char.isprintable())


def _call(options: ClaudeOptions, version: str) -> Finding:
    session = str(uuid.uuid4())
    files = TurnFiles(options.turns_dir)
    for path, text in ((files.mcp_config, json.dumps({"mcpServers": {}})), (files.system_prompt, RULES)):
        path.write_text(text)
    argv = command_line(options, files, session=session, resume=False)
    with files.stdin(PROMPT) as stdin:
        ended = _run(argv, options, limit_s=CALL_S, stdin=stdin)
    if ended.returncode is None:
        detail = f"{version} runs, but had no answer from Claude's API within {CALL_S:g} s"
        return Finding(NAME, "problem", detail, claude_errors.NETWORK)
    try:
        result = _result(ended.output)
        if result is None:
            raise claude_errors.no_result(ended.returncode)
        finished = claude_errors.finished(result, options)
    except ClaudeExecutionError as exc:
        return Finding(NAME, "problem", f"{version} runs, but a call failed", exc.detail)
    if finished.outcome != "completed":
        return Finding(NAME, "problem", f"{version} runs, but a call was broken off: {finished.error or ''}")
    cost = f"{finished.cost_usd:.4f} USD" if finished.cost_usd is not None else "an unknown amount"
    return Finding(NAME, "ok", f"{version}: answered within {ended.took_s:.1f} s, for {cost}")


def _result(output: str) -> Mapping[str, Any] | None:
    """The ``result`` line."""
    for line in reversed(output.splitlines()):
        with suppress(ValueError):
            decoded = json.loads(line)
            if isinstance(decoded, dict) and decoded.get("type") == "result" and "is_error" in decoded:
                return decoded
    return None


def _run(argv: Sequence[str], options: ClaudeOptions, *, limit_s: float, stdin: IO[bytes] | None = None) -> Ended:
    """Run it with the environment of a turn; it and what it has started are gone afterwards.

    Its output goes to a file: a pipe that nobody empties would hold it up. Only the end of it is read.

    :raises ClaudeExecutionError: it cannot be started.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile(dir=options.turns_dir) as output:
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=stdin or subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd=options.cwd,
                env=environment(options, TurnFiles(options.turns_dir)),
                process_group=0,
            )
        except (OSError, ValueError) as exc:
            detail = f"The Claude program {argv[0]} cannot be started."
            raise ClaudeExecutionError(detail, permanent=True) from exc
        code: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(limit_s)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        took_s = time.monotonic() - began
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - MAX_OUTPUT_BYTES))
        return Ended(code, output.read().decode("utf-8", "replace"), took_s)
