"""Commands beside a socket's reader: bounded, and in their order where they are about the same thing."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from app.errors import BusyError
from app.sessions.commands import MAX_AT_WORK, Commands


def test_what_is_about_the_same_thing_keeps_its_order_and_the_rest_does_not_wait() -> None:
    commands, go, done = Commands(), Event(), []

    def slow() -> None:
        go.wait()
        done.append("slow")

    commands.run("w1", slow)
    commands.run("w1", lambda: done.append("after it"))
    commands.run("w2", lambda: done.append("beside it"))
    gevent.sleep(0)
    gevent.sleep(0)
    assert done == ["beside it"]

    go.set()
    commands.finish()
    assert done == ["beside it", "slow", "after it"]


def test_one_too_many_is_refused_until_another_is_done() -> None:
    commands, go, done = Commands(), Event(), []
    for n in range(MAX_AT_WORK):
        commands.run(str(n), lambda: done.append(go.wait()))

    with pytest.raises(BusyError):
        commands.run("more", lambda: done.append(None))

    go.set()
    commands.finish()
    commands.run("more", lambda: done.append(True))
    commands.finish()
    assert done == [True] * (MAX_AT_WORK + 1)


def test_nothing_is_kept_of_what_is_done() -> None:
    commands = Commands()
    for n in range(50):
        commands.run(str(n), lambda: None)
        commands.finish()
        gevent.sleep(0)

    assert not commands._last and not commands._at_work
