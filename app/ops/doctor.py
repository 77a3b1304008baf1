"""``flask doctor``: whether everything is as it should be, a line each, with what to do where it is not.

It works beside a running bridge and without one, starts no turn, and takes a bounded time: every check has its bounds,
and one that fails, even by a bug, does not keep those from running that do not stand on it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from app.errors import BaseError, ConfigError
from app.ops.doctor_bridge import check_bridge
from app.ops.doctor_claude import check_claude
from app.ops.doctor_dead_letters import check_dead_letters
from app.ops.doctor_errors import check_error_workflow, check_registered
from app.ops.doctor_findings import Examination, Finding, Step
from app.ops.doctor_journal import check_journal
from app.ops.doctor_n8n import check_clock, check_key, check_reach, check_version
from app.ops.doctor_round_trip import check_round_trip
from app.ops.doctor_settings import check_settings
from app.ops.doctor_waiting import check_waiting
from app.ops.doctor_workflows import check_runs
from app.settings import load
from app.telemetry.redaction import know_secrets

SETTINGS = "settings"
STEPS = (
    Step("journal", check_journal, gives=("journal",)),
    Step("bridge", check_bridge),
    Step("dead letters", check_dead_letters),
    Step("agent", check_claude),
    Step("n8n", check_reach, gives=("n8n", "api")),
    Step("n8n version", check_version, needs=("n8n",)),
    Step("API key", check_key, needs=("api",)),
    Step("error workflow", check_error_workflow, needs=("api",), gives=("error workflow", "reports")),
    Step("reporting", check_registered, needs=("journal", "api", "error workflow")),
    Step("round trip", check_round_trip, needs=("journal", "api", "reports")),
    Step("clock", check_clock, needs=("n8n",)),
    Step("runs", check_runs, needs=("journal", "api")),
    Step("waiting", check_waiting, needs=("journal",)),
)
NAME_WIDTH = max(len(step.name) for step in STEPS)

log = logging.getLogger(__name__)


def examine(*, fix: bool = False, round_trip: bool = True) -> Iterator[Finding]:
    """Check everything; each finding comes as soon as it is known.

    :param fix: mend what can be mended; what was mended is ``ok``.
    :param round_trip: have n8n report an error of a workflow that is made for this.
    """
    try:
        settings = load()
    except ConfigError as exc:
        yield Finding(SETTINGS, "problem", exc.detail, "Correct it in the environment or in the .env file.")
        for step in STEPS:
            yield Finding(step.name, "note", "not checked: the settings are wrong")
        return
    know_secrets(settings.secret_values)
    examination = Examination(settings, fix=fix)
    steps = (Step(SETTINGS, check_settings), *STEPS)
    try:
        for step in steps:
            if step.check is check_round_trip and not round_trip:
                yield Finding(step.name, "note", "not checked: --no-round-trip")
                continue
            yield from take(step, examination)
    finally:
        if examination.client is not None:
            examination.client.close()
        if examination.journal is not None:
            examination.journal.close()


def take(step: Step, examination: Examination) -> Iterator[Finding]:
    """One step's findings, whatever becomes of it."""
    lacking = next((examination.lacks[need] for need in step.needs if need in examination.lacks), None)
    if lacking is not None:
        _lack(step, examination, lacking)
        yield Finding(step.name, "note", f"not checked: {lacking}")
        return
    try:
        yield from step.check(examination)
    except BaseError as exc:
        _lack(step, examination, f"{step.name}: {exc.detail}")
        yield Finding(step.name, "problem", exc.detail)
    except Exception as exc:
        # The others are to run. Not its text: a foreign one may hold anything.
        log.debug("a check failed", exc_info=True)
        _lack(step, examination, f"the check of {step.name} failed")
        yield Finding(step.name, "problem", f"this check itself failed ({type(exc).__name__})", "Please report this.")


def _lack(step: Step, examination: Examination, reason: str) -> None:
    for gift in step.gives:
        examination.lacks.setdefault(gift, reason)
