"""What only the Redis backend has: a server that goes away, answers that get lost, one clock, one slot, one library."""

from __future__ import annotations

import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest

from app.errors import ConfigError, JournalUnavailableError
from app.journal import Activity, Change, Hold, Journal, Limit, NewEvent, NewInput, Once, Put, redis_library
from app.journal.redis import RedisJournal
from tests.support.cutting_proxy import CuttingProxy
from tests.support.redis import RedisServer

from .backends import PATIENCE_S
from .steps import (
    DEADLINE_S,
    acquired,
    answer,
    append,
    ask,
    claimed,
    close_session,
    let_the_clock_move,
    message,
    open_session,
    run_python,
    start,
    start_python,
    texts,
    together,
    until,
)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Of the test's own; it may die."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    """One that all tests leave alive; each has its prefix."""
    with RedisServer(appendfsync="everysec") as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


def source(server: RedisServer, prefix: str) -> str:
    made = f"RedisJournal({server.url!r}, prefix={prefix!r}, timeout_s={PATIENCE_S})"
    return f"from app.journal.redis import RedisJournal\njournal = {made}\n"


def insist(call: Callable[[], Any]) -> Any:
    """As a client does that is told 503: again, until it is taken."""

    def tried() -> list[Any] | None:
        try:
            return [call()]
        except JournalUnavailableError:
            gevent.sleep(0.01)
            return None

    return until(tried)[0]


def once(session_id: str, text: str) -> Change:
    return Change(session_id, events=[message(text)], once=Once(text), add=NewInput("chat", key=text))


# The server goes away


def test_nothing_acknowledged_is_lost_and_nothing_happens_twice_where_the_server_is_killed(
    server: RedisServer, prefix: str
) -> None:
    with closing(RedisJournal(server.url, prefix=prefix)) as journal:
        session_id = open_session(journal)
        told: list[str] = []
        over = False

        def write(name: int) -> None:
            n = 0
            while not over:
                text = f"{name} {n}"
                insist(partial(journal.commit, once(session_id, text)))
                told.append(text)
                n += 1

        writers = [gevent.spawn(write, name) for name in range(8)]
        for _ in range(3):
            reached = len(told) + 20
            until(lambda reached=reached: len(told) >= reached)
            server.kill()
            with pytest.raises(JournalUnavailableError):
                journal.check()
            server.start(wait=False)
        reached = len(told) + 20
        until(lambda: len(told) >= reached)
        over = True
        gevent.joinall(writers, timeout=DEADLINE_S, raise_error=True)

        log = [event for page in _pages(journal, session_id) for event in page]
        assert sorted(event.data["text"] for event in log) == sorted(told)
        assert [event.seq for event in log] == list(range(1, len(told) + 1))
        assert sorted(i.key for i in journal.pending(session_id)) == sorted(told)


def _pages(journal: Journal, session_id: str) -> Iterator[list[Any]]:
    after = 0
    while page := journal.events(session_id, after=after):
        yield page
        after = page[-1].seq


def test_while_it_is_away_everything_is_refused_and_goes_on_by_itself(server: RedisServer, prefix: str) -> None:
    with closing(RedisJournal(server.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal:
        session_id = open_session(journal)
        server.kill()
        calls: list[Callable[[], object]] = [
            partial(append, journal, session_id),
            partial(journal.events, session_id),
            partial(journal.claim, "worker", ttl_s=1),
            partial(journal.hit, Limit("k", 1)),
            journal.live_sessions,
            journal.check,
        ]

        outcomes = together(calls * 20)

        assert {type(outcome) for outcome in outcomes} == {JournalUnavailableError}
        server.start()
        assert texts(journal, session_id) == []
        append(journal, session_id, "back")
        journal.check()
        assert texts(journal, session_id) == ["back"]


def test_a_server_that_is_stopped_holds_nobody_up_and_does_nothing_twice(server: RedisServer, prefix: str) -> None:
    with closing(RedisJournal(server.url, prefix=prefix)) as journal:
        session_id = open_session(journal)
        server.send_signal(signal.SIGSTOP)
        began = time.monotonic()

        outcomes = together(partial(append, journal, session_id, str(n)) for n in range(200))

        assert {type(outcome) for outcome in outcomes} == {JournalUnavailableError}
        assert time.monotonic() - began < 10, "one after the other they would take two minutes"
        server.send_signal(signal.SIGCONT)
        until(lambda: insist(lambda: journal.live_sessions()))
        append(journal, session_id, "afterwards")
        # What was sent before it stopped may have happened, and then once: nobody was told that it has not.
        said = texts(journal, session_id)
        assert len(set(said)) == len(said)
        assert said[-1] == "afterwards"


def test_a_caller_that_gives_up_takes_no_answer_of_the_next_one(server: RedisServer, prefix: str) -> None:
    with closing(RedisJournal(server.url, prefix=prefix, timeout_s=DEADLINE_S)) as journal:
        session_id = open_session(journal)
        server.send_signal(signal.SIGSTOP)
        with gevent.Timeout(0.05, False):
            journal.hit(Limit("k", 1))
        server.send_signal(signal.SIGCONT)

        assert append(journal, session_id, "its own answer").seq == 1
        assert journal.hit(Limit("k", 1)) > 0, "the hit was on its way"


def test_a_server_that_is_full_refuses_and_writes_no_half(server: RedisServer, prefix: str) -> None:
    with closing(RedisJournal(server.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal:
        session_id = open_session(journal)
        append(journal, session_id, "before")
        server.say("CONFIG", "SET", "maxmemory", "1mb")

        for _ in range(3):
            with pytest.raises(JournalUnavailableError):
                journal.commit(once(session_id, "too much"))
        with pytest.raises(JournalUnavailableError):
            journal.check()
        assert texts(journal, session_id) == ["before"]
        assert journal.pending(session_id) == []

        server.say("CONFIG", "SET", "maxmemory", "0")
        assert not journal.commit(once(session_id, "too much")).duplicate
        assert texts(journal, session_id) == ["before", "too much"]


def test_a_server_that_is_not_there_is_said_at_the_start(prefix: str) -> None:
    server = RedisServer()
    with pytest.raises(JournalUnavailableError):
        RedisJournal(server.url, prefix=prefix)
    server.close()


def test_a_wrong_password_is_the_operators_to_correct(prefix: str) -> None:
    with RedisServer() as server:
        server.say("CONFIG", "SET", "requirepass", "right")
        address = f"127.0.0.1:{server.port}"
        for wrong in ("", ":wrong@", "me:right@"):
            with pytest.raises(ConfigError) as refused:
                RedisJournal(f"redis://{wrong}{address}", prefix=prefix)
            assert "right" not in refused.value.detail and "wrong" not in refused.value.detail
        RedisJournal(f"redis://:right@{address}", prefix=prefix).close()


# Answers that get lost


@pytest.fixture
def proxy(shared: RedisServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(shared.port) as proxy:
        yield proxy


@pytest.fixture
def behind(proxy: CuttingProxy, prefix: str) -> Iterator[RedisJournal]:
    """A journal whose answers can be cut."""
    with closing(RedisJournal(f"redis://127.0.0.1:{proxy.port}/0", prefix=prefix, timeout_s=PATIENCE_S)) as journal:
        yield journal


def test_a_change_whose_answer_is_lost_has_happened_once_and_is_told_as_it_was(
    proxy: CuttingProxy, behind: RedisJournal
) -> None:
    session_id = open_session(behind)
    proxy.only, proxy.cuts = b"commit", 1

    committed = append(behind, session_id, "one", "two")

    assert proxy.swallowed == 1
    assert committed.seqs == (1, 2)
    assert not committed.duplicate
    assert texts(behind, session_id) == ["one", "two"]


def test_many_changes_whose_answers_are_lost_happen_once_each(proxy: CuttingProxy, behind: RedisJournal) -> None:
    session_id = open_session(behind)
    proxy.only = b"commit"
    taken: list[str] = []

    def write(name: int) -> None:
        for n in range(20):
            proxy.cuts += n % 3 == 0
            text = f"{name} {n}"
            insist(partial(behind.commit, once(session_id, text)))
            taken.append(text)

    assert together(partial(write, name) for name in range(8)) == [None] * 8

    assert proxy.swallowed > 10
    assert sorted(texts(behind, session_id)) == sorted(taken)


@pytest.mark.parametrize("operation", ["claim", "acquire", "hit", "take_hit", "sleep", "trim", "release", "renew"])
def test_every_write_finds_what_it_did_where_its_answer_was_lost(
    proxy: CuttingProxy, behind: RedisJournal, operation: str
) -> None:
    session_id, sleeper = open_session(behind), open_session(behind)
    append(behind, sleeper, "a", "b")
    ask(behind, session_id)
    lease = acquired(behind, "held")
    one = Limit("k", 1)
    if operation == "take_hit":
        behind.hit(one)
    let_the_clock_move()
    _, now = let_the_clock_move(), behind.session(sleeper)
    assert now is not None
    soon = now.last_active_at.replace(year=now.last_active_at.year + 1)
    proxy.only, proxy.cuts = operation.encode(), 1

    match operation:
        case "claim":
            claim = claimed(behind)
            answer(behind, claim)
        case "acquire":
            assert acquired(behind, "sweep").epoch == 1
        case "hit":
            assert behind.hit(one) == 0
            assert behind.hit(one) > 0
        case "take_hit":
            assert behind.take_hit(one)
            assert not behind.take_hit(one)
        case "sleep":
            assert behind.sleep([sleeper], idle_before=soon) == [sleeper]
        case "trim":
            assert behind.trim(sleeper, before=soon, limit=10) == 2
        case "renew":
            assert behind.renew([lease], ttl_s=60) == set()
        case "release":
            behind.release(lease)
            assert not behind.held("held")
    assert proxy.swallowed == 1


def test_what_was_sent_and_never_answered_wakes_its_readers_afterwards(
    proxy: CuttingProxy, behind: RedisJournal
) -> None:
    session_id = open_session(behind)
    with behind.watch(f"session:{session_id}") as watch:
        while watch.wait(0):
            pass
        proxy.only, proxy.cuts = b"commit", 2

        with pytest.raises(JournalUnavailableError):
            append(behind, session_id, "told to nobody")

        assert watch.wait(DEADLINE_S) is True
        assert texts(behind, session_id) == ["told to nobody"]


# Wake-ups


def test_a_subscription_that_was_lost_comes_back_and_what_it_missed_wakes(shared: RedisServer, prefix: str) -> None:
    with (
        closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal,
        closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as other,
    ):
        session_id = open_session(journal)
        with other.watch(f"session:{session_id}") as watch:
            for n in range(5):
                shared.say("CLIENT", "KILL", "TYPE", "pubsub")
                append(journal, session_id, str(n))
                while len(texts(other, session_id)) <= n:
                    assert watch.wait(DEADLINE_S) is True
                assert watch.wait(DEADLINE_S) is True
            # And wake-ups come at once again, not by looks alone.
            began = time.monotonic()
            for n in range(40):
                append(journal, session_id, f"again {n}")
                assert watch.wait(DEADLINE_S) is True
            assert time.monotonic() - began < 15, "looks alone would take longer"


def test_an_announcement_that_was_lost_is_found_by_looking(shared: RedisServer, prefix: str) -> None:
    with (
        closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal,
        journal.watch("whatever") as watch,
    ):
        shared.say("HINCRBY", f"{{{prefix}}}:counters", "announced", "1")

        assert watch.wait(DEADLINE_S) is True


# One clock


def test_the_machines_clock_is_not_looked_at(shared: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal,
        closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as other,
    ):
        session_id, one = open_session(journal), Limit("k", 1)
        lease = acquired(journal, "sweep", ttl_s=60)
        assert journal.hit(one) == 0
        real = time.time

        monkeypatch.setattr(time, "time", lambda: real() + 3600)
        assert other.acquire("sweep", "b", ttl_s=60) is None
        assert other.hit(one) > 59 - DEADLINE_S
        ask(other, session_id)
        monkeypatch.setattr(time, "time", lambda: real() - 3600)

        assert other.held("sweep")
        assert claimed(journal).input.session_id == session_id
        journal.commit(Change(fences=[lease]))
        session = journal.session(session_id)
        assert session is not None
        assert abs(session.last_active_at.timestamp() - real()) < 60


PAUSED = """
import sys
from app.errors import LeaseLostError
from app.journal import Change, Put
lease = journal.acquire("sweep", "paused", ttl_s=0.3)
print("held", flush=True)
sys.stdin.readline()
try:
    journal.commit(Change(fences=[lease], puts=[Put("note", "k", {})]))
    print("written")
except LeaseLostError:
    print("refused")
print(journal.renew([lease], ttl_s=60) == {lease})
journal.close()
"""


def test_a_process_that_was_stopped_writes_nothing_for_what_another_has(shared: RedisServer, prefix: str) -> None:
    with closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal:
        paused = start_python(source(shared, prefix) + PAUSED, stdin=-1)
        try:
            assert paused.stdout.readline() == "held\n"
            paused.send_signal(signal.SIGSTOP)
            taken = until(lambda: journal.acquire("sweep", "next", ttl_s=60))
            paused.send_signal(signal.SIGCONT)
            paused.stdin.write("go\n")
            paused.stdin.flush()

            assert [paused.stdout.readline().strip() for _ in range(2)] == ["refused", "True"]
        finally:
            paused.kill()
            paused.wait()
        journal.commit(Change(fences=[taken]))
        assert journal.get("note", "k") is None


# Functions, keys, clusters


def test_functions_that_somebody_flushed_are_loaded_again(shared: RedisServer, prefix: str) -> None:
    with closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal:
        session_id = open_session(journal)
        for n in range(3):
            assert shared.say("FUNCTION", "FLUSH") == b"+OK\r\n"
            append(journal, session_id, str(n))
        shared.say("FUNCTION", "FLUSH")

        assert texts(journal, session_id) == ["0", "1", "2"]


NEWER = """
from app.journal import redis_library
name = redis_library.NAME
redis_library.NAME = "bridge_fedcba987654"
redis_library.LOAD = tuple(part.replace(name, redis_library.NAME) for part in redis_library.LOAD)
"""
WRITE = """
from app.journal import Change, NewEvent
journal.commit(Change("s", events=[NewEvent("user_message", {"text": "by the other version"})]))
journal.close()
"""


def test_workers_of_two_versions_are_at_work_side_by_side(shared: RedisServer, prefix: str) -> None:
    with closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal:
        open_session(journal, "s")

        run_python(NEWER + source(shared, prefix) + WRITE)
        append(journal, "s", "by this one")
        listed = shared.say("FUNCTION", "LIST")

        assert texts(journal, "s") == ["by the other version", "by this one"]
        assert b"bridge_fedcba987654" in listed
        assert redis_library.NAME.encode() in listed


def test_libraries_of_old_versions_do_not_pile_up(server: RedisServer, prefix: str) -> None:
    for n in range(20):
        code = f"#!lua name=bridge_old{n}\nredis.register_function('old{n}', function() return 1 end)"
        server.say("FUNCTION", "LOAD", code)
    server.say("FUNCTION", "LOAD", "#!lua name=others\nredis.register_function('others', function() return 1 end)")

    RedisJournal(server.url, prefix=prefix).close()

    listed = server.say("FUNCTION", "LIST")
    assert b"bridge_old" not in listed
    assert b"others" in listed


def test_journals_of_two_prefixes_do_not_see_each_other(shared: RedisServer, prefix: str) -> None:
    with (
        closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as one,
        closing(RedisJournal(shared.url, prefix=prefix + "2", timeout_s=PATIENCE_S)) as another,
        another.watch("session:s", "inputs") as watch,
    ):
        do_everything(one)
        acquired(one, "sweep")
        fill = Limit("k", 1)
        assert one.hit(fill) == 0

        assert watch.wait(0) is False
        assert (another.sessions(), another.find("note"), another.live_sessions()) == ([], [], 0)
        assert not another.held("sweep")
        assert another.hit(fill) == 0
        assert another.claim("worker", ttl_s=1) is None


def do_everything(journal: Journal) -> None:
    """Call each operation, with something to do for it."""
    one, two, three = (open_session(journal) for _ in range(3))
    far = journal.sessions()[0].created_at.replace(year=2100)
    append(journal, one, "a", "b")
    deltas = [NewEvent("assistant_delta", {"messageId": "m", "text": "t"})] * 2
    journal.commit(Change(one, events=deltas))
    journal.commit(Change(one, drop_deltas=["m"], puts=[Put("note", "n", {}, ("g",))], once=Once("k")))
    ask(journal, one)
    ask(journal, one, delay_s=0.001)
    claim = claimed(journal)
    start(journal, claim, "t1")
    journal.commit(Change(one, cancel_turn="t1", limit=Limit("l", 5)))
    journal.renew([claim.lease], ttl_s=60)
    answer(journal, claim)
    answer(journal, until(lambda: journal.claim("worker", ttl_s=60)))
    journal.sleep([two], idle_before=far, unless=[Hold("note", "of:")])
    journal.commit(Change(two, activity=Activity(10, must_wake=True)))
    journal.hit(Limit("l", 5))
    journal.take_hit(Limit("l", 5))
    close_session(journal, three)
    journal.trim(one, before=far, limit=100)
    journal.remove(three, limit=1)
    journal.remove(three, limit=10)
    journal.forget(before=far)
    journal.check()
    for page in (journal.sessions(), journal.idle_sessions(limit=9), journal.closed_sessions(before=far)):
        assert isinstance(page, list)
    journal.idle_sessions(limit=1, after=journal.idle_sessions(limit=1)[0])
    journal.find_stale("note", before=far, after=journal.find("note", "g")[0])
    journal.aged_sessions(before=far)
    journal.pending(one)
    journal.held("sweep")


def keys_of(server: RedisServer) -> set[str]:
    listed = subprocess.run(
        ["redis-cli", "-p", str(server.port), "--scan"], capture_output=True, text=True, check=True
    ).stdout
    return set(listed.splitlines())


def test_every_key_has_the_prefix_as_its_hash_tag_and_a_cluster_takes_all_of_it(prefix: str) -> None:
    with RedisServer(cluster_enabled="yes") as server:
        server.say("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        until(lambda: b"cluster_state:ok" in server.say("CLUSTER", "INFO"))
        with closing(RedisJournal(server.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal:
            do_everything(journal)

        keys = keys_of(server)
        assert len(keys) > 10
        assert {key for key in keys if not key.startswith(f"{{{prefix}}}:")} == set()


def test_a_call_follows_its_slot_to_the_node_that_has_it(prefix: str) -> None:
    with RedisServer(cluster_enabled="yes") as empty, RedisServer(cluster_enabled="yes") as owner:
        owner.say("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        empty.say("CLUSTER", "MEET", "127.0.0.1", str(owner.port))
        for node in (empty, owner):
            until(lambda node=node: b"cluster_state:ok" in node.say("CLUSTER", "INFO"))

        with closing(RedisJournal(empty.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal:
            do_everything(journal)

        assert len(keys_of(owner)) > 10
        assert keys_of(empty) == set()


def test_what_a_closed_session_had_leaves_no_key_behind(shared: RedisServer, prefix: str) -> None:
    with closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal:
        session_id = open_session(journal)
        journal.commit(Change(session_id, events=[NewEvent("assistant_delta", {"messageId": "m", "text": "t"})] * 3))
        ask(journal, session_id)
        ask(journal, session_id, delay_s=3600)
        start(journal, claimed(journal), "t1")
        close_session(journal, session_id)

        while not journal.remove(session_id, limit=2):
            pass

    left = {key for key in keys_of(shared) if key.startswith(f"{{{prefix}}}:") and ":a:" not in key}
    assert left == {f"{{{prefix}}}:counters"}


# What the server is told to do with what it has


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, []),
        ({"appendonly": "no"}, ["append-only"]),
        ({"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, ["evict"]),
        ({"maxmemory": "100mb"}, []),
        ({"maxmemory": "100mb", "maxmemory_policy": "volatile-ttl", "appendonly": "no"}, ["evict", "append-only"]),
    ],
)
def test_a_server_that_may_lose_what_was_acknowledged_is_warned_of(
    prefix: str, options: dict[str, str], said: list[str]
) -> None:
    with RedisServer(**options) as server, closing(RedisJournal(server.url, prefix=prefix)) as journal:
        assert len(journal.warnings) == len(said)
        assert all(word in warning for word, warning in zip(said, journal.warnings, strict=True))


# TLS


OVER_TLS = """
from gevent import monkey; monkey.patch_all()
import sys
from app.errors import JournalUnavailableError
from app.journal import Change, NewEvent, OpenSession
from app.journal.redis import RedisJournal
try:
    journal = RedisJournal(sys.argv[1], prefix=sys.argv[2])
except JournalUnavailableError as error:
    sys.exit(print(type(error).__name__))
with journal.watch("session:s") as watch:
    journal.commit(Change("s", open_session=OpenSession("h", 1), events=[NewEvent("user_message", {"text": "hello"})]))
    assert watch.wait(5)
print(*(event.data["text"] for event in journal.events("s")))
journal.close()
"""


def test_the_way_to_the_server_may_be_encrypted(tmp_path: Path, prefix: str) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    with RedisServer(tls=(certificate, key)) as server:
        url = f"rediss://127.0.0.1:{server.tls_port}/0"
        # TLS is green in a process that was patched, as a worker is.
        ends = [run_python(OVER_TLS, end, prefix) for end in (f"{url}?ssl_ca_certs={certificate}", url)]
    assert ends == ["hello\n", "JournalUnavailableError\n"], "a certificate that nobody knows is not taken"


# Group commit


def test_many_commits_at_once_share_round_trips_and_a_refusal_is_its_own(shared: RedisServer, prefix: str) -> None:
    with closing(RedisJournal(shared.url, prefix=prefix, timeout_s=PATIENCE_S)) as journal:
        session_id, before = open_session(journal), journal.groups

        outcomes = together(
            partial(append, journal, session_id if n % 2 else "no such session", str(n)) for n in range(200)
        )

        assert [isinstance(outcome, Exception) for outcome in outcomes] == [n % 2 == 0 for n in range(200)]
        assert 0 < journal.groups - before <= 200 / 4
        assert texts(journal, session_id) == [str(n) for n in range(1, 200, 2)]
