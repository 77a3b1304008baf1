"""The drill's story as it happens: one line for each step, with the seconds since the start and since the last one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_LINES = 8
MAX_TEXT_CHARS = 300
_INDENT = " " * 33


@dataclass(frozen=True, slots=True)
class Step:
    """What has happened. ``lines``: more of it, a diff say."""

    name: str
    text: str
    lines: tuple[str, ...]
    at_s: float
    since_s: float

    def __str__(self) -> str:
        head = f"{self.at_s:6.1f} s {self.since_s:+7.1f} s   {self.name:<12}  {self.text}"
        return "\n".join([head, *(_INDENT + line for line in self.lines)])

    def public(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "text": self.text,
            "lines": list(self.lines),
            "atSeconds": round(self.at_s, 3),
            "sinceSeconds": round(self.since_s, 3),
        }


class Timeline:
    """:ivar awaited: what is waited for now, in words that end "Waited for …".

    :param say: is given each step as it happens.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self.steps: list[Step] = []
        self.awaited = "the drill's turn"
        self._say = say
        self._began = time.monotonic()

    def add(self, name: str, text: str, lines: Sequence[str] = ()) -> None:
        at_s = time.monotonic() - self._began
        shown = [_cut(line) for line in lines[:MAX_LINES]]
        if len(lines) > MAX_LINES:
            shown.append(f"… and {len(lines) - MAX_LINES} more")
        step = Step(name, _cut(text), tuple(shown), at_s, at_s - self.steps[-1].at_s if self.steps else at_s)
        self.steps.append(step)
        self._say(str(step))


def _cut(text: str) -> str:
    """One printable line; some of it is what a model or a workflow's author has written."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= MAX_TEXT_CHARS else line[: MAX_TEXT_CHARS - 1] + "…"
