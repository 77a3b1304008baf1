"""Looking once a second: what never came is found, and nobody is woken for what nobody waits for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.journal.wakeups import Wakeups


class File:
    """What a journal's file says."""

    def __init__(self) -> None:
        self.version = 1
        self.announced = 7

    def commit(self, *, topics: bool = True) -> int:
        """Somebody's; gives its number."""
        self.version += 1
        self.announced += topics
        return self.announced


@pytest.fixture
def file() -> File:
    return File()


@pytest.fixture
def wakeups(tmp_path: Path, file: File) -> Iterator[Wakeups]:
    made = Wakeups(tmp_path / "wake", data_version=lambda: file.version, announced=lambda: file.announced)
    made._timer.stop()  # the tests look for themselves
    yield made
    made.stop()


def test_a_commit_that_nobody_waits_for_wakes_nobody(wakeups: Wakeups, file: File) -> None:
    with wakeups.watch("session:a") as watch:
        file.commit(topics=False)
        wakeups._look()

        assert not watch.wait(0)


def test_a_commit_that_was_not_told_wakes_everybody_once(wakeups: Wakeups, file: File) -> None:
    with wakeups.watch("session:a") as one, wakeups.watch("inputs") as other:
        file.commit()
        wakeups._look()
        assert one.wait(0)
        assert other.wait(0)

        file.commit(topics=False)
        wakeups._look()
        assert not one.wait(0)


def test_what_was_told_is_not_told_again_in_whatever_order_it_came(wakeups: Wakeups, file: File) -> None:
    with wakeups.watch("session:a") as watch:
        own, theirs = file.commit(), file.commit()
        wakeups._note(theirs)
        wakeups.committed({"session:b"}, own)
        wakeups._look()

        assert not watch.wait(0)


def test_what_is_missing_between_two_that_came_is_found(wakeups: Wakeups, file: File) -> None:
    with wakeups.watch("session:a") as watch:
        file.commit()
        wakeups.committed({"session:b"}, file.commit())
        wakeups._look()

        assert watch.wait(0)


def test_a_journal_that_was_restored_goes_on_from_its_own_number(wakeups: Wakeups, file: File) -> None:
    with wakeups.watch("session:a") as watch:
        file.announced = 2
        file.version += 1
        wakeups._look()
        assert watch.wait(0)

        wakeups.committed({"session:b"}, file.commit())
        wakeups._look()
        assert not watch.wait(0)


def test_a_watch_tells_by_what_it_was_woken(wakeups: Wakeups) -> None:
    with wakeups.watch("session:a", "connection:b") as watch:
        wakeups.wake_local({"session:a"})
        wakeups.wake_local({"session:a", "connection:b", "inputs"})
        assert watch.wait(0)
        assert watch.woken_by == {"session:a", "connection:b"}

        watch.wake()
        assert watch.wait(0)
        assert watch.woken_by == {""}
        assert not watch.wait(0)
        assert watch.woken_by == set()


def test_other_processes_hear_topics_and_number(tmp_path: Path, wakeups: Wakeups, file: File) -> None:
    other = Wakeups(tmp_path / "wake", data_version=lambda: file.version, announced=lambda: file.announced)
    try:
        with wakeups.watch("session:a") as watch, wakeups.watch("session:b") as stranger:
            other.announce({"session:a"}, file.commit())
            assert watch.wait(10)
            wakeups._look()

            assert not stranger.wait(0)
    finally:
        other.stop()
