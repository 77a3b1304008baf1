"""The steps that journal tests are told in: open a session, say something, take a turn, wait for a condition."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import gevent
from gevent.subprocess import PIPE, Popen

from app.journal import (
    Activity,
    Change,
    Claim,
    Committed,
    Event,
    Input,
    Journal,
    Lease,
    NewEvent,
    NewInput,
    OpenSession,
    StartInput,
)

T = TypeVar("T")
DEADLINE_S = 30.0
ROOT = Path(__file__).parents[2]


def new_id() -> str:
    return uuid.uuid4().hex


def message(text: str = "hello", **ids: str) -> NewEvent:
    return NewEvent("user_message", {"text": text}, **ids)


def turn_started(turn_id: str) -> NewEvent:
    return NewEvent("turn_started", {"kind": "chat"}, turn_id=turn_id)


def open_session(journal: Journal, session_id: str | None = None, *, max_live: int = 1000) -> str:
    session_id = session_id or new_id()
    journal.commit(Change(session_id, open_session=OpenSession("hash of its token", max_live)))
    return session_id


def close_session(journal: Journal, session_id: str) -> None:
    journal.commit(Change(session_id, events=[NewEvent("session_closed", {"reason": "done"})], close_session=True))


def use(journal: Journal, session_id: str, *, max_live: int = 1000) -> None:
    """Note activity of the session, and wake it."""
    journal.commit(Change(session_id, activity=Activity(max_live, must_wake=True)))


def fall_asleep(journal: Journal, session_id: str) -> None:
    if journal.sleep([session_id], idle_before=datetime.now(UTC) + timedelta(days=1)) != [session_id]:
        raise AssertionError("it stays awake")


def append(journal: Journal, session_id: str, *texts: str) -> Committed:
    """Events that nobody has to answer."""
    return journal.commit(Change(session_id, events=[message(text) for text in texts or ("hello",)]))


def ask(
    journal: Journal,
    session_id: str,
    text: str = "hello",
    *,
    kind: Any = "chat",
    key: str = "",
    delay_s: float = 0.0,
    max_pending: int | None = None,
) -> Input:
    """An event with an input to answer it."""
    added = NewInput(kind, key=key, delay_s=delay_s)
    seq = journal.commit(Change(session_id, events=[message(text)], add=added, max_pending=max_pending)).seq
    return next(i for i in journal.pending(session_id) if i.seq == seq)


def start(journal: Journal, claim: Claim, turn_id: str, *, takeovers: int = 0) -> int:
    """Begin a turn for what was claimed; the number of its ``turn_started``."""
    change = Change(
        claim.input.session_id,
        events=[turn_started(turn_id)],
        fences=[claim.lease],
        start=StartInput(claim.input.input_id, turn_id, takeovers),
    )
    return journal.commit(change).seq


def answer(journal: Journal, claim: Claim) -> None:
    """End the turn for good and give the session's lease back."""
    journal.commit(Change(claim.input.session_id, answer=claim.input.input_id, fences=[claim.lease]))
    journal.release(claim.lease)


def claimed(journal: Journal, holder: str = "worker", *, ttl_s: float = 60.0) -> Claim:
    claim = journal.claim(holder, ttl_s=ttl_s)
    if claim is None:
        raise AssertionError("nothing to claim")
    return claim


def acquired(journal: Journal, name: str, holder: str = "worker", *, ttl_s: float = 60.0) -> Lease:
    lease = journal.acquire(name, holder, ttl_s=ttl_s)
    if lease is None:
        raise AssertionError(f"{name} is held")
    return lease


def taken_over(journal: Journal, name: str) -> Lease:
    """A lease whose holder was paused for too long: it has run out, and somebody else holds it now."""
    lost = acquired(journal, name, "paused worker", ttl_s=0.05)
    until(lambda: not journal.held(name))
    acquired(journal, name, "next worker")
    return lost


def whole_log(journal: Journal, session_id: str) -> list[Event]:
    log: list[Event] = []
    while page := journal.events(session_id, after=log[-1].seq if log else 0, limit=500):
        log += page
    return log


def texts(journal: Journal, session_id: str) -> list[str]:
    return [event.data["text"] for event in whole_log(journal, session_id) if event.type == "user_message"]


def until(condition: Callable[[], T | None], *, deadline_s: float = DEADLINE_S) -> T:
    """What ``condition`` returns once it is true."""
    give_up = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {deadline_s} s")
        gevent.sleep(0.005)
    return value


def let_the_clock_move() -> None:
    """Times are kept to the millisecond at least: what is noted after this is later than what was before."""
    before = time.time()
    until(lambda: time.time() > before + 0.002)


def together(calls: Iterable[Callable[[], T]]) -> list[T | Exception]:
    """Run each call in a greenlet of its own, all at once; what each returned or raised."""

    def outcome(call: Callable[[], T]) -> T | Exception:
        try:
            return call()
        except Exception as error:
            return error

    greenlets = [gevent.spawn(outcome, call) for call in calls]
    gevent.joinall(greenlets, timeout=DEADLINE_S, raise_error=True)
    if not all(greenlet.ready() for greenlet in greenlets):
        raise AssertionError(f"not done within {DEADLINE_S} s")
    return [greenlet.value for greenlet in greenlets]


def start_python(source: str, *arguments: str, stdin: int | None = None) -> Any:
    """Another process of this project; its standard output is piped, line by line."""
    return Popen([sys.executable, "-c", source, *arguments], cwd=ROOT, stdin=stdin, stdout=PIPE, text=True)


def run_python(source: str, *arguments: str) -> str:
    """The standard output of a process that must end well."""
    process = start_python(source, *arguments)
    try:
        output, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    if process.returncode:
        raise AssertionError(f"the other process ended with {process.returncode}")
    return str(output)
