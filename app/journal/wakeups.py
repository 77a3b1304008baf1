"""Who is woken by a commit: readers of this process by topic, other processes by a datagram to each.

A datagram names topics and carries no data, so a full queue is harmless (its owner has yet to look anyway). Each has
the number of its commit. Once a second, where ``PRAGMA data_version`` tells that something was committed, the last
number is compared with those that came: so what a process that was killed between commit and datagram never sent is
found. Most commits of a quiet second are renewed leases, which nobody waits for: to wake every socket for each of them
would cost more than all else that an idle socket does.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
from gevent import monkey

from app.journal.topics import Topics

DATAGRAM_MAX_BYTES = 8192
EVERYTHING = "*"
LOOK_INTERVAL_S = 1.0
LOOK_INTERVAL_WITHOUT_DATAGRAMS_S = 0.05

# The writer's thread sends; the patched class would look for a hub there.
_Socket = monkey.get_original("socket", "socket")


class Wakeups(Topics):
    """Topics, their watchers here, and the other processes on the same journal."""

    def __init__(self, directory: Path, *, data_version: Callable[[], int], announced: Callable[[], int]) -> None:
        """
        :param announced: the number of the last commit that somebody may wait for.
        """
        super().__init__()
        self._data_version = data_version
        self._announced = announced
        self._seen = data_version()
        self._known = announced()  # this number and all before it have come
        self._ahead: set[int] = set()  # and these
        self._peers = _Peers(directory)
        loop = gevent.get_hub().loop
        self._io = None
        if self._peers.socket is not None:
            self._io = loop.io(self._peers.socket.fileno(), 1)
            self._io.start(self._receive)
        interval_s = LOOK_INTERVAL_S if self._io else LOOK_INTERVAL_WITHOUT_DATAGRAMS_S
        self._timer = loop.timer(interval_s, repeat=interval_s)
        self._timer.start(self._look)

    def announce(self, topics: set[str], number: int) -> None:
        """In any thread: tell the other processes of a commit. Never blocks."""
        self._peers.send(topics, number)

    def committed(self, topics: set[str], number: int) -> None:
        """Wake whoever waits here for a commit of our own."""
        self._note(number)
        self.wake_local(topics)

    def stop(self) -> None:
        self._timer.stop()
        if self._io is not None:
            self._io.stop()
        self._peers.close()

    def _receive(self) -> None:
        for topics, number in self._peers.received():
            self._note(number)
            if EVERYTHING in topics:
                self.wake_all()
            else:
                self.wake_local(topics)

    def _look(self) -> None:
        version = self._data_version()
        if version == self._seen:
            return
        self._seen = version
        last = self._announced()
        if last != self._known:
            # One never came; or is on its way, or the journal was restored: then this is once too often.
            self._known = last
            self._ahead = {number for number in self._ahead if number > last}
            self.wake_all()

    def _note(self, number: int) -> None:
        """In whatever order they come: those of others overtake our own."""
        if number > self._known:
            self._ahead.add(number)
        while self._known + 1 in self._ahead:
            self._known += 1
            self._ahead.remove(self._known)


class _Peers:
    """A datagram socket of our own in ``directory``, and everybody else's there.

    Addresses go through ``/proc/self/fd`` because a Unix socket's path may have 107 bytes only. Where the directory
    or ``/proc`` is of no use there is no socket, and looking at the data version has to do.
    """

    def __init__(self, directory: Path) -> None:
        self.socket: socket.socket | None = None
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._directory_fd = -1
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            own = _Socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            own.bind(self._address(self._name))
            self.socket = own
        except OSError:
            self.close()

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self._directory_fd}/{name}"

    def send(self, topics: set[str], number: int) -> None:
        if self.socket is None:
            return
        try:
            others = [name for name in os.listdir(self._directory_fd) if name != self._name]
        except OSError:
            # No file descriptor left, say. The others find the commit by looking.
            return
        if not others:
            return
        payload = json.dumps([number, *topics]).encode()
        if len(payload) > DATAGRAM_MAX_BYTES:
            payload = json.dumps([number, EVERYTHING]).encode()
        for name in others:
            try:
                self.socket.sendto(payload, self._address(name))
            except ConnectionRefusedError:
                # Nobody listens there any more: its process was killed.
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._directory_fd)
            except OSError:
                # Its queue is full, or there is no memory now: it lives, and finds the commit by looking.
                continue

    def received(self) -> Iterator[tuple[set[str], int]]:
        """Topics, and their commit's number."""
        while self.socket is not None:
            try:
                payload = self.socket.recv(DATAGRAM_MAX_BYTES + 1)
            except OSError:
                return
            try:
                number, *topics = json.loads(payload)
            except (ValueError, TypeError):
                # A worker of another version, during a reload: what it says nothing of is found by looking.
                continue
            yield set(topics), number

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory_fd)
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1
