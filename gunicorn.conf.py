"""gunicorn's configuration: settings from a child, JSON logs, reloads that are checked, and workers that drain.

The master imports nothing of ``app``: it lives through reloads, and would keep old code. What it needs it asks a child,
``python -m app.settings``; the hooks that run in a worker import there.
"""

from gevent import monkey

monkey.patch_all()  # before anything else is imported

import ctypes
import fcntl
import importlib
import json
import logging
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import types
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from ssl import SSLError

import gevent
import gunicorn.http.parser
import gunicorn.http.wsgi
from gevent.event import Event
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http import errors as parse_errors
from gunicorn.workers.ggevent import GeventWorker

HERE = Path(__file__).resolve().parent
SETTINGS_LIMIT_S = 20.0
RELOAD_CHECK_LIMIT_S = 30.0
STEP_S = 0.05
IDLE_GRACE_S = 0.9  # an idle connection may bring one more request after the drain began; then it ends
STOP_MARGIN_S = 5.0  # what GRACEFUL_TIMEOUT_SECONDS leaves for stopping children and closing the journal
HURRY_S = 0.7  # what sockets have for their goodbyes where the end is to be quick
LINGER_S = 1.0
UNREAD_LIMIT_S = 60.0  # a peer that takes nothing of what is written to it for so long is gone
SPARE_PART = 10  # of worker_connections one in ten stays free: for it, idle connections are closed
RETRY_START_S = 1.0
RELOAD_LOOK_S = 0.1
COMING_UP, SERVING, DRAINING = range(3)  # what a worker is at, as the length of the file that it shares with the master
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
EARLY_SIGNALS = {*STOP_SIGNALS, signal.SIGHUP}
PR_SET_PDEATHSIG = 1
LOAD = "from gunicorn.app.wsgiapp import WSGIApplication as App; App('').load(); print('loaded')"
METRICS_PREFIX = "bridge-metrics-"
WORKER_METRICS_BYTES = 1024**2  # three files, and a fold's two
METRICS_ROOM_BYTES = 32 * 1024**2  # a full tmpfs would kill whoever writes to a mapped file of it
QUIET_PATHS = {"/healthz", "/readyz", "/health", "/metrics"}  # asked all day; only what goes wrong there is told
CHECKING = bool({"--check-config", "--print-config"} & set(sys.argv))  # for a person: nothing is served or logged

# What outlives a reload; this file is executed anew by each.
kept = sys.modules.setdefault("bridge_master", types.ModuleType("bridge_master"))
if not CHECKING and not hasattr(kept, "lock_fd"):
    # At the start: what comes before the master's handlers stand waits for them (when_ready).
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def masters_logs():
    """``app/telemetry/master.py``, under a name of its own and anew: a worker imports ``app`` for itself."""
    name = "bridge_telemetry"
    for known in [known for known in sys.modules if known.partition(".")[0] == name]:
        del sys.modules[known]
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [str(HERE / "app" / "telemetry")]
    return importlib.import_module(f"{name}.master")


if not hasattr(kept, "lock_fd"):
    kept.lock_fd = os.memfd_create("log-lock")
    kept.served_fd = os.memfd_create("served")  # shared with all workers; not empty: one of them has come up
logs = masters_logs()
if not CHECKING:
    logs.begin(kept.lock_fd)


def run_child(*argv, limit_s, wanted=lambda: True):
    """Run a program in ``HERE``; gives its exit code, stdout and stderr.

    It ends early, with code -1, when the time is up or it is not ``wanted`` any more.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        child = subprocess.Popen(argv, cwd=HERE, process_group=0, preexec_fn=end_with_parent, **streams)
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


def end_with_parent():
    """In a child: be killed when the parent is, for nobody else would know of it."""
    if libc is not None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def last_line(text):
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def refuse_start(reason):
    if CHECKING:
        print(reason, file=sys.stderr)
    else:
        logging.getLogger("app.settings").critical("%s", reason)
    sys.exit(1)


def checked_settings():
    """The checked settings, as ``python -m app.settings`` prints them; where they are wrong the start ends here."""
    code, out, err = run_child(sys.executable, "-m", "app.settings", limit_s=SETTINGS_LIMIT_S)
    if code == 0:
        kept.settings = json.loads(out)
    elif not hasattr(kept, "settings"):
        refuse_start(last_line(err))
    # else: they went bad between a reload's check and the reload; the master goes on with the last good ones.
    return kept.settings


def open_locked(folder):
    """A descriptor that keeps ``folder`` ours until the last process that has it ends; ``None``: it is another's."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(folder)):  # else it was removed in between
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def make_metrics_folder():
    """Where the workers keep their metrics, over reloads: an operator's PROMETHEUS_MULTIPROC_DIR, else one of our own.

    Its lock is held by this master and its workers. Pids would not tell: other containers have their own.
    """
    given = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
    if given and not Path(given).name.startswith(METRICS_PREFIX):  # else it is that of a server that started this one
        folder = Path(given).absolute()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            kept.metrics_lock_fd = open_locked(folder)
            if kept.metrics_lock_fd is not None:
                for left in (*folder.glob("*.db"), *folder.glob("folded.json*"), *folder.glob("vitals")):
                    left.unlink()
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            refuse_start("PROMETHEUS_MULTIPROC_DIR: must be the path of a folder that can be written")
        return folder
    memory = Path("/dev/shm")  # noqa: S108
    for parent in (memory, Path(tempfile.gettempdir())):
        if parent == memory and not has_room(parent):
            continue
        for left in parent.glob(f"{METRICS_PREFIX}*"):  # of a master that was killed
            with suppress(OSError):
                if left.lstat().st_uid == os.geteuid() and (fd := open_locked(left)) is not None:
                    shutil.rmtree(left, ignore_errors=True)
                    os.close(fd)
        while True:
            folder = Path(tempfile.mkdtemp(prefix=METRICS_PREFIX, dir=parent))
            kept.metrics_lock_fd = open_locked(folder)
            if kept.metrics_lock_fd is not None:
                kept.own_metrics_folder = folder
                return folder


def has_room(folder):
    try:
        there = os.statvfs(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK) and there.f_bavail * there.f_frsize >= METRICS_ROOM_BYTES


os.chdir(HERE)
settings = checked_settings()
if CHECKING:
    # A reload's check inherits the running server's, whose files it must not touch.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    os.environ.pop("prometheus_multiproc_dir", None)
else:
    if not hasattr(kept, "metrics_folder"):
        kept.metrics_folder = make_metrics_folder()
        kept.dropped_fd = os.open(kept.metrics_folder / "master-dropped", os.O_RDWR | os.O_CREAT, 0o600)
    # Before any worker imports prometheus-client, which looks at it once.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(kept.metrics_folder)


# -- the worker -------------------------------------------------------------------------------------


class JsonLogger(Logger):
    """Access lines with few, fixed fields: no query string, no headers, nothing of a probe that went well.

    Of what is refused by a rate limit, and of probes that fail, one a minute is told, with the number of the others.
    """

    sampler = None

    def access(self, resp, req, environ, request_time):
        path, status = environ.get("PATH_INFO", ""), getattr(resp, "status_code", 0)
        quiet, suppressed = path in QUIET_PATHS, 0
        if quiet and status < 400:
            return
        if quiet or status == 429:
            suppressed = self.sampled(path, status)
            if suppressed is None:
                return
        fields = {
            "method": environ.get("REQUEST_METHOD", ""),
            "path": path[:512],
            "status": status,
            "bytes": resp.sent,
            "durationMs": round(request_time.total_seconds() * 1000, 1),
            "peer": environ.get("REMOTE_ADDR", ""),
        }
        if "bridge.request_id" in environ:
            fields["requestId"] = environ["bridge.request_id"]
        if "bridge.error_code" in environ:
            fields["code"] = environ["bridge.error_code"]
        if suppressed:
            fields["suppressed"] = suppressed
        self.access_log.info("access", extra=fields)

    @classmethod
    def sampled(cls, *kind):
        """How many of this kind were left out since the last that was told; ``None``: so is this one."""
        from app.telemetry.sampling import Sampler

        if cls.sampler is None:
            cls.sampler = Sampler()  # in the worker, for each its own
        return cls.sampler.take(kind)


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
        """Names no software, and ends its connection where the worker drains as its headers are written.

        What those promised holds: a client that was told "keep-alive" may be sending its next request already.
        """

        def default_headers(self):
            if not worker.alive:
                self.force_close()
            return [line for line in super().default_headers() if not line.startswith("Server:")]

    return Response


class HeadTimeout(gevent.Timeout):
    """Bounds the wait for a request, and then, from its first bytes on, the rest of its head.

    :ivar begun: something of the request is there. :ivar rest: runs once more than one piece is needed.
    """

    begun = False
    rest = None

    def __exit__(self, *exc):
        if self.rest is not None:
            self.rest.close()
        return super().__exit__(*exc)


def unreader_class(worker):
    class Unreader(gunicorn.http.parser.SocketUnreader):
        """Tells the head's timeout how far the request is. Most come in one piece and need no second timer."""

        def read(self, *args, **options):
            data = super().read(*args, **options)
            head = worker.heads.get(gevent.getcurrent())
            if head is not None:
                head.begun = True
            return data

        def chunk(self, *args, **options):
            head = worker.heads.get(gevent.getcurrent())
            if head is not None and head.begun and head.rest is None:
                head.rest = gevent.Timeout.start_new(settings["head_timeout"], head)
            return super().chunk(*args, **options)

    return Unreader


class DrainWorker(GeventWorker):
    """A worker that finishes what it has begun, and tells everybody at once that it will go.

    The drain begins on the edge of ``alive``, whatever caused it (TERM, a reload, ``max_requests``, a lost master):
    listeners close, the application tells its sockets, idle connections end. The worker then stays, and notifies the
    master, until application and requests are done or the grace is over.

    The application, ``extensions["bridge"]`` of the Flask app, has ``start()``, ``drain()`` (at once, more than once),
    ``finished()`` and ``stop()`` (bounded). Without it there is just HTTP.
    """

    _alive = True
    leaving = False  # in the master: it has told this worker to go

    def __init__(self, *args, **kwargs):
        self._servers = []
        # greenlet of a connection → its socket and since when, while no request is in hand; longest idle first
        self._idle = {}
        self.heads = {}  # greenlet of a connection → its HeadTimeout, while it waits for a request
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
        gunicorn.http.parser.SocketUnreader = unreader_class(self)
        try:
            super().init_process()
        except (Exception, SystemExit) as exc:
            if self.booted or not self.alive:
                raise
            if not has_served():
                if isinstance(exc, SystemExit):
                    # As it is, gunicorn would start the next one at once, for ever.
                    raise RuntimeError(f"the application ended while it was loaded: {exc}") from exc
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
        self.notify()  # at once: by a file that was never touched the master does not see that a loop stands still
        for listener in self.sockets:
            listener.setblocking(1)
            # Every connection has it from its listener.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_LIMIT_S * 1000))
            # gunicorn asks the listener for its name at each connection; a closed one could not say it any more.
            named = types.SimpleNamespace(getsockname=partial(tuple, listener.getsockname()))
            server = StreamServer(listener, handle=partial(self.handle, named), spawn=self.worker_connections)
            server.start()
            self._servers.append(server)
        os.write(kept.served_fd, b".")
        self._tell(SERVING)
        if not self.alive:  # told to go while it came up
            gevent.spawn(self._drain)
        while not self._edge.wait(1.0):
            self.notify()
        self._finish(time.monotonic(), self.cfg.graceful_timeout)

    def _tell(self, state):
        """Have the master know. It may look until the worker's file is gone with both."""
        os.ftruncate(self.tmp.fileno(), state)
        self.tmp.notify()  # the file's time is the sign of life

    @property
    def state(self):
        return os.fstat(self.tmp.fileno()).st_size

    def handle_quit(self, sig, frame):
        """QUIT (a second Ctrl-C): go now; children are still stopped and the journal closed."""
        self._hurry = True
        self.alive = False

    # -- requests

    def handle(self, listener, client, addr):
        connection = gevent.getcurrent()
        if any(server.pool.free_count() < self.worker_connections // SPARE_PART for server in self._servers):
            self._end_longest_idle()
        self._idle[connection] = client, time.monotonic()
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.pop(connection, None)
            self.heads.pop(connection, None)

    def _end_longest_idle(self):
        for connection, (client, _) in self._idle.items():
            del self._idle[connection]
            self._hang_up(client)
            return

    @staticmethod
    def _hang_up(client):
        """Let a connection without a request end by itself, as if its peer had closed."""
        with suppress(OSError, AttributeError):
            client._sock.shutdown(socket.SHUT_RD)  # the raw one: gevent's own logs an error at its reader

    def timeout_ctx(self):
        head = self.heads[gevent.getcurrent()] = HeadTimeout(self.cfg.keepalive, False)
        return head

    def handle_request(self, listener_name, req, sock, addr):
        connection = gevent.getcurrent()
        self._idle.pop(connection, None)
        self.heads.pop(connection, None)
        gevent.sleep(0)  # a connection that always has a next request must not keep the others waiting
        try:
            super().handle_request(listener_name, req, sock, addr)
            # What the application left of the body stands before the next request; more than a bound is not waited for.
            if req.body is not None and not self._discard(req.body.read):
                raise StopIteration
        except StopIteration:
            if req.body is not None:
                self._discard(req.body.read)
            raise
        finally:
            self._idle[connection] = sock, time.monotonic()

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
        self._tell(DRAINING)
        self._edge.set()
        if self.bridge:
            self._guarded(self.bridge.drain)

    def _end_idle(self, before):
        """Close the connections that have been idle since ``before``."""
        for client, since in list(self._idle.values()):
            if since <= before:
                self._hang_up(client)

    def _finish(self, started, grace_s):
        deadline = started + max(grace_s - STOP_MARGIN_S, grace_s * 0.4)
        while time.monotonic() < deadline and not self._done():
            if self._hurry:
                self._hurry, deadline = False, min(deadline, time.monotonic() + HURRY_S)
            if time.monotonic() >= started + IDLE_GRACE_S:
                self._end_idle(time.monotonic() - IDLE_GRACE_S)
            self.notify()
            gevent.sleep(STEP_S)
        self.notify()
        for server in self._servers:
            server.stop(timeout=0)  # who is still there has been told, and lets go of the journal before it closes
        if self.bridge:
            with gevent.Timeout(max(0.5, started + grace_s - 0.5 - time.monotonic()), False):
                self._guarded(self.bridge.stop)

    def _done(self):
        busy = any(server.pool.size != server.pool.free_count() for server in self._servers)
        return not busy and (not self.bridge or self._guarded(self.bridge.finished) is not False)

    def _guarded(self, step):
        """The drain goes on whatever the application does."""
        try:
            return step()
        except Exception:
            self.log.exception("drain step failed")


# -- the master -------------------------------------------------------------------------------------


def has_served():
    """Whether any worker, of any generation, has come up."""
    return os.fstat(kept.served_fd).st_size > 0


class WorkersStarted(Exception):
    """A reload has come to where gunicorn would wait for the old workers' end."""


class Master(Arbiter):
    """gunicorn's master, with workers counted by what they are at.

    gunicorn takes a worker that drains for one that serves, ends the old ones of a reload before new ones answer, and
    then waits for their end and does nothing else. Here a worker that drains is followed by another at once, whoever
    told it to; old workers go when new ones have come up, so they stay while these cannot; no signal has to wait.
    Its code is that of the start: a reload brings new workers, not a new master.
    """

    generation = 0  # older workers (``age`` counts up) are those of before the last reload
    _reloading = False

    def wait_for_signals(self, timeout=1.0):
        """One at a time, so that those behind it can be seen while it is handled."""
        changing = any(worker.age <= self.generation and not worker.leaving for worker in self.WORKERS.values())
        try:
            found = self.SIG_QUEUE.get(timeout=RELOAD_LOOK_S if changing else timeout)
        except queue.Empty:
            return []
        return [] if found == self.WAKEUP_REQUEST else [found]

    def handle_hup(self):
        """Settings and code are tried out first; where they fail the old workers stay."""
        wanted = lambda: not asked_to_stop(self.SIG_QUEUE)  # noqa: E731
        reason = self._reason_against_reload(wanted)
        if not reason:
            super().handle_hup()
        elif wanted():
            self.log.error("reload refused, the old workers stay: %s", reason)

    def handle_int(self):
        """As TERM; a second one, while it stops, is gunicorn's quick shutdown."""
        self.handle_term()

    def reload(self):
        self.generation, self._reloading = self.worker_age, True
        try:
            super().reload()
        except WorkersStarted:
            self.log.debug("new workers start, %d old ones stay until then", len(self.WORKERS) - self.num_workers)
        finally:
            self._reloading = False

    def manage_workers(self):
        if self._reloading:
            raise WorkersStarted
        new = [w for w in self.WORKERS.values() if w.age > self.generation and not w.leaving and w.state != DRAINING]
        for _ in range(self.num_workers - len(new)):
            self.spawn_worker()
        if sum(worker.state == SERVING for worker in new) >= self.num_workers:
            old = [worker for worker in self.WORKERS.values() if worker.age <= self.generation]
            surplus = sorted(new, key=lambda worker: worker.age)[: len(new) - self.num_workers]
            for worker in (*old, *surplus):
                if not worker.leaving:
                    worker.leaving = True
                    self.kill_worker(worker.pid, signal.SIGTERM)

    def spawn_worker(self):
        # Until it has handlers of its own (init_signals) a worker would lose signals in the queue that it has from us.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            return super().spawn_worker()
        except SystemExit as exc:  # in the worker, at its end
            if exc.code in (self.WORKER_BOOT_ERROR, self.APP_LOAD_ERROR) and has_served():
                # It has not come to where that is seen to, and the whole server would end.
                monkey.get_original("time", "sleep")(RETRY_START_S)
                exc.code = 1
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _reason_against_reload(self, wanted):
        code, out, err = run_child(sys.executable, "-m", "app.settings", limit_s=SETTINGS_LIMIT_S, wanted=wanted)
        if code:
            return last_line(err)
        bind = json.loads(out)["bind"]
        if bind != kept.settings["bind"]:
            # Where it cannot listen, gunicorn would end; and it asks after it has closed the address that it has.
            host, port = util.parse_address(bind)
            try:
                socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
            except OSError as exc:
                return f"BIND: cannot listen on {bind}: {os.strerror(exc.errno) if exc.errno else exc}"
        argv = [sys.executable, "-c", LOAD, "--check-config", "-c", str(HERE / "gunicorn.conf.py"), self.app.app_uri]
        code, out, err = run_child(*argv, limit_s=RELOAD_CHECK_LIMIT_S, wanted=wanted)
        if code == 0 and last_line(out) != "loaded":
            return "the application ended while it was loaded"
        return last_line(err) if code else ""


def asked_to_stop(signals):
    """Whether a TERM, INT or QUIT waits in the master's queue, which is left as it was."""
    waiting = []
    try:
        while True:
            waiting.append(signals.get_nowait())
    except queue.Empty:
        for number in waiting:
            signals.put_nowait(number)
    return not STOP_SIGNALS.isdisjoint(waiting)


# -- hooks ------------------------------------------------------------------------------------------


def on_reload(server):
    server.log.info("configured", extra={"summary": settings["summary"]})


def when_ready(server):
    on_reload(server)
    server.__class__ = Master
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)


def post_fork(server, worker):
    from app.telemetry import context
    from app.telemetry.logs import configure

    configure(level=settings["log_level"], context=context.current, lock_fd=kept.lock_fd)
    try:
        kept.metrics_folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have cleaned up
        with tempfile.TemporaryFile(dir=kept.metrics_folder) as tried:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(tried.fileno(), 0, WORKER_METRICS_BYTES)
    except OSError as exc:
        # Writing to a file that is mapped there would kill the worker. It serves all the same, and counts for itself.
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        server.log.error("metrics cannot be kept with the other workers'", extra={"reason": repr(exc)})
        return
    from app.telemetry import metric_files

    try:
        metric_files.tidy(kept.metrics_folder)
    except (OSError, ValueError, metric_files.FolderBusyError) as exc:
        server.log.warning("metrics of earlier workers were not folded", extra={"reason": repr(exc)})


def post_worker_init(worker):
    if worker.bridge:
        worker.bridge.start()


def child_exit(server, worker):
    # What prometheus-client's mark_process_dead does; the master imports nothing of it.
    for path in kept.metrics_folder.glob(f"gauge_live*_{worker.pid}.db"):
        path.unlink(missing_ok=True)


def on_exit(server):
    if hasattr(kept, "own_metrics_folder"):
        shutil.rmtree(kept.own_metrics_folder, ignore_errors=True)


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
logconfig_dict = {} if CHECKING else logs.config(settings["log_level"], kept.lock_fd, kept.dropped_fd)
