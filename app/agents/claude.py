"""The Claude agent: the real CLI as one child for each turn, its tools the worker's own, its words events."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import gevent
from gevent.lock import BoundedSemaphore

from app.agents import AgentEvent, Finished, TurnRequest
from app.agents import claude_errors as errors
from app.agents.claude_child import Child, SilentError, TooLargeError
from app.agents.claude_command import ClaudeOptions, TurnFiles, command_line, environment
from app.agents.claude_sessions import Opening, Sessions, Transcripts
from app.agents.claude_stream import Stream
from app.errors import ClaudeExecutionError, ConfigError
from app.telemetry.redaction import MASK, redact_text

EXIT_S = 5.0

__all__ = ["ClaudeAgent", "ClaudeOptions", "Transcripts"]
log = logging.getLogger(__name__)


class ClaudeAgent:
    """See :class:`app.agents.Agent`. One for a worker; turns of different sessions run side by side.

    :raises ConfigError: the working folder cannot be made.
    """

    name: Literal["claude", "offline"] = "claude"

    def __init__(self, options: ClaudeOptions, transcripts: Transcripts) -> None:
        self._options = options
        try:
            for folder in (options.work_dir, options.home, options.config_dir, options.cwd, options.turns_dir):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"{options.work_dir} must be a folder that the bridge can make and write to.") from exc
        self._sessions = Sessions(config_dir=options.config_dir, cwd=options.cwd, transcripts=transcripts)
        self._starts = BoundedSemaphore(options.starts_at_once or os.cpu_count() or 1)

    def run(self, turn: TurnRequest) -> Iterator[AgentEvent]:
        """:raises ClaudeExecutionError: the turn failed; its text says what to do."""
        began, outcome, cost_usd = time.monotonic(), "failed", None
        log.info("Claude execution started")
        try:
            self._sessions.prune(self._options.turns_dir)
            with tempfile.TemporaryDirectory(
                dir=self._options.turns_dir, prefix="turn-", ignore_cleanup_errors=True
            ) as folder:
                finished = yield from self._answer(turn, TurnFiles(Path(folder)))
            outcome, cost_usd = finished.outcome, finished.cost_usd
            yield finished
        except (GeneratorExit, gevent.GreenletExit):
            outcome = "stopped" if outcome == "failed" else outcome
            raise
        except OSError as exc:
            raise ClaudeExecutionError("The bridge could not write the files of this turn.") from exc
        finally:
            fields = {"outcome": outcome, "duration": int((time.monotonic() - began) * 1000), "costUsd": cost_usd}
            level = logging.WARNING if outcome == "failed" else logging.INFO
            log.log(level, "Claude execution complete", extra=fields)

    def _answer(self, turn: TurnRequest, files: TurnFiles) -> Generator[AgentEvent, None, Finished]:
        session = str(uuid.UUID(turn.session_id))
        files.write(tools=turn.tools, system_prompt=turn.system_prompt)
        stream = Stream()
        for opening in self._sessions.openings(turn.session_id, session, turn.prompt):
            stream = Stream()
            returncode = yield from self._execute(opening, session, files, stream)
            if not opening.resume or stream.spoke or not errors.can_begin_again(stream.result):
                break
        self._sessions.keep(turn.session_id, session)
        if stream.result is None:
            raise errors.no_result(returncode)
        return errors.finished(stream.result, self._options)

    def _execute(
        self, opening: Opening, session: str, files: TurnFiles, stream: Stream
    ) -> Generator[AgentEvent, None, int | None]:
        """Run the CLI once, to its end; gives its exit status. Whatever ends this early ends the process."""
        argv = command_line(self._options, files, session=session, resume=opening.resume)
        with ExitStack() as stack:
            start = stack.enter_context(ExitStack())
            start.enter_context(self._starts)
            with files.stdin(opening.prompt) as stdin:
                child = Child(argv, env=environment(self._options, files), cwd=self._options.cwd, stdin=stdin)
            stack.callback(child.stop)
            while (line := self._next_line(child, stream)) is not None:
                yield from stream.feed(_decoded(line))
                if stream.ready:
                    start.close()
                if stream.without_tools:
                    raise ClaudeExecutionError(errors.NO_TOOLS)
            # The last lines of the session's file are written at the exit.
            child.wait(EXIT_S)
            if stream.result is None:
                said = child.stderr.replace(self._options.api_key or "\0", MASK)
                fields = {"exit": child.returncode, "stderr": redact_text(said)}
                log.warning("Claude ended without a result", extra=fields)
            return child.returncode

    def _next_line(self, child: Child, stream: Stream) -> bytes | None:
        options = self._options
        limit_s = (options.tool_silence_s if stream.slow_step else options.silence_s) + stream.retry_delay_s
        try:
            return child.next_line(limit_s)
        except SilentError:
            raise errors.silent(limit_s) from None
        except TooLargeError:
            raise ClaudeExecutionError(errors.TOO_LARGE) from None


def _decoded(line: bytes) -> dict[str, object]:
    """The line's object; empty where it is none, which says nothing."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
