"""What CloudWatch makes of log lines: the clauses of Logs Insights and of metric filters that our modules use.

No more than those: a clause that is not known here raises, so that whoever writes one has to say what it means.

Source: AWS docs, CloudWatch Logs, "Supported logs and discovered fields", "CloudWatch Logs Insights language query
syntax", "Filter pattern syntax for metric filters".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MODULE = Path(__file__).parents[2] / "terraform" / "modules" / "monitoring"
QUERIES: dict[str, str] = json.loads((MODULE / "queries.json").read_text())
LINE_METRICS: dict[str, dict[str, str]] = json.loads((MODULE / "line_metrics.json").read_text())

Row = dict[str, Any]

_CLAUSE = re.compile(r'(?:"[^"]*"|/(?:\\.|[^/\\])*/|[^|"/])+')
_COMPARED = re.compile(r'([@\w]+) (=|>) ("[^"]*"|\d+)')
_LIKE = re.compile(r"([@\w]+) like /((?:\\.|[^/\\])*)/")
_PATTERN = re.compile(r'\{ \$\.(\w+) = "([^"*]*)(\*?)" \}')


def query(text: str, lines: Sequence[str]) -> list[Row]:
    """What a query shows of ``lines``, each with the fields that it has.

    :raises ValueError: a clause that is not known here.
    """
    rows = [_row(line) for line in lines]
    shown: list[str] = ["@timestamp", "@message"]
    for clause in _CLAUSE.findall(text):
        word, _, rest = clause.strip().partition(" ")
        if word == "fields":
            shown = [name.strip() for name in rest.split(",")]
        elif word == "filter":
            passes = _condition(rest)
            rows = [row for row in rows if passes(row)]
        elif word == "sort":
            rows = _sorted(rows, rest)
        elif word == "limit":
            rows = rows[: int(rest)]
        else:
            raise ValueError(f"unknown clause: {clause}")
    return [{name: row[name] for name in shown if name in row} for row in rows]


def metric(name: str, lines: Sequence[str]) -> list[float]:
    """The values that the metric filter ``name`` makes of ``lines``.

    :raises ValueError: a pattern that is not known here.
    """
    pattern, value = LINE_METRICS[name]["pattern"], LINE_METRICS[name]["value"]
    found = _PATTERN.fullmatch(pattern)
    if found is None:
        raise ValueError(f"unknown pattern: {pattern}")
    field, text, more = found.groups()
    given = [(row, str(row.get(field, ""))) for row in map(_row, lines)]
    matching = [row for row, said in given if said == text or (more and said.startswith(text))]
    if not value.startswith("$."):
        return [float(value)] * len(matching)
    return [float(row[value[2:]]) for row in matching if isinstance(row.get(value[2:]), int | float)]


def _row(line: str) -> Row:
    """A line's fields as CloudWatch discovers them; its time is that of its reading, which is the line's own but for
    moments."""
    fields = json.loads(line)
    return {**fields, "@timestamp": fields["timestamp"], "@message": line}


def _condition(text: str) -> Callable[[Row], bool]:
    if like := _LIKE.fullmatch(text):
        field, wanted = like[1], re.compile(like[2])
        return lambda row: field in row and wanted.search(str(row[field])) is not None
    if compared := _COMPARED.fullmatch(text):
        field, operator, value = compared.groups()
        if operator == "=" and value.startswith('"'):
            return lambda row: row.get(field) == value[1:-1]
        if operator == ">" and value.isdigit():
            return lambda row: isinstance(row.get(field), int | float) and row[field] > int(value)
    raise ValueError(f"unknown condition: {text}")


def _sorted(rows: list[Row], text: str) -> list[Row]:
    field, _, order = text.partition(" ")
    if order != "desc":
        raise ValueError(f"unknown order: {text}")
    having = [row for row in rows if field in row]
    return sorted(having, key=lambda row: row[field], reverse=True) + [row for row in rows if field not in row]
