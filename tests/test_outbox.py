"""What is on its way: each entry has its turn, however many there are and whatever becomes of the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NoReturn

import pytest

from app import outbox
from app.errors import JournalUnavailableError
from app.journal import Change, Journal
from app.outbox import Answer, Outbox, Outgoing
from tests.journal.backends import BACKENDS

HOUR_S = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel(Outgoing):
    KIND: ClassVar[str] = "parcel"
    name: str

    @property
    def key(self) -> str:
        return self.name


class Post:
    """An outbox of parcels. ``sent``: their names, in order; ``refuse``: what is answered to some."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.sent: list[str] = []
        self.refuse: Callable[[str], str] = lambda name: ""
        self._outbox = Outbox(
            journal=journal,
            kind=Parcel,
            noun="a parcel",
            send=self._send,
            held_s=1.0,
            pauses_s=(HOUR_S, HOUR_S),
        )

    def _send(self, parcel: Parcel) -> Answer:
        self.sent.append(parcel.name)
        return Answer(self.refuse(parcel.name))

    def owe(self, *names: str, due_at_s: float = 0.0) -> None:
        for name in names:
            self.journal.commit(Change(puts=[replace(Parcel(name=name, due_at_s=due_at_s).put(), expect=None)]))

    def round(self) -> float | None:
        return self._outbox.round()

    def rounds(self) -> None:
        """Rounds, one after the other, until the next one has time."""
        while (wait_s := self.round()) is not None and wait_s <= outbox.ROUND_PAUSE_S:
            pass

    def left(self) -> dict[str, Parcel]:
        return {parcel.name: parcel for parcel in Parcel.find(self.journal, limit=10_000)}


@pytest.fixture(params=list(BACKENDS))
def post(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    with BACKENDS[request.param](tmp_path_factory.mktemp("journal")) as backend:
        journal = backend.open()
        yield Post(journal)
        journal.close()


def test_what_waits_hides_nothing_that_is_older(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_SEEN", 3)
    monkeypatch.setattr(outbox, "AT_ONCE_IN_ROUND", 2)
    old = [f"old{number}" for number in range(7)]
    post.owe(*old)
    post.owe("new1", "new2", "new3", due_at_s=time.time() + HOUR_S)

    post.rounds()

    assert sorted(post.sent) == old
    assert sorted(post.left()) == ["new1", "new2", "new3"]


def test_many_that_are_never_taken_keep_no_other_from_its_turn(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_SEEN", 3)
    monkeypatch.setattr(outbox, "AT_ONCE_IN_ROUND", 2)
    post.refuse = lambda name: "no" if name.startswith("bad") else ""
    post.owe("bad1", "bad2", "bad3", "good1", "bad4", "bad5", "bad6", "bad7", "good2")

    post.rounds()

    assert {"good1", "good2"} < set(post.sent)
    assert len(post.sent) == len(set(post.sent)) == 9


def test_a_bug_costs_an_entry_one_try_and_one_pause(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    def broken(name: str) -> str:
        raise ValueError("Invalid endpoint")

    post.refuse = broken
    post.owe("a")

    post.rounds()

    (left,) = post.left().values()
    assert left.tries == 1
    assert left.due_at_s > time.time() + HOUR_S / 2
    assert caplog.text.count("a parcel failed by a bug") == 1


def test_an_entry_that_a_wrong_clock_has_put_back_is_due(post: Post) -> None:
    post.owe("a", due_at_s=time.time() + 400 * 86_400.0)

    post.rounds()

    assert post.sent == ["a"]


def test_a_journal_that_takes_no_writes_is_not_asked_again_at_once(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry would be a line in the log, ten times a second."""
    monkeypatch.setattr(outbox, "AT_ONCE_IN_ROUND", 2)
    post.owe("a", "b", "c")

    def refused(change: Change) -> NoReturn:
        raise JournalUnavailableError

    monkeypatch.setattr(post.journal, "commit", refused)

    assert post.round() is None
    assert post.sent == []
