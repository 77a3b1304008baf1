"""``flask`` commands, a file for each group."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import AppGroup

from app.cli import drill, operators, repairs
from app.cli.doctor import doctor


def register(app: Flask) -> None:
    """Add the commands to ``flask``."""
    operators.register(app)
    drill.register(app)
    repairs.register(app)
    app.cli.add_command(doctor)


def misconfigured(detail: str) -> Flask:
    """What ``flask`` gets where the settings are wrong: ``doctor`` runs all the same, all else says why not."""

    class Misconfigured(AppGroup):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            command = super().get_command(ctx, cmd_name)
            if command is None:
                raise click.ClickException(detail)
            return command

    app = Flask("bridge", static_folder=None)
    app.cli = Misconfigured("bridge")
    app.cli.add_command(doctor)
    return app
