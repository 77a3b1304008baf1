"""The rows of ``benchmarks.compare``: what each is held to, what was measured of it, and how that is told."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Row:
    """One line of the table.

    :ivar aim: what the figure is compared with, as ``(">=", 1.0)``.
    :ivar figure: ``ratio`` of ours to the reference's of the same round, ``less`` the reference's (what we add to it),
        or ``ours`` alone.
    :ivar floor: of the least that our stack can do for it, where that is measured; see ``benchmarks.frame``.
    :ivar why_not: why it was not measured.
    """

    name: str
    title: str
    unit: str
    aim: tuple[Literal[">=", "<=", "<"], float]
    figure: Literal["ratio", "less", "ours"] = "ratio"
    ours: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    why_not: str = ""

    @property
    def figures(self) -> list[float]:
        """One for each round."""
        if self.figure == "ours":
            return list(self.ours)
        pairs = zip(self.ours, self.reference, strict=True)
        return [mine / other if self.figure == "ratio" else mine - other for mine, other in pairs]

    @property
    def reached(self) -> bool | None:
        """By the median; ``None``: not measured."""
        compare = {">=": operator.ge, "<=": operator.le, "<": operator.lt}[self.aim[0]]
        return compare(statistics.median(self.figures), self.aim[1]) if self.figures else None

    def as_json(self) -> dict[str, Any]:
        told = {"row": self.name, "unit": self.unit, "aim": " ".join(map(str, self.aim)), "figure": self.figure}
        if not self.figures:
            return {**told, "notMeasured": self.why_not or "left out"}
        figures = self.figures
        spread = {"median": statistics.median(figures), "min": min(figures), "max": max(figures)}
        rounded = {key: round(value, 3) for key, value in spread.items()}
        medians = {"ours": _median(self.ours), "reference": _median(self.reference)}
        if self.floor:
            medians["floor"] = _median(self.floor)
        return {**told, **rounded, **medians, "rounds": len(figures), "reached": self.reached}


def rows() -> list[Row]:
    return [
        Row("callbacks", "callback → frame on the socket, at saturation", "per s", (">=", 1.0)),
        Row("delivery", "the same at 200 per second, p99", "ms", ("<=", 1.0)),
        Row("ping", "WebSocket ping → pong, 32 sockets", "per s", (">=", 0.7)),
        Row("health", "/health, limits raised, 64 connections", "per s", (">=", 1.0)),
        Row("refused", "/health while limited (429s)", "per s", (">=", 1.2)),
        Row("memory", "memory per idle socket", "KiB", ("<=", 2.0)),
        Row("idle", "CPU while 1000 sockets idle, ping every 30 s", "ms per s", ("<=", 2.0)),
        Row("goodbye", "SIGTERM to exit with 1000 idle sockets", "s", ("<", 3.0), "ours"),
        Row("delta", "first delta of a turn, beside the CLI's own", "ms", ("<", 60.0), "less"),
        Row("turns", "20 turns at once, the last first delta", "s", ("<=", 1.15)),
        Row("repair", "failure in a real n8n → repair_published", "s", ("<", 2.0), "ours"),
    ]


def table(measured: Sequence[Row]) -> str:
    lines = [f"{'':48} {'ours':>9} {'reference':>9}           {'median':>8} {'min':>8} {'max':>8}  aim"]
    for row in measured:
        aim = f"{row.aim[0]} {row.aim[1]:g}"
        if not row.figures:
            lines.append(f"{row.title:48} {'not measured: ' + (row.why_not or 'left out'):55}  {aim}")
            continue
        figures, other = row.figures, f"{_median(row.reference):9g}" if row.reference else " " * 9
        spread = " ".join(f"{value:8.3g}" for value in (statistics.median(figures), min(figures), max(figures)))
        verdict = "" if row.reached else "  not reached"
        if row.floor:
            ratios = [value / other for value, other in zip(row.floor, row.reference, strict=True)]
            verdict += f"; its floor: {_median(row.floor):g}, {statistics.median(ratios):.3g}"
        lines.append(f"{row.title:48} {_median(row.ours):9g} {other} {row.unit:9} {spread}  {aim}{verdict}")
    return "\n".join(lines)


def _median(values: Sequence[float]) -> float | None:
    return float(f"{statistics.median(values):.4g}") if values else None
