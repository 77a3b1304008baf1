"""The bridge with a clock at each stage of a callback; served by ``benchmarks.stages``, which says what the stages are.

Functions are wrapped here, at run time, so that the bridge itself has no part in it. Each worker writes what it has
noted, by request id, into ``STAGES_FOLDER`` when it ends. Clocks of processes on one machine agree.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import gunicorn.http.parser
import gunicorn.http.wsgi
from gevent import getcurrent

import app.journal.sqlite as sqlite_journal
from app.callbacks.routing import Router
from app.journal import writer
from app.journal.topics import Topics
from app.web.socket_io import SocketIO

Marks = dict[str, float]
REQUEST_ID = re.compile(r'"requestId":"([^"]+)"')

noted: dict[str, Marks] = defaultdict(dict)
collections: list[tuple[float, float]] = []  # of everything (generation 2): from, to
_arrived: dict[Any, float] = {}  # by greenlet
_handled: dict[Any, Marks] = {}  # by greenlet
_queued: dict[int, Marks] = {}  # by operation
_woken: dict[str, float] = {}  # by topic
_group: list[Marks] = []  # what the writer's thread has in hand


def around(
    owner: Any,
    name: str,
    *,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> None:
    """Have ``owner.name`` call ``before`` with its arguments and ``after`` with its result and its arguments."""
    wrapped = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        if before is not None:
            before(*args)
        result = wrapped(*args, **options)
        if after is not None:
            after(result, *args)
        return result

    setattr(owner, name, call)


def mark(name: str) -> None:
    """Note a stage of the callback that this greenlet handles, if it handles one."""
    marks = _handled.get(getcurrent())
    if marks is not None:
        marks[name] = perf_counter()


def arrive(*_: Any) -> None:
    _arrived[getcurrent()] = perf_counter()


def begin(environ: dict[str, Any]) -> None:
    _handled.pop(getcurrent(), None)
    if environ["PATH_INFO"].startswith("/callbacks/"):
        marks = _handled[getcurrent()] = noted[environ["HTTP_X_REQUEST_ID"]]
        marks["arrived"] = _arrived[getcurrent()]
        mark("parsed")


def queue(operation: Any, *_: Any) -> None:
    mark("queued")
    marks = _handled.get(getcurrent())
    if marks is not None:
        marks["tries"] = marks.get("tries", 0) + 1
        _queued[id(operation)] = marks


def take(_: Any, operations: list[Any]) -> None:
    _group[:] = [_queued.pop(id(one)) for one in operations if id(one) in _queued]
    mark_group("taken")


def mark_group(name: str) -> None:
    now = perf_counter()
    for marks in _group:
        marks[name] = now


def wake(_: Any, topics: set[str]) -> None:
    now = perf_counter()
    _woken.update((topic, now) for topic in topics)


def read(events: list[Any], _: Any, session_id: str) -> None:
    now = perf_counter()
    for event in events:
        found = REQUEST_ID.search(event.frame) if event.type == "workflow_error" else None
        if found:
            noted[found[1]].update(woken=_woken.get(f"session:{session_id}", now), read=now, reader=os.getpid())


def frame(_: Any, __: Any, text: str) -> None:
    found = REQUEST_ID.search(text) if '"workflow_error"' in text else None
    if found:
        noted[found[1]]["framed"] = perf_counter()


def collect(phase: str, info: dict[str, int]) -> None:
    if info["generation"] == 2:
        if phase == "start":
            collections.append((perf_counter(), 0.0))
        elif collections:
            collections[-1] = (collections[-1][0], perf_counter())


def write() -> None:
    folder = os.environ.get("STAGES_FOLDER")
    if folder:
        told = {"marks": noted, "collections": collections, "pid": os.getpid()}
        Path(folder, f"{os.getpid()}.json").write_text(json.dumps(told))


around(gunicorn.http.parser.SocketUnreader, "chunk", after=arrive)
around(gunicorn.http.wsgi.Response, "write", after=lambda *_: mark("answered"))
around(Router, "_route", before=lambda *_: mark("entered"))
around(writer._Op, "__init__", before=queue)
around(writer.GroupCommitter, "run", after=lambda *_: mark("resumed"))
around(writer.GroupCommitter, "_commit", before=take)
around(writer.GroupCommitter, "_end", after=lambda *_: mark_group("committed"))
around(sqlite_journal, "_next_announcement", after=lambda *_: mark_group("written"))
around(sqlite_journal.SqliteJournal, "events", after=read)
around(Topics, "wake_local", before=wake)
around(SocketIO, "send", after=frame)

from wsgi import app  # after the wrapping: a journal takes some of these when it is opened

VIEW = "callbacks.take_error"
view, wsgi_app = app.view_functions[VIEW], app.wsgi_app


def staged_view(**values: Any) -> Any:
    mark("view")
    return view(**values)


def staged_app(environ: dict[str, Any], start_response: Any) -> Any:
    begin(environ)
    return wsgi_app(environ, start_response)


app.view_functions[VIEW] = staged_view
app.wsgi_app = staged_app
gc.callbacks.append(collect)
atexit.register(write)
