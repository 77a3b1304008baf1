"""The bridge behind a command that reads the journal."""

from __future__ import annotations

import click
from flask import current_app

from app.errors import BaseError
from app.lifecycle import BridgeWorker


def opened_bridge() -> BridgeWorker:
    """With its journal open; none is made, for it would belong to whoever typed the command.

    :raises click.ClickException: there is none, or it cannot be opened.
    """
    bridge: BridgeWorker = current_app.extensions["bridge"]
    path = bridge.settings.journal_path
    if bridge.settings.redis_url is None and not path.exists():
        raise click.ClickException(f"There is no journal at {path} (JOURNAL_PATH); the bridge makes it when it starts.")
    try:
        bridge.journal.open()
    except BaseError as exc:
        raise click.ClickException(f"{exc.detail} Run this as the bridge's user; `flask doctor` tells more.") from exc
    return bridge
