"""A turn's tools for tests: prepared answers and a record of calls; and ways to act beside the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import gevent

from app.errors import NotFoundError
from app.tools.server import ToolResult, ToolSpec

T = TypeVar("T")
Answer = ToolResult | BaseException | Callable[[Mapping[str, Any]], ToolResult]


class FakeTurnTools:
    """Answers each tool as told; a tool without an answer does not exist."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.listed = 0
        self.calls: list[tuple[str, Mapping[str, Any], str]] = []

    def specs(self) -> Sequence[ToolSpec]:
        self.listed += 1
        return [ToolSpec(name, f"Does {name}.", {"type": "object"}) for name in self.answers]

    def call(self, name: str, arguments: Mapping[str, Any], tool_use_id: str) -> ToolResult:
        self.calls.append((name, arguments, tool_use_id))
        answer = self.answers.get(name, NotFoundError())
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, ToolResult) else answer(arguments)


def off_loop(work: Callable[[], T]) -> T:
    """Run blocking ``work`` in a thread while this thread's loop serves it."""
    result: T = gevent.get_hub().threadpool.apply(work)
    return result


def wait_until(met: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    """Let the loop run until the condition is met."""
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, "the condition was not met in time"
        gevent.idle()
