"""Workers on one journal in one process: each with a handle, a tools server and a runner of its own."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import gevent

from app.agents import Agent
from app.callbacks.report import parse_error_report
from app.callbacks.routing import Routed, Router
from app.errors import JournalUnavailableError
from app.journal import Change, Claim, Event, Input, Journal, Lease, NewInput, events
from app.journal.records import Autonomy, Case, Registration, Repair, Snapshot
from app.journal.sqlite import SqliteJournal
from app.n8n import Workflow
from app.n8n.drafts import Drafts
from app.repairs.attempt import Attempts
from app.repairs.decisions import Decisions
from app.repairs.outage import Outages
from app.repairs.pace import Pace
from app.repairs.publication import Publication
from app.tools.catalog import Catalog
from app.tools.server import ToolsServer
from app.turns.runner import Runner
from app.turns.turn import RunningTurn, Turns
from tests.journal.steps import new_id, open_session, until, whole_log
from tests.support.client import failure

LEASE_S = 5.0
SHORT_LEASE_S = 0.3


class PausableJournal(SqliteJournal):
    """A handle of a worker that may be paused: while it is, it asks for nothing and its leases are not renewed.

    :cvar claimed: the sessions of all workers' claims, in order.
    """

    paused = False
    claimed: ClassVar[list[str]] = []

    def claim(self, holder: str, *, ttl_s: float, but: Collection[str] = ()) -> Claim | None:
        claim = None if self.paused else super().claim(holder, ttl_s=ttl_s, but=but)
        if claim is not None:
            self.claimed.append(claim.input.session_id)
        return claim

    def renew(self, leases: Iterable[Lease], *, ttl_s: float) -> set[Lease]:
        return set() if self.paused else super().renew(leases, ttl_s=ttl_s)

    def pending(self, session_id: str) -> list[Input]:
        if self.paused:  # else a turn could be told of its loss before it has done anything about it
            raise JournalUnavailableError
        return super().pending(session_id)


class KnownTurns(Runner):
    """A runner whose turns can be ended from outside, as those of a killed process."""

    def __init__(self, turns: Turns, *, holder: str, concurrent_turns: int) -> None:
        super().__init__(turns, holder=holder, concurrent_turns=concurrent_turns)
        self._serving: set[gevent.Greenlet] = set()

    def _serve(self, running: RunningTurn) -> None:
        served = gevent.getcurrent()
        self._serving.add(served)
        try:
            super()._serve(running)
        finally:
            self._serving.discard(served)

    def kill(self) -> None:
        gevent.killall([*self._greenlets, *self._serving], block=False)


class Worker:
    """What ``BridgeWorker`` makes, without settings and HTTP."""

    def __init__(
        self, path: Path, agent: Agent, *, lease_s: float, concurrent_turns: int, turn_timeout_s: float
    ) -> None:
        self.journal = PausableJournal(path)
        self.workflows = Drafts(self.journal)
        self.holder = new_id()
        self.publication = Publication(self.journal, self.workflows, self.holder, lease_s)
        self.decisions = Decisions(self.journal, self.workflows, self.publication)
        self.tools = ToolsServer()
        turns = Turns(
            self.journal,
            agent,
            self.tools,
            Catalog(self.journal, self.workflows, self.publication, "auto"),
            Attempts(self.journal, self.workflows, Outages(self.journal, self.workflows), Pace(0, 0)),
            lease_s=lease_s,
            timeout_s=turn_timeout_s,
        )
        self.runner = KnownTurns(turns, holder=self.holder, concurrent_turns=concurrent_turns)

    def start(self) -> None:
        self.tools.start()
        self.runner.start()

    def vanish(self) -> None:
        """As SIGKILL: nothing is said, nothing given back, no turn goes on; the closed journal refuses what would."""
        self.journal.close()
        self.runner.kill()
        self.tools.stop()  # last: it ends the call that this may have come from

    def stop(self) -> None:
        self.runner.stop()
        self.tools.stop()
        self.journal.close()


class Bench:
    """One store with its workers, and the people and the n8n that use it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.db"
        self.journal: Journal = SqliteJournal(self.path)
        self.workflows = Drafts(self.journal)
        self.workers: list[Worker] = []

    def worker(
        self, agent: Agent, *, lease_s: float = LEASE_S, concurrent_turns: int = 4, turn_timeout_s: float = 30.0
    ) -> Worker:
        """Start a worker; it is stopped after the test."""
        made = Worker(
            self.path, agent, lease_s=lease_s, concurrent_turns=concurrent_turns, turn_timeout_s=turn_timeout_s
        )
        self.workers.append(made)
        made.start()
        return made

    def close(self) -> None:
        gevent.joinall([gevent.spawn(worker.stop) for worker in self.workers], raise_error=True)
        self.journal.close()

    # -- what people do

    def session(self) -> str:
        return open_session(self.journal)

    def say(self, session_id: str, text: str = "hello") -> int:
        event = events.user_message(text, client_message_id=None, request_id=None)
        return self.journal.commit(Change(session_id, events=[event], add=NewInput("chat"))).seq

    def cancel(self, session_id: str) -> None:
        turn_id = next(found.turn_id for found in self.pending(session_id) if found.turn_id)
        self.journal.commit(Change(session_id, cancel_turn=turn_id))

    def close_session(self, session_id: str) -> None:
        self.journal.commit(Change(session_id, events=[events.session_closed("done")], close_session=True))

    def workflow(self, session_id: str, *, autonomy: Autonomy = "auto") -> Workflow:
        """A registered workflow: a schedule and the node "HTTP Request", without retries."""
        workflow = self.workflows.create(two_nodes(), intent=new_id())
        registration = Registration(
            workflow_id=workflow["id"], session_id=session_id, name=workflow["name"], autonomy=autonomy
        )
        self.journal.commit(Change(puts=[registration.put()]))
        return workflow

    # -- what n8n does

    def fail(self, workflow_id: str, *, execution_id: str | None = None, payload: Any = None) -> Routed:
        report = parse_error_report(failure(workflow_id, execution_id=execution_id, payload=payload))
        return Router(self.journal).route(report, source="callback", request_id=new_id())

    # -- what there is

    def pending(self, session_id: str) -> list[Input]:
        return self.journal.pending(session_id)

    def log(self, session_id: str) -> list[Event]:
        return whole_log(self.journal, session_id)

    def types(self, session_id: str) -> list[str]:
        return [event.type for event in self.log(session_id)]

    def data(self, session_id: str, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.log(session_id) if event.type == kind]

    def outcomes(self, session_id: str) -> list[str]:
        return [data["outcome"] for data in self.data(session_id, "turn_finished")]

    def wait(self, session_id: str, kind: str, *, times: int = 1) -> dict[str, Any]:
        """The body of the event of this type (the ``times``-th), as soon as it is there."""

        def found() -> dict[str, Any] | None:
            bodies = [event.body for event in self.log(session_id) if event.type == kind]
            return bodies[times - 1] if len(bodies) >= times else None

        body: dict[str, Any] = until(found, deadline_s=15)
        return body

    def idle(self, session_id: str) -> None:
        """Wait until everything in the session is answered."""
        until(lambda: not self.pending(session_id), deadline_s=15)

    def repair(self, repair_id: str) -> Repair:
        found = Repair.get(self.journal, repair_id)
        assert found is not None
        return found

    def case(self, workflow_id: str) -> Case:
        (found,) = Case.find(self.journal, f"workflow:{workflow_id}")
        return found

    def snapshots(self, workflow_id: str) -> list[Snapshot]:
        return Snapshot.find(self.journal, f"workflow:{workflow_id}")


@contextmanager
def bench_in(folder: Path) -> Iterator[Bench]:
    bench = Bench(folder)
    try:
        yield bench
    finally:
        bench.close()


def two_nodes(*, name: str = "Every hour", **more: Any) -> dict[str, Any]:
    """A workflow's body; ``more`` goes into the node "HTTP Request"."""
    trigger = {
        "name": "Schedule Trigger",
        "type": "n8n-nodes-base.scheduleTrigger",
        "typeVersion": 1.2,
        "position": [0, 0],
        "parameters": {"rule": {"interval": [{"field": "hours"}]}},
    }
    request = {
        "name": "HTTP Request",
        "type": "n8n-nodes-base.httpRequest",
        "typeVersion": 4.2,
        "position": [220, 0],
        "parameters": {"method": "GET", "url": "http://127.0.0.1:9/a", "options": {}},
        **more,
    }
    return {
        "name": name,
        "nodes": [trigger, request],
        "connections": {"Schedule Trigger": {"main": [[{"node": "HTTP Request", "type": "main", "index": 0}]]}},
        "settings": {"executionOrder": "v1"},
    }


def paused_past_its_lease(bench: Bench, worker: Worker, session_id: str) -> None:
    """Let a worker's lease on a session run out without its knowing."""
    worker.journal.paused = True
    until(lambda: not bench.journal.held(f"session:{session_id}"), deadline_s=15)


def elapsed_ms(since: float) -> float:
    return (time.monotonic() - since) * 1000
