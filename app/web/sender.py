"""Whole frames to one peer: senders take turns, and control frames go behind whoever is at it."""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.lock import Semaphore

from app.web.tcp import Tcp

LOST = 1006
DEAD = 1008
CLOSE_WAIT_S = 1.0


class Sender:
    """:ivar open: messages are still written; control frames are until the end.

    :param timeout_s: for a whole frame; a peer that takes longer to read it is dead.
    :param lost: told ``LOST`` or ``DEAD`` where a frame could not be written: after half of one nothing sensible can
        follow.
    """

    __slots__ = ("_lock", "_lost", "_queued", "_tcp", "_timeout_s", "open")

    def __init__(self, tcp: Tcp, timeout_s: float, lost: Callable[[int], None]) -> None:
        self.open = True
        self._tcp = tcp
        self._timeout_s = timeout_s
        self._lost = lost
        self._lock = Semaphore(1)
        self._queued: dict[int, tuple[bytes, float]] = {}  # at most a ping, a pong and a close

    @property
    def busy(self) -> bool:
        """Somebody is at it, and waits for the peer."""
        return bool(self._lock.locked())

    def send(self, frame: bytes) -> bool:
        """Write a message, in this greenlet's turn; tells whether it was written."""
        with self._lock:
            if self.open and self._write(frame, self._timeout_s):
                self._flush()
                return True
        return False

    def post(self, frame: bytes) -> None:
        """Write a message where nobody is :attr:`busy`, in the loop too: never waits."""
        self._lock.acquire(blocking=False)
        self._begin(frame, self._timeout_s)

    def control(self, opcode: int, frame: bytes, *, timeout_s: float | None = None) -> None:
        """Send a control frame, or leave it to the sender who is at it. Never waits: a slow peer must not hold up the
        reader, nor the loop."""
        self._queued[opcode] = frame, timeout_s or self._timeout_s
        if self._lock.acquire(blocking=False):
            self._begin(b"", 0.0)

    def finish(self, *, drop_incoming: bool) -> bool:
        """See the last control frames off. Closing with unread data makes TCP reset the connection, and the peer may
        then never see the close frame: so our half is closed first, and what still comes is read and dropped for a
        second. ``False``: a sender is stuck in the middle of a frame."""
        if not self._lock.acquire(timeout=CLOSE_WAIT_S):
            return False
        try:
            self._flush()
            self._tcp.end_sending()
            if drop_incoming:
                self._tcp.drop_incoming(CLOSE_WAIT_S)
        except OSError:
            pass
        finally:
            self._lock.release()
        return True

    def give_up(self) -> None:
        """Nothing can be written any more: who waits to write is woken."""
        self.open = False
        self._queued.clear()
        self._tcp.give_up()

    def leave(self) -> None:
        """The end: wait until a sender that was woken by it has left, within a bound. Nobody is told of anything then,
        so that the two who have each other go without the garbage collector."""
        if self._lock.acquire(timeout=CLOSE_WAIT_S):
            self._lock.release()
        self._lost = _nobody

    def _begin(self, frame: bytes, timeout_s: float) -> None:
        """Write ``frame`` and the queued control frames without waiting; what does not fit is seen off by a greenlet.
        The lock is held, and given back when all is written."""
        try:
            rest = frame[self._tcp.send(frame) :] if frame else frame
            while not rest and self._queued:
                frame, timeout_s = self._queued.pop(next(iter(self._queued)))
                rest = frame[self._tcp.send(frame) :]
        except OSError:
            self._lost(LOST)
            rest = b""
        if rest:
            gevent.spawn(self._see_off, rest, timeout_s)
        else:
            self._lock.release()

    def _see_off(self, rest: bytes, timeout_s: float) -> None:
        try:
            if self._write(rest, timeout_s):
                self._flush()
        finally:
            self._lock.release()

    def _flush(self) -> None:
        """Write the queued control frames. The lock is held, and given back without a pause after the last look."""
        while self._queued and self._write(*self._queued.pop(next(iter(self._queued)))):
            pass

    def _write(self, frame: bytes, timeout_s: float) -> bool:
        code = LOST
        try:
            sent = self._tcp.send(frame)  # nearly always all of it, without a timer
            if sent < len(frame):
                code = DEAD
                self._tcp.send_all(frame[sent:], timeout_s)
        except OSError as exc:
            self._lost(DEAD if isinstance(exc, TimeoutError) else LOST)
            return False
        except BaseException:  # a caller's own timeout, a kill
            self._lost(code)
            raise
        return True


def _nobody(code: int) -> None:
    """Nothing follows."""
