"""Attacks on the socket: hellos and frames, valid, mutated and random; fragments, control frames, other bytes."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.fuzz import inputs
from tests.fuzz.answers import faults, tells_inside
from tests.fuzz.findings import Findings
from tests.fuzz.http import ACCESS, commands
from tests.support.wire import Broken, Wire

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
GOOD_CLOSES = {1000, 1002, 1005, 1007, 1009, 4400, 4401, 4404, 4408, 4409}


class Ended(Exception):
    """The server closed, with this code."""


@dataclass
class SocketAttack:
    rng: Random
    port: int
    findings: Findings
    session_id: str
    token: str
    workflow_id: str

    def step(self) -> None:
        """One connection from its handshake to its end."""
        self._sent = b""
        self._cut = False  # half a frame was sent: what follows is the rest of it
        self._closing = False  # we said goodbye, and our code comes back
        wire = Wire(self.port)
        try:
            self._converse(wire)
        except Ended as exc:
            self.findings.did(f"socket {exc}")
            if exc.args[0] not in GOOD_CLOSES and not self._closing:
                self.findings.add(f"socket: close {exc}", "", self._sent)
        except Broken as exc:
            self.findings.add("socket: no handshake answer", exc, self._sent)
        except TimeoutError:
            self.findings.add("socket: nothing in time", "", self._sent)
        finally:
            wire.close()

    def _converse(self, wire: Wire) -> None:
        rng = self.rng
        if not self._handshake(wire):
            return
        self.findings.did("socket")
        hello: Any = {"type": "hello", "accessToken": ACCESS}
        if rng.random() < 0.5:
            hello = {"type": "hello", "sessionId": self.session_id, "token": self.token, "after": rng.randrange(10**6)}
        valid = rng.random() < 0.8
        if valid:
            self._send(wire, _frame(rng, TEXT, json.dumps(hello).encode()))
        else:
            self._random(wire, hello)
        for _ in range(rng.randrange(12)):
            if rng.random() < 0.3:
                self._send(wire, _frame(rng, TEXT, json.dumps(rng.choice(self._valid())).encode()))
            else:
                self._random(wire, rng.choice(self._valid()))
        # Whatever came before, a socket that is still open answers, and one that is not says why.
        self._send(wire, _frame(rng, TEXT, b'{"type":"ping"}'))
        if self._cut or rng.random() < 0.1:
            wire.send(b"", end=True)
        while True:
            frame = self._receive(wire)
            if frame.get("type") == "pong":
                break
        self._send(wire, _frame(rng, CLOSE, struct.pack(">H", 1000)))
        while True:
            self._receive(wire)

    def _valid(self) -> list[dict[str, Any]]:
        messages = [{"type": "message", "text": inputs.text(self.rng) or "x", "clientMessageId": "c"} for _ in range(3)]
        return [*commands(self.workflow_id), *messages]

    def _random(self, wire: Wire, valid: Any) -> None:
        rng = self.rng
        match rng.randrange(9):
            case 0 | 1 | 2 | 3:
                self._send(wire, _frame(rng, TEXT, inputs.encoded(rng, inputs.mutated(rng, valid))))
            case 4:
                self._send(wire, _frame(rng, rng.choice((TEXT, BINARY)), inputs.junk(rng)))
            case 5:
                data = inputs.encoded(rng, valid)
                cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))
                pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
                for number, piece in enumerate(pieces):
                    self._send(wire, _frame(rng, TEXT if number == 0 else 0, piece, fin=number == len(pieces) - 1))
                    if rng.random() < 0.3:
                        self._send(wire, _frame(rng, rng.choice((PING, PONG)), rng.randbytes(rng.randrange(126))))
            case 6:
                kind = rng.choice((PING, PONG, CLOSE))
                self._closing |= kind == CLOSE
                self._send(wire, _frame(rng, kind, rng.randbytes(rng.choice((0, 1, 2, 125, 126)))))
            case 7:
                size = rng.choice((1_048_577, 2_000_000)) if rng.random() < 0.1 else 1_000
                self._send(wire, _frame(rng, TEXT, json.dumps({"type": "ping", "x": "y" * size}).encode()))
            case _:
                self._cut = self._closing = True
                odd = (
                    rng.randbytes(rng.randrange(1, 60)),
                    _frame(rng, rng.randrange(16), b"x", reserved=rng.randrange(8)),
                    _frame(rng, TEXT, b"{}", masked=False),
                    b"\x81\xff" + b"\x7f" * 8,
                )
                self._send(wire, rng.choice(odd))

    def _handshake(self, wire: Wire) -> bool:
        rng = self.rng
        lines = [
            (b"Host", b"localhost:%d" % self.port),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", base64.b64encode(rng.randbytes(16))),
            (b"Sec-WebSocket-Version", b"13"),
        ]
        while rng.random() < 0.1:
            at = rng.randrange(len(lines))
            lines[at] = (lines[at][0], inputs.header_value(rng))
        if rng.random() < 0.1:
            name = rng.choice(
                (b"Origin", b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"X-Request-ID", b"Content-Length")
            )
            lines.append((name, inputs.header_value(rng)))
        self._send(wire, b"GET /ws HTTP/1.1\r\n" + b"".join(b"%s: %s\r\n" % line for line in lines) + b"\r\n")
        answer = wire.answer()
        if answer is None:
            raise Broken("closed without an answer")
        for fault in faults(answer):
            self.findings.add(f"handshake: {fault}", (answer.status, answer.headers, answer.body[:3_000]), self._sent)
        self.findings.did(f"handshake {answer.status}")
        return answer.status == 101

    def _send(self, wire: Wire, data: bytes) -> None:
        self._sent += data
        self.findings.did("frame", data)
        wire.send(data)

    def _receive(self, wire: Wire) -> dict[str, Any]:
        """The next text frame, checked. :raises Ended: a close frame, or the connection's end."""
        while True:
            opcode, payload = _next(wire)
            if opcode == CLOSE:
                raise Ended(struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005)
            if opcode != TEXT:
                continue
            frame: dict[str, Any] = json.loads(payload)
            if frame["type"] == "error":
                self.findings.did(f"error {frame['code']}")
                if (
                    frame["code"] == "internal"
                    or not {"message", "correlationId"} <= frame.keys()
                    or tells_inside(payload.decode())
                ):
                    self.findings.add(f"socket: error {frame['code']}", frame, self._sent)
            return frame


def _next(wire: Wire) -> tuple[int, bytes]:
    while True:
        data = wire.data
        if len(data) >= 2:
            size, start = data[1] & 127, 2
            if size == 126 and len(data) >= 4:
                size, start = struct.unpack(">H", data[2:4])[0], 4
            elif size == 127 and len(data) >= 10:
                size, start = struct.unpack(">Q", data[2:10])[0], 10
            elif size >= 126:
                size = 2**62
            if len(data) >= start + size:
                opcode, payload = data[0] & 15, bytes(data[start : start + size])
                del data[: start + size]
                return opcode, payload
        if not wire.more():
            # After a reset the close frame may be lost; what matters is that the connection ended.
            raise Ended(1005)


def _frame(
    rng: Random, opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, reserved: int = 0
) -> bytes:
    first = (128 if fin else 0) | reserved << 4 | opcode
    flag = 128 if masked else 0
    if len(payload) < 126:
        head = struct.pack(">BB", first, flag | len(payload))
    elif len(payload) < 65_536:
        head = struct.pack(">BBH", first, flag | 126, len(payload))
    else:
        head = struct.pack(">BBQ", first, flag | 127, len(payload))
    if not masked:
        return head + payload
    mask = rng.randbytes(4)
    whole = int.from_bytes(payload) ^ int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)])
    return head + mask + whole.to_bytes(len(payload))
