"""The contract of durability: what was acknowledged is there, once and in order, whatever happens to the worker."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from functools import partial

import gevent
import pytest

from app.errors import JournalUnavailableError
from app.journal import Change, Journal, NewInput, Once, Put

from .backends import Backend
from .steps import (
    DEADLINE_S,
    acquired,
    append,
    ask,
    claimed,
    fall_asleep,
    let_the_clock_move,
    message,
    open_session,
    start,
    start_python,
    texts,
    whole_log,
)

COMMIT_UNTIL_KILLED = """
import itertools, sys
import gevent
from app.journal import Change, NewEvent, NewInput, Once, Put
session_id, life, greenlets = sys.argv[1:]

def write(name):
    for n in itertools.count():
        text = f"{life} {name} {n}"
        committed = journal.commit(Change(
            session_id, events=[NewEvent("user_message", {"text": text})], once=Once(text),
            add=NewInput("chat", key=text), puts=[Put("note", text, {})],
        ))
        print(committed.seq, text, flush=True)

gevent.joinall([gevent.spawn(write, name) for name in range(int(greenlets))], raise_error=True)
"""


@pytest.mark.parametrize("greenlets", [1, 16])
def test_a_killed_worker_loses_nothing_that_was_acknowledged(
    backend: Backend, open_journal: Callable[[], Journal], greenlets: int
) -> None:
    first = open_journal()
    session_id = open_session(first)
    first.close()
    acknowledged: list[tuple[int, str]] = []

    for life in range(3):
        process = start_python(backend.source + COMMIT_UNTIL_KILLED, session_id, str(life), str(greenlets))
        with gevent.Timeout(DEADLINE_S):
            lines = [process.stdout.readline() for _ in range(random.randint(1, 200))]
            gevent.sleep(random.uniform(0, 0.01))
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
            process.wait()
        process.stdout.close()
        assert all(lines), "it ended by itself"
        whole = [line for line in lines if line.endswith("\n")]
        acknowledged += [(int(seq), text) for seq, text in (line.rstrip("\n").split(" ", 1) for line in whole)]

    journal = open_journal()
    log = [(event.seq, event.data["text"]) for event in whole_log(journal, session_id)]
    assert [seq for seq, _ in log] == sorted({seq for seq, _ in log})
    assert len({text for _, text in log}) == len(log)
    assert set(acknowledged) <= set(log)
    for life in range(3):
        for name in range(greenlets):
            own = [text for _, text in log if text.startswith(f"{life} {name} ")]
            assert own == [f"{life} {name} {n}" for n in range(len(own))]

    # The rest of each change is there exactly where its event is.
    written = {text for _, text in log}
    assert {i.key for i in journal.pending(session_id)} == written
    assert {document.key for document in journal.find("note", limit=len(log) + 10)} == written
    seq, text = acknowledged[-1]
    again = journal.commit(Change(session_id, events=[message("again")], once=Once(text)))
    assert (again.duplicate, again.seq) == (True, seq)
    assert append(journal, session_id).seq > log[-1][0]


def test_a_journal_that_is_opened_again_is_as_it_was(journal: Journal, open_journal: Callable[[], Journal]) -> None:
    live, asleep, closed = (open_session(journal) for _ in range(3))
    fall_asleep(journal, asleep)
    append(journal, closed, "before the end")
    journal.commit(Change(closed, close_session=True))
    ask(journal, live, "first", kind="repair", key="r1")
    ask(journal, live, "second", delay_s=3600)
    start(journal, claimed(journal), "t1", takeovers=1)
    journal.commit(Change(live, cancel_turn="t1"))
    for n in range(3):
        journal.commit(Change(puts=[Put("note", str(n), {"n": n}, groups=("g",))]))
        let_the_clock_move()
    lease = acquired(journal, "sweep")

    def seen(handle: Journal) -> list[object]:
        return [
            [handle.session(session_id) for session_id in (live, asleep, closed)],
            [whole_log(handle, session_id) for session_id in (live, asleep, closed)],
            [handle.pending(session_id) for session_id in (live, asleep, closed)],
            handle.sessions(),
            handle.live_sessions(),
            handle.find("note", "g"),
            handle.held("sweep"),
            handle.held(f"session:{live}"),
        ]

    before = seen(journal)
    journal.close()
    reopened = open_journal()

    assert seen(reopened) == before
    assert reopened.renew([lease], ttl_s=60) == set()


def test_closing_finishes_what_was_accepted(
    journal: Journal, open_journal: Callable[[], Journal], session_id: str
) -> None:
    acknowledged: list[str] = []

    def write(text: str) -> None:
        try:
            append(journal, session_id, text)
        except JournalUnavailableError:
            return
        acknowledged.append(text)

    writers = [gevent.spawn(write, str(n)) for n in range(50)]
    gevent.sleep(0)
    journal.close()
    gevent.joinall(writers, timeout=DEADLINE_S, raise_error=True)

    assert all(writer.ready() for writer in writers)
    assert sorted(texts(open_journal(), session_id)) == sorted(acknowledged)
    assert len(acknowledged) == 50, "they were on their way before the journal was closed"


def test_a_journal_can_be_closed_twice(journal: Journal, session_id: str) -> None:
    append(journal, session_id)
    journal.close()
    journal.close()


def test_a_closed_journal_acknowledges_nothing(
    journal: Journal, open_journal: Callable[[], Journal], session_id: str
) -> None:
    journal.close()

    with pytest.raises(JournalUnavailableError):
        append(journal, session_id, "too late")
    with pytest.raises(JournalUnavailableError):
        journal.check()

    assert texts(open_journal(), session_id) == []


def test_closing_one_handle_leaves_the_others(journal: Journal, other: Journal, session_id: str) -> None:
    other.close()

    with journal.watch(f"session:{session_id}") as watch:
        append(journal, session_id, "still here")
        assert watch.wait(DEADLINE_S) is True
    assert texts(journal, session_id) == ["still here"]


def test_a_check_of_a_journal_that_works_says_nothing_and_leaves_nothing(
    journal: Journal, other: Journal, session_id: str
) -> None:
    ask(journal, session_id)
    before = (journal.events(session_id), journal.pending(session_id), journal.sessions(), journal.find("note"))

    with journal.watch(f"session:{session_id}", "inputs") as watch:
        while watch.wait(0):
            pass
        for handle in (journal, other):
            handle.check()
        assert watch.wait(0) is False

    assert before == (journal.events(session_id), journal.pending(session_id), journal.sessions(), journal.find("note"))


def test_every_greenlet_gets_its_own_answer(journal: Journal, session_id: str) -> None:
    """Changes that are written together are still refused or acknowledged one by one."""
    bad = "no such session"

    def write(n: int) -> str:
        try:
            committed = journal.commit(
                Change(bad if n % 3 == 0 else session_id, events=[message(str(n))], add=NewInput("chat"))
            )
        except Exception as error:
            return type(error).__name__
        (event,) = journal.events(session_id, after=committed.seq - 1, limit=1)
        return str(event.data["text"])

    writers = [gevent.spawn(partial(write, n)) for n in range(90)]
    gevent.joinall(writers, timeout=DEADLINE_S, raise_error=True)

    assert [w.value for w in writers] == [str(n) if n % 3 else "SessionNotFoundError" for n in range(90)]
