"""``flask`` commands for operators: put the error workflow into n8n, look at sessions, repairs and dead letters."""

from __future__ import annotations

import json
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup

from app.callbacks.dead_letters import DeadLetters
from app.cli.opened import opened_bridge
from app.errors import BaseError
from app.journal.records import DeadLetter
from app.lifecycle import BridgeWorker
from app.n8n import error_workflow
from app.n8n.client import N8nClient


def register(app: Flask) -> None:
    """Add the command groups to ``flask``."""
    for group in (_n8n(), _dead_letters(), _sessions()):
        app.cli.add_command(group)


def _say(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _n8n() -> AppGroup:
    group = AppGroup("n8n", help="The n8n that is connected.")

    @group.command("install-error-workflow")
    def install() -> None:
        """Put the bridge's error workflow into n8n, or bring the one that is there up to date."""
        bridge: BridgeWorker = current_app.extensions["bridge"]
        settings = bridge.settings
        if settings.n8n_api_url is None or settings.n8n_api_key is None:
            raise click.ClickException("Set N8N_API_URL and N8N_API_KEY first.")
        secret = settings.n8n_callback_secret[0] if settings.n8n_callback_secret else None
        client = N8nClient(settings.n8n_api_url, settings.n8n_api_key)
        try:
            done = error_workflow.install(client, callback_url=settings.n8n_callback_url, secret=secret)
        except BaseError as exc:
            raise click.ClickException(exc.detail) from exc
        click.echo(f"error workflow {done.workflow_id}: {done.outcome}")

    return group


def _dead_letters() -> AppGroup:
    group = AppGroup("dead-letters", help="Callbacks that reached nobody.")

    @group.command("list")
    @click.option("--reason", default="")
    @click.option("--limit", default=50)
    def list_letters(reason: str, limit: int) -> None:
        """The newest first, a line each."""
        journal = opened_bridge().journal
        for letter in DeadLetter.find(journal, f"reason:{reason}" if reason else "", limit=limit):
            at = letter.stored_at.isoformat() if letter.stored_at else ""
            click.echo(f"{letter.dead_letter_id}  {at}  {letter.reason}  {letter.state}  {letter.workflow_id}")

    @group.command("show")
    @click.argument("dead_letter_id")
    def show(dead_letter_id: str) -> None:
        """One letter's body, redacted as it is kept."""
        letter = _guarded(_letters(), "get", dead_letter_id)
        _say(letter.report if letter.report is not None else letter.text)

    @group.command("replay")
    @click.argument("dead_letter_id")
    @click.option("--session", default=None, help="Adopt its workflow into this session first.")
    def replay(dead_letter_id: str, session: str | None) -> None:
        """Route a letter now; twice is once."""
        routed = _guarded(_letters(), "replay", dead_letter_id, session_id=session, request_id="cli")
        click.echo(f"session {routed.session_id}, event {routed.seq}, repair {routed.repair}")

    return group


def _sessions() -> AppGroup:
    group = AppGroup("sessions", help="Sessions in the journal.")

    @group.command("list")
    @click.option("--limit", default=50)
    def list_sessions(limit: int) -> None:
        """The most recently active first."""
        bridge = opened_bridge()
        for session in bridge.journal.sessions(limit=limit):
            _say(bridge.sessions.describe(session))

    return group


def _letters() -> DeadLetters:
    return opened_bridge().dead_letters


def _guarded(owner: Any, method: str, *arguments: Any, **options: Any) -> Any:
    try:
        return getattr(owner, method)(*arguments, **options)
    except BaseError as exc:
        raise click.ClickException(exc.detail) from exc
