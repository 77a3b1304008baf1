"""The bridge. Importing the package costs nothing: ``python -m app.settings`` runs at every start and every HUP."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from app.factory import create_app

        return create_app
    raise AttributeError(name)
