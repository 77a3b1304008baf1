"""The application factory: wire and register, nothing else."""

from __future__ import annotations

from flask import Flask

from app import cli
from app.agents import Agent
from app.callbacks.routes import callbacks_blueprint, dead_letters_blueprint
from app.console.routes import console_blueprint
from app.lifecycle import BridgeWorker
from app.ops.routes import brake_blueprint, metrics_blueprint, probes_blueprint
from app.sessions.routes import sessions_blueprint
from app.sessions.socket import socket_blueprint
from app.settings import Settings, load
from app.telemetry.redaction import know_secrets
from app.web import problems, request_metrics, security, socket_io
from app.web.limiter import DeclaredLimits
from app.web.refusals import RefusedHealth
from app.web.request_id import RequestIdMiddleware


def create_app(settings: Settings | None = None, *, agent: Agent | None = None) -> Flask:
    """Make the WSGI application of one worker; ``app.extensions["bridge"]`` is what gunicorn's hooks talk to.

    :param agent: instead of the one that the settings name.
    :raises ConfigError: a setting is wrong.
    """
    settings = settings or load()
    know_secrets(settings.secret_values)
    app = Flask("bridge", static_folder=None)
    # As they were written: a workflow's keys read best in n8n's own order. The attribute is the default provider's.
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["SOCK_SERVER_OPTIONS"] = {
        "max_message_bytes": settings.max_message_bytes,
        "ping_interval_s": settings.ws_ping_interval_seconds,
        "send_timeout_s": settings.ws_send_timeout_seconds,
    }
    bridge = BridgeWorker(settings, agent=agent)
    app.extensions["bridge"] = bridge

    socket_io.install()
    problems.register(app)
    problems.register_failed_authentication(app, bridge.limits.failed_authentication)
    security.register(app, settings)
    request_metrics.register(app)

    declared = DeclaredLimits(app, bridge.limits)
    app.register_blueprint(probes_blueprint(bridge, count_health=declared.check("health")))  # auth: none
    app.register_blueprint(console_blueprint())  # auth: none
    app.register_blueprint(metrics_blueprint(bridge))  # auth: loopback, or the metrics or access token
    app.register_blueprint(brake_blueprint(bridge))  # auth: access
    app.register_blueprint(sessions_blueprint(bridge))  # auth: access or session, stated in each view
    # auth: Origin before the upgrade, then the hello frame
    app.register_blueprint(socket_blueprint(bridge, count_handshake=declared.check("ws")))
    app.register_blueprint(callbacks_blueprint(bridge))  # auth: callback secret
    app.register_blueprint(dead_letters_blueprint(bridge))  # auth: access

    cli.register(app)

    # WSGI layers are put on like this in Flask's documentation; to mypy it is a method that changes.
    app.wsgi_app = RefusedHealth(app.wsgi_app, bridge.limits)  # type: ignore[method-assign]
    # Outermost: whatever answers inside carries the request's id.
    app.wsgi_app = RequestIdMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return app
