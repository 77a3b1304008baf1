"""Whether this worker should get traffic: one named check after the other, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import BaseError
from app.journal import Journal


@dataclass(frozen=True, slots=True)
class Readiness:
    """``checks``: ``"ok"`` or the reason, by name."""

    checks: Mapping[str, str]

    @property
    def ready(self) -> bool:
        return all(reason == "ok" for reason in self.checks.values())


def readiness(journal: Journal, *, draining: bool) -> Readiness:
    """Ask the journal whether it could take a write now; a draining worker wants no new traffic."""
    try:
        journal.check()
        journal_says = "ok"
    except BaseError as exc:
        journal_says = exc.detail
    return Readiness({"journal": journal_says, "worker": "draining" if draining else "ok"})
