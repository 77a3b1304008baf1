"""The ``flask`` commands."""

from __future__ import annotations

from flask import Flask

from app.cli import drill, operators


def register(app: Flask) -> None:
    """Add them to ``flask``."""
    operators.register(app)
    drill.register(app)
