"""``flask drill``: see in a minute whether this bridge heals."""

from __future__ import annotations

import json
import re
import sys

import click
from flask import Flask, current_app

from app.drill.patience import Patience
from app.drill.story import Drill
from app.drill.timeline import Timeline
from app.errors import BaseError
from app.lifecycle import BridgeWorker

TIMEOUT_S = 120
MAX_TIMEOUT_S = 3_600
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def register(app: Flask) -> None:
    app.cli.add_command(drill)


def _host(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not _HOST.fullmatch(value):
        raise click.BadParameter("must be a name or an IPv4 address, without a port")
    return value


@click.command("drill")
@click.option("--host", default="127.0.0.1", show_default=True, callback=_host, help="Where n8n reaches this machine.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(1, MAX_TIMEOUT_S),
    default=TIMEOUT_S,
    show_default=True,
    help="Whole seconds until it is given up.",
)
@click.option("--keep", is_flag=True, help="Leave the canary, to be looked at; the next drill removes it from n8n.")
@click.option("--json", "as_json", is_flag=True, help="Print the timeline as JSON, at the end.")
def drill(host: str, timeout_s: int, keep: bool, as_json: bool) -> None:
    """Build a canary workflow, break it, see it healed, remove it.

    It uses the bridge that runs with these settings, or starts one for itself. Without n8n the canary is a draft, and
    the drill approves its repair. Exit code 0: the story ended as it should.
    """
    bridge: BridgeWorker = current_app.extensions["bridge"]
    timeline = Timeline(lambda line: None if as_json else click.echo(line))
    patience = Patience(timeout_s)
    made = Drill(bridge.settings, host, keep, timeline, patience)
    healed = False
    with patience.heeding_signals():
        try:
            verdict = made.run()
            healed = True
        except BaseError as exc:
            verdict = f"Waited for {timeline.awaited}: {exc.detail}"
    if as_json:
        steps = [step.public() for step in timeline.steps]
        click.echo(json.dumps({"ok": healed, "verdict": verdict, "steps": steps}, ensure_ascii=False, indent=2))
    elif healed:
        click.echo(verdict)
    else:
        click.echo(verdict, err=True)
    if not healed:
        for line in made.log:
            click.echo(line, err=True)
        sys.exit(1)
