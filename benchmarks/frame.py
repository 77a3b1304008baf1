"""The least of a callback that this stack can do: what the callbacks' rows of ``benchmarks.compare`` have as a floor.

gunicorn's gevent worker as the bridge sets it up, bare Flask, one durable insert (group commit), one WebSocket frame;
no authentication, schema, redaction, limits, metrics, routing, log line of its own, or second worker. It speaks just
enough of the protocol for the driver.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from flask_sock import Sock

from app.journal.writer import GroupCommitter

app = Flask("frame", static_folder=None)
sock = Sock(app)
sockets: dict[str, Any] = {}  # by session
owners: dict[str, str] = {}  # workflow → session


@cache
def committer() -> GroupCommitter:
    """Made by the first who needs it, in the worker."""
    path = Path(os.environ["JOURNAL_PATH"])
    return GroupCommitter(
        lambda: _connect(path), number=lambda _: 0, on_commit=lambda *_: None, announce=lambda *_: None
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS events (n INTEGER PRIMARY KEY, session TEXT, frame TEXT)")
    return connection


@sock.route("/ws")  # type: ignore[untyped-decorator]  # flask-sock has no types
def ws(socket: Any) -> None:
    socket.receive()
    session_id = uuid.uuid4().hex
    sockets[session_id] = socket
    socket.send(json.dumps({"type": "welcome", "sessionId": session_id, "token": "none"}))
    while True:
        socket.receive()


@app.post("/sessions/<session_id>/workflows")
def register(session_id: str) -> tuple[Response, int]:
    owners[request.get_json()["workflowId"]] = session_id
    return jsonify(ok=True), 201


@app.post("/callbacks/n8n/error")
def callback() -> tuple[Response, int]:
    body = request.get_json()
    session_id = owners[body["workflow"]["id"]]
    frame = json.dumps({"type": "workflow_error", "data": body})

    def insert(connection: sqlite3.Connection) -> tuple[int | None, Iterable[str]]:
        done = connection.execute("INSERT INTO events (session, frame) VALUES (?, ?)", (session_id, frame))
        return done.lastrowid, ()

    seq = committer().run(insert)
    sockets[session_id].send(frame)
    return jsonify(routed=True, sessionId=session_id, seq=seq, repair="observed"), 202
