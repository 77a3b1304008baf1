"""What happens with an error, decided by rules alone: its signature, its class, whether a repair is begun.

Pure functions on records; the agent can neither call nor reset any of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.journal import Journal
from app.journal.records import AUTONOMIES, Autonomy, Case, Ceiling, Registration

Verdict = Literal["queued", "coalesced", "blocked", "observed"]
Diagnosis = Literal["workflow_bug", "credentials", "quota", "remote_outage", "unknown"]

MAX_ATTEMPTS = 3
CAME_BACK_S = 7 * 86_400.0
UNDO_S = 3_600.0
"""A published repair whose error comes back so soon is undone by the bridge itself."""
DIAGNOSIS_HOLDS_S = 3_600.0
APPROVAL_S = 86_400.0
SUBWORKFLOW_WAIT_S = 3.0

_VARIABLE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{12,}\b|\d+(?:[.,:]\d+)*|\s+"
)


def signature(workflow_id: str, node: str | None, error: Mapping[str, Any]) -> str:
    """16 hex digits that are equal for the same failure of the same node of the same workflow.

    Numbers, ids and white space in the message do not count. A crash or a trigger error has no message; its name and
    HTTP code stand in for it.
    """
    message = error.get("message") or error.get("name") or error.get("httpCode") or ""
    normal = _VARIABLE.sub(lambda found: " " if found.group().isspace() else "#", str(message).lower())[:300]
    return hashlib.sha256("\0".join((workflow_id, node or "", normal)).encode("utf-8", "replace")).hexdigest()[:16]


def effective_autonomy(journal: Journal, own: Autonomy) -> Autonomy:
    """The lower of a workflow's own autonomy and the brake."""
    ceiling = Ceiling.get(journal, "all")
    return min(own, ceiling.autonomy, key=AUTONOMIES.index) if ceiling else own


def autonomy_of(journal: Journal, workflow_id: str) -> Autonomy:
    """How far a repair of this workflow may go now; one that nobody owns any more is only observed."""
    registration = Registration.get(journal, workflow_id)
    return effective_autonomy(journal, registration.autonomy) if registration else "observe"


def is_braked(journal: Journal) -> bool:
    """Whether the brake forbids every write of a repair, one that a person has approved as well."""
    return effective_autonomy(journal, "auto") in ("observe", "suggest")


# -- taking an error


@dataclass(frozen=True, slots=True)
class Taken:
    """What to do with an error: the answer for n8n, the case as it is afterwards, why (for ``blocked``), and whether
    the repair that was published for it is to be undone."""

    verdict: Verdict
    case: dict[str, Any]
    reason: str = ""
    undo: bool = False


def take(case: Case, *, autonomy: Autonomy, repair_id: str, now_s: float, late: bool = False) -> Taken:
    """Decide on one more error of ``case``.

    :param repair_id: id of the repair to begin, if one is begun.
    :param late: the failed run began before the case's last repair was live, so it says nothing about it.
    """
    counted: dict[str, Any] = {"count": case.count + 1}
    if autonomy == "observe":
        return Taken("observed", counted)
    if case.state == "open":
        return Taken("coalesced", counted)
    if case.state == "blocked":
        return Taken("blocked", counted)
    since_s = now_s - case.closed_at_s
    if late and case.outcome == "published":
        return Taken("coalesced", counted)
    if case.outcome in ("published", "rolled_back") and since_s < CAME_BACK_S:
        # A brake that was put on since forbids this write, too.
        undo = case.outcome == "published" and since_s < UNDO_S and autonomy in ("ask", "auto")
        after = "its repair" if case.outcome == "published" else "its repair was rolled back"
        reason = f"The same error came back after {after}." + (" The repair is undone." if undo else "")
        return Taken("blocked", {**counted, "state": "blocked"}, reason, undo)
    if case.outcome == "not_a_bug" and since_s < DIAGNOSIS_HOLDS_S:
        return Taken("coalesced", counted)
    fresh = case.outcome in ("", "published", "rolled_back", "not_a_bug")
    attempts = 0 if fresh else case.attempts
    if attempts >= MAX_ATTEMPTS:
        return Taken("blocked", {**counted, "state": "blocked"}, f"{MAX_ATTEMPTS} attempts to repair it failed.")
    return Taken("queued", {**counted, "state": "open", "repair_id": repair_id, "attempts": attempts + 1})


def closing(outcome: str, *, now_s: float) -> dict[str, Any]:
    """The changes of a case whose repair has ended."""
    return {"state": "closed", "outcome": outcome, "closed_at_s": now_s}


# -- triage

_REFUSED = {"ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ETIMEDOUT", "ESOCKETTIMEDOUT", "EPIPE", "EHOSTUNREACH"}
_CREDENTIALS = re.compile(
    r"(?i)credentials? (?:not found|of type|with (?:id|name))"
    r"|credentials? .{0,40}(?:does not exist|could not be found|expired|invalid)"
    r"|authorization failed|unauthori[sz]ed|token (?:has )?expired|invalid (?:api key|token|credentials)|forbidden"
)
_QUOTA = re.compile(r"(?i)too many requests|rate.?limit|quota|insufficient (?:credit|funds|balance)|billing")
_OUTAGE = re.compile(
    r"(?i)service (?:was not able to process|refused the connection|unavailable)|timed? ?out|timeout of \d+"
    r"|connection was (?:aborted|reset|closed)|socket hang up|bad gateway|gateway time"
)


@dataclass(frozen=True, slots=True)
class Triage:
    kind: Diagnosis
    summary: str

    @property
    def for_agent(self) -> bool:
        """Whether an agent is asked at all."""
        return self.kind in ("workflow_bug", "unknown")


def triage(error: Mapping[str, Any], *, node: Mapping[str, Any] | None, node_name: str | None) -> Triage:
    """The class of an error, by its HTTP code, its text and the failing node.

    :param node: the node as it is now in the workflow, else as the callback had it; ``None`` where neither is known.
    """
    where = f'The node "{node_name}"' if node_name else "The workflow"
    code = str(error.get("httpCode") or "").upper()
    number = int(code) if re.fullmatch(r"[0-9]{3}", code) else 0
    # A Code node's text is the workflow author's own and says nothing about the other side.
    judged = not code and error.get("name") != "WrappedExecutionError"
    text = " ".join(str(error.get(name) or "") for name in ("message", "description")) if judged else ""
    if number in (401, 403) or _CREDENTIALS.search(text):
        return Triage(
            "credentials",
            f"{where} was not allowed in: its credential is missing, wrong or expired. Renew it in n8n, then run the "
            "workflow again. A workflow change would not help.",
        )
    if number in (402, 429) or _QUOTA.search(text):
        return Triage(
            "quota",
            f"{where} was refused because a limit of the other side is used up. Wait, raise the limit there, or let "
            "the workflow ask less often.",
        )
    if number >= 500 or code in _REFUSED or _OUTAGE.search(text):
        if node is not None and not node.get("retryOnFail"):
            return Triage("workflow_bug", f"{where} gives up at the first hiccup of the other side: it has no retries.")
        return Triage(
            "remote_outage",
            f"{where} could not reach a working service. Nothing is wrong with the workflow; run it again once the "
            "service is back.",
        )
    if code == "ENOTFOUND":
        return Triage("unknown", f"{where} asked for a host that does not exist, or that could not be looked up.")
    if error.get("name") == "WorkflowCrashedError":
        return Triage("unknown", "n8n stopped in the middle of this run; the workflow itself may be sound.")
    return Triage("workflow_bug", f"{where} failed by what the workflow does.")
