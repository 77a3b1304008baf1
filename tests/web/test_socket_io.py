"""SocketIO on a real gunicorn, against clients that are slow, rude or hostile; and the library it replaces, failing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 20_000
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
DEADLINE_S = 20.0
SMALL = {"max_message_bytes": LIMIT, "ping_interval_s": 30, "send_timeout_s": 30}

APP = '''
import functools, json, os
import flask, flask_sock, gevent

app = flask.Flask(__name__)
OURS = os.environ["SOCKETS"] == "ours"
if OURS:
    from app.errors import BaseError
    from app.web import socket_io
    socket_io.install()
    app.register_error_handler(BaseError, lambda error: (error.code, error.status))
app.config["SOCK_SERVER_OPTIONS"] = json.loads(os.environ["OPTIONS"])
sock = flask_sock.Sock(app)
ends = []

def route(path):
    """A socket route that notes how it ended."""
    def register(handler):
        @functools.wraps(handler)
        def recorded(ws):
            try:
                handler(ws)
            except flask_sock.ConnectionClosed as gone:
                ends.append([path, getattr(gone, "close_code", None), getattr(ws, "sent_code", None)])
                raise
        sock.route(path)(recorded)
        return handler
    return register

@app.get("/health")
def health():
    return {"pid": os.getpid(), "ends": ends}

@route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())

@route("/sink")
def sink(ws):
    while True:
        ws.receive()

@route("/slow")
def slow(ws):
    while True:
        ws.receive()
        gevent.sleep(0.05)

@route("/busy")
def busy(ws):
    while True:
        message = ws.receive()
        gevent.sleep(1.2)
        ws.send(message)

@route("/big")
def big(ws):
    ws.send(bytes(int(ws.receive())))
    ws.receive()

@route("/big-beside")
def big_beside(ws):
    gevent.spawn(ws.send, bytes(int(ws.receive())))
    ws.receive()

@route("/two")
def two(ws):
    def send(letter):
        for _ in range(20):
            ws.send(letter * 300_000)
    for letter in "ab":
        gevent.spawn(send, letter)
    ws.receive()

@route("/closed-beside")
def closed_beside(ws):
    gevent.spawn_later(0.2, ws.close, 1012, "\\u20ac" * 100)
    ws.receive()

@route("/refuse")
def refuse(ws):
    ws.receive()
    ws.close(4400, "no")
    ws.close(1000)
    ws.receive()

@route("/return")
def done(ws):
    ws.receive()
'''


class Bridge:
    """A gunicorn of our own: one gevent worker, the little application above, on a free port."""

    def __init__(self, folder: Path, sockets: str, options: dict[str, Any]) -> None:
        (folder / "little.py").write_text(APP)
        self.port = free_port()
        self.log = folder / "log"
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "SOCKETS": sockets, "OPTIONS": json.dumps(options)}
        command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{self.port}"]
        command += ["--graceful-timeout", "1", "--no-control-socket", "little:app"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
        try:
            self.pid: int = eventually(self.health)["pid"]
        except BaseException:
            self.stop()
            raise

    def health(self, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=timeout_s) as answer:
            body: dict[str, Any] = json.load(answer)
        return body

    def ends(self, path: str) -> list[list[int | None]]:
        """``[close_code, sent_code]`` of the sockets on ``path`` that are over."""
        return [end[1:] for end in self.health()["ends"] if end[0] == path]

    def memory(self, line: str = "VmHWM") -> int:
        """Megabytes of the worker; the peak unless told."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split(f"{line}:")[1].split()[0]) // 1024

    def connect(self, path: str, **kwargs: Any) -> Client:
        return Client(self.port, path, **kwargs)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:  # a worker that is drowned, as the library's is below
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.kill(self.pid, signal.SIGKILL)


class Client:
    """A WebSocket client that can be as impolite as a test needs."""

    def __init__(self, port: int, path: str, *, headers: str = "", receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(("127.0.0.1", port))
        self.sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.handshake = head.decode().lower()
        assert self.handshake.startswith("http/1.1 101"), self.handshake

    def _more(self) -> None:
        piece = self.sock.recv(1 << 16)
        if not piece:
            raise EOFError
        self.buffer += piece

    def _take(self, count: int) -> bytes:
        pieces, missing = [], count
        while missing:
            if not self.buffer:
                self._more()
            pieces.append(self.buffer[:missing])
            self.buffer = self.buffer[missing:]
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def send(self, payload: bytes, opcode: int = TEXT, **kwargs: Any) -> None:
        self.sock.sendall(frame(payload, opcode, **kwargs))

    def receive(self) -> tuple[int, bytes]:
        first, length = self._take(2)
        assert first & 0x80, "the server does not fragment"
        if length >= 126:
            length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
        return first & 0x0F, self._take(length)

    def close_code(self) -> int:
        """Read on to the close frame and to the end of the connection behind it."""
        while True:
            opcode, payload = self.receive()
            if opcode == CLOSE:
                break
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self._more()
        return int.from_bytes(payload[:2], "big")


def frame(payload: bytes, opcode: int = TEXT, *, final: bool = True, masked: bool = True, bits: int = 0) -> bytes:
    head = bytes([(0x80 if final else 0) | bits | opcode])
    mask = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mask | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([mask | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", len(payload))
    return head + (b"\0\0\0\0" if masked else b"") + payload  # a mask of zeros leaves the payload as it is


def eventually(look: Callable[[], Any]) -> Any:
    """What ``look`` answers once it answers something, within the deadline."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            found = look()
        except OSError:
            found = None
        if found:
            return found
        assert time.monotonic() < end, f"{look} did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Bridge]]:
    started: list[Bridge] = []

    def start_one(sockets: str = "ours", **options: Any) -> Bridge:
        started.append(Bridge(tmp_path_factory.mktemp(sockets), sockets, options))
        return started[-1]

    yield start_one
    for one in started:
        one.process.terminate()
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def bridge(start: Callable[..., Bridge]) -> Bridge:
    return start(**SMALL)


@pytest.fixture
def quick(start: Callable[..., Bridge]) -> Bridge:
    """Pings every 0.2 s, gives up a send after 0.5 s."""
    return start(max_message_bytes=LIMIT, ping_interval_s=0.2, send_timeout_s=0.5)


@pytest.fixture
def stock(start: Callable[..., Bridge]) -> Bridge:
    return start("stock")


# The four defects of the library.

BIG = 20_000_000


def received_of_a_big_message(bridge: Bridge) -> int:
    """Bytes that arrive of one message of 20 MB where the client begins to read late."""
    client = bridge.connect("/big", receive_buffer=16_384)
    client.send(str(BIG).encode())
    time.sleep(0.5)
    client.sock.settimeout(3)
    got = len(client.buffer)
    try:
        while got < BIG:
            piece = client.sock.recv(1 << 16)
            if not piece:
                break
            got += len(piece)
    except TimeoutError:
        pass
    return got


def test_a_message_of_20_mb_reaches_a_slow_reader_whole(bridge: Bridge) -> None:
    assert received_of_a_big_message(bridge) >= BIG


def test_20_mb_to_a_slow_reader_stock_library_cuts_the_frame(stock: Bridge) -> None:
    assert received_of_a_big_message(stock) < BIG


def answers_during_a_flood(bridge: Bridge, *, answers: int) -> list[float]:
    """Seconds that ``/health`` takes, again and again, while one client sends small frames: for 3 s, and on a busy
    machine for as long as so many answers take."""
    client, enough = bridge.connect("/sink"), threading.Event()
    blob, least = frame(b"x" * 20) * 10_000, time.monotonic() + 3
    stop = least + DEADLINE_S

    def flood() -> None:
        client.sock.settimeout(0.5)
        while not enough.is_set():
            try:
                client.sock.send(blob)  # frames may be cut where this stops: only the amount matters, so never again
            except TimeoutError:
                return

    flooding = threading.Thread(target=flood)
    flooding.start()
    time.sleep(0.3)
    took = []
    while time.monotonic() < stop and (time.monotonic() < least or len(took) < answers):
        began = time.monotonic()
        with contextlib.suppress(TimeoutError):
            bridge.health(timeout_s=3)
        took.append(time.monotonic() - began)
    enough.set()
    flooding.join()
    client.sock.close()
    return took


def test_a_client_that_floods_does_not_starve_the_others(bridge: Bridge) -> None:
    took = answers_during_a_flood(bridge, answers=20)
    assert len(took) >= 20
    assert max(took) < 1.5


def test_a_flood_stock_library_answers_nobody_else(stock: Bridge) -> None:
    took = answers_during_a_flood(stock, answers=1)
    assert max(took) > 1.5


def growth_while_outrunning_the_handler(bridge: Bridge, *, limit_s: float) -> int:
    """Megabytes that the worker grows by while a client sends up to 200 MB to a handler that is slow."""
    client = bridge.connect("/slow")
    before, piece, stop, sent = bridge.memory(), frame(b"x" * 16_000) * 10, time.monotonic() + limit_s, 0
    client.sock.settimeout(2)
    while time.monotonic() < stop and sent < 200_000_000:
        try:
            client.sock.sendall(piece)
            sent += len(piece)
        except TimeoutError:
            break
    bridge.health()
    client.sock.close()
    return bridge.memory() - before


def test_a_sender_faster_than_the_handler_is_held_back(bridge: Bridge) -> None:
    assert growth_while_outrunning_the_handler(bridge, limit_s=3) < 20


def test_a_fast_sender_stock_library_buffers_it_all(stock: Bridge) -> None:
    assert growth_while_outrunning_the_handler(stock, limit_s=DEADLINE_S) > 50


DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


def bomb() -> bytes:
    """100 MB of text, deflated to 100 kB."""
    packer = zlib.compressobj(wbits=-15)
    packed = b"".join(packer.compress(b"a" * 1_000_000) for _ in range(100)) + packer.flush(zlib.Z_SYNC_FLUSH)
    return frame(packed[:-4], bits=0x40)


def test_compression_is_refused(bridge: Bridge) -> None:
    client = bridge.connect("/sink", headers=DEFLATE)
    assert "sec-websocket-extensions" not in client.handshake
    before = bridge.memory()
    client.sock.sendall(bomb())
    assert client.close_code() == 1002
    assert bridge.memory() - before < 20


def test_a_deflate_bomb_stock_library_unpacks_it(stock: Bridge) -> None:
    client = stock.connect("/sink", headers=DEFLATE)
    assert "sec-websocket-extensions" in client.handshake
    before = stock.memory()
    client.sock.sendall(bomb())
    eventually(lambda: stock.memory() - before > 80)


def test_a_limit_in_bytes_stock_library_counts_characters(start: Callable[..., Bridge]) -> None:
    client = start("stock", max_message_size=1000).connect("/echo")
    client.send("€".encode() * 999)
    assert len(client.receive()[1]) == 2997


# Sizes.


@pytest.mark.parametrize("text", ["a" * LIMIT, "€" * 6666 + "ab", "😀" * 5000])
def test_a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not(bridge: Bridge, text: str) -> None:
    client = bridge.connect("/echo")
    client.send(text.encode())
    assert client.receive() == (TEXT, text.encode())
    client.send(text.encode() + b"!")
    assert client.close_code() == 1009
    assert [1009, 1009] in eventually(lambda: bridge.ends("/echo"))


def test_the_limit_holds_over_fragments(bridge: Bridge) -> None:
    client, euro = bridge.connect("/echo"), "€".encode()
    client.send(b"a" * (LIMIT - 3), final=False)
    client.send(euro[:1], 0, final=False)  # a character cut in two
    client.send(b"", PING)  # control frames may come in between
    client.send(euro[1:], 0)
    assert client.receive() == (PONG, b"")
    assert client.receive() == (TEXT, b"a" * (LIMIT - 3) + euro)
    client.send(b"a" * LIMIT, BINARY, final=False)
    client.send(b"a", 0)
    assert client.close_code() == 1009


def test_a_message_of_many_small_fragments_arrives_whole(bridge: Bridge) -> None:
    client = bridge.connect("/echo")
    pieces = frame(b"", final=False) + frame(b"a", 0, final=False) * 5000 + frame(b"", 0)
    client.sock.sendall(pieces)
    assert client.receive() == (TEXT, b"a" * 5000)


@pytest.mark.parametrize("fragments", [False, True])
def test_a_message_without_end_is_not_read_to_its_end(bridge: Bridge, fragments: bool) -> None:
    client, before, sent = bridge.connect("/sink"), bridge.memory(), 0
    if fragments:
        client.send(b"", final=False)
        piece = frame(b"a" * 1000, 0, final=False) * 60
    else:
        client.sock.sendall(b"\x81\xff" + struct.pack("!Q", 1 << 40) + b"\0\0\0\0")
        piece = b"a" * 60_000
    with contextlib.suppress(ConnectionError):
        while sent < 50_000_000_000:
            sent += client.sock.send(piece)
    assert sent < 50_000_000_000
    assert client.receive()[1][:2] == struct.pack("!H", 1009)
    assert bridge.memory() - before < 20


def test_binary_stays_binary(bridge: Bridge) -> None:
    client = bridge.connect("/echo")
    client.send(b"\xff\x00\xfe", BINARY)
    assert client.receive() == (BINARY, b"\xff\x00\xfe")
    client.send(b"\xff", BINARY, final=False)
    client.send(b"\xfe", 0)
    assert client.receive() == (BINARY, b"\xff\xfe")


def test_an_ordinary_client_is_served(bridge: Bridge) -> None:
    client = websocket.create_connection(f"ws://127.0.0.1:{bridge.port}/echo", timeout=DEADLINE_S)
    client.send("grüße")
    assert client.recv() == "grüße"
    client.ping("still there")
    assert client.recv_data(control_frame=True) == (PONG, b"still there")
    client.close(4321)
    assert [4321, None] in eventually(lambda: bridge.ends("/echo"))


# Rude peers.


@pytest.mark.parametrize(
    ("name", "sent", "code"),
    [
        ("unmasked", frame(b"hello", masked=False), 1002),
        ("unknown opcode", frame(b"hello", 3), 1002),
        ("reserved bit", frame(b"hello", bits=0x40), 1002),
        ("continues nothing", frame(b"hello", 0), 1002),
        ("long ping", frame(b"x" * 126, PING), 1002),
        ("fragmented ping", frame(b"x", PING, final=False), 1002),
        ("close of one byte", frame(b"x", CLOSE), 1002),
        ("close with a reserved code", frame(struct.pack("!H", 1005), CLOSE), 1002),
        ("not UTF-8", frame(b"\xc3\x28"), 1007),
        ("UTF-8 cut short", frame(b"\xe2\x82"), 1007),
        ("a surrogate", frame(b"\xed\xa0\x80"), 1007),
        ("not UTF-8 in a fragment", frame(b"ok", final=False) + frame(b"\xff", 0), 1007),
    ],
)
def test_what_breaks_the_protocol_is_closed(bridge: Bridge, name: str, sent: bytes, code: int) -> None:
    client = bridge.connect("/echo")
    client.sock.sendall(sent)
    assert client.close_code() == code
    assert "Traceback" not in bridge.log.read_text()


def test_a_broken_handshake_is_a_plain_400(bridge: Bridge) -> None:
    for lines in ("", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 12\r\n"):
        with socket.create_connection(("127.0.0.1", bridge.port), DEADLINE_S) as sock:
            sock.sendall(
                f"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\n{lines}\r\n".encode()
            )
            assert b" 400 " in sock.recv(1000).split(b"\r\n")[0]


def test_odd_headers_do_not_disturb_the_handshake(bridge: Bridge) -> None:
    headers = "X-Odd: \xe9\xff\r\nSec-WebSocket-Protocol: a, b\r\nOrigin: null\r\n"
    client = bridge.connect("/echo", headers=headers)
    client.send(b"hello")
    assert client.receive() == (TEXT, b"hello")


def test_a_peer_that_vanishes_is_reported_without_a_code(bridge: Bridge) -> None:
    client = bridge.connect("/slow")
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()
    assert [1006, None] in eventually(lambda: bridge.ends("/slow"))
    assert "Traceback" not in bridge.log.read_text()


# Pings.


def test_a_peer_that_answers_nothing_is_closed_after_two_intervals(quick: Bridge) -> None:
    client = quick.connect("/sink")
    assert client.receive() == (PING, b"")
    assert client.close_code() == 1008
    assert eventually(lambda: quick.ends("/sink")) == [[1008, 1008]]


@pytest.mark.parametrize("answer", [frame(b"", PONG), frame(b"data will do")])
def test_a_peer_that_answers_stays(quick: Bridge, answer: bytes) -> None:
    client = quick.connect("/sink")
    for _ in range(8):
        assert client.receive() == (PING, b"")
        client.sock.sendall(answer)
    assert quick.ends("/sink") == []


def test_a_peer_is_not_blamed_for_a_busy_handler(quick: Bridge) -> None:
    client = quick.connect("/busy")
    for _ in range(2):
        client.send(b"work")
        while (got := client.receive())[0] == PING:
            client.send(b"", PONG)
        assert got == (TEXT, b"work")


# Closing.


def test_a_close_from_another_greenlet_wakes_the_reader_and_is_seen(bridge: Bridge) -> None:
    client = bridge.connect("/closed-beside")
    opcode, payload = client.receive()
    assert opcode == CLOSE
    assert payload[:2] == struct.pack("!H", 1012)
    assert payload[2:].decode() == "€" * 41  # 123 bytes
    client.sock.close()
    assert eventually(lambda: bridge.ends("/closed-beside")) == [[1012, 1012]]


def test_the_first_close_counts_and_arrives_although_data_is_in_flight(bridge: Bridge) -> None:
    for _ in range(10):
        client = bridge.connect("/refuse")
        client.sock.sendall(frame(b"x" * 16_000) * 40)
        assert client.close_code() == 4400
    assert eventually(lambda: len(bridge.ends("/refuse")) == 10)
    assert set(map(tuple, bridge.ends("/refuse"))) == {(4400, 4400)}


def test_a_handler_that_returns_closes_1000(bridge: Bridge) -> None:
    client = bridge.connect("/return")
    client.send(b"x")
    assert client.close_code() == 1000


def test_the_peers_code_is_echoed_and_reported(bridge: Bridge) -> None:
    client = bridge.connect("/sink")
    client.send(struct.pack("!H", 3456) + b"bye", CLOSE)
    assert client.close_code() == 3456
    assert [3456, None] in eventually(lambda: bridge.ends("/sink"))
    client = bridge.connect("/sink")
    client.send(b"", CLOSE)
    assert client.receive() == (CLOSE, b"")
    assert eventually(lambda: [1005, None] in bridge.ends("/sink"))


# Senders.


def test_two_senders_never_interleave(bridge: Bridge) -> None:
    client = bridge.connect("/two", receive_buffer=16_384)
    time.sleep(0.3)
    got = [client.receive() for _ in range(40)]
    assert sorted(payload for _, payload in got) == [b"a" * 300_000] * 20 + [b"b" * 300_000] * 20


def test_a_peer_that_stops_reading_is_dropped_and_costs_others_nothing(quick: Bridge) -> None:
    stuck, other = quick.connect("/big", receive_buffer=16_384), quick.connect("/echo")
    stuck.send(str(BIG).encode())
    while not quick.ends("/big"):
        other.send(b"hello")
        while (got := other.receive())[0] == PING:
            other.send(b"", PONG)
        assert got == (TEXT, b"hello")
        time.sleep(0.02)
    assert quick.ends("/big") == [[1008, None]]
    with pytest.raises(ConnectionResetError):
        stuck.receive()


def test_a_sender_that_gives_up_wakes_the_reader_beside_it(start: Callable[..., Bridge]) -> None:
    bridge = start(max_message_bytes=LIMIT, ping_interval_s=30, send_timeout_s=0.5)
    client = bridge.connect("/big-beside", receive_buffer=16_384)
    client.send(str(BIG).encode())
    assert eventually(lambda: bridge.ends("/big-beside")) == [[1008, None]]
    assert bridge.log.read_text().count("Traceback") == 1  # the sender's ConnectionGone, which nobody there catches


def test_a_blocked_sender_does_not_delay_the_peers_close(bridge: Bridge) -> None:
    client = bridge.connect("/big-beside", receive_buffer=16_384)
    client.send(str(BIG).encode())
    time.sleep(0.3)
    client.send(b"", PING)
    client.send(struct.pack("!H", 1001), CLOSE)
    eventually(lambda: [1001, None] in bridge.ends("/big-beside"))  # long before the 30 s of the send


def test_a_ping_during_a_blocked_send_is_answered_behind_it(bridge: Bridge) -> None:
    client = bridge.connect("/big-beside", receive_buffer=16_384)
    client.send(str(BIG).encode())
    time.sleep(0.3)
    client.send(b"1", PING)
    client.send(b"2", PING)
    time.sleep(0.3)
    opcode, payload = client.receive()
    assert (opcode, len(payload)) == (BINARY, BIG)
    assert client.receive() == (PONG, b"2")  # the newest is answer enough (RFC 6455, 5.5.3)
