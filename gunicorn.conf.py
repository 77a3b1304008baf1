"""gunicorn's configuration: settings from a child, JSON logs, reloads that are checked, and workers that drain.

The master imports nothing of ``app``: it lives through reloads, and would keep old code. What it needs it asks a child,
``python -m app.settings``; the hooks that run in a worker import there.
"""

from gevent import monkey

monkey.patch_all()  # before anything else is imported

import json
import logging
import os
import queue
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import types
import uuid
from functools import partial
from pathlib import Path
from ssl import SSLError

import gevent
import gunicorn.http.wsgi
from gevent.event import Event
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import errors as parse_errors
from gunicorn.workers.ggevent import GeventWorker

HERE = Path(__file__).resolve().parent
SETTINGS_LIMIT_S = 20.0
RELOAD_CHECK_LIMIT_S = 30.0
STEP_S = 0.05
IDLE_GRACE_S = 0.9  # an idle connection may bring one more request after the drain began; then it ends
STOP_MARGIN_S = 5.0  # what GRACEFUL_TIMEOUT_SECONDS leaves for stopping children and closing the journal
LINGER_S = 1.0
RETRY_START_S = 1.0
EARLY_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
QUIET_PATHS = {"/healthz", "/readyz", "/health"}
CHECKING = bool({"--check-config", "--print-config"} & set(sys.argv))  # for a person: nothing is served or logged

# What outlives a reload; this file is executed anew by each.
kept = sys.modules.setdefault("bridge_master", types.ModuleType("bridge_master"))
if not CHECKING and not hasattr(kept, "lock_fd"):
    # At the start: what comes before the master's handlers stand waits for them (when_ready).
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
logs = runpy.run_path(str(HERE / "app" / "telemetry" / "logs.py"), run_name="bridge_logs")


def run_child(*argv, limit_s, wanted=lambda: True):
    """Run a program in ``HERE``; gives its exit code, stdout and stderr.

    It ends early, with code -1, when the time is up or it is not ``wanted`` any more.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(argv, cwd=HERE, stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0)
        deadline = time.monotonic() + limit_s
        while child.poll() is None:
            if time.monotonic() > deadline or not wanted():
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return -1, "", f"took more than {limit_s:g} s"
            time.sleep(0.01)
        for stream in (out, err):
            stream.seek(0)
        return child.returncode, out.read().decode(), err.read().decode(errors="replace")


def last_line(text):
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def checked_settings():
    """The checked settings, as ``python -m app.settings`` prints them; where they are wrong the start ends here."""
    code, out, err = run_child(sys.executable, "-m", "app.settings", limit_s=SETTINGS_LIMIT_S)
    if code == 0:
        kept.settings = json.loads(out)
    elif not hasattr(kept, "settings"):
        reason = last_line(err)
        record = logging.makeLogRecord({"name": "app.settings", "levelname": "CRITICAL", "msg": reason})
        print(reason if CHECKING else logs["JsonLineFormatter"]().format(record), file=sys.stderr)
        sys.exit(1)
    # else: they went bad between a reload's check and the reload; the master goes on with the last good ones.
    return kept.settings


os.chdir(HERE)
settings = checked_settings()
if not hasattr(kept, "lock_fd"):
    kept.lock_fd = os.memfd_create("log-lock")
    kept.served_fd = os.memfd_create("served")  # shared with all workers; not empty: one of them has come up


# -- the worker -------------------------------------------------------------------------------------


class JsonLogger(Logger):
    """Access lines with few, fixed fields: no query string, no headers, nothing of a probe."""

    def access(self, resp, req, environ, request_time):
        path = environ.get("PATH_INFO", "")
        if path in QUIET_PATHS:
            return
        fields = {
            "method": environ.get("REQUEST_METHOD", ""),
            "path": path[:512],
            "status": getattr(resp, "status_code", 0),
            "bytes": resp.sent,
            "durationMs": round(request_time.total_seconds() * 1000, 1),
            "peer": environ.get("REMOTE_ADDR", ""),
        }
        if "bridge.request_id" in environ:
            fields["requestId"] = environ["bridge.request_id"]
        self.access_log.info("access", extra=fields)


# What was wrong with a request that never reached the application: exception → status, code, title, detail.
BAD_REQUEST = (400, "bad_request", "Bad request", "The request is not well-formed HTTP.")
INTERNAL = (500, "internal", "Internal error", "Something went wrong here; the correlation id tells us what.")
REFUSALS = {
    parse_errors.LimitRequestLine: (414, "uri_too_long", "URI too long", "The request line is too long."),
    parse_errors.LimitRequestHeaders: (431, "headers_too_large", "Headers too large", "The headers are too large."),
    parse_errors.UnsupportedTransferCoding: (501, "not_implemented", "Not implemented", "Unknown transfer coding."),
    parse_errors.ExpectationFailed: (417, "expectation_failed", "Expectation failed", "Unknown expectation."),
    parse_errors.ForbiddenProxyRequest: (403, "forbidden", "Forbidden", "Not allowed."),
    parse_errors.ConfigurationProblem: INTERNAL,
    parse_errors.InvalidResponseHeader: INTERNAL,
    parse_errors.InvalidResponseHeaderName: INTERNAL,
    parse_errors.ParseException: BAD_REQUEST,
    SSLError: BAD_REQUEST,
}
PROBLEM_HEADERS = """\
Content-Type: application/problem+json
Connection: close
Cache-Control: no-store
Content-Security-Policy: default-src 'none'; frame-ancestors 'none'
X-Content-Type-Options: nosniff
X-Frame-Options: DENY
Referrer-Policy: no-referrer
Permissions-Policy: accelerometer=(), browsing-topics=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), \
magnetometer=(), microphone=(), midi=(), payment=(), screen-wake-lock=(), usb=()
Cross-Origin-Opener-Policy: same-origin
Cross-Origin-Resource-Policy: same-origin
Vary: Origin
"""
REQUEST_ID = re.compile(rb"(?:\A|\n)x-request-id:[ \t]*([A-Za-z0-9._-]{8,64})[ \t]*\r\n", re.IGNORECASE)


def refused_request(exc):
    """The caller's request id and the method of a request that could not be parsed, where it came that far, else
    ``None``. gunicorn has let go of it; the parser's own variables, in the frames of its exception, have not."""
    texts, method = [], None
    for frame, _ in traceback.walk_tb(exc.__traceback__):
        if frame.f_globals.get("__name__") == "gunicorn.http.message":
            request = frame.f_locals.get("self")
            method = getattr(request, "method", None) or method
            texts += [f"{name}: {value}\r\n".encode("latin-1") for name, value in getattr(request, "headers", ())]
            held = [frame.f_locals.get(name) for name in ("buf", "data")]
            texts += [
                bytes(one).partition(b"\r\n\r\n")[0] + b"\r\n" for one in held if isinstance(one, bytes | bytearray)
            ]
    found = next(filter(None, map(REQUEST_ID.search, texts)), None)
    return found and found[1].decode(), method


def problem(refusal, request_id, *, with_body=True):
    """A whole HTTP response with a problem document, as bytes."""
    status, code, title, detail = refusal
    fields = {"type": f"urn:problem:{code}", "title": title, "status": status, "detail": detail}
    body = json.dumps({**fields, "code": code, "correlationId": request_id}).encode()
    head = f"HTTP/1.1 {status} {title}\nDate: {util.http_date()}\nX-Request-ID: {request_id}\n{PROBLEM_HEADERS}"
    head += f"Content-Length: {len(body)}\n\n"
    return head.replace("\n", "\r\n").encode("latin-1") + (body if with_body else b"")


def response_class(worker):
    class Response(gunicorn.http.wsgi.Response):
        """Names no software, and ends its connection once the worker drains, even if it began before."""

        def should_close(self):
            return not worker.alive or super().should_close()

        def default_headers(self):
            return [line for line in super().default_headers() if not line.startswith("Server:")]

    return Response


class DrainWorker(GeventWorker):
    """A worker that finishes what it has begun, and tells everybody at once that it will go.

    The drain begins on the edge of ``alive``, whatever caused it (TERM, a reload, ``max_requests``, a lost master):
    listeners close, the application tells its sockets, idle connections end. The worker then stays, and notifies the
    master, until application and requests are done or the grace is over.

    The application, ``extensions["bridge"]`` of the Flask app, has ``start()``, ``drain()`` (at once, more than once),
    ``finished()`` and ``stop()`` (bounded). Without it there is just HTTP.
    """

    _alive = True

    def __init__(self, *args, **kwargs):
        self._servers = []
        self._idle = {}  # greenlet of a connection → its socket, while no request is in hand
        self._edge = None  # set: the drain has begun
        self._hurry = False
        super().__init__(*args, **kwargs)

    @property
    def alive(self):
        return self._alive

    @alive.setter
    def alive(self, value):
        edge, self._alive = self._alive and not value, value
        if edge and self._edge is not None:
            gevent.spawn(self._drain)  # may be in a signal handler: nothing that waits

    @property
    def bridge(self):
        return getattr(self.wsgi, "extensions", {}).get("bridge")

    # -- life

    def init_process(self):
        gunicorn.http.wsgi.Response = response_class(self)
        try:
            super().init_process()
        except Exception as exc:
            if self.booted or not os.fstat(kept.served_fd).st_size:
                raise
            # gunicorn would end the whole server, other workers too, for a full disk, a locked journal or an .env that
            # a reload refused. It has served before, so it can again: exit with another code, and be started anew.
            self.log.exception("a worker could not start, another is tried", extra={"reason": str(exc)})
            time.sleep(RETRY_START_S)
            sys.exit(1)

    def init_signals(self):
        super().init_signals()
        # Ctrl-C reaches workers too; the master is who tells them. A handler, for SIG_IGN would pass to our children.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)

    def notify(self):
        self.tmp.notify()
        if self.alive and self.ppid != os.getppid():
            self.log.error("master is gone, draining")
            self.alive = False

    def run(self):
        self._edge = Event()
        os.write(kept.served_fd, b".")
        for listener in self.sockets:
            listener.setblocking(1)
            # gunicorn asks the listener for its name at each connection; a closed one could not say it any more.
            named = types.SimpleNamespace(getsockname=partial(tuple, listener.getsockname()))
            server = StreamServer(listener, handle=partial(self.handle, named), spawn=self.worker_connections)
            server.start()
            self._servers.append(server)
        if not self.alive:  # told to go while it came up
            gevent.spawn(self._drain)
        while not self._edge.wait(1.0):
            self.notify()
        self._finish(time.monotonic(), self.cfg.graceful_timeout)

    def handle_quit(self, sig, frame):
        """QUIT (a second Ctrl-C): go now; children are still stopped and the journal closed."""
        self._hurry = True
        self.alive = False

    # -- requests

    def handle(self, listener, client, addr):
        connection = gevent.getcurrent()
        self._idle[connection] = client
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.pop(connection, None)

    def handle_request(self, listener_name, req, sock, addr):
        connection = gevent.getcurrent()
        self._idle.pop(connection, None)
        gevent.sleep(0)  # a connection that always has a next request must not keep the others waiting
        try:
            super().handle_request(listener_name, req, sock, addr)
            # What the application left of the body stands before the next request; more than a bound is not waited for.
            if not self.alive or (req.body is not None and not self._discard(req.body.read)):
                raise StopIteration
        except StopIteration:
            if req.body is not None:
                self._discard(req.body.read)
            raise
        finally:
            self._idle[connection] = sock

    def handle_error(self, req, client, addr, exc):
        """Answer what never reached the application, or left it as an exception. Nothing of the request is echoed."""
        from app.telemetry import context

        if isinstance(exc, gevent.GreenletExit | SystemExit):  # ended with its worker
            return
        refusal = next((known for kind, known in REFUSALS.items() if isinstance(exc, kind)), INTERNAL)
        given, method = refused_request(exc) if req is None else (None, req.method)
        fields = {"status": refusal[0], "peer": addr[0] if addr else "", "requestId": given or uuid.uuid4().hex}
        if refusal is INTERNAL:
            if req is not None:
                fields["requestId"] = context.request_id() or fields["requestId"]
                fields["path"] = req.path[:512]
            self.log.error("request failed", extra=fields, exc_info=exc)
        else:
            self.log.warning("request refused", extra={**fields, "reason": type(exc).__name__})
        try:
            util.write_nonblock(client, problem(refusal, fields["requestId"], with_body=method != "HEAD"))
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return
        self._discard(client.recv)

    @staticmethod
    def _discard(read):
        """Take what the client is still sending: closing on unread bytes resets the connection, and with it the answer
        that the client has not read yet. Tells whether it was taken to its end."""
        with gevent.Timeout(LINGER_S, False):
            try:
                return any(not read(65_536) for _ in range(256))
            except (OSError, parse_errors.ParseException):
                return False
        return False

    # -- the end

    def _drain(self):
        for server in self._servers:
            server.close()
        self._edge.set()
        if self.bridge:
            self._guarded(self.bridge.drain)
        gevent.sleep(IDLE_GRACE_S)
        for client in list(self._idle.values()):
            try:
                client._sock.shutdown(socket.SHUT_RD)  # the raw one: gevent's own logs an error at its reader
            except (OSError, AttributeError):
                continue

    def _finish(self, started, grace_s):
        deadline = started + max(grace_s - STOP_MARGIN_S, grace_s * 0.4)
        while time.monotonic() < deadline and not self._hurry and not self._done():
            self.notify()
            gevent.sleep(STEP_S)
        self.notify()
        if self.bridge:
            with gevent.Timeout(max(0.5, started + grace_s - 0.5 - time.monotonic()), False):
                self._guarded(self.bridge.stop)
        for server in self._servers:
            server.stop(timeout=0)

    def _done(self):
        busy = any(server.pool.size != server.pool.free_count() for server in self._servers)
        return not busy and (not self.bridge or self._guarded(self.bridge.finished) is not False)

    def _guarded(self, step):
        """The drain goes on whatever the application does."""
        try:
            return step()
        except Exception:
            self.log.exception("drain step failed")


# -- hooks ------------------------------------------------------------------------------------------


def on_reload(server):
    server.log.info("configured", extra={"summary": settings["summary"]})


def when_ready(server):
    on_reload(server)
    server.handle_hup = lambda: reload_if_good(server)
    server.handle_int = server.handle_term  # a second one, while it stops, is gunicorn's quick shutdown
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)


def reload_if_good(server):
    """HUP: settings and code are tried out in a child first; where they fail the old workers stay."""
    argv = [sys.executable, "-m", "gunicorn", "--check-config", "-c", str(HERE / "gunicorn.conf.py")]
    wanted = lambda: not asked_to_stop(server.SIG_QUEUE)  # noqa: E731
    code, _, err = run_child(*argv, server.app.app_uri, limit_s=RELOAD_CHECK_LIMIT_S, wanted=wanted)
    if code == 0:
        type(server).handle_hup(server)
    elif wanted():
        server.log.error("reload refused, the old workers stay: %s", last_line(err))


def asked_to_stop(signals):
    """Whether a TERM, INT or QUIT waits in the master's queue, which is left as it was."""
    waiting = []
    try:
        while True:
            waiting.append(signals.get_nowait())
    except queue.Empty:
        for number in waiting:
            signals.put_nowait(number)
    return not {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}.isdisjoint(waiting)


def post_fork(server, worker):
    # A worker would lose signals in the master's queue; they wait until its own handlers stand (init_signals).
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
    if asked_to_stop(server.SIG_QUEUE):  # in our copy of it: since the fork, or the master is about to say so again
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from app.telemetry import context
    from app.telemetry.logs import configure

    configure(level=settings["log_level"], context=context.current, lock_fd=kept.lock_fd)


def post_worker_init(worker):
    if worker.bridge:
        worker.bridge.start()


def worker_exit(server, worker):
    if "app.telemetry.logs" in sys.modules:
        sys.modules["app.telemetry.logs"].flush()


# -- gunicorn's settings ----------------------------------------------------------------------------

chdir = str(HERE)
bind = settings["bind"]
workers = settings["workers"]
worker_class = DrainWorker
worker_connections = 10_000  # WebSockets count; the application refuses sessions far below
timeout = 30  # a blocked loop, not a long request
graceful_timeout = settings["graceful_timeout"]
keepalive = 130  # above any proxy's idle timeout, or the proxy meets closed connections
max_requests = 0  # would throw out every session
preload_app = False  # a reload must load new code
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
logger_class = JsonLogger
accesslog = "-"
loglevel = settings["log_level"]
logconfig_dict = {} if CHECKING else logs["config_for_master"](settings["log_level"], kept.lock_fd)
