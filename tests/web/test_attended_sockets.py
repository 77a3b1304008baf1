"""A socket that the loop attends, against peers that stop reading, fall silent or vanish; both ends in this process."""

from __future__ import annotations

import socket as sockets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import Event as Wakeup
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from app.web.sender import DEAD, LOST
from app.web.socket_io import ConnectionGone, SocketIO

PAD = "." * 100
FULL_WAIT_S = 0.2


class Answering:
    """Answers each text with itself and more. What begins with ``slow`` waits for a greenlet, and for ``go_on``."""

    def __init__(self, socket: SocketIO) -> None:
        self.socket = socket
        self.go_on = Wakeup()
        self.go_on.set()
        self.quick = 0
        self.served: list[str | bytes] = []
        self.gone: ConnectionGone | None = None

    def quick_answer(self, text: str) -> str | None:
        if text.startswith("slow"):
            return None
        self.quick += 1
        return text + PAD

    def serve(self) -> None:
        try:
            while (text := self.socket.next_frame()) is not None:
                self.served.append(text)
                self.go_on.wait()
                self.socket.send(f"{text!s}{PAD}")
        except ConnectionGone as gone:
            self.gone = gone
            self.socket.finish()


class Undeterred(Answering):
    """Goes on with what has come although no answer arrives."""

    def serve(self) -> None:
        try:
            while (text := self.socket.next_frame()) is not None:
                self.served.append(text)
                self.go_on.wait()
                with suppress(ConnectionGone):
                    self.socket.send(text)
        except ConnectionGone as gone:
            self.gone = gone


class Peer:
    """The other end, in order of what it is told to do."""

    def __init__(self, connection: Any) -> None:
        self.socket = connection
        self._protocol = Connection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    def send(self, event: Event) -> None:
        self.socket.sendall(self._protocol.send(event))

    def next(self) -> Event:
        while not self._events:
            data = self.socket.recv(65_536)
            if not data:
                raise EOFError
            self._protocol.receive_data(data)
            self._events = list(self._protocol.events())
        return self._events.pop(0)

    def text(self) -> str:
        """The next message; what else comes before it is left out."""
        whole = ""
        while True:
            event = self.next()
            if isinstance(event, TextMessage):
                whole += event.data
                if event.message_finished:
                    return whole

    def ended(self) -> bool:
        """Read on to the end; tells whether that was one, not a timeout."""
        try:
            while self.socket.recv(65_536):
                pass
        except ConnectionResetError:
            return True
        return True


Pair = tuple[Peer, SocketIO, Answering]


@pytest.fixture
def attended() -> Iterator[Callable[..., Pair]]:
    opened: list[Any] = []

    def connect(*, tcp: bool = False, handler: type[Answering] = Answering, **options: Any) -> Pair:
        ours, theirs = _tcp_pair() if tcp else gevent.socket.socketpair()
        opened.append(ours)
        ours.settimeout(20)
        theirs.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4096)
        headers = {
            "HTTP_HOST": "localhost",
            "HTTP_UPGRADE": "websocket",
            "HTTP_CONNECTION": "Upgrade",
            "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
            "HTTP_SEC_WEBSOCKET_VERSION": "13",
        }
        socket = SocketIO({**headers, "gunicorn.socket": theirs}, **options)
        answering = handler(socket)
        socket.attend(answering)
        socket.close()  # flask-sock's
        theirs.close()  # gunicorn's
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += ours.recv(1)
        gevent.sleep(0.01)
        return Peer(ours), socket, answering

    yield connect
    for one in opened:
        one.close()


def _tcp_pair() -> tuple[Any, Any]:
    with gevent.socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = gevent.socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


def until(done: Callable[[], Any]) -> None:
    with gevent.Timeout(20):
        while not done():
            gevent.sleep(0.005)


def fill(peer: Peer, answering: Answering) -> int:
    """Ask until nothing more is read; gives how much was asked."""
    asked = 0
    while True:
        peer.send(TextMessage(f"{asked} "))
        asked += 1
        before = -1
        gevent.sleep(0)
        if answering.quick + len(answering.served) < asked:
            while before < (before := answering.quick + len(answering.served)) < asked:
                gevent.sleep(FULL_WAIT_S)
            if before < asked:
                return asked


def test_a_request_that_ends_leaves_its_socket_open(attended: Callable[..., Pair]) -> None:
    peer, socket, answering = attended()

    peer.send(TextMessage("hello"))

    assert peer.text() == "hello" + PAD
    assert (answering.quick, answering.served, socket.close_code) == (1, [], None)


def test_what_wants_a_greenlet_gets_one_and_order_is_kept(attended: Callable[..., Pair]) -> None:
    peer, _, answering = attended()

    texts = ["a", "slow b", "c", "slow " + "d" * 200, "e" * 70_000, "f"]
    sending = gevent.spawn(lambda: [peer.send(TextMessage(text)) for text in texts])

    for text in texts:
        assert peer.text() == text + PAD
    sending.get()
    assert "slow b" in answering.served


def test_nothing_is_read_while_a_message_is_worked_on(attended: Callable[..., Pair]) -> None:
    peer, socket, answering = attended()
    answering.go_on.clear()
    texts = ["slow a", *"bcdef"]

    for text in texts:
        peer.send(TextMessage(text))
        gevent.sleep(0.01)
    socket.beat()

    assert (answering.quick, answering.served) == (0, ["slow a"])
    answering.go_on.set()
    assert [peer.text() for _ in texts] == [text + PAD for text in texts]


def test_who_does_not_read_is_read_no_more_and_gets_all_answers_later(attended: Callable[..., Pair]) -> None:
    peer, socket, answering = attended()

    asked = fill(peer, answering)
    socket.beat()  # waits for nobody

    assert [peer.text() for _ in range(asked)] == [f"{number} {PAD}" for number in range(asked)]
    assert answering.served, "while an answer waited, others were left to a greenlet"
    peer.send(TextMessage("last"))
    assert peer.text() == "last" + PAD
    assert socket.close_code is None


def test_who_does_not_read_for_too_long_is_dead(attended: Callable[..., Pair]) -> None:
    peer, socket, answering = attended(send_timeout_s=0.5)

    fill(peer, answering)

    until(lambda: answering.gone)
    assert socket.close_code == DEAD
    assert peer.ended()


def test_a_close_does_not_wait_for_a_slow_reader(attended: Callable[..., Pair]) -> None:
    peer, socket, answering = attended(send_timeout_s=60)
    fill(peer, answering)

    socket.close(1012, "restarting")

    assert socket.close_code == 1012
    until(lambda: answering.gone)  # after a second, not the 60 of a send


def test_a_silent_peer_is_pinged_once_and_then_dead(attended: Callable[..., Pair]) -> None:
    peer, socket, answering = attended()

    socket.beat()
    assert peer.next() == Ping(bytearray())
    peer.send(Pong())
    until(lambda: not socket._unanswered)
    socket.beat()
    assert peer.next() == Ping(bytearray())
    socket.beat()

    assert peer.next() == CloseConnection(DEAD, "No answer to a ping")
    until(lambda: answering.gone)


@pytest.mark.parametrize("event", [Pong(), TextMessage("x"), TextMessage("slow"), BytesMessage(b"x")])
def test_what_has_come_and_was_not_read_yet_is_a_sign_of_life(attended: Callable[..., Pair], event: Event) -> None:
    peer, socket, _ = attended()
    socket.beat()

    peer.send(event)
    socket.beat()  # the loop has not looked since

    gevent.sleep(0.01)
    assert socket.close_code is None


@pytest.mark.parametrize("reset", [False, True])
def test_a_peer_that_is_gone_is_noticed_and_nothing_is_left(attended: Callable[..., Pair], reset: bool) -> None:
    peer, socket, answering = attended(tcp=True)
    if reset:
        peer.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.socket.close()

    until(lambda: answering.gone)
    until(lambda: socket._tcp.closed)

    assert socket.close_code == LOST
    with pytest.raises(ConnectionGone):
        socket.send("anything")
    # The handler has the socket; were it the other way round, too, both would stay until a collection.
    until(lambda: socket._handler is None)


def test_a_peer_that_goes_while_an_answer_waits_for_it_takes_the_sender_along(attended: Callable[..., Pair]) -> None:
    peer, socket, answering = attended()
    fill(peer, answering)

    peer.socket.close()

    until(lambda: answering.gone)
    until(lambda: socket._tcp.closed)
    assert not socket._sender.busy


@pytest.mark.parametrize(("closed", "served"), [(False, 5), (True, 1)], ids=["heard out", "until we close"])
def test_a_peer_that_has_left_is_heard_out(attended: Callable[..., Pair], closed: bool, served: int) -> None:
    peer, socket, answering = attended(tcp=True, handler=Undeterred)
    answering.go_on.clear()
    for number in range(5):
        peer.send(TextMessage(f"slow {number}"))
    until(lambda: answering.served)
    peer.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.socket.close()
    with suppress(ConnectionGone):
        until(lambda: socket.send("anybody there?"))

    if closed:
        socket.close(1012)
    answering.go_on.set()

    until(lambda: answering.gone)
    assert answering.served == [f"slow {number}" for number in range(served)]
    assert (socket.close_code, socket.sent_code) == (LOST, None)
