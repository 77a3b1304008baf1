"""The whole drill: what it stands on is set up, the canary's story is told, and all of it is removed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from app.drill import n8n_canary
from app.drill.bridge import Bridge, DrillSession, open_session, running_bridge
from app.drill.canary import Canary
from app.drill.draft_canary import DraftCanary
from app.drill.own_bridge import own_bridge
from app.drill.patience import DrillError, Patience, only_one
from app.drill.repair import RepairWatch
from app.drill.service import Service
from app.drill.timeline import Timeline
from app.errors import BaseError
from app.n8n import error_workflow
from app.n8n.client import N8nClient
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Drill:
    """:ivar host: the address under which n8n reaches this machine.
    :ivar keep: leave the canary and its session.
    :ivar log: gets what a bridge of the drill's own had to complain of.
    """

    settings: Settings
    host: str
    keep: bool
    timeline: Timeline
    patience: Patience
    log: list[str] = field(default_factory=list)

    def run(self) -> str:
        """Tell the story; gives the verdict when all is removed.

        :raises DrillError: it did not end as it should. :raises N8nError: n8n could not be asked.
        """
        with only_one(), ExitStack() as stage:
            bridge = self._bridge(stage)
            canary, session = self._canary(stage, bridge)
            canary.build()
            canary.break_down()
            RepairWatch(session, canary, self.timeline).follow()
            verdict = canary.show_healed()
            self.timeline.awaited = "all to be removed"
        return verdict

    def _bridge(self, stage: ExitStack) -> Bridge:
        self.timeline.awaited = "a bridge"
        settings = self.settings
        found = running_bridge(settings)
        agent = f"the {settings.agent_name} agent"
        if found is None:
            found = stage.enter_context(own_bridge(settings, self.patience, log=self.log))
            self.timeline.add("bridge", f"none ran: one of the drill's own at {found.url}, with {agent}")
            return found
        connected = found.configured().get("n8n", settings.n8n_connected)
        if connected != settings.n8n_connected:
            raise DrillError(
                f"The bridge at {found.url} has {'an' if connected else 'no'} n8n, and the settings here have "
                f"{'no' if connected else 'an'} n8n: restart or reload it, or give this command the same settings."
            )
        self.timeline.add("bridge", f"the one that runs at {found.url}, with {agent}")
        return found

    def _canary(self, stage: ExitStack, bridge: Bridge) -> tuple[Canary, DrillSession]:
        settings, timeline, patience = self.settings, self.timeline, self.patience
        if settings.n8n_api_url is None or settings.n8n_api_key is None:
            session = self._session(stage, bridge, "the canary, with the drill's session")
            return DraftCanary(settings, bridge, session, timeline), session
        client = N8nClient(settings.n8n_api_url, settings.n8n_api_key)
        stage.callback(client.close)
        error_workflow_id = self._error_workflow(client)
        timeline.awaited = "the canary to be made in n8n"
        left = n8n_canary.remove_leftovers(client)
        if left:
            timeline.add("tidied", f"{len(left)} canary of an earlier drill was still there")
        service = stage.enter_context(Service(self.host))
        patience.check()
        # By its mark, for the answer that names it may be lost.
        self._remove_at_the_end(stage, "the canary from n8n", lambda: n8n_canary.remove_leftovers(client))
        made = n8n_canary.create(client, service, error_workflow_id)
        # Ended before the canary goes: no turn may be at work on what is gone.
        session = self._session(stage, bridge, "the drill's session")
        canary = n8n_canary.N8nCanary(
            made,
            client=client,
            webhooks_url=settings.n8n_api_url,
            service=service,
            session=session,
            timeline=timeline,
            patience=patience,
        )
        return canary, session

    def _error_workflow(self, client: N8nClient) -> str:
        """Its id; where there is none it is installed, for without it n8n reports nothing."""
        settings = self.settings
        self.timeline.awaited = "n8n's error workflow"
        found = error_workflow.state(client, callback_url=settings.n8n_callback_url)
        if found.workflow_id is not None and not found.problem:
            return found.workflow_id
        if found.workflow_id is not None:
            reports = f" It reports to {found.callback_url}; N8N_CALLBACK_URL is {settings.n8n_callback_url}."
            raise DrillError(f"{found.problem}{reports}")
        secret = settings.n8n_callback_secret[0] if settings.n8n_callback_secret else None
        done = error_workflow.install(client, callback_url=settings.n8n_callback_url, secret=secret)
        text = f"error workflow {done.workflow_id}, which n8n had not, and which stays: it reports to "
        self.timeline.add("installed", text + settings.n8n_callback_url)
        return done.workflow_id

    def _session(self, stage: ExitStack, bridge: Bridge, what: str) -> DrillSession:
        self.timeline.awaited = "a session"
        session = open_session(bridge, self.patience)
        self._remove_at_the_end(stage, what, lambda: session.call("DELETE"))
        return session

    def _remove_at_the_end(self, stage: ExitStack, what: str, remove: Callable[[], object]) -> None:
        """Whatever happens until then; where it cannot be done that is told, and the rest is removed all the same."""

        @contextmanager
        def removed() -> Iterator[None]:
            try:
                yield
            except BaseException:
                with suppress(BaseError):
                    self._remove(what, remove)
                raise
            else:
                self._remove(what, remove)

        if not self.keep:
            stage.enter_context(removed())

    def _remove(self, what: str, remove: Callable[[], object]) -> None:
        try:
            remove()
        except BaseError as exc:
            self.timeline.add("left over", f"{what}: {exc.detail}")
            raise
        self.timeline.add("removed", what)
