"""The worker: connections, requests and, at its end, a drain."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import types
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
import gunicorn.http.parser
import gunicorn.http.wsgi
from gevent.event import Event
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.http import errors as parse_errors
from gunicorn.http.body import LengthReader
from gunicorn.workers.ggevent import GeventWorker

from .places import Places
from .refusals import INTERNAL, REFUSALS, problem, refused_request
from .requests import HeadTimeout, response_class, unreader_class
from .stages import DRAINING, EARLY_SIGNALS, RETRY_START_S, SERVING, has_served

STEP_S = 0.05
IDLE_GRACE_S = 0.9  # an idle connection may bring one more request after the drain began; then it ends
STOP_MARGIN_S = 5.0  # what GRACEFUL_TIMEOUT_SECONDS leaves for stopping children and closing the journal
HURRY_S = 0.7  # what sockets have for their goodbyes where the end is to be quick
LINGER_S = 1.0
LOADING_LIMIT_S = 5  # for a worker that is told to go while it loads
UNREAD_LIMIT_S = 60.0  # a peer that takes nothing of what is written to it for so long is gone
SPARE_PART = 10  # of worker_connections one in ten stays free: for it, idle connections are closed


class DrainWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker that finishes what it has begun, and tells everybody at once that it will go.

    The drain begins on the edge of ``alive``, whatever caused it (TERM, a reload, ``max_requests``, a lost master):
    listeners close, the application tells its sockets, idle connections end. The worker then stays, and notifies the
    master, until application and requests are done or the grace is over.

    The application, ``extensions["bridge"]`` of the Flask app, has ``start()``, ``drain()`` (at once, more than once),
    ``finished()`` and ``stop()`` (bounded), and is given ``keep_place()`` (:meth:`Places.keep`) for connections that
    outlive their request. Without it there is just HTTP.

    :cvar head_timeout_s: how long the rest of a request's head may take.
    :cvar served_fd: of the file that tells whether any worker has come up.
    """

    head_timeout_s: float
    served_fd: int
    _alive = True
    leaving = False  # in the master: it has told this worker to go

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._servers: list[StreamServer] = []
        # greenlet of a connection → its socket and since when, while no request is in hand; longest idle first
        self._idle: dict[Any, tuple[Any, float]] = {}
        self.heads: dict[Any, HeadTimeout] = {}  # greenlet of a connection → its own, while it waits for a request
        self._edge: Event | None = None  # set: the drain has begun
        self._hurry = False
        super().__init__(*args, **kwargs)

    @property
    def alive(self) -> bool:
        return self._alive

    @alive.setter
    def alive(self, value: bool) -> None:
        edge, self._alive = self._alive and not value, value
        if edge and self._edge is not None:
            gevent.spawn(self._drain)  # may be in a signal handler: nothing that waits

    @property
    def bridge(self) -> Any:
        return getattr(self.wsgi, "extensions", {}).get("bridge")

    # -- life

    def init_process(self) -> None:
        gunicorn.http.wsgi.Response = response_class(self)
        gunicorn.http.parser.SocketUnreader = unreader_class(self)
        try:
            super().init_process()
        except (Exception, SystemExit) as exc:
            if not self.booted and not self.alive and has_served(self.served_fd) and isinstance(exc, Exception):
                # Nobody waits for it any more, so it is no error that it could not start, for a locked journal say.
                self.log.warning("a worker that was told to go could not start", extra={"reason": str(exc)})
                sys.exit(0)
            if self.booted or not self.alive:
                raise
            if not has_served(self.served_fd):
                if isinstance(exc, SystemExit):
                    # As it is, gunicorn would start the next one at once, for ever.
                    raise RuntimeError(f"the application ended while it was loaded: {exc}") from exc
                raise
            # gunicorn would end the whole server, other workers too, for a full disk, a locked journal or an .env that
            # a reload refused. It has served before, so it can again: exit with another code, and be started anew.
            self.log.exception("a worker could not start, another is tried", extra={"reason": str(exc)})
            time.sleep(RETRY_START_S)
            sys.exit(1)

    def init_signals(self) -> None:
        super().init_signals()
        # Ctrl-C reaches workers too; the master is who tells them. A handler, for SIG_IGN would pass to our children.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        """TERM. A worker that is still loading may come up and leave in order; where that takes long it is just ended,
        for there is nothing to finish yet."""
        if not self.booted:
            signal.alarm(LOADING_LIMIT_S)
        self.alive = False

    def notify(self) -> None:
        self.tmp.notify()
        if self.alive and self.ppid != os.getppid():
            self.log.error("master is gone, draining")
            self.alive = False

    def run(self) -> None:
        signal.alarm(0)
        self._edge = Event()
        self._places = Places(self.worker_connections)
        self.notify()  # at once: by a file that was never touched the master does not see that a loop stands still
        for listener in self.sockets:
            listener.setblocking(1)
            # Every connection has it from its listener.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_LIMIT_S * 1000))
            # gunicorn asks the listener for its name at each connection; a closed one could not say it any more.
            named = types.SimpleNamespace(getsockname=partial(tuple, listener.getsockname()))
            server = StreamServer(listener, handle=partial(self.handle, named), spawn=self._places)
            server.start()
            self._servers.append(server)
        if self.bridge:
            self.bridge.keep_place = self._places.keep
        os.write(self.served_fd, b".")
        self._tell(SERVING)
        if not self.alive:  # told to go while it came up
            gevent.spawn(self._drain)
        while not self._edge.wait(1.0):
            self.notify()
        self._finish(time.monotonic(), self.cfg.graceful_timeout)

    def _tell(self, state: int) -> None:
        """Have the master know. It may look until the worker's file is gone with both."""
        os.ftruncate(self.tmp.fileno(), state)
        self.tmp.notify()  # the file's time is the sign of life

    @property
    def state(self) -> int:
        return os.fstat(self.tmp.fileno()).st_size

    def handle_quit(self, sig: int, frame: types.FrameType | None) -> None:
        """QUIT (a second Ctrl-C): go now; children are still stopped and the journal closed."""
        self._hurry = True
        self.alive = False

    # -- requests

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        connection = gevent.getcurrent()
        if self._places.free_count() < self.worker_connections // SPARE_PART:
            self._end_longest_idle()
        self._idle[connection] = client, time.monotonic()
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.pop(connection, None)
            self.heads.pop(connection, None)

    def _end_longest_idle(self) -> None:
        for connection, (client, _) in self._idle.items():
            del self._idle[connection]
            self._hang_up(client)
            return

    @staticmethod
    def _hang_up(client: Any) -> None:
        """Let a connection without a request end by itself, as if its peer had closed."""
        with suppress(OSError, AttributeError):
            client._sock.shutdown(socket.SHUT_RD)  # the raw one: gevent's own logs an error at its reader

    def timeout_ctx(self) -> HeadTimeout:
        head = self.heads[gevent.getcurrent()] = HeadTimeout(self.cfg.keepalive, False)
        return head

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        connection = gevent.getcurrent()
        self._idle.pop(connection, None)
        self.heads.pop(connection, None)
        gevent.sleep(0)  # a connection that always has a next request must not keep the others waiting
        try:
            super().handle_request(listener_name, req, sock, addr)
            # What the application left of the body stands before the next request; more than a bound is not waited for.
            if not self._is_read(req.body) and not self._discard(req.body.read):
                raise StopIteration
        except StopIteration:
            if not self._is_read(req.body):
                self._discard(req.body.read)
            raise
        finally:
            self._idle[connection] = sock, time.monotonic()

    @staticmethod
    def _is_read(body: Any) -> bool:
        """Whether nothing of a request's body can be left on its connection."""
        return body is None or (isinstance(body.reader, LengthReader) and body.reader.length == 0)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what never reached the application, or left it as an exception. Nothing of the request is echoed."""
        from app.telemetry import context

        if isinstance(exc, gevent.GreenletExit | SystemExit):  # ended with its worker
            return
        refusal = next((known for kind, known in REFUSALS.items() if isinstance(exc, kind)), INTERNAL)
        given, method = refused_request(exc) if req is None else (None, req.method)
        fields: dict[str, Any] = {
            "status": refusal[0],
            "peer": addr[0] if addr else "",
            "requestId": given or uuid.uuid4().hex,
        }
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
    def _discard(read: Callable[[int], bytes]) -> bool:
        """Take what the client is still sending: closing on unread bytes resets the connection, and with it the answer
        that the client has not read yet. Tells whether it was taken to its end."""
        with gevent.Timeout(LINGER_S, False):
            try:
                return any(not read(65_536) for _ in range(256))
            except (OSError, parse_errors.ParseException):
                return False
        return False

    # -- the end

    def _drain(self) -> None:
        for server in self._servers:
            server.close()
        self._tell(DRAINING)
        assert self._edge is not None
        self._edge.set()
        if self.bridge:
            self._guarded(self.bridge.drain)

    def _end_idle(self, before: float) -> None:
        """Close the connections that have been idle since ``before``."""
        for client, since in list(self._idle.values()):
            if since <= before:
                self._hang_up(client)

    def _finish(self, started: float, grace_s: float) -> None:
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

    def _done(self) -> bool:
        return self._places.unused and (not self.bridge or self._guarded(self.bridge.finished) is not False)

    def _guarded(self, step: Callable[[], Any]) -> Any:
        """The drain goes on whatever the application does."""
        try:
            return step()
        except Exception:
            # The drain is one of the places for it: what is left out here would end in the master's kill.
            self.log.exception("drain step failed")
