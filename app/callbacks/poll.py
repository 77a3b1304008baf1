"""Failures that no callback brought: n8n is asked for them, and each is told once, by whichever way it comes first."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import gevent

from app.callbacks.routing import Router
from app.callbacks.runs import FAILED, failed_at_s, is_production, number_of, report_of_run
from app.errors import N8nError, SessionNotFoundError, StaleDocumentError
from app.journal import Change, Journal, find_once
from app.journal.records import Record, Registration
from app.n8n.client import Execution, N8nClient
from app.n8n.errors import ExecutionNotFoundError, N8nFailedError, N8nRefusedError, N8nTooLargeError, N8nTooOldError
from app.telemetry import context
from app.telemetry.sampling import Sampler

PAGE = 250
PAGES = 20
"""So many of each status are looked at in a round, the newest first."""
RUNS_AT_ONCE = 200
"""So many are read whole in a round."""
UNFINISHED_MAX = 1_000
NEXT_S = 1.0
"""Until the next round, where one was not enough."""
DUE = 0.75
"""Part of the interval after which another worker's round is old enough for the next."""
SKEW_S = 10.0
"""So far n8n's clock may be from ours."""
WARN_S = 3_600.0

_UNFINISHED = ("running", "waiting")
_NOT_ENDED = (*_UNFINISHED, "new", "unknown")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollCursor(Record):
    """How far one n8n's runs are dealt with.

    :ivar after: all runs with ids up to this one are, but for ``unfinished``.
    :ivar unfinished: ids of those that had not ended, or could not be read; they are looked at one by one.
    :ivar seen: highest id met so far. ``after`` follows it a round later: n8n may show ids in another order than it
        has given them.
    :ivar begun_at_s: epoch seconds of the last whole round's begin; 0 where one was not enough.
    """

    KIND = "poll_cursor"
    n8n: str
    after: int = 0
    unfinished: list[int] = field(default_factory=list)
    seen: int = 0
    begun_at_s: float = 0.0

    @property
    def key(self) -> str:
        return self.n8n


class Poll:
    """One worker's part in it; rounds of several at once do no harm.

    :param n8n_url: told apart by this, for each n8n numbers its own runs.
    :param editor_url: n8n as people open it; by default ``n8n_url``.
    :param keep_s: for how long the journal knows which callbacks it has had.
    """

    def __init__(
        self,
        journal: Journal,
        client: N8nClient,
        router: Router,
        *,
        n8n_url: str,
        editor_url: str | None,
        interval_s: float,
        keep_s: float,
    ) -> None:
        self._journal = journal
        self._client = client
        self._router = router
        self._n8n = hashlib.sha256(n8n_url.encode()).hexdigest()[:16]
        self._base_url = editor_url or n8n_url
        self._interval_s = interval_s
        self._keep_s = keep_s
        self._born_at_s = time.time()
        self._warned = Sampler(WARN_S)

    def round(self) -> float | None:
        """Look once; returns when to go on, where that is sooner than the interval.

        :raises N8nError: n8n cannot be asked now; nothing is lost by that.
        """
        cursor = PollCursor.get(self._journal, self._n8n) or PollCursor(n8n=self._n8n)
        now_s = time.time()
        is_fresh = abs(now_s - cursor.begun_at_s) < DUE * self._interval_s
        if (is_fresh and cursor.begun_at_s >= self._born_at_s) or not self._journal.find(Registration.KIND, limit=1):
            return None
        try:
            whole = self._look(cursor, now_s)
        except StaleDocumentError:
            return None  # another worker's round was faster
        except N8nError as exc:
            if not exc.permanent:
                raise
            self._warn("failures that no callback brings cannot be looked for: %s", exc)
            return None
        return None if whole else NEXT_S

    def _look(self, cursor: PollCursor, now_s: float) -> bool:
        """:returns: whether all that was found is dealt with."""
        look = _Look(self._journal, oldest_s=now_s - self._keep_s + SKEW_S, seen=cursor.seen)
        # Before what has failed: what ends in between is in neither list else.
        running = {number_of(run) for status in _UNFINISHED for run in self._list(status, 0) if look.is_ours(run)}
        failed = (run for status in FAILED for run in self._list(status, cursor.after))
        found = {number_of(run): run for run in failed if look.may_be_told(run)}
        left = set(cursor.unfinished) & running
        for number in sorted(set(cursor.unfinished) - running):
            ended = self._ended(number)
            if ended is None:
                left.add(number)
            elif ended.get("status") in FAILED and look.may_be_told(ended):
                found[number] = ended
        after, reads = max(cursor.after, cursor.seen), 0
        for number in sorted(found):
            if reads >= RUNS_AT_ONCE:
                after = max(cursor.after, min(after, number - 1))
                left |= {later for later in found if number <= later <= after}
                break
            gevent.sleep(0)
            key = f"callback:exec:{number}"
            if find_once(self._journal, key) is None:
                reads += 1
                if not self._tell(found[number], look, key):
                    left.add(number)
        whole = reads < RUNS_AT_ONCE
        kept = sorted(left | {number for number in running if number <= after})
        if len(kept) > UNFINISHED_MAX:
            self._warn("more than %d runs of n8n's are unfinished; the oldest are not looked at", UNFINISHED_MAX)
        begun_at_s = now_s if whole else 0.0
        put = cursor.put(after=after, unfinished=kept[-UNFINISHED_MAX:], seen=look.seen, begun_at_s=begun_at_s)
        self._journal.commit(Change(puts=[put]))
        return whole

    def _list(self, status: str, after: int) -> Iterator[Execution]:
        """Runs of all workflows with this status and a higher id than ``after``, newest first."""
        page_cursor: str | None = None
        for _ in range(PAGES):
            page = self._client.list_executions(status=status, limit=PAGE, cursor=page_cursor)
            for run in page.executions:
                if number_of(run) <= after:
                    return
                yield run
            page_cursor = page.next_cursor
            if page_cursor is None:
                return
        # The first time n8n's whole past is met; none of it is ours.
        if after or status in _UNFINISHED:
            self._warn(f"n8n has more than %d runs with status {status} to look at; older ones are not", PAGE * PAGES)

    def _ended(self, number: int) -> Execution | None:
        """A run that was unfinished; ``None``: it still is, or cannot be read now."""
        try:
            run = self._client.get_execution(str(number))
        except ExecutionNotFoundError:
            return {}
        except (N8nFailedError, N8nRefusedError, N8nTooOldError) as exc:
            log.warning("a run of n8n's cannot be read: %s", exc, extra={"executionId": str(number)})
            return None
        return None if run.get("status") in _NOT_ENDED else run

    def _tell(self, run: Execution, look: _Look, key: str) -> bool:
        """Route the run's report; returns whether it is dealt with."""
        registration = look.owner(run)
        if registration is None:
            return True
        run_id, request_id = str(run["id"]), uuid.uuid4().hex
        with context.bind(request_id=request_id, workflow_id=registration.workflow_id, execution_id=run_id):
            try:
                run = self._client.get_execution(run_id, include_data=True)
            except ExecutionNotFoundError:
                return True
            except N8nTooLargeError:
                pass  # told by what the list has of it
            except (N8nFailedError, N8nRefusedError, N8nTooOldError) as exc:
                log.warning("a run of n8n's cannot be read: %s", exc)
                return False
            report = report_of_run(run, workflow_name=registration.name, base_url=self._base_url)
            if report is None:
                return True
            try:
                routed = self._router.route(report, source="poll", request_id=request_id, once=key)
            except SessionNotFoundError:
                return True  # it was ended meanwhile
            if not routed.duplicate:
                fields = {"repair": routed.repair, "sessionId": routed.session_id, "seq": routed.seq}
                log.info("failure found that no callback brought", extra=fields)
        return True

    def _warn(self, message: str, fact: object) -> None:
        """Once an hour."""
        if self._warned.take(message) is not None:
            log.warning(message, fact)


class _Look:
    """What a round knows of the runs it meets.

    :ivar seen: the highest id met.
    """

    def __init__(self, journal: Journal, *, oldest_s: float, seen: int) -> None:
        self.seen = seen
        self._journal = journal
        self._oldest_s = oldest_s
        self._owners: dict[str, Registration | None] = {}

    def is_ours(self, run: Execution) -> bool:
        self.seen = max(self.seen, number_of(run))
        return is_production(run) and self.owner(run) is not None

    def may_be_told(self, run: Execution) -> bool:
        """Whether it is young enough, too: of what is older, it may be forgotten that a callback brought it."""
        registration = self.owner(run) if self.is_ours(run) else None
        if registration is None or registration.stored_at is None:
            return False
        at_s = failed_at_s(run)
        return at_s is None or at_s >= max(registration.stored_at.timestamp() - SKEW_S, self._oldest_s)

    def owner(self, run: Execution) -> Registration | None:
        """The workflow's registration in an open session, looked up once in a round."""
        workflow_id = str(run.get("workflowId"))
        if workflow_id not in self._owners:
            registration = Registration.get(self._journal, workflow_id)
            session = self._journal.session(registration.session_id) if registration else None
            is_open = session is not None and session.state != "closed"
            self._owners[workflow_id] = registration if is_open else None
        return self._owners[workflow_id]
