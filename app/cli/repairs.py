"""``flask repairs``: the audit. What was seen and when, its class, the change, by whom, proven by what, the cost."""

from __future__ import annotations

import json
from typing import Any, cast

import click
from flask import Flask
from flask.cli import AppGroup

from app.cli.opened import opened_bridge
from app.journal.records import Repair
from app.n8n.diff import DiffEntry, describe

MAX_LISTED = 1_000


def register(app: Flask) -> None:
    @app.cli.group("repairs", cls=AppGroup, invoke_without_command=True)
    @click.pass_context
    def group(ctx: click.Context) -> None:
        """The audit of repairs, the newest first."""
        if ctx.invoked_subcommand is None:
            ctx.invoke(list_repairs, limit=20, workflow="", as_json=False)

    limit = click.option("--limit", default=20, type=click.IntRange(1, MAX_LISTED), show_default=True)
    workflow = click.option("--workflow", default="", help="Only those of this workflow.")
    as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object each, a line.")

    @group.command("list")
    @limit
    @workflow
    @as_json
    def list_repairs(limit: int, workflow: str, as_json: bool) -> None:
        """What was repaired, by whose decision, proven by which run; the newest first."""
        for repair in Repair.find(opened_bridge().journal, f"workflow:{workflow}" if workflow else "", limit=limit):
            click.echo(json.dumps(_told(repair), ensure_ascii=False) if as_json else _block(repair))

    @group.command("show")
    @click.argument("repair_id")
    def show(repair_id: str) -> None:
        """All that is known of one, as JSON."""
        repair = Repair.get(opened_bridge().journal, repair_id)
        if repair is None:
            raise click.ClickException("There is no repair with this id.")
        click.echo(json.dumps(_told(repair), ensure_ascii=False, indent=2))


def _told(repair: Repair) -> dict[str, Any]:
    """As over HTTP, and whose it is: a decision is sent to the session."""
    return {**repair.public(), "sessionId": repair.session_id}


def _block(repair: Repair) -> str:
    told = repair.public()
    times = {state: at[:19].replace("T", " ") for state, at in told["times"].items()}
    cost = "" if told["costUsd"] is None else f", {told['costUsd']:.4f} USD"
    lines = [
        f"{repair.repair_id}  {_one_line(repair.workflow_name)} ({repair.workflow_id}), session {repair.session_id}",
        f"  {repair.state}: {told['kind'] or 'not looked at yet'}, attempt {repair.attempt}{cost}",
        "  " + ", ".join(f"{state} {at}" for state, at in times.items()),
    ]
    if repair.decided_by:
        proof = f", proven by run {repair.trial_run_id}" if repair.trial_run_id else ", not proven"
        lines.append(f"  decided by the {repair.decided_by}{proof}")
    if repair.reason:
        lines.append(f"  {_one_line(repair.reason)}")
    lines += [f"    {line}" for line in describe(cast(list[DiffEntry], repair.diff)).splitlines()]
    lines += [f"  refused: {entry['tool']}: {_one_line(entry['rule'])}" for entry in repair.refusals]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """Foreign text, safe on a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
