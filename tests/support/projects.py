"""Folders that gunicorn can be started in: this project, a copy of it, or one with a tiny application."""

from __future__ import annotations

import compileall
import functools
import shutil
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
BEING_WRITTEN = shutil.ignore_patterns("*.pyc.*")  # bytecode, by another process just now

TINY_APP = '''\
"""A small application with the worker's interface, for tests of the worker alone."""

import logging
import os
import time
import warnings

import gevent
import gevent.monkey
from flask import Flask, request

from app.telemetry import context
from app.web.request_id import RequestIdMiddleware

VERSION = "one"
log = logging.getLogger("tiny")
app = Flask(__name__)
app.wsgi_app = RequestIdMiddleware(app.wsgi_app)


class Bridge:
    """Its turn ends ``TINY_TURN_S`` seconds after the drain began."""

    drained_at = None

    def start(self):
        log.info("bridge started")

    def drain(self):
        if self.drained_at is None:
            self.drained_at = time.monotonic()
            log.info("bridge drained")

    def finished(self):
        return time.monotonic() - self.drained_at >= float(os.environ.get("TINY_TURN_S", "0"))

    def stop(self):
        log.info("bridge stopped")


app.extensions["bridge"] = Bridge()


@app.get("/healthz")
def healthz():
    return {"status": "ok", "pid": os.getpid()}


@app.get("/version")
def version():
    return {"version": VERSION}


@app.get("/slow/<float:seconds>")
def slow(seconds):
    log.info("slow started")
    time.sleep(seconds)
    return {"slow": seconds}


@app.get("/stream")
def stream():
    def pieces():
        yield "begun "
        while not os.path.exists("stream-ends"):
            time.sleep(0.02)
        yield "ended"

    return pieces()


@app.get("/log/<int:lines>/<int:size>")
def write_log(lines, size):
    for _ in range(lines):
        log.info("x" * size)
    return {"lines": lines}


@app.get("/uncaught")
def uncaught():
    print("printed")
    warnings.warn("warned")
    with context.bind(session_id="s-1"):
        gevent.spawn(context.carry(log.info), "carried").join()
    gevent.spawn(lambda: 1 / 0).join()
    return {}


@app.get("/native")
def native():
    os.write(2, b"native words\\nmore of them\\n")
    os.write(1, b"native out")
    return {}


@app.get("/block/<float:seconds>")
def block(seconds):
    gevent.monkey.get_original("time", "sleep")(seconds)
    return {}


@app.get("/limited/<name>")
def limited(name):
    return {}, 429


@app.get("/readyz")
def unready():
    return {}, 503


@app.get("/secret")
def secret():
    log.info("Bearer abcDEF123456789 for %s", "postgres://app:hunter22@db", extra={"apiKey": "hunter22", "n": 1})
    raise RuntimeError("password=hunter22")


def bad_header(environ, start_response):
    start_response("200 OK", [("X-Bad", "a\\nb")])
    return [b""]


def escapes(environ, start_response):
    raise RuntimeError("secret text")


def mount(flask_app):
    inner = flask_app.wsgi_app._app
    special = {"/bad-header": bad_header, "/escapes": escapes}
    flask_app.wsgi_app._app = lambda environ, start: special.get(environ["PATH_INFO"], inner)(environ, start)


mount(app)
'''


@functools.cache
def compile_project() -> None:
    """Compile this project, once: its servers write no bytecode, and would each compile all of it anew."""
    compileall.compile_dir(PROJECT / "app", quiet=1)


def copy_project(to: Path) -> Path:
    """A copy of this project whose files a test may change; what it leaves alone is compiled."""
    compile_project()
    shutil.copytree(PROJECT / "app", to / "app", ignore=BEING_WRITTEN)
    for name in ("gunicorn.conf.py", "wsgi.py"):
        shutil.copy(PROJECT / name, to / name)
    return to


def tiny_project(to: Path) -> Path:
    """A project with this gunicorn.conf.py, these settings and logs, and ``TINY_APP`` as its ``wsgi.py``."""
    compile_project()
    (to / "app" / "web").mkdir(parents=True)
    own = ("app/settings.py", "app/setting_forms.py", "app/errors.py", "app/web/request_id.py")
    for name in ("gunicorn.conf.py", *own):
        shutil.copy(PROJECT / name, to / name)
    for name in ("app/server", "app/telemetry"):
        shutil.copytree(PROJECT / name, to / name, ignore=BEING_WRITTEN)
    (to / "app" / "__init__.py").touch()
    (to / "app" / "web" / "__init__.py").touch()
    (to / "wsgi.py").write_text(TINY_APP)
    return to
