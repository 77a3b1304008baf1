"""Who may write a workflow in n8n: one worker at a time, for as long as it renews its lease."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import gevent

from app.errors import BaseError, BusyError
from app.journal import Journal, Lease

WORKFLOW_WAIT_S = 5.0

log = logging.getLogger(__name__)


def lease_name(workflow_id: str) -> str:
    return f"workflow:{workflow_id}"


@dataclass(frozen=True, slots=True)
class WorkflowLeases:
    """:ivar holder: this worker's name; ``lease_s``: for how long a lease outlives a worker that is gone."""

    journal: Journal
    holder: str
    lease_s: float

    def acquire(self, workflow_id: str) -> Lease | None:
        """``None``: somebody has it."""
        return self.journal.acquire(lease_name(workflow_id), self.holder, ttl_s=self.lease_s)

    @contextmanager
    def on_workflow(self, workflow_id: str) -> Iterator[Lease]:
        """Hold the workflow's lease, waiting a moment for whoever has it.

        :raises BusyError: it was not free in time.
        """
        deadline = time.monotonic() + WORKFLOW_WAIT_S
        while (lease := self.acquire(workflow_id)) is None:
            if time.monotonic() >= deadline:
                raise BusyError("This workflow is being changed right now.")
            gevent.sleep(0.05)
        with self.keeping(lease):
            yield lease

    @contextmanager
    def keeping(self, lease: Lease) -> Iterator[None]:
        """Renew a lease for as long as this lasts, then give it back."""
        keeper = gevent.spawn(self._keep, lease)
        try:
            yield
        finally:
            keeper.kill(block=False)
            self.journal.release(lease)

    def _keep(self, lease: Lease) -> None:
        while True:
            gevent.sleep(self.lease_s / 3)
            try:
                self.journal.renew([lease], ttl_s=self.lease_s)
            except BaseError as exc:
                log.warning("renewing a workflow's lease failed: %s", exc)
