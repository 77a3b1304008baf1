"""``flask doctor``: see ``app.ops.doctor``; here it is printed."""

from __future__ import annotations

import json
import logging
import signal
from dataclasses import asdict
from types import FrameType

import click

from app.ops.doctor import NAME_WIDTH, examine
from app.ops.doctor_findings import Finding, State
from app.telemetry.redaction import redact_text

COLOURS: dict[State, str] = {"ok": "green", "note": "yellow", "problem": "red"}
STATE_WIDTH = max(map(len, COLOURS))


@click.command("doctor")
@click.option("--fix", is_flag=True, help="Mend what can be mended: the error workflow, and where it is not named.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--no-round-trip", is_flag=True, help="Make no workflow in n8n to see whether its error is reported.")
def doctor(*, fix: bool, as_json: bool, no_round_trip: bool) -> None:
    """Is everything well? A line each: ok, note or problem, and what to do. Exit code 1 where there is a problem."""
    # Findings say what is to be said; what the parts used log meanwhile is not for whoever reads them.
    logging.getLogger().addHandler(logging.NullHandler())
    # So that what a check has made in n8n is removed again.
    signal.signal(signal.SIGTERM, _end)
    found: list[Finding] = []
    for finding in map(_clean, examine(fix=fix, round_trip=not no_round_trip)):
        found.append(finding)
        if not as_json:
            _print(finding)
    problems, notes = (sum(finding.state == state for finding in found) for state in ("problem", "note"))
    if as_json:
        told = {
            "ok": not problems,
            "problems": problems,
            "notes": notes,
            "findings": [asdict(finding) for finding in found],
        }
        click.echo(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        click.echo(f"\n{_number(problems, 'problem')}, {_number(notes, 'note')}")
    if problems:
        raise SystemExit(1)


def _print(finding: Finding) -> None:
    # ``click`` takes the colour away again where the output is no terminal.
    state = click.style(f"{finding.state:<{STATE_WIDTH}}", fg=COLOURS[finding.state])
    click.echo(f"{state}  {finding.name:<{NAME_WIDTH}}  {finding.detail}")
    if finding.todo:
        click.echo(f"{'':<{STATE_WIDTH + NAME_WIDTH + 4}}→ {finding.todo}")


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _clean(finding: Finding) -> Finding:
    """Whatever a check has said, no secret is shown, and a line is a line."""
    detail, todo = (redact_text(" ".join(text.split()), limit=None) for text in (finding.detail, finding.todo))
    return Finding(finding.name, finding.state, detail, todo)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
