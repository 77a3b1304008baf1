"""What a request costs at least: Flask alone on the bridge's gunicorn settings. Used by ``benchmarks.http``."""

from __future__ import annotations

from flask import Flask, Response, jsonify, request

from app.version import VERSION

app = Flask("bare", static_folder=None)


@app.get("/health")
def health() -> Response:
    return jsonify(
        status="ok",
        version=VERSION,
        uptimeSeconds=1,
        activeSessions=1,
        activeTurns=0,
        configured={"claude": False, "n8n": False, "callbacks": False, "access": False},
    )


@app.post("/callbacks/n8n/error")
def callback() -> tuple[Response, int]:
    body = request.get_json()
    return jsonify(routed=True, sessionId=body["workflow"]["id"], seq=1, repair="observed"), 202
