"""Callbacks that reached nobody: kept once each, redacted, until somebody replays or adopts them."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from app.callbacks.report import ErrorReport, decode, parse_error_report
from app.callbacks.routing import Routed, Router
from app.errors import ConflictError, NotFoundError, SessionNotFoundError, StaleDocumentError, ValidationError
from app.journal import Change, Journal, Once, events
from app.journal.records import Autonomy, DeadLetter, DeadLetterReason, Registration, retry_stale
from app.telemetry.redaction import redact, redact_text

KEPT_ENDS_BYTES = 32_768
LOGGED_CHARS = 8_192

log = logging.getLogger(__name__)


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

    def keep_report(self, report: ErrorReport, reason: DeadLetterReason, *, request_id: str) -> Kept:
        """Keep a parsed callback; its idempotency key is taken by this."""
        letter = DeadLetter(
            dead_letter_id=_new_id(report.idempotency_key or request_id + str(time.time())),
            reason=reason,
            workflow_id=report.workflow_id,
            execution_id=report.execution_id or "",
            idempotency_key=report.idempotency_key,
            report=report.as_body(),
            request_id=request_id,
        )
        once = Once(f"callback:{report.idempotency_key}", {"routed": False}) if report.idempotency_key else None
        known = Once(f"letter:{letter.key}", {}) if once is None else once
        try:
            committed = self.journal.commit(Change(once=known, puts=[letter.put()]))
        except StaleDocumentError:  # the letter has outlived its key
            return Kept(letter.key, duplicate=True, routed=self.get(letter.key).state == "replayed")
        if not committed.duplicate:
            self._log(letter, json.dumps(letter.report))
        return Kept(letter.key, committed.duplicate, bool(committed.result.get("routed")))

    def keep_text(
        self, body: bytes, reason: DeadLetterReason, *, request_id: str, size_bytes: int, header_key: str = ""
    ) -> str:
        """Keep a callback that could not be read, once for each content; returns the letter's id.

        :param body: what came, or its ends where it was too large.
        """
        text = redact_text(_readable(body, reason), limit=2 * KEPT_ENDS_BYTES + 64)
        digest = hashlib.sha256(body).hexdigest()
        letter = DeadLetter(
            dead_letter_id=_new_id(f"{reason}:{size_bytes}:{digest}"),
            reason=reason,
            idempotency_key=header_key,
            text=text,
            size_bytes=size_bytes,
            request_id=request_id,
        )
        try:
            committed = self.journal.commit(Change(once=Once(f"letter:{letter.key}", {}), puts=[letter.put()]))
        except StaleDocumentError:  # the letter has outlived its key
            return letter.key
        if not committed.duplicate:
            self._log(letter, text)
        return letter.key

    def get(self, dead_letter_id: str) -> DeadLetter:
        """:raises NotFoundError: there is none."""
        letter = DeadLetter.get(self.journal, dead_letter_id)
        if letter is None:
            raise NotFoundError("There is no dead letter with this id.")
        return letter

    def replay(self, dead_letter_id: str, *, session_id: str | None, request_id: str) -> Routed:
        """Route a kept callback now; with ``session_id`` its workflow is registered there first.

        :raises NotFoundError: no such letter. :raises ConflictError: it cannot be replayed, or its workflow belongs to
            another session, or is still unknown. :raises SessionNotFoundError: no open session ``session_id``.
        """
        letter = self.get(dead_letter_id)
        if letter.report is None:
            raise ConflictError("This dead letter holds a body that could not be read; it cannot be replayed.")
        if session_id is not None and letter.state != "replayed":
            self._adopt(letter, session_id)
        report = parse_error_report(letter.report)
        try:
            return self.router.route(
                report, source="replay", request_id=request_id, once=f"replay:{letter.key}", replayed=letter
            )
        except SessionNotFoundError as exc:
            raise ConflictError("No open session owns this workflow; name one in sessionId to adopt it there.") from exc

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
        fields: dict[str, Any] = {
            "deadLetterId": letter.key,
            "reason": letter.reason,
            "workflowId": letter.workflow_id or None,
            "executionId": letter.execution_id or None,
            "deadLetter": redact_text(text, limit=LOGGED_CHARS),
        }
        if letter.reason in ("no_session", "session_closed"):
            log.warning("No session found for workflow", extra=fields)
        else:
            log.warning("callback kept as a dead letter", extra=fields)


def _readable(body: bytes, reason: DeadLetterReason) -> str:
    """A body as text; JSON of another schema redacted by its structure, which tells more than the text alone."""
    if reason == "bad_schema":
        try:
            return json.dumps(redact(decode(body)), ensure_ascii=False)
        except ValidationError:
            pass
    return body.decode("utf-8", "replace")


def _new_id(text: str) -> str:
    return "d" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:23]
