"""An agent at work: one greenlet iterates it and appends, the other watches for a reason to stop it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gevent

from app.agents import Agent, AgentEvent, Finished, TurnRequest
from app.errors import BaseError, JournalUnavailableError, LeaseLostError, SessionNotFoundError, StaleDocumentError
from app.journal import Journal, Watch
from app.telemetry import context, metrics
from app.turns.output import TurnOutput
from app.turns.running import RunningTurn

KILL_S = 3.0


@dataclass(frozen=True, slots=True)
class Supervisor:
    """:ivar look_s: at most so long a cancel is not seen."""

    journal: Journal
    agent: Agent
    look_s: float
    timeout_s: float

    def run(
        self, running: RunningTurn, request: TurnRequest, output: TurnOutput, first: Callable[[], bool] | None
    ) -> Finished:
        """Iterate the agent in a greenlet of its own until it ends or there is a reason to stop it."""
        worker = gevent.spawn(context.carry(_iterate), self.agent, request, output, first)
        worker.link(lambda _: running.wake.set())
        deadline = running.started_at + self.timeout_s
        with self.journal.watch(f"turn:{running.turn_id}") as watch:
            watcher = gevent.spawn(self._watch_cancel, running, watch)
            try:
                while not worker.dead and running.stop is None:
                    if not running.wake.wait(max(0.0, deadline - time.monotonic())):
                        running.stop_for("timeout")
                    running.wake.clear()
            finally:
                watcher.kill(block=False)
                # Closing the iterator is how an agent learns that it is to stop; it has 2 s for it.
                worker.kill(block=True, timeout=KILL_S)
        if running.stop is not None:
            return Finished("failed")
        if worker.exception is not None:
            running.bug = worker.exc_info
            return Finished("failed", error="internal error")
        result: Finished | BaseError = worker.value
        if isinstance(result, Finished):
            return result
        if isinstance(result, LeaseLostError | StaleDocumentError | JournalUnavailableError | SessionNotFoundError):
            # Not the agent's failure: whoever has the journal goes on with the input.
            raise result
        return Finished("failed", error=result.detail)

    def _watch_cancel(self, running: RunningTurn, watch: Watch) -> None:
        # Looks before it waits: the turn was there for all to cancel before anybody listened here.
        while running.stop is None:
            try:
                mine = running.input_in(self.journal)
            except BaseError:
                mine = running.claim.input
            if mine is None or mine.cancelled:
                # Gone: the session was closed under the turn.
                running.stop_for("cancelled" if mine else "lost")
                return
            watch.wait(self.look_s)


def _iterate(
    agent: Agent, request: TurnRequest, output: TurnOutput, first: Callable[[], bool] | None
) -> Finished | BaseError:
    """Run the agent to its end, unless ``first`` leaves it nothing to do. What is raised on purpose is returned: gevent
    would log it as uncaught."""
    stream: Iterator[AgentEvent] = iter(())
    began: float | None = None
    try:
        if first is not None and first():
            return Finished()
        began = time.monotonic()
        stream = agent.run(request)
        for event in stream:
            if isinstance(event, Finished):
                return event
            output.put(event)
        return Finished("failed", error="The agent ended without an answer.")
    except BaseError as exc:
        return exc
    finally:
        # Not left to the garbage collector, which a traceback that is kept somewhere would hold up.
        close = getattr(stream, "close", None)
        if close is not None:
            close()
        if began is not None:
            metrics.claude_execution.observe(time.monotonic() - began)
