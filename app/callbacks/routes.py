"""n8n's callback and the dead letters: authenticate, parse, journal, answer. Nothing here waits for a repair."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from flask import Blueprint, Response, jsonify, request
from pydantic import Field

from app import shapes
from app.callbacks.dead_letters import KEPT_ENDS_BYTES
from app.callbacks.report import parse_error_report
from app.callbacks.routing import Routed
from app.errors import RateLimitError, SessionNotFoundError, TooLargeError, ValidationError
from app.journal import events
from app.journal.records import DeadLetter, DeadLetterReason
from app.lifecycle import BridgeWorker
from app.telemetry import context
from app.web import auth, problems
from app.web.bodies import read_body, read_json_body

MAX_KEY_CHARS = 256
MAX_LISTED = 1_000
log = logging.getLogger(__name__)


class DeadLettersQuery(shapes.Query):
    reason: DeadLetterReason | None = None
    limit: int = Field(default=100, ge=1, le=MAX_LISTED)


class ReplayBody(shapes.Shape):
    sessionId: shapes.Id | None = None


def callbacks_blueprint(bridge: BridgeWorker) -> Blueprint:
    """``POST /callbacks/n8n/error``; auth: the callback secret."""
    blueprint = Blueprint("callbacks", __name__)
    letters, limit_bytes = bridge.dead_letters, bridge.settings.max_message_bytes
    limit = bridge.limits.callbacks

    @blueprint.post("/callbacks/n8n/error")
    def take_error() -> tuple[Response, int]:
        auth.check_callback(request.environ, bridge.settings)
        request.environ[problems.COUNTED_AS_KEY] = "callback"
        request_id = request.environ["bridge.request_id"]
        header_key = _header_key()
        body = read_body(limit_bytes, keep_ends_bytes=KEPT_ENDS_BYTES)

        def keep(reason: DeadLetterReason) -> str:
            size = body.size_bytes
            return letters.keep_text(
                body.data, reason, request_id=request_id, size_bytes=size, header_key=header_key, limit=limit
            )

        if not body.whole:
            kept_as = {"deadLetterId": keep("too_large")}
            raise TooLargeError(f"A callback may have {limit_bytes} bytes; its ends were kept.", fields=kept_as)
        try:
            report = parse_error_report(shapes.decode_json(body.data), header_key=header_key)
        except ValidationError as exc:
            exc.fields["deadLetterId"] = keep("bad_schema")
            raise
        context.note(workflow_id=report.workflow_id, execution_id=report.execution_id)
        try:
            routed = bridge.router.route(report, source="callback", request_id=request_id, limit=limit)
        except RateLimitError as exc:
            raise letters.hold(report, exc, request_id=request_id) from exc
        except SessionNotFoundError:
            known = bridge.is_registered(report.workflow_id)
            reason: DeadLetterReason = "session_closed" if known else "no_session"
            kept = letters.keep_report(report, reason, request_id=request_id, limit=limit)
            if kept.duplicate:
                return jsonify(routed=kept.routed, duplicate=True), 200
            return jsonify(routed=False, deadLetterId=kept.dead_letter_id), 202
        fields = {"repair": routed.repair, "sessionId": routed.session_id, "seq": routed.seq}
        log.info("callback taken", extra={**fields, "duplicate": routed.duplicate})
        return _answer(routed)

    return blueprint


def dead_letters_blueprint(bridge: BridgeWorker) -> Blueprint:
    """``/dead-letters…``; auth: access, and not for anonymous callers."""
    blueprint = Blueprint("dead_letters", __name__)
    letters = bridge.dead_letters

    @blueprint.before_request
    def access() -> None:
        if request.method != "OPTIONS":  # a browser's preflight carries no credential
            auth.check_access(auth.bearer(request.environ), request.environ, bridge.settings, anonymous_ok=False)

    @blueprint.get("/dead-letters")
    def list_letters() -> Response:
        query = shapes.read_query(DeadLettersQuery, request.args.to_dict())
        label = f"reason:{query.reason}" if query.reason else ""
        found = DeadLetter.find(bridge.journal, label, limit=query.limit)
        return jsonify(deadLetters=[_letter(letter) for letter in found])

    @blueprint.get("/dead-letters/<dead_letter_id>")
    def show_letter(dead_letter_id: str) -> Response:
        letter = letters.get(dead_letter_id)
        return jsonify({**_letter(letter), "body": letter.report if letter.report is not None else letter.text})

    @blueprint.post("/dead-letters/<dead_letter_id>/replay")
    def replay(dead_letter_id: str) -> tuple[Response, int]:
        wanted = ReplayBody()
        # A chunked body has no length.
        if request.content_length or "Transfer-Encoding" in request.headers:
            text = read_json_body(bridge.settings.max_message_bytes)
            wanted = shapes.read_body(ReplayBody, text)
        request_id = request.environ["bridge.request_id"]
        return _answer(letters.replay(dead_letter_id, session_id=wanted.sessionId, request_id=request_id))

    return blueprint


def _header_key() -> str:
    """``X-Idempotency-Key``; a long one as its hash, so that two that begin alike stay two."""
    key = request.headers.get("X-Idempotency-Key", "")
    return key if len(key) <= MAX_KEY_CHARS else hashlib.sha256(key.encode()).hexdigest()


def _answer(routed: Routed) -> tuple[Response, int]:
    if routed.duplicate:
        return jsonify(routed=routed.routed, duplicate=True), 200
    return jsonify(routed=True, sessionId=routed.session_id, seq=routed.seq, repair=routed.repair), 202


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "deadLetterId": letter.dead_letter_id,
        "id": letter.dead_letter_id,
        "reason": letter.reason,
        "state": letter.state,
        "at": events.iso(letter.stored_at) if letter.stored_at else None,
        "workflowId": letter.workflow_id or None,
        "executionId": letter.execution_id or None,
        "idempotencyKey": letter.idempotency_key or None,
        "sizeBytes": letter.size_bytes or None,
        "requestId": letter.request_id,
        "sessionId": letter.session_id or None,
    }
