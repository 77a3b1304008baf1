"""``flask`` commands, a file for each group."""

from __future__ import annotations

from flask import Flask

from app.cli import operators


def register(app: Flask) -> None:
    """Add the commands to ``flask``."""
    operators.register(app)
