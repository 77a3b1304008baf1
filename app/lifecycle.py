"""A worker's life: what it is made of, its start, its drain and its stop. gunicorn's worker class calls these."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.agents import Agent
from app.agents.claude import ClaudeAgent
from app.agents.claude_command import ClaudeOptions
from app.agents.offline import OfflineAgent
from app.callbacks import copies
from app.callbacks.dead_letters import DeadLetters
from app.callbacks.poll import Poll
from app.callbacks.replays import Replays
from app.callbacks.routing import Router
from app.chores import Chore, Chores
from app.errors import BaseError
from app.journal import Change, Journal
from app.journal.backends import make_journal
from app.journal.records import DECISIONS, Registration
from app.n8n import Workflows, error_workflow
from app.n8n.client import N8nClient
from app.n8n.connected import ConnectedWorkflows
from app.n8n.drafts import Drafts
from app.repairs import notices
from app.repairs.attempt import Attempts
from app.repairs.decisions import Decisions
from app.repairs.notify import notifications
from app.repairs.outage import Outages
from app.repairs.pace import Pace
from app.repairs.publication import Publication
from app.retention import Retention
from app.sessions.connections import Connections
from app.sessions.service import Sessions, put_to_sleep
from app.settings import Settings
from app.task_protection import TaskProtection
from app.telemetry.vitals import Vitals
from app.tools.catalog import Catalog
from app.tools.server import ToolsServer
from app.turns.runner import Runner
from app.turns.transcripts import JournalTranscripts
from app.turns.turn import Turns
from app.web.limits import Limits

REPAIRS_INTERVAL_S = 5.0
NOTIFY_INTERVAL_S = 30.0
COPIES_INTERVAL_S = 30.0
RETENTION_INTERVAL_S, RETENTION_PAUSE_S = 600.0, 1.0
DRAIN_SETTLE_S = 0.2
PUBLICATION_SETTLES_S = 2.0
"""n8n 2.41 runs the old version for 0.1 to 0.3 s after it has answered."""

log = logging.getLogger(__name__)


class BridgeWorker:
    """Everything one worker process has, wired. Nothing runs before :meth:`start`.

    :ivar error_workflow: what n8n has of it, as :func:`app.n8n.error_workflow.remembered`; ``None``: no n8n.
    :ivar draining: this worker is finishing: no new turn, no new socket; callbacks are still taken.
    :ivar keep_place: gunicorn's worker puts its own here: called in a request that hands its connection over, it has
        the connection counted until what it gives is called.
    """

    def __init__(self, settings: Settings, *, agent: Agent | None = None) -> None:
        """
        :param agent: instead of the one that ``AGENT`` names.
        """
        self.settings = settings
        self.holder = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.draining = False
        self._letter_store = _letter_store(settings)
        self.journal = make_journal(settings, complete=self._complete)
        self.n8n = _client(settings)
        self.error_workflow = _error_workflow(self.n8n, settings)
        self.workflows = _workflows(self.n8n, self.journal, self.error_workflow, lease_s=settings.lease_seconds)
        self.limits = Limits(settings, self.journal)
        transcripts = JournalTranscripts(self.journal)
        self.agent: Agent = agent or _agent(settings, transcripts)
        autonomy = settings.heal_autonomy
        self.publication = Publication(self.journal, self.workflows, self.holder, settings.lease_seconds)
        self.decisions = Decisions(self.journal, self.workflows, self.publication)
        self.sessions = Sessions(
            self.journal, self.workflows, self.decisions, autonomy, settings.max_sessions, self.limits
        )
        self.connections = Connections(
            self.journal, holder=self.holder, ping_interval_s=settings.ws_ping_interval_seconds
        )
        self.keep_place: Callable[[], Callable[[], None]] = lambda: lambda: None
        settles_s = PUBLICATION_SETTLES_S if self.workflows.connected else 0.0
        polls = self.n8n is not None and settings.n8n_poll_interval_seconds > 0
        self.router = Router(self.journal, settles_s, max_live=settings.max_sessions, polled=polls)
        self.dead_letters = DeadLetters(self.journal, self.router, autonomy)
        self.replays = Replays(
            self.journal, self.dead_letters, self.limits.callbacks, self.holder, lease_s=settings.lease_seconds
        )
        self.tools = ToolsServer()
        turns = Turns(
            self.journal,
            self.agent,
            self.tools,
            Catalog(self.journal, self.workflows, self.publication, autonomy, settings.turn_timeout_seconds / 2),
            Attempts(
                self.journal,
                self.workflows,
                Outages(self.journal, self.workflows, settings.heal_outage_retry_seconds),
                Pace(settings.heal_repairs_per_workflow_per_day, settings.heal_repairs_per_hour),
            ),
            lease_s=settings.lease_seconds,
            timeout_s=settings.turn_timeout_seconds,
            leases=transcripts.leases,
        )
        self.runner = Runner(turns, holder=self.holder, concurrent_turns=settings.max_concurrent_turns)
        uri = settings.ecs_agent_uri
        self._protection = TaskProtection(uri, busy=lambda: self.runner.active_turns > 0) if uri else None
        self.vitals = Vitals(interval_s=settings.vitals_interval_seconds, active_sessions=self.active_sessions)
        self._chores = Chores(self.journal, self._chore_list(), holder=self.holder, lease_s=settings.lease_seconds)
        self._drained_at = 0.0

    def _complete(self, change: Change) -> Change:
        """What is to be delivered elsewhere belongs into the change that it tells of."""
        if self.settings.notify_url:
            change = notices.with_notices(change)
        return copies.with_copies(change) if self._letter_store else change

    @property
    def agent_name(self) -> str:
        return self.agent.name

    def is_registered(self, workflow_id: str) -> bool:
        """Whether any session, open or not, has ever owned this workflow."""
        return Registration.get(self.journal, workflow_id) is not None

    def active_sessions(self) -> int | None:
        """How many sessions are live, or ``None`` where the journal cannot say now."""
        try:
            return self.journal.live_sessions()
        except BaseError:
            return None

    def start(self) -> None:
        """Open the journal, begin to claim turns and do chores. Called once, in the worker, before it accepts.

        :raises ConfigError: the journal's place cannot be used. :raises JournalUnavailableError: not now.
        """
        self.journal.open()
        for warning in self.journal.warnings:
            log.warning("journal: %s", warning)
        if self._letter_store:
            self._letter_store.open()
        self.tools.start()
        self.runner.start()
        self.connections.begin()
        self.replays.start()
        self._chores.start()
        self.vitals.start()
        if self._protection:
            self._protection.start()
        log.info("worker started", extra={"agent": self.agent_name, "turns": self.settings.max_concurrent_turns})

    def drain(self) -> None:
        """Stop taking new work; running turns go on. Returns at once; may be called from any greenlet, repeatedly."""
        if self.draining:
            return
        self.draining = True
        self._drained_at = time.monotonic()
        log.info("Graceful shutdown started")
        self._chores.drain()
        self.runner.drain()
        self.replays.drain()
        self.connections.drain()

    def finished(self) -> bool:
        """Whether a draining worker has nothing left to finish."""
        settled = time.monotonic() - self._drained_at >= DRAIN_SETTLE_S
        return settled and not self.runner.active_turns and not len(self.connections)

    def stop(self) -> None:
        """End what is left, journal it, let go of everything. Bounded; the process exits next."""
        self.connections.stop()
        self._chores.stop()
        self.replays.stop()
        self.runner.stop()
        self.tools.stop()
        self.vitals.stop()
        self.journal.close()
        if self._protection:
            self._protection.stop()  # last: it asks somebody else
        log.info("Graceful shutdown complete")

    def _chore_list(self) -> list[Chore]:
        settings = self.settings
        told = notifications(
            self.journal, url=settings.notify_url, secrets=settings.notify_secret, public_url=settings.public_url
        )
        retention = Retention(self.journal, keep_s=settings.journal_retention_days * 86_400)

        def repairs() -> float | None:
            # What is left is perhaps a lost worker's: looked at again as soon as its lease has run out.
            left = self.publication.finish()
            self.decisions.expire()
            self.connections.forget_lost()
            self.connections.forget_again()
            return settings.lease_seconds if left else None

        def sweep() -> None:
            idle_before = datetime.now(UTC) - timedelta(seconds=settings.session_idle_ttl_seconds)
            slept = put_to_sleep(self.journal, idle_before=idle_before)
            if slept:
                log.info("idle sessions fell asleep", extra={"sessions": slept})

        chores = [
            Chore("repairs", REPAIRS_INTERVAL_S, repairs, topic=DECISIONS),
            Chore("sweep", settings.session_sweep_seconds, sweep),
            Chore("notify", NOTIFY_INTERVAL_S, told.round, topic=notices.TOPIC),
            Chore("retention", RETENTION_INTERVAL_S, lambda: RETENTION_PAUSE_S if retention.round() else None),
        ]
        if self._letter_store:
            copied = copies.copies(self.journal, self._letter_store)
            chores.append(Chore("dead-letter-copies", COPIES_INTERVAL_S, copied.round, topic=copies.TOPIC))
        if self.n8n is not None and self.router.polled:
            poll = Poll(
                self.journal,
                self.n8n,
                self.router,
                n8n_url=str(settings.n8n_api_url),
                editor_url=settings.n8n_editor_url,
                interval_s=settings.n8n_poll_interval_seconds,
                keep_s=settings.journal_retention_days * 86_400,
            )
            chores.append(Chore("poll", settings.n8n_poll_interval_seconds, poll.round))
        return chores


def _letter_store(settings: Settings) -> copies.Store | None:
    if settings.dead_letter_url is None:
        return None
    from app.callbacks.aws_store import AwsStore  # boto3 is had only where it is used; see there

    return AwsStore(settings)


def _client(settings: Settings) -> N8nClient | None:
    if settings.n8n_api_url is None or settings.n8n_api_key is None:
        return None
    return N8nClient(settings.n8n_api_url, settings.n8n_api_key)


def _error_workflow(client: N8nClient | None, settings: Settings) -> Callable[[], error_workflow.State] | None:
    return error_workflow.remembered(client, callback_url=settings.n8n_callback_url) if client is not None else None


def _workflows(
    client: N8nClient | None,
    journal: Journal,
    state: Callable[[], error_workflow.State] | None,
    *,
    lease_s: float,
) -> Workflows:
    if client is None or state is None:
        return Drafts(journal)
    return ConnectedWorkflows(client, journal, error_workflow_id=lambda: state().workflow_id, lease_s=lease_s)


def _agent(settings: Settings, transcripts: JournalTranscripts) -> Agent:
    if settings.agent_name == "offline":
        return OfflineAgent()
    work_dir = settings.journal_path.absolute().parent / "claude"
    return ClaudeAgent(claude_options(settings, work_dir=work_dir), transcripts)


def claude_options(settings: Settings, *, work_dir: Path) -> ClaudeOptions:
    """How the settings have the Claude program started."""
    passed_on = {
        "HTTPS_PROXY": settings.https_proxy,
        "NO_PROXY": settings.no_proxy,
        "NODE_EXTRA_CA_CERTS": settings.node_extra_ca_certs,
    }
    return ClaudeOptions(
        work_dir=work_dir,
        api_key=settings.anthropic_api_key,
        base_url=settings.anthropic_base_url,
        binary=settings.claude_bin,
        model=settings.claude_model,
        budget_usd=settings.turn_budget_usd,
        silence_s=settings.turn_silence_seconds,
        extra_env={name: value for name, value in passed_on.items() if value is not None},
    )
