"""A connection has one place from its first byte to its last, whoever has it."""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.event import Event

from app.server.places import Places


def test_a_place_that_is_kept_outlives_its_greenlet_and_is_given_back_once() -> None:
    places, kept, may_end = Places(3), list[Callable[[], None]](), Event()

    def request(*, hands_over: bool) -> None:
        if hands_over:
            kept.append(places.keep())
        may_end.wait()

    greenlets = [places.spawn(request, hands_over=n < 2) for n in range(3)]
    gevent.sleep(0)
    assert places.free_count() == 0
    may_end.set()
    gevent.joinall(greenlets, timeout=5)

    assert (len(places), places.free_count(), places.full(), places.unused) == (0, 1, False, False)
    waiting = [gevent.spawn(places.spawn, gevent.sleep, 0) for _ in range(4)]
    gevent.joinall(waiting, timeout=5)  # they share what is left
    places.join(timeout=5)
    assert places.free_count() == 1

    for give_back in kept:
        give_back()

    assert places.free_count() == 3
    assert places.unused


def test_a_full_house_is_told_when_a_kept_place_is_given_back() -> None:
    places, kept = Places(1), list[Callable[[], None]]()
    places.spawn(lambda: kept.append(places.keep())).join(timeout=5)
    assert places.full()

    spawned = gevent.spawn(places.spawn, gevent.sleep, 0)
    gevent.sleep(0.01)
    assert not spawned.dead
    kept[0]()

    spawned.get(timeout=5).join(timeout=5)
    assert places.unused


def test_a_place_that_is_given_back_before_its_greenlet_ends_is_not_given_back_twice() -> None:
    places = Places(2)

    places.spawn(lambda: places.keep()()).join(timeout=5)

    gevent.sleep(0)
    assert places.free_count() == 2
    first, second = places.spawn(gevent.sleep, 0.05), places.spawn(gevent.sleep, 0.05)
    assert places.full()
    gevent.joinall([first, second], timeout=5)
    assert places.unused
