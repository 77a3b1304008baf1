"""What an agent may do, by kind of turn. Each call is checked against the turn's lease before it changes anything."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic
from gevent.lock import RLock

from app.errors import ConflictError, N8nError, NotFoundError, StaleDocumentError, ValidationError
from app.journal import Change, Claim, Journal, events
from app.journal.records import Autonomy, Registration, Repair, retry_stale
from app.n8n import Workflow, Workflows
from app.n8n.javascript import code_problems, new_code_problems
from app.n8n.workflows import canonical_json, editable, validate
from app.repairs import snapshots
from app.repairs.publication import Publication
from app.repairs.refusals import Refusals, RefusedError
from app.repairs.trial import MAX_PROPOSALS, FenceError, Proposer
from app.shapes import UNKNOWN_KEY, read_value
from app.tools.chat_fence import ChatFence
from app.tools.mcp import ToolResult, ToolSpec

MAX_ANSWER_CHARS = 200_000
MAX_RUN_CHARS = 4_096
HURRY = "[Half of this turn's time is over: propose now, or say what a person must do, and stop.]"


class _Arguments(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class _Nothing(_Arguments):
    """No arguments."""


class _ById(_Arguments):
    workflowId: str = pydantic.Field(min_length=1, max_length=128)


class _Body(_Arguments):
    name: str = pydantic.Field(min_length=1, max_length=128)
    nodes: list[dict[str, Any]]
    connections: dict[str, Any]
    settings: dict[str, Any] = {}


class _Checked(_Arguments):
    workflow: _Body


class _Update(_ById):
    name: str | None = pydantic.Field(default=None, min_length=1, max_length=128)
    nodes: list[dict[str, Any]] | None = None
    connections: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None


class _OneRun(_ById):
    executionId: str = pydantic.Field(min_length=1, max_length=32, pattern=r"^[0-9]+$")


class _Proposal(_Arguments):
    workflow: dict[str, Any]
    summary: str = pydantic.Field(min_length=1, max_length=4_000)


@dataclass(frozen=True, slots=True)
class _Tool:
    description: str
    arguments: type[_Arguments]
    call: Callable[[Any, str], str]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Makes the tools of one turn."""

    journal: Journal
    workflows: Workflows
    publication: Publication
    autonomy: Autonomy
    soft_s: float = 300.0
    """From then on the tools of a repair's turn remind the agent to come to an end."""

    def tools_for(self, claim: Claim, *, turn_id: str) -> TurnCatalog:
        turn = _Turn(self, claim, turn_id)
        if claim.input.kind == "repair":
            return TurnCatalog(turn, turn.repair_tools(), late_at=time.monotonic() + self.soft_s)
        return TurnCatalog(turn, turn.chat_tools())


class TurnCatalog:
    """One turn's tools; see :class:`app.tools.mcp.TurnTools`. A call repeated with its id is answered as before."""

    def __init__(self, turn: _Turn, tools: Mapping[str, _Tool], *, late_at: float = math.inf) -> None:
        self._turn = turn
        self._late_at = late_at
        self._tools = tools
        self._answered: dict[str, ToolResult] = {}
        self._under_way: dict[str, RLock] = {}
        self._refused: set[str] = set()
        self.n8n_was_away = False

    def specs(self) -> Sequence[ToolSpec]:
        return [
            ToolSpec(name, tool.description, tool.arguments.model_json_schema()) for name, tool in self._tools.items()
        ]

    def call(self, name: str, arguments: Mapping[str, Any], tool_use_id: str) -> ToolResult:
        with self._under_way.setdefault(tool_use_id, RLock()):
            if tool_use_id not in self._answered:
                self._answered[tool_use_id] = self._call(name, arguments, tool_use_id)
            return self._answered[tool_use_id]

    def _call(self, name: str, arguments: Mapping[str, Any], tool_use_id: str) -> ToolResult:
        self._turn.check_lease()
        try:
            tool = self._tools.get(name)
            if tool is None:
                raise RefusedError("There is no such tool in this turn.")
            checked = _checked(tool, arguments)
            text = tool.call(checked, tool_use_id)[:MAX_ANSWER_CHARS]
            return ToolResult(f"{text}\n{HURRY}" if time.monotonic() >= self._late_at else text, ok=True)
        except (FenceError, RefusedError) as exc:
            if tool_use_id not in self._refused:  # a call that is repeated was told of
                self._turn.refusals.record(name, tool_use_id, exc.rules)
                self._refused.add(tool_use_id)
            raise
        except N8nError as exc:
            self.n8n_was_away |= not exc.permanent
            raise

    def resume_trial(self) -> bool:
        """Go on with the trial of a lost turn; tells whether nothing is left for the agent.

        :raises N8nError: n8n cannot be asked now.
        """
        try:
            return self._turn.resume_trial()
        except N8nError as exc:
            self.n8n_was_away |= not exc.permanent
            raise


class _Turn:
    def __init__(self, catalog: Catalog, claim: Claim, turn_id: str) -> None:
        self._journal = catalog.journal
        self._workflows = catalog.workflows
        self._autonomy = catalog.autonomy
        self._proposer = Proposer(catalog.journal, catalog.workflows, catalog.publication)
        self._claim = claim
        self._session_id = claim.input.session_id
        self._turn_id = turn_id
        self._chat_fence = ChatFence(catalog.journal, self._session_id)
        self.refusals = Refusals(catalog.journal, self._session_id, turn_id, claim.lease, claim.input.key)
        self._writes: dict[str, list[str]] = {"create": [], "update": []}

    def chat_tools(self) -> dict[str, _Tool]:
        return {
            "list_workflows": _Tool("The workflows of this session.", _Nothing, self._list),
            "get_workflow": _Tool("One of this session's workflows as n8n JSON.", _ById, self._get),
            "validate_workflow": _Tool("Check a workflow without saving it.", _Checked, self._validate),
            "create_workflow": _Tool("Create a workflow in this session.", _Body, self._create),
            "update_workflow": _Tool(
                "Change a workflow of this session; what is left out stays. A snapshot is taken first.",
                _Update,
                self._update,
            ),
            **(self._connected_tools() if self._workflows.connected else {}),
        }

    def _connected_tools(self) -> dict[str, _Tool]:
        return {
            "publish_workflow": _Tool("Make the saved draft the version that runs.", _ById, self._publish),
            "unpublish_workflow": _Tool("Stop running a workflow; it stays as a draft.", _ById, self._unpublish),
            "test_workflow": _Tool(
                "Run a failed execution again on the saved draft, from the failed node. It does what the nodes do.",
                _OneRun,
                self._test,
            ),
            "get_execution": _Tool("What is known of one run of a workflow.", _OneRun, self._get_execution),
            "list_credentials": _Tool("Names and types of n8n's credentials.", _Nothing, self._list_credentials),
        }

    def repair_tools(self) -> dict[str, _Tool]:
        return {
            "get_workflow": _Tool("The workflow that failed, as n8n JSON.", _Nothing, self._get_failed),
            "get_execution": _Tool("What is known of the failed run.", _Nothing, self._get_run),
            "propose_repair": _Tool(
                "Propose the repaired workflow (name, nodes, connections, settings). The answer is the verdict.",
                _Proposal,
                self._propose,
            ),
        }

    def check_lease(self) -> None:
        """:raises LeaseLostError: another worker has this turn."""
        self._journal.commit(Change(fences=[self._claim.lease]))

    # -- chat

    def _list(self, arguments: _Nothing, tool_use_id: str) -> str:
        found = Registration.find(self._journal, f"session:{self._session_id}")
        return json.dumps([registration.public() for registration in found])

    def _get(self, arguments: _ById, tool_use_id: str) -> str:
        self._own(arguments.workflowId)
        return json.dumps(self._workflows.get(arguments.workflowId))

    def _validate(self, arguments: _Checked, tool_use_id: str) -> str:
        body = arguments.workflow.model_dump()
        problems = validate(body) or code_problems(body)
        return "valid" if not problems else "\n".join(f"{p.path or 'workflow'}: {p.message}" for p in problems)

    def _create(self, arguments: _Body, tool_use_id: str) -> str:
        body = arguments.model_dump()
        _refuse_invalid(body)
        self._keep_inside({}, body)
        intent = self._write_name("create", tool_use_id)
        workflow = self._workflows.create(body, intent=intent, fences=[self._claim.lease])
        self._register(workflow)
        return json.dumps(_brief(workflow))

    def _update(self, arguments: _Update, tool_use_id: str) -> str:
        workflow_id = arguments.workflowId
        self._own(workflow_id)
        current = self._workflows.get(workflow_id)
        wanted = {**editable(current), **arguments.model_dump(exclude={"workflowId"}, exclude_none=True)}
        if handler := (current.get("settings") or {}).get("errorWorkflow"):
            wanted["settings"] = {"errorWorkflow": handler, **wanted["settings"]}
        _refuse_invalid(wanted, before=current)
        self._keep_inside(current, wanted)
        if canonical_json(wanted) == canonical_json(editable(current)):
            # No write, so no snapshot: undoing it would undo nothing, and hide what there is to undo.
            return json.dumps(_brief(current))
        for_write = self._write_name("update", tool_use_id)
        _, puts, deletes = snapshots.take(self._journal, current, cause="chat", for_write=for_write)
        fences = [self._claim.lease]
        self._journal.commit(Change(puts=puts, deletes=deletes, fences=fences))
        base = str(current.get("versionId", ""))
        workflow = self._workflows.put_draft(workflow_id, wanted, base_version_id=base, fences=fences)
        return json.dumps(_brief(workflow))

    def _write_name(self, what: str, tool_use_id: str) -> str:
        """Names a write by its input and its place, not by its turn: a turn that is run again after a crash finds what
        the lost one made."""
        calls = self._writes[what]
        if tool_use_id not in calls:
            calls.append(tool_use_id)
        return f"{what}:{self._session_id}:{self._claim.input.input_id}:{calls.index(tool_use_id)}"

    def _publish(self, arguments: _ById, tool_use_id: str) -> str:
        self._own(arguments.workflowId)
        version_id = str(self._workflows.get(arguments.workflowId)["versionId"])
        fences = [self._claim.lease]
        return json.dumps(_brief(self._workflows.publish(arguments.workflowId, version_id=version_id, fences=fences)))

    def _unpublish(self, arguments: _ById, tool_use_id: str) -> str:
        self._own(arguments.workflowId)
        return json.dumps(_brief(self._workflows.unpublish(arguments.workflowId, fences=[self._claim.lease])))

    def _test(self, arguments: _OneRun, tool_use_id: str) -> str:
        self._own(arguments.workflowId)
        self._chat_fence.seen_untrusted = True
        version_id = str(self._workflows.get(arguments.workflowId)["versionId"])
        trial = self._workflows.try_draft(
            arguments.workflowId,
            version_id=version_id,
            execution_id=arguments.executionId,
            fences=[self._claim.lease],
        )
        return json.dumps({"outcome": trial.outcome, "reason": trial.reason, "executionId": trial.execution_id})

    def _get_execution(self, arguments: _OneRun, tool_use_id: str) -> str:
        self._own(arguments.workflowId)
        self._chat_fence.seen_untrusted = True
        return json.dumps(self._workflows.execution(arguments.workflowId, arguments.executionId))

    def _list_credentials(self, arguments: _Nothing, tool_use_id: str) -> str:
        return json.dumps(self._workflows.credentials())

    def _register(self, workflow: Workflow) -> None:
        workflow_id, name = str(workflow["id"]), str(workflow["name"])
        registration = Registration(
            workflow_id=workflow_id, session_id=self._session_id, name=name, autonomy=self._autonomy
        )
        event = events.workflow_registered(workflow_id, name, self._autonomy, turn_id=self._turn_id)
        change = Change(
            session_id=self._session_id, events=[event], puts=[registration.put()], fences=[self._claim.lease]
        )
        try:
            self._journal.commit(change)
        except StaleDocumentError:
            # Registered by the turn that was lost; told then, and not again.
            self._own(workflow_id)

    def _own(self, workflow_id: str) -> Registration:
        registration = Registration.get(self._journal, workflow_id)
        if registration is None or registration.session_id != self._session_id:
            raise RefusedError("This session has no such workflow.")
        return registration

    def _keep_inside(self, before: Workflow, after: Workflow) -> None:
        """:raises RefusedError: the write is not the person's."""
        if rules := self._chat_fence.rules(before, after):
            raise RefusedError(*rules, advice="Ask the person, or do without it.")

    # -- repair

    def resume_trial(self) -> bool:
        """Go on with the trial that a lost turn began; tells whether that ends the turn."""
        retry_stale(lambda: self._proposer.go_on(self._claim.input.key, turn_id=self._turn_id, lease=self._claim.lease))
        return self._repair().state not in ("running", "trying")

    def _repair(self) -> Repair:
        repair = Repair.get(self._journal, self._claim.input.key)
        if repair is None:
            raise ConflictError("This repair is over.")
        return repair

    def _get_failed(self, arguments: _Nothing, tool_use_id: str) -> str:
        return json.dumps(self._workflows.get(self._repair().workflow_id))

    def _get_run(self, arguments: _Nothing, tool_use_id: str) -> str:
        repair = self._repair()
        execution_id = (repair.report.get("execution") or {}).get("id")
        if self._workflows.connected and execution_id:
            try:
                return json.dumps(self._workflows.execution(repair.workflow_id, execution_id))
            except NotFoundError:
                # n8n did not keep the run: the callback is all there is.
                pass
        return json.dumps(repair.report)[:MAX_RUN_CHARS]

    def _propose(self, arguments: _Proposal, tool_use_id: str) -> str:
        repair = self._repair()
        if repair.state == "running" and repair.proposals >= MAX_PROPOSALS:
            raise RefusedError(f"All {MAX_PROPOSALS} proposals of this attempt are used up. Stop here.")

        def propose() -> str:
            return self._proposer.propose(
                repair.repair_id,
                arguments.workflow,
                arguments.summary,
                turn_id=self._turn_id,
                lease=self._claim.lease,
            )

        # Another call of this turn may be refused, and told in the repair's audit, meanwhile.
        answer: str = retry_stale(propose)
        return answer


def _checked(tool: _Tool, arguments: Mapping[str, Any]) -> _Arguments:
    """:raises RefusedError: it has arguments that this tool has not. :raises ValidationError: of another shape."""
    try:
        return read_value(tool.arguments, dict(arguments))
    except ValidationError as exc:
        extra = [error["path"] for error in exc.errors if error["message"] == UNKNOWN_KEY]
        if extra:
            names = ", ".join(f'"{path[:80]}"' for path in extra[:5])
            raise RefusedError(f"This tool does not take {names}.") from exc
        exc.detail = "The arguments do not have the expected shape."
        raise


def _refuse_invalid(body: Workflow, *, before: Workflow | None = None) -> None:
    problems = validate(body) or new_code_problems(before or {}, body)
    if problems:
        lines = "; ".join(f"{p.path or 'workflow'}: {p.message}" for p in problems[:10])
        raise ValidationError(f"n8n would refuse this workflow: {lines}")


def _brief(workflow: Workflow) -> dict[str, Any]:
    return {"workflowId": workflow["id"], "name": workflow["name"], "versionId": workflow["versionId"]}
