"""The contract of wake-ups: a waiter learns of every commit on its topics, whoever made it.

A waiter may be woken once too often (it looks and waits again), so nothing here counts on silence for long.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial

import gevent
import pytest

from app.errors import StaleDocumentError
from app.journal import Change, Expect, Journal, NewInput, Put, Watch

from .backends import Backend
from .steps import (
    DEADLINE_S,
    append,
    ask,
    message,
    open_session,
    run_python,
    start_python,
    texts,
    together,
    until,
)

COMMIT = """
import sys
from app.journal import Change, NewEvent, NewInput
session_id, count, *wake = sys.argv[1:]
for n in range(int(count)):
    events = [NewEvent("user_message", {"text": f"from another process {n}"})]
    journal.commit(Change(session_id, events=events, add=NewInput("chat"), wake=wake))
journal.close()
"""


def drained(watch: Watch) -> Watch:
    """Without the wake-ups of what happened before."""
    while watch.wait(0):
        pass
    return watch


def waiting(watch: Watch) -> gevent.Greenlet[..., bool]:
    """A greenlet that waits already."""
    waiter = gevent.spawn(watch.wait, DEADLINE_S)
    gevent.sleep(0)
    return waiter


class Bell:
    """A watcher: remembers why it was told."""

    def __init__(self) -> None:
        self.rung: list[str] = []

    def wake(self, topic: str = "") -> None:
        self.rung.append(topic)


def test_a_watcher_is_told_of_its_topics_by_whichever_process_until_it_is_removed(
    backend: Backend, journal: Journal, session_id: str
) -> None:
    bell, other = Bell(), Bell()
    topics = f"session:{session_id}", "mine"
    journal.add_watcher(bell, *topics)
    journal.add_watcher(other, "another")

    append(journal, session_id, "here")
    until(lambda: f"session:{session_id}" in bell.rung)
    run_python(backend.source + COMMIT, session_id, "1", "mine")
    until(lambda: {"mine", ""} & set(bell.rung))
    assert "mine" not in other.rung and f"session:{session_id}" not in other.rung

    journal.remove_watcher(bell, *topics)
    journal.remove_watcher(bell, *topics)
    bell.rung.clear()
    with journal.watch(f"session:{session_id}") as watch:
        append(journal, session_id, "unheard")
        assert watch.wait(DEADLINE_S)
    assert not bell.rung


def test_a_wait_ends_when_its_time_is_up(journal: Journal) -> None:
    with journal.watch("inputs") as watch:
        assert watch.wait(0.05) is False
        assert watch.wait(0) is False


@pytest.mark.parametrize("writer", ["the same handle", "another handle"])
def test_a_commit_wakes_whoever_follows_its_session(
    journal: Journal, other: Journal, session_id: str, writer: str
) -> None:
    with journal.watch(f"session:{session_id}") as watch:
        waiter = waiting(watch)

        append(journal if writer == "the same handle" else other, session_id, "wake up")

        assert waiter.get(timeout=DEADLINE_S) is True
        assert texts(journal, session_id) == ["wake up"]


def test_a_commit_of_another_process_wakes(backend: Backend, journal: Journal, session_id: str) -> None:
    with (
        journal.watch(f"session:{session_id}") as session_watch,
        journal.watch("inputs") as inputs_watch,
        journal.watch("drills") as drills_watch,
    ):
        waiters = [waiting(watch) for watch in (session_watch, inputs_watch, drills_watch)]

        run_python(backend.source + COMMIT, session_id, "1", "drills")

        assert [waiter.get(timeout=DEADLINE_S) for waiter in waiters] == [True, True, True]
        assert texts(journal, session_id) == ["from another process 0"]


def test_a_commit_of_another_process_is_remembered_while_nobody_waits(
    backend: Backend, journal: Journal, session_id: str
) -> None:
    with journal.watch(f"session:{session_id}") as watch:
        run_python(backend.source + COMMIT, session_id, "1")

        assert watch.wait(DEADLINE_S) is True


@pytest.mark.parametrize("writer", ["the same handle", "another handle"])
def test_wake_ups_while_nobody_waits_are_remembered(
    journal: Journal, other: Journal, session_id: str, writer: str
) -> None:
    with journal.watch(f"session:{session_id}") as watch:
        append(journal if writer == "the same handle" else other, session_id)

        assert watch.wait(DEADLINE_S) is True


def test_wake_ups_while_nobody_waits_are_remembered_as_one(journal: Journal, session_id: str) -> None:
    with journal.watch(f"session:{session_id}") as watch:
        for _ in range(5):
            append(journal, session_id)

        assert watch.wait(DEADLINE_S) is True
        assert watch.wait(0) is False


def test_a_new_input_wakes_those_who_look_for_work(journal: Journal, other: Journal, session_id: str) -> None:
    seq = append(journal, session_id).seq
    changes = [
        Change(session_id, events=[message()], add=NewInput("chat")),
        Change(session_id, add=NewInput("repair", event=None, seq=seq, key="r1")),
        Change(session_id, add=NewInput("repair", event=None, seq=seq, key="r2", delay_s=3600)),
    ]
    for handle in (journal, other):
        with journal.watch("inputs") as watch:
            for change in changes:
                drained(watch)
                handle.commit(change)
                assert watch.wait(DEADLINE_S) is True


def test_any_topic_can_be_woken(journal: Journal, other: Journal) -> None:
    with journal.watch("limits") as limits, other.watch("ü: a topic*") as odd:
        for handle in (journal, other):
            handle.commit(Change(puts=[Put("note", "k", {})], wake=["limits", "ü: a topic*"]))

            assert limits.wait(DEADLINE_S) is True
            assert odd.wait(DEADLINE_S) is True
            drained(limits)
            drained(odd)


def test_a_change_that_only_wakes_wakes(journal: Journal, other: Journal) -> None:
    for handle in (journal, other):
        with journal.watch("limits") as watch:
            handle.commit(Change(wake=["limits"]))

            assert watch.wait(DEADLINE_S) is True


def test_a_watch_follows_all_its_topics(journal: Journal, other: Journal, session_id: str) -> None:
    with journal.watch(f"session:{session_id}", "inputs", "limits") as watch:
        wakers: Sequence[Callable[[], object]] = [
            partial(append, other, session_id),
            partial(ask, other, open_session(journal)),
            partial(other.commit, Change(wake=["limits"])),
        ]
        for waker in wakers:
            drained(watch)
            waker()
            assert watch.wait(DEADLINE_S) is True


def test_every_watch_of_a_topic_is_woken(journal: Journal, other: Journal, session_id: str) -> None:
    topic = f"session:{session_id}"
    with journal.watch(topic) as one, journal.watch(topic) as two, other.watch(topic) as three:
        waiters = [waiting(watch) for watch in (one, two, three)]

        append(journal, session_id)

        assert [waiter.get(timeout=DEADLINE_S) for waiter in waiters] == [True] * 3


def test_commits_on_other_topics_do_not_each_wake(journal: Journal, other: Journal, session_id: str) -> None:
    neighbour = open_session(journal)
    woken = 0

    with journal.watch(f"session:{session_id}", "limits") as watch:

        def count() -> None:
            nonlocal woken
            while watch.wait():
                woken += 1

        counter = gevent.spawn(count)
        for n in range(50):
            (journal, other)[n % 2].commit(
                Change(neighbour, events=[message()], add=NewInput("chat"), wake=["something else"])
            )
        before_its_own = woken
        append(journal, session_id)
        until(lambda: woken > before_its_own)
        counter.kill()

    assert before_its_own <= 10


def test_a_refused_change_wakes_nobody(journal: Journal, session_id: str) -> None:
    with journal.watch(f"session:{session_id}", "inputs", "limits") as watch:
        drained(watch)
        with pytest.raises(StaleDocumentError):
            journal.commit(
                Change(
                    session_id,
                    events=[message()],
                    add=NewInput("chat"),
                    expects=[Expect("note", "k", 1)],
                    wake=["limits"],
                )
            )

        assert watch.wait(0) is False


def test_a_watch_can_be_woken_without_a_commit(journal: Journal) -> None:
    with journal.watch("inputs") as watch, journal.watch("inputs") as neighbour:
        waiter = waiting(watch)

        watch.wake()

        assert waiter.get(timeout=DEADLINE_S) is True
        assert neighbour.wait(0) is False


def test_a_wake_while_nobody_waits_is_remembered(journal: Journal) -> None:
    with journal.watch("inputs") as watch:
        watch.wake()
        watch.wake()

        assert watch.wait(DEADLINE_S) is True
        assert watch.wait(0.05) is False


def test_a_watch_without_topics_can_still_be_woken(journal: Journal) -> None:
    with journal.watch() as watch:
        watch.wake()

        assert watch.wait(DEADLINE_S) is True


def test_a_wait_without_a_time_ends_by_a_commit(journal: Journal, other: Journal, session_id: str) -> None:
    with journal.watch(f"session:{session_id}") as watch:
        waiter = gevent.spawn(watch.wait)
        gevent.sleep(0)
        append(other, session_id)

        assert waiter.get(timeout=DEADLINE_S) is True


def test_watches_come_and_go(journal: Journal, session_id: str) -> None:
    for n in range(200):
        with journal.watch(f"session:{session_id}") as watch:
            if n % 20 == 0:
                append(journal, session_id)
                assert watch.wait(DEADLINE_S) is True

    append(journal, session_id)


def follow(journal: Journal, session_id: str, count: int) -> list[str]:
    """Read a session as a socket does: all there is, then wait. Only wake-ups may drive it."""
    seen: list[str] = []
    cursor = 0
    with journal.watch(f"session:{session_id}") as watch:
        while True:
            for event in journal.events(session_id, after=cursor):
                cursor = event.seq
                seen.append(event.data["text"])
            if len(seen) >= count:
                return seen
            assert watch.wait(DEADLINE_S), f"not woken for what came after {len(seen)} of {count}"


def test_no_wake_up_is_missed_between_reading_and_waiting(journal: Journal, other: Journal, session_id: str) -> None:
    def write(handle: Journal, name: str) -> None:
        for n in range(25):
            append(handle, session_id, f"{name} {n}")
            gevent.sleep(0.002 * (n % 3))

    writers = {"here": journal, "there": other}
    calls: list[Callable[[], object]] = [partial(write, handle, name) for name, handle in writers.items()]
    reader = gevent.spawn(follow, journal, session_id, 50)
    together(calls)

    assert sorted(reader.get(timeout=DEADLINE_S)) == sorted(f"{name} {n}" for name in writers for n in range(25))


def test_no_wake_up_of_another_process_is_missed(backend: Backend, journal: Journal, session_id: str) -> None:
    process = start_python(backend.source + COMMIT, session_id, "50")
    try:
        seen = follow(journal, session_id, 50)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    assert seen == [f"from another process {n}" for n in range(50)]


def test_a_worker_that_is_stopped_or_killed_holds_up_nobody(
    backend: Backend, journal: Journal, other: Journal, session_id: str
) -> None:
    stopped = start_python(backend.source + "print('open', flush=True)\nimport time\ntime.sleep(600)")
    try:
        assert stopped.stdout.readline() == "open\n"
        stopped.send_signal(signal.SIGSTOP)
        for n in range(400):
            append((journal, other)[n % 2], session_id, str(n))
    finally:
        stopped.kill()
        stopped.wait()
        stopped.stdout.close()

    with journal.watch(f"session:{session_id}") as watch:
        append(other, session_id, "after its end")
        assert watch.wait(DEADLINE_S) is True
    assert len(texts(journal, session_id)) == 401


def test_who_is_woken_reads_what_woke_it(journal: Journal, other: Journal, session_id: str) -> None:
    with journal.watch(f"session:{session_id}") as watch:
        for n in range(30):
            writer = gevent.spawn(append, (journal, other)[n % 2], session_id, str(n))
            give_up = time.monotonic() + DEADLINE_S
            while len(texts(journal, session_id)) <= n:
                assert time.monotonic() < give_up
                assert watch.wait(DEADLINE_S) is True
            writer.get()
