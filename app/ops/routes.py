"""What probes, operators and newcomers ask: liveness, readiness, health, metrics, and the brake."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import Blueprint, Response, jsonify, request

from app.errors import BusyError
from app.journal import Change
from app.journal.records import Autonomy, Ceiling, retry_stale
from app.lifecycle import BridgeWorker
from app.ops.checks import ReadinessCheck
from app.shapes import Shape, read_body
from app.telemetry import exposition
from app.telemetry.metric_files import FolderBusyError
from app.version import VERSION
from app.web import auth
from app.web.bodies import read_json_body

STARTED_AT = time.monotonic()


class AutonomyBody(Shape):
    autonomy: Autonomy


def probes_blueprint(bridge: BridgeWorker, *, count_health: Callable[[], None]) -> Blueprint:
    """``/healthz``, ``/readyz`` and ``/health``; auth: none.

    :param count_health: counts the request, or raises ``RateLimitError``.
    """
    blueprint = Blueprint("probes", __name__)
    settings = bridge.settings
    readiness = ReadinessCheck(bridge.journal)

    @blueprint.get("/healthz")
    def alive() -> Response:
        return jsonify(status="ok")

    @blueprint.get("/readyz")
    def ready() -> tuple[Response, int]:
        found = readiness.ask(draining=bridge.draining)
        status = "ready" if found.ready else "not ready"
        return jsonify(status=status, checks=found.checks), 200 if found.ready else 503

    @blueprint.get("/health")
    def health() -> Response:
        count_health()
        return jsonify(
            status="ok",
            version=VERSION,
            uptimeSeconds=int(time.monotonic() - STARTED_AT),
            activeSessions=bridge.journal.live_sessions(),
            activeTurns=bridge.runner.active_turns,
            configured={
                "claude": settings.anthropic_api_key is not None,
                "n8n": settings.n8n_api_url is not None and settings.n8n_api_key is not None,
                "callbacks": bool(settings.n8n_callback_secret),
                "access": bool(settings.access_token),
            },
        )

    return blueprint


def metrics_blueprint(bridge: BridgeWorker) -> Blueprint:
    """``/metrics`` for Prometheus; auth: loopback, or the metrics or access token."""
    blueprint = Blueprint("metrics", __name__)

    @blueprint.get("/metrics")
    def scrape() -> Response:
        auth.check_metrics(request.environ, bridge.settings)
        try:
            text, content_type = exposition.scrape(
                request.headers.get("Accept", ""), active_sessions=bridge.active_sessions
            )
        except FolderBusyError as exc:
            raise BusyError("The metrics are being put together; come back.", retry_after_s=1) from exc
        return Response(text, content_type=content_type, headers={"Cache-Control": "no-store"})

    return blueprint


def brake_blueprint(bridge: BridgeWorker) -> Blueprint:
    """``GET`` and ``PUT /autonomy``; auth: access, and not for anonymous callers."""
    blueprint = Blueprint("brake", __name__)

    def access() -> None:
        auth.check_access(auth.bearer(request.environ), request.environ, bridge.settings, anonymous_ok=False)

    @blueprint.get("/autonomy")
    def ceiling() -> Response:
        access()
        found = Ceiling.get(bridge.journal, "all") or Ceiling()
        return jsonify(autonomy=found.autonomy)

    @blueprint.put("/autonomy")
    def brake() -> Response:
        access()
        body = read_json_body(bridge.settings.max_message_bytes)
        wanted = read_body(AutonomyBody, body)

        def write() -> None:
            ceiling = Ceiling.get(bridge.journal, "all") or Ceiling()
            bridge.journal.commit(Change(puts=[ceiling.put(autonomy=wanted.autonomy)]))

        retry_stale(write)
        return jsonify(autonomy=wanted.autonomy)

    return blueprint
