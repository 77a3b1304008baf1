"""The session routes over HTTP: the same as a socket can do, for scripts; and the list for operators."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from app.errors import N8nError
from app.journal import Session, events
from app.journal.records import Repair, Snapshot
from app.lifecycle import BridgeWorker
from app.sessions import frames
from app.shapes import read_body, read_query
from app.web import auth
from app.web.bodies import read_json_body


def sessions_blueprint(bridge: BridgeWorker) -> Blueprint:
    """``/sessions…``. Each view names its own auth: ``access`` or ``session``."""
    blueprint = Blueprint("sessions", __name__)
    sessions, settings = bridge.sessions, bridge.settings

    def access(*, anonymous_ok: bool = False) -> None:
        auth.check_access(auth.bearer(request.environ), request.environ, settings, anonymous_ok=anonymous_ok)

    def session(session_id: str) -> Session:
        found = sessions.get(session_id)
        auth.check_session(auth.bearer(request.environ), found, request.environ, settings)
        return found

    def body() -> bytes:
        return read_json_body(settings.max_message_bytes)

    @blueprint.post("/sessions")
    def open_session() -> tuple[Response, int]:
        access(anonymous_ok=True)
        token = auth.new_token()
        session_id = sessions.open(token_hash=auth.hash_token(token))
        return jsonify(sessionId=session_id, token=token), 201

    @blueprint.get("/sessions")
    def list_sessions() -> Response:
        access()
        query = read_query(frames.SessionsQuery, request.args.to_dict())
        return jsonify(sessions=[sessions.describe(s) for s in bridge.journal.sessions(limit=query.limit)])

    @blueprint.get("/sessions/<session_id>")
    def show_session(session_id: str) -> Response:
        return jsonify(sessions.describe(session(session_id)))

    @blueprint.delete("/sessions/<session_id>")
    def close_session(session_id: str) -> tuple[str, int]:
        session(session_id)
        sessions.close(session_id, reason="ended by a person")
        return "", 204

    @blueprint.get("/sessions/<session_id>/events")
    def list_events(session_id: str) -> Response:
        session(session_id)
        query = read_query(frames.EventsQuery, request.args.to_dict())
        found = bridge.journal.events(session_id, after=query.after, limit=query.limit)
        # The frames are JSON already.
        return Response(f'{{"events":[{",".join(e.frame for e in found)}]}}', mimetype="application/json")

    @blueprint.post("/sessions/<session_id>/messages")
    def post_message(session_id: str) -> tuple[Response, int]:
        session(session_id)
        message = read_body(frames.MessageBody, body())
        seq = sessions.post_message(session_id, message, request_id=request.environ["bridge.request_id"])
        return jsonify(seq=seq), 202

    @blueprint.post("/sessions/<session_id>/commands")
    def post_command(session_id: str) -> tuple[Response, int]:
        session(session_id)
        command = frames.read_command(body())
        if not isinstance(command, frames.Ping):
            sessions.command(session_id, command)
        return jsonify(accepted=command.type), 202

    @blueprint.post("/sessions/<session_id>/workflows")
    def adopt_workflow(session_id: str) -> tuple[Response, int]:
        session(session_id)
        registration, new = sessions.adopt(session_id, read_body(frames.AdoptBody, body()))
        return jsonify(registration.public()), 201 if new else 200

    @blueprint.get("/sessions/<session_id>/workflows")
    def list_workflows(session_id: str) -> Response:
        session(session_id)
        return jsonify(workflows=[one.public() for one in sessions.registrations(session_id)], n8n=_n8n(bridge))

    @blueprint.get("/sessions/<session_id>/workflows/<workflow_id>")
    def show_workflow(session_id: str, workflow_id: str) -> Response:
        session(session_id)
        sessions.own(session_id, workflow_id)
        query = read_query(frames.VersionQuery, request.args.to_dict())
        return jsonify(bridge.workflows.get(workflow_id, version=query.version))

    @blueprint.get("/sessions/<session_id>/workflows/<workflow_id>/snapshots")
    def list_snapshots(session_id: str, workflow_id: str) -> Response:
        session(session_id)
        sessions.own(session_id, workflow_id)
        found = Snapshot.find(bridge.journal, f"workflow:{workflow_id}")
        return jsonify(snapshots=[_snapshot(snapshot) for snapshot in found])

    @blueprint.get("/sessions/<session_id>/repairs")
    def list_repairs(session_id: str) -> Response:
        session(session_id)
        found = Repair.find(bridge.journal, f"session:{session_id}", limit=frames.MAX_EVENTS)
        return jsonify(repairs=[_repair(repair) for repair in found])

    return blueprint


def _n8n(bridge: BridgeWorker) -> dict[str, Any] | None:
    """Where people open the workflows, and how their failures are told; ``None``: no n8n is connected."""
    if bridge.error_workflow is None:
        return None
    editor_url = str(bridge.settings.n8n_editor_url or bridge.settings.n8n_api_url).rstrip("/")
    try:
        found = bridge.error_workflow()
        told = {"workflowId": found.workflow_id, "problem": found.problem or None}
    except N8nError as exc:
        told = {"workflowId": None, "problem": exc.detail}
    return {"editorUrl": editor_url, "errorWorkflow": told}


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "snapshotId": snapshot.snapshot_id,
        "workflowId": snapshot.workflow_id,
        "versionId": snapshot.version_id,
        "hash": snapshot.hash,
        "cause": snapshot.cause,
        "at": events.iso(snapshot.stored_at) if snapshot.stored_at else None,
        "workflow": snapshot.workflow,
    }


def _repair(repair: Repair) -> dict[str, Any]:
    return {**repair.public(), "at": events.iso(repair.stored_at) if repair.stored_at else None}
