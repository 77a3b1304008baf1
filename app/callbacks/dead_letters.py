"""Callbacks that reached nobody: kept once each, redacted, until somebody replays or adopts them."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass, replace
from typing import Any

from app.callbacks.report import ErrorReport, parse_error_report
from app.callbacks.routing import Routed, Router
from app.errors import (
    ConflictError,
    NotFoundError,
    RateLimitError,
    SessionNotFoundError,
    StaleDocumentError,
    ValidationError,
)
from app.journal import Change, Committed, Journal, Limit, Once, events
from app.journal.records import (
    HELD,
    Autonomy,
    DeadLetter,
    DeadLetterReason,
    Registration,
    dead_letter_id,
    retry_stale,
)
from app.shapes import decode_json
from app.telemetry.redaction import redact, redact_text
from app.telemetry.sampling import Sampler
from app.web.limits import refused_by_change

KEPT_ENDS_BYTES = 32_768
LOGGED_BYTES = 8_192

log = logging.getLogger(__name__)
_held = Sampler()


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept callback. ``duplicate``: its key had been taken before; ``routed``: by one that reached its session."""

    dead_letter_id: str
    duplicate: bool
    routed: bool


@dataclass(frozen=True, slots=True)
class DeadLetters:
    journal: Journal
    router: Router
    autonomy: Autonomy

    def keep_report(
        self, report: ErrorReport, reason: DeadLetterReason, *, request_id: str, limit: Limit | None = None
    ) -> Kept:
        """Keep a parsed callback; its idempotency key is taken by this.

        :raises RateLimitError: over ``limit``; it is held until the limit allows.
        """
        letter = _of_report(report, reason, request_id)
        once = Once(f"callback:{report.idempotency_key}", {"routed": False}) if report.idempotency_key else None
        known = Once(f"letter:{letter.key}", {}) if once is None else once
        try:
            committed = self._keep(letter, known, limit)
        except StaleDocumentError:  # the letter has outlived its key
            return Kept(letter.key, duplicate=True, routed=self.get(letter.key).state == "replayed")
        if not committed.duplicate:
            self._log(letter, json.dumps(letter.report))
        return Kept(letter.key, committed.duplicate, bool(committed.result.get("routed")))

    def keep_text(
        self,
        body: bytes,
        reason: DeadLetterReason,
        *,
        request_id: str,
        size_bytes: int,
        header_key: str = "",
        limit: Limit | None = None,
    ) -> str:
        """Keep a callback that could not be read, once for each content; returns the letter's id.

        :param body: what came, or its ends where it was too large.
        :raises RateLimitError: over ``limit``; it is kept, with that reason.
        """
        text = redact_text(_readable(body, reason), limit=2 * KEPT_ENDS_BYTES + 64)
        digest = hashlib.sha256(body).hexdigest()
        letter = DeadLetter(
            dead_letter_id=dead_letter_id(f"{reason}:{size_bytes}:{digest}"),
            reason=reason,
            idempotency_key=header_key,
            text=text,
            size_bytes=size_bytes,
            request_id=request_id,
        )
        try:
            committed = self._keep(letter, Once(f"letter:{letter.key}", {}), limit)
        except StaleDocumentError:  # the letter has outlived its key
            return letter.key
        if not committed.duplicate:
            self._log(letter, text)
        return letter.key

    def hold(self, report: ErrorReport, refused: RateLimitError, *, request_id: str) -> RateLimitError:
        """Keep a callback that is over the limit, once; gives the error to answer with, which names the letter."""
        return self._hold(_of_report(report, "rate_limited", request_id), refused)

    def get(self, letter_id: str) -> DeadLetter:
        """:raises NotFoundError: there is none."""
        letter = DeadLetter.get(self.journal, letter_id)
        if letter is None:
            raise NotFoundError("There is no dead letter with this id.")
        return letter

    def replay(self, letter_id: str, *, session_id: str | None, request_id: str) -> Routed:
        """Route a kept callback now; with ``session_id`` its workflow is registered there first.

        :raises NotFoundError: no such letter. :raises ConflictError: it cannot be replayed, or its workflow belongs to
            another session, or is still unknown. :raises SessionNotFoundError: no open session ``session_id``.
        """
        letter = self.get(letter_id)
        if letter.report is None:
            raise ConflictError("This dead letter holds a body that could not be read; it cannot be replayed.")
        if session_id is not None and letter.state != "replayed":
            self._adopt(letter, session_id)
        report = parse_error_report(letter.report)
        try:
            return self.router.route(
                report, source="replay", request_id=request_id, once=letter.replay_key, replayed=letter
            )
        except SessionNotFoundError as exc:
            raise ConflictError("No open session owns this workflow; name one in sessionId to adopt it there.") from exc

    def replay_held(self, letter: DeadLetter, limit: Limit | None) -> Routed:
        """Route a letter that the rate limit held back, as its caller's next try would be.

        :raises SessionNotFoundError: no open session owns its workflow. :raises RateLimitError: over ``limit`` still.
        """
        report = parse_error_report(letter.report)
        routed = self.router.route(
            report,
            source="replay",
            request_id=letter.request_id,
            once=letter.replay_key,
            replayed=letter,
            limit=limit,
        )
        if routed.duplicate:
            # Its caller was let in by another worker while this letter was being written.
            self.journal.commit(Change(puts=[letter.put(state="replayed", session_id=routed.session_id)]))
        return routed

    def _keep(self, letter: DeadLetter, once: Once, limit: Limit | None) -> Committed:
        known = DeadLetter.get(self.journal, letter.key)
        refused_before = known is not None and known.reason == "rate_limited" and known.state == "kept"
        put = known.put(reason=letter.reason) if known is not None and refused_before else letter.put()
        try:
            return self.journal.commit(Change(once=once, limit=limit, puts=[put]))
        except RateLimitError as exc:
            raise self._hold(replace(letter, reason="rate_limited"), exc) from exc

    def _hold(self, letter: DeadLetter, refused: RateLimitError) -> RateLimitError:
        if DeadLetter.get(self.journal, letter.key) is None:
            try:
                self.journal.commit(Change(puts=[letter.put()], wake=[HELD]))
                self._log(letter, json.dumps(letter.report) if letter.report is not None else letter.text)
            except StaleDocumentError:
                pass  # another try of the same callback was faster
        refused.fields["deadLetterId"] = letter.key
        return refused_by_change("callbacks", refused)

    def _adopt(self, letter: DeadLetter, session_id: str) -> None:
        def register() -> None:
            session = self.journal.session(session_id)
            if session is None or session.state == "closed":
                raise SessionNotFoundError("No open session has this id.")
            registration = Registration.get(self.journal, letter.workflow_id)
            if registration is not None and registration.session_id == session_id:
                return
            if registration is not None:
                owner = self.journal.session(registration.session_id)
                if owner is not None and owner.state != "closed":
                    raise ConflictError("This workflow belongs to another session.")
            name = str(((letter.report or {}).get("workflow") or {}).get("name") or letter.workflow_id)
            new = Registration(
                version=registration.version if registration else 0,
                workflow_id=letter.workflow_id,
                session_id=session_id,
                name=name,
                autonomy=self.autonomy,
            )
            event = events.workflow_registered(letter.workflow_id, name, self.autonomy)
            self.journal.commit(Change(session_id=session_id, events=[event], puts=[new.put()]))

        retry_stale(register)

    def _log(self, letter: DeadLetter, text: str) -> None:
        # What is over the limit comes in floods; the letters themselves are all kept.
        suppressed = _held.take(letter.reason) if letter.reason == "rate_limited" else 0
        if suppressed is None:
            return
        fields: dict[str, Any] = {
            "deadLetterId": letter.key,
            "reason": letter.reason,
            "workflowId": letter.workflow_id or None,
            "executionId": letter.execution_id or None,
            "deadLetter": _cut(redact_text(text, limit=LOGGED_BYTES)),
        }
        if suppressed:
            fields["suppressed"] = suppressed
        if letter.reason in ("no_session", "session_closed"):
            log.warning("No session found for workflow", extra=fields)
        else:
            log.warning("callback kept as a dead letter", extra=fields)


def _readable(body: bytes, reason: DeadLetterReason) -> str:
    """A body as text; JSON of another schema redacted by its structure, which tells more than the text alone."""
    if reason == "bad_schema":
        try:
            return json.dumps(redact(decode_json(body)), ensure_ascii=False)
        except ValidationError:
            pass
    return body.decode("utf-8", "replace")


def _of_report(report: ErrorReport, reason: DeadLetterReason, request_id: str) -> DeadLetter:
    return DeadLetter(
        dead_letter_id=dead_letter_id(report.idempotency_key or request_id + str(time.time())),
        reason=reason,
        workflow_id=report.workflow_id,
        execution_id=report.execution_id or "",
        idempotency_key=report.idempotency_key,
        report=report.as_body(),
        request_id=request_id,
    )


def _cut(text: str) -> str:
    """The first bytes of ``text``, in UTF-8, that a log line may have of a letter."""
    return text.encode("utf-8", "replace")[:LOGGED_BYTES].decode("utf-8", "ignore")
