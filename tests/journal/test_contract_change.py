"""The contract of one change: all of it or none of it, and the order in which it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from app.errors import (
    BaseError,
    LeaseLostError,
    SessionNotFoundError,
    StaleDocumentError,
    TooManyPendingError,
    TooManySessionsError,
)
from app.journal import (
    Change,
    Claim,
    Delete,
    Expect,
    Journal,
    Lease,
    NewEvent,
    NewInput,
    Once,
    OpenSession,
    Put,
    StartInput,
)

from .steps import (
    DEADLINE_S,
    acquired,
    ask,
    claimed,
    close_session,
    message,
    new_id,
    open_session,
    start,
    taken_over,
    texts,
    together,
)


@dataclass(frozen=True)
class Scene:
    """A session with a running turn and one more input, two documents, a lease that is held and one that was lost."""

    journal: Journal
    session_id: str
    closed_id: str
    claim: Claim
    held: Lease
    lost: Lease

    @property
    def everything(self) -> Change:
        """A change that writes a little of all that a change can."""
        return Change(
            self.session_id,
            events=[message("new"), NewEvent("notice", {"level": "info", "text": "new"})],
            once=Once("once"),
            fences=[self.claim.lease, self.held],
            expects=[Expect("note", "old", 1)],
            add=NewInput("chat"),
            max_pending=2,
            answer=self.claim.input.input_id,
            puts=[Put("note", "old", {"n": 2}, groups=("after",)), Put("note", "new", {}, expect=0)],
            deletes=[Delete("note", "doomed", expect=1)],
            drop_deltas=["m1"],
        )

    def seen(self) -> list[object]:
        """All that a reader can see of it."""
        journal = self.journal
        return [
            journal.events(self.session_id),
            journal.pending(self.session_id),
            [journal.session(session_id) for session_id in (self.session_id, self.closed_id)],
            journal.live_sessions(),
            sorted(journal.find("note"), key=lambda document: document.key),
            [[d.key for d in journal.find("note", group)] for group in ("before", "after")],
        ]


@pytest.fixture
def scene(journal: Journal) -> Scene:
    closed_id = open_session(journal)
    close_session(journal, closed_id)
    session_id = open_session(journal)
    ask(journal, session_id)
    claim = claimed(journal)
    start(journal, claim, "t1")
    ask(journal, session_id)
    deltas = [NewEvent("assistant_delta", {"messageId": "m1", "text": "piece"}, turn_id="t1")] * 2
    puts = [Put("note", "old", {"n": 1}, groups=("before",)), Put("note", "doomed", {}, groups=("before",))]
    journal.commit(Change(session_id, events=deltas, puts=puts))
    return Scene(journal, session_id, closed_id, claim, acquired(journal, "held"), taken_over(journal, "lost"))


REFUSALS: dict[str, tuple[type[BaseError], Callable[[Scene], Change]]] = {
    "a lost lease": (LeaseLostError, lambda s: replace(s.everything, fences=[s.claim.lease, s.lost])),
    "a lease never given": (LeaseLostError, lambda s: replace(s.everything, fences=[Lease("never", "worker", 1)])),
    "another version": (StaleDocumentError, lambda s: replace(s.everything, expects=[Expect("note", "old", 2)])),
    "a missing document": (StaleDocumentError, lambda s: replace(s.everything, expects=[Expect("note", "x", 1)])),
    "a put on another version": (
        StaleDocumentError,
        lambda s: replace(s.everything, puts=[Put("note", "new", {}), Put("note", "old", {}, expect=2)]),
    ),
    "a delete of another version": (
        StaleDocumentError,
        lambda s: replace(s.everything, deletes=[Delete("note", "doomed"), Delete("note", "old", expect=2)]),
    ),
    "an unknown session": (SessionNotFoundError, lambda s: replace(s.everything, session_id=new_id())),
    "a closed session": (SessionNotFoundError, lambda s: replace(s.everything, session_id=s.closed_id)),
    "too many inputs": (TooManyPendingError, lambda s: replace(s.everything, answer=None)),
    "no such turn": (StaleDocumentError, lambda s: replace(s.everything, cancel_turn="t2")),
    "too many inputs and the session closed": (
        TooManyPendingError,
        lambda s: replace(s.everything, answer=None, close_session=True),
    ),
    "too many inputs and a turn started": (
        TooManyPendingError,
        lambda s: replace(s.everything, answer=None, start=StartInput(s.claim.input.input_id, "t2", 1)),
    ),
}


@pytest.mark.parametrize("refusal", list(REFUSALS))
def test_a_refused_change_writes_nothing(scene: Scene, other: Journal, refusal: str) -> None:
    error, change = REFUSALS[refusal]
    before = scene.seen()

    for handle in (scene.journal, other):
        with pytest.raises(error):
            handle.commit(change(scene))

    assert scene.seen() == before
    assert not scene.journal.commit(Change(once=Once("once"))).duplicate, "nor was its idempotency key taken"


def test_a_session_that_is_refused_is_refused_with_all_that_came_along(scene: Scene) -> None:
    refused = new_id()
    before = scene.seen()
    opening = replace(
        scene.everything, session_id=refused, open_session=OpenSession("hash", 1), answer=None, drop_deltas=()
    )

    with pytest.raises(TooManySessionsError):
        scene.journal.commit(opening)

    assert scene.seen() == before
    assert scene.journal.session(refused) is None
    assert scene.journal.events(refused) == []
    assert scene.journal.pending(refused) == []
    assert not scene.journal.commit(Change(once=Once("once"))).duplicate


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (TooManyPendingError, {"add": NewInput("chat"), "max_pending": 0}),
        (StaleDocumentError, {"cancel_turn": "no such turn"}),
        (StaleDocumentError, {"expects": [Expect("note", "old", 9)]}),
        (LeaseLostError, {"fences": [Lease("never", "worker", 1)]}),
    ],
    ids=["too many inputs", "no such turn", "another version", "a lease never given"],
)
def test_a_session_whose_change_is_refused_is_not_opened(
    scene: Scene, error: type[BaseError], fault: dict[str, Any]
) -> None:
    refused = new_id()
    before = scene.seen()

    with pytest.raises(error):
        scene.journal.commit(
            Change(refused, open_session=OpenSession("hash", 100), events=[message()], once=Once("once"), **fault)
        )

    assert scene.journal.session(refused) is None
    assert scene.seen() == before
    assert not scene.journal.commit(Change(once=Once("once"))).duplicate


def test_an_accepted_change_writes_all_of_it(scene: Scene, other: Journal) -> None:
    (_, second) = scene.journal.pending(scene.session_id)

    committed = scene.journal.commit(scene.everything)

    log = [event.type for event in other.events(scene.session_id)]
    assert log == ["user_message", "turn_started", "user_message", "user_message", "notice"]
    assert [i.seq for i in other.pending(scene.session_id)] == [second.seq, committed.seq]
    assert {(d.key, d.version) for d in other.find("note")} == {("old", 2), ("new", 1)}
    assert [d.key for d in other.find("note", "after")] == ["old"]
    assert other.find("note", "before") == []
    assert other.commit(Change(once=Once("once"))).seq == committed.seq


def test_a_change_can_be_the_last_of_its_session(scene: Scene, other: Journal) -> None:
    live = scene.journal.live_sessions()

    scene.journal.commit(replace(scene.everything, close_session=True))

    session = other.session(scene.session_id)
    assert session is not None
    assert session.state == "closed"
    assert other.events(scene.session_id)[-1].data["text"] == "new"
    assert other.pending(scene.session_id) == []
    assert other.live_sessions() == live - 1
    assert {(d.key, d.version) for d in other.find("note")} == {("old", 2), ("new", 1)}


# What is wrong with a change, in the order in which it is looked for.
FAULTS: list[tuple[str, type[BaseError], Callable[[Scene, Change], Change]]] = [
    ("fence", LeaseLostError, lambda s, change: replace(change, fences=[s.lost])),
    ("expects", StaleDocumentError, lambda s, change: replace(change, expects=[Expect("note", "old", 9)])),
    ("session", SessionNotFoundError, lambda s, change: replace(change, session_id=s.closed_id)),
    ("inputs", TooManyPendingError, lambda s, change: replace(change, add=NewInput("chat"), max_pending=0)),
]


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=[name for name, *_ in FAULTS])
def test_of_several_faults_the_first_in_order_is_told(scene: Scene, first: int) -> None:
    change = Change(scene.session_id, events=[message("new")])
    for _, _, spoil in FAULTS[first:]:
        change = spoil(scene, change)

    with pytest.raises(FAULTS[first][1]):
        scene.journal.commit(change)


def test_a_change_may_belong_to_no_session(journal: Journal) -> None:
    committed = journal.commit(Change(puts=[Put("note", "k", {"n": 1})]))

    assert (committed.seqs, committed.duplicate) == ((), False)
    assert journal.get("note", "k") is not None


ODD_NAMES = pytest.mark.parametrize(
    "name",
    ["", "ü🎉", "a\x00b", "a\nb", "*", "'; --", "x" * 10_000],
    ids=lambda name: ascii(name[:16]),
)


@ODD_NAMES
def test_nothing_is_found_under_an_odd_name(journal: Journal, name: str) -> None:
    assert journal.session(name) is None
    assert journal.events(name) == []
    assert journal.pending(name) == []
    assert journal.find(name) == journal.find(name, name) == []
    assert journal.get(name, name) is None
    assert not journal.held(name)


@ODD_NAMES
def test_no_session_and_no_lease_has_an_odd_name(journal: Journal, name: str) -> None:
    with pytest.raises(SessionNotFoundError):
        journal.commit(Change(name, events=[message()]))
    with pytest.raises(LeaseLostError):
        journal.commit(Change(fences=[Lease(name, name, 1)]))


@ODD_NAMES
def test_a_document_may_have_an_odd_name(journal: Journal, name: str) -> None:
    journal.commit(Change(puts=[Put("note", name, {"n": 1}, groups=("g" + name,))]))

    document = journal.get("note", name)
    assert document is not None
    assert document.key == name
    assert journal.find("note", "g" + name) == [document]


@ODD_NAMES
def test_an_idempotency_key_may_be_odd(journal: Journal, name: str) -> None:
    change = Change(puts=[Put("note", "k", {"n": 1})], once=Once(name, {"n": 1}))

    assert [journal.commit(change).duplicate for _ in range(3)] == [False, True, True]


@ODD_NAMES
def test_a_topic_may_be_odd(journal: Journal, other: Journal, name: str) -> None:
    with journal.watch(name) as watch:
        for handle in (journal, other):
            handle.commit(Change(puts=[Put("note", "k", {})], wake=[name]))
            assert watch.wait(DEADLINE_S) is True

    journal.commit(Change(puts=[Put("note", "k", {})]))


@ODD_NAMES
def test_a_lease_may_have_an_odd_name(journal: Journal, other: Journal, name: str) -> None:
    lease = acquired(journal, name, "a" + name)

    assert other.held(name)
    other.commit(Change(fences=[lease]))
    journal.release(lease)
    assert acquired(other, name).epoch > lease.epoch


def test_a_change_that_cannot_be_written_harms_no_other(journal: Journal) -> None:
    session_id = open_session(journal)
    broken = [
        Change(session_id, events=[NewEvent("notice", {"not JSON": object()})]),
        Change(session_id, events=[message()], add=NewInput("chat", event=7)),
        Change(session_id, open_session=OpenSession("another hash", 10)),
        Change(puts=[Put("note", "k", {"not JSON": object()})]),
    ]

    changes = [broken[n // 5] if n % 5 == 0 else Change(session_id, events=[message(str(n))]) for n in range(20)]
    outcomes = together(partial(journal.commit, change) for change in changes)

    assert [n for n in range(20) if isinstance(outcomes[n], Exception)] == [0, 5, 10, 15]
    assert texts(journal, session_id) == [str(n) for n in range(20) if n % 5]
    session = journal.session(session_id)
    assert session is not None
    assert session.token_hash == "hash of its token"
    assert journal.live_sessions() == 1
    assert journal.pending(session_id) == []
    assert journal.find("note") == []


def test_an_empty_change_is_no_error(journal: Journal) -> None:
    assert journal.commit(Change()).seqs == ()
