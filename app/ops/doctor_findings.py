"""What ``flask doctor`` says and what its checks share: findings, and the examination that one run of it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from app.journal import Journal
from app.n8n import Workflow
from app.n8n.client import N8nClient
from app.settings import Settings

State = Literal["ok", "note", "problem"]
Need = Literal["settings", "journal", "n8n", "api", "error workflow", "reports"]
"""What a check may find in order and others stand on; ``api``: n8n takes the key; ``reports``: the error workflow is
published and as it should be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    :ivar state: ``note``: worth knowing, or not looked at; only a ``problem`` makes the run fail.
    :ivar todo: what a person can do; empty where there is nothing to do.
    """

    name: str
    state: State
    detail: str
    todo: str = ""


@dataclass(slots=True)
class Examination:
    """One run. A check reads what those before it have found, and adds to it.

    :ivar fix: mend what can be mended.
    :ivar lacks: why what others stand on is not there.
    :ivar missing_scopes: of the API key.
    :ivar workflows: the registered ones as n8n has them, by id.
    """

    settings: Settings
    fix: bool = False
    lacks: dict[Need, str] = field(default_factory=dict)
    journal: Journal | None = None
    client: N8nClient | None = None
    error_workflow_id: str = ""
    missing_scopes: set[str] = field(default_factory=set)
    workflows: dict[str, Workflow] = field(default_factory=dict)

    @property
    def opened(self) -> Journal:
        """Of a check that needs ``journal``."""
        if self.journal is None:
            raise AssertionError("no check has opened the journal")
        return self.journal

    @property
    def n8n(self) -> N8nClient:
        """Of a check that needs ``n8n``."""
        if self.client is None:
            raise AssertionError("no check has made the client")
        return self.client


Check = Callable[[Examination], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Step:
    """:ivar gives: there for others where this ends without an error and has put nothing in ``lacks``."""

    name: str
    check: Check
    needs: tuple[Need, ...] = ()
    gives: tuple[Need, ...] = ()
