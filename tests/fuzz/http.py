"""Attacks by HTTP: callbacks, sound and damaged; every route with odd methods, queries and bodies; raw bytes."""

from __future__ import annotations

import copy
import json
import uuid
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz import inputs
from tests.fuzz.answers import faults
from tests.fuzz.findings import Findings
from tests.support.wire import Broken, Received, Wire

ACCESS, SECRET = "fuzz-access-token", "fuzz-callback-secret"
METHODS = (*("GET",) * 8, *("POST",) * 8, "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO", "get", "CONNECT")
HEADER_NAMES = (
    *(
        b"X-Request-ID",
        b"Content-Type",
        b"Authorization",
        b"Origin",
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"Forwarded",
    ),
    *(
        b"Accept",
        b"Accept-Encoding",
        b"Range",
        b"If-None-Match",
        b"If-Modified-Since",
        b"Cookie",
        b"Expect",
        b"Upgrade",
    ),
    *(b"Connection", b"Host", b"Transfer-Encoding", b"Content-Length", b"X-Idempotency-Key", b"X-HTTP-Method-Override"),
    *(
        b"Access-Control-Request-Method",
        b"Access-Control-Request-Headers",
        b"TE",
        b"Via",
        b"X-\xff",
        b"Bad Name",
        b"_under",
    ),
)


@dataclass
class HttpAttack:
    """One attacker: a ``Random``, the bridge's port, and what it knows of the bridge.

    :ivar acknowledged: what callbacks were answered with, to be looked for in the journal at the end.
    """

    rng: Random
    port: int
    findings: Findings
    session_id: str
    token: str
    workflow_id: str
    acknowledged: list[dict[str, Any]] = field(default_factory=list)

    def callback(self) -> None:
        rng = self.rng
        body: Any = copy.deepcopy(rng.choice(inputs.CALLBACKS))
        body["workflow"]["id"] = self.workflow_id if rng.random() < 0.7 else f"unknown{rng.randrange(5)}"
        if "execution" in body and rng.random() < 0.8:
            body["execution"]["id"] = str(rng.randrange(10**9))
        if rng.random() < 0.7:
            body = inputs.mutated(rng, body)
        data = inputs.encoded(rng, body) if rng.random() < 0.93 else inputs.junk(rng)
        if rng.random() < 0.01:
            data = data.ljust(rng.choice((1_048_576, 1_048_577, 3_000_000)))
        headers = [(b"Authorization", f"Bearer {SECRET}".encode()), (b"Content-Type", b"application/json")]
        if rng.random() < 0.2:
            headers.append((b"X-Idempotency-Key", inputs.header_value(rng)))
        answer = self._exchange("callback", "POST", b"/callbacks/n8n/error", headers, data)
        if answer is not None and answer.status in (200, 202, 400, 413):
            self._note(answer)

    def route(self) -> None:
        rng = self.rng
        if rng.random() < 0.02:
            self._renew()
        sid, wid = self.session_id, self.workflow_id
        kind, path, valid = rng.choice(
            (
                ("GET", "/sessions", None),
                ("POST", "/sessions", None),
                ("GET", "/sessions/{sid}", None),
                ("DELETE", "/sessions/{sid}", None) if rng.random() < 0.1 else ("GET", "/", None),
                ("GET", "/sessions/{sid}/events", None),
                ("POST", "/sessions/{sid}/messages", {"text": "hi", "clientMessageId": "c1"}),
                ("POST", "/sessions/{sid}/commands", rng.choice(commands(wid))),
                ("POST", "/sessions/{sid}/workflows", {"workflowId": wid, "name": "n", "autonomy": "auto"}),
                ("GET", "/sessions/{sid}/workflows/{wid}", None),
                ("GET", "/sessions/{sid}/workflows/{wid}/snapshots", None),
                ("GET", "/sessions/{sid}/repairs", None),
                ("GET", "/dead-letters", None),
                ("GET", "/dead-letters/{any}", None),
                ("POST", "/dead-letters/{any}/replay", {"sessionId": sid}),
                ("GET", "/sessions/{sid}/workflows", None),
                ("GET", "/autonomy", None),
                ("PUT", "/autonomy", {"autonomy": "auto"}),
                *(("GET", probe, None) for probe in ("/health", "/healthz", "/readyz", "/metrics", "/", "/ws")),
                ("GET", "/{any}", None),
            )
        )
        method = kind if rng.random() < 0.7 else rng.choice(METHODS)
        place = {"sid": sid, "wid": wid, "any": ""}
        if rng.random() < 0.2 or "{any}" in path:
            place[rng.choice(("sid", "wid", "any"))] = _quoted(rng)
            place["any"] = place["any"] or _quoted(rng)
        target = path.format(**place).encode("latin-1")
        if rng.random() < 0.4:
            target += b"?" + b"&".join(self._parameter() for _ in range(rng.randrange(1, 4)))
        credential = rng.choice((self.token, self.token, ACCESS, ACCESS, ACCESS, "wrong", ""))
        headers = [(b"Authorization", f"Bearer {credential}".encode())] if credential else []
        data = b""
        if valid is not None or rng.random() < 0.1:
            headers.append((b"Content-Type", b"application/json" if rng.random() < 0.9 else inputs.header_value(rng)))
            body = inputs.mutated(rng, valid) if rng.random() < 0.7 else valid
            data = inputs.encoded(rng, body) if rng.random() < 0.9 else inputs.junk(rng)
        while rng.random() < 0.3:
            headers.append((rng.choice(HEADER_NAMES), inputs.header_value(rng)))
        self._exchange("route", method, target, headers, data)

    def raw(self) -> None:
        """What is hardly HTTP: damaged requests, odd chunks and lengths, several in one, bytes."""
        rng = self.rng
        body = inputs.encoded(rng, inputs.mutated(rng, rng.choice(inputs.CALLBACKS)))
        head = (
            b"POST /callbacks/n8n/error HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            + SECRET.encode()
            + b"\r\n"
        )
        get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        match rng.randrange(8):
            case 0:
                pieces = [body[at : at + 99] for at in range(0, len(body), 99)]
                sizes = [
                    rng.choice((b"%x", b"%x", b"%x", b"%X", b"0%x", b"-%x", b"%xz", b"%x;a=b", b"ffffffffff%x"))
                    % len(piece)
                    for piece in pieces
                ]
                sent = head + b"Transfer-Encoding: chunked\r\n\r\n"
                sent += b"".join(size + b"\r\n" + piece + b"\r\n" for size, piece in zip(sizes, pieces, strict=True))
                sent += rng.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"0\r\n", b"\r\n\r\n"))
            case 1:
                length = rng.choice((len(body) + 9, max(0, len(body) - 9), 0, -1, 10**20))
                sent = head + b"Content-Length: %d\r\n\r\n" % length + body
            case 2:
                whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
                sent = b"".join(rng.choice((whole, get, whole, b"\r\n")) for _ in range(rng.randrange(2, 8)))
            case 3:
                sent = inputs.damaged(rng, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            case 4:
                sent = inputs.damaged(rng, get) + get
            case 5:
                sent = rng.randbytes(rng.randrange(1, 400))
            case 6:
                sent = head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + body
            case _:
                name, big = rng.choice(HEADER_NAMES), b"x" * rng.choice((9, 9_000, 90_000))
                sent = (
                    b"GET /" + rng.choice((b"", big)) + b" HTTP/1.1\r\nHost: x\r\n" + name + b": " + big + b"\r\n\r\n"
                )
        self.findings.did("raw", sent)
        wire = Wire(self.port)
        try:
            wire.send(sent, end=True)
            while (answer := wire.answer()) is not None:
                self._check("raw", answer, sent)
                if answer.status in (200, 202, 400, 413) and b"deadLetterId" in answer.body:
                    self._note(answer)
        except Broken as exc:
            self.findings.add("raw: no HTTP", exc, sent)
        except TimeoutError:
            self.findings.add("raw: no answer in time", "", sent)
        finally:
            wire.close()

    def _exchange(
        self, what: str, method: str, target: bytes, headers: list[tuple[bytes, bytes]], data: bytes
    ) -> Received | None:
        lines = [b"%s %s HTTP/1.1" % (method.encode(), target), b"Connection: close"]
        if not any(name.lower() == b"host" for name, _ in headers):
            lines.append(b"Host: localhost:%d" % self.port)
        if not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers) and data:
            lines.append(b"Content-Length: %d" % len(data))
        lines += [b"%s: %s" % header for header in headers]
        sent = b"\r\n".join(lines) + b"\r\n\r\n" + data
        self.findings.did(what, sent)
        head_only = method == "HEAD"
        wire = Wire(self.port)
        try:
            wire.send(sent, end=True)
            answer = wire.answer(head_only=head_only)
        except Broken as exc:
            self.findings.add(f"{what}: no HTTP", exc, sent)
            return None
        except TimeoutError:
            self.findings.add(f"{what}: no answer in time", f"{method} {target!r}", sent)
            return None
        finally:
            wire.close()
        if answer is None:
            if not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers):
                self.findings.add(f"{what}: no answer", f"{method} {target!r}", sent)
            return None
        self._check(what, answer, sent, head_only=head_only)
        return answer

    def _check(self, what: str, answer: Received, sent: bytes, *, head_only: bool = False) -> None:
        self.findings.did(f"{what} {answer.status}")
        for fault in faults(answer, head_only=head_only):
            self.findings.add(f"{what}: {fault}", (answer.status, answer.headers, answer.body[:3_000]), sent)

    def _note(self, answer: Received) -> None:
        fields = answer.json
        if isinstance(fields, dict) and (fields.get("deadLetterId") or fields.get("seq")):
            self.acknowledged.append(fields)

    def _parameter(self) -> bytes:
        rng = self.rng
        name = rng.choice((b"limit", b"after", b"reason", b"version", b"x", b"%00", b"limit[]", b"\xff"))
        given = rng.choice(
            (
                b"",
                b"1",
                b"0",
                b"-1",
                b"1e3",
                b"9" * 30,
                b"9" * 3_000,
                b"draft",
                b"no_session",
                b"%ff",
                b"%",
                b"NaN",
                b"\xc3\xa9",
            )
        )
        return name + rng.choice((b"=", b"", b"==")) + given

    def _renew(self) -> None:
        """A session of its own again: the old one may have been ended."""
        data = b"{}"
        headers = [(b"Authorization", f"Bearer {ACCESS}".encode())]
        answer = self._exchange("route", "POST", b"/sessions", headers, data)
        if answer is not None and answer.status == 201:
            self.session_id, self.token = answer.json["sessionId"], answer.json["token"]
            self.workflow_id = f"w{uuid.UUID(int=self.rng.getrandbits(128)).hex[:8]}"
            body = json.dumps({"workflowId": self.workflow_id}).encode()
            headers = [(b"Authorization", f"Bearer {self.token}".encode()), (b"Content-Type", b"application/json")]
            self._exchange("route", "POST", f"/sessions/{self.session_id}/workflows".encode(), headers, body)


def commands(workflow_id: str) -> list[dict[str, Any]]:
    """A valid command frame of each kind."""
    return [
        {"type": "ping"},
        {"type": "cancel"},
        {"type": "approve", "repairId": "r1"},
        {"type": "reject", "repairId": "r1"},
        {"type": "retry_repair", "workflowId": workflow_id, "signature": "s1"},
        {"type": "rollback", "workflowId": workflow_id},
        {"type": "rollback", "workflowId": workflow_id, "snapshotId": "s1"},
        {"type": "set_autonomy", "autonomy": "auto"},
        {"type": "set_autonomy", "workflowId": workflow_id, "autonomy": "ask"},
    ]


def _quoted(rng: Random) -> str:
    """A piece of a path, as it stands in a request line."""
    return rng.choice(
        (
            *(
                "%00",
                "%ff%fe",
                "%2f",
                "..%2f..%2fetc",
                "a/b",
                "%",
                "%zz",
                "x" * 3_000,
                "x" * 9_000,
                "\xe9",
                "%f0%9f%8e%89",
            ),
            *(
                "%ed%a0%80",
                "a%20b",
                "'\"",
                "..",
                ".",
                "{}",
                "d" + "0" * 23,
                "00000000-0000-4000-8000-000000000000",
                "//",
                "?",
                "%0d%0aX-Injected:1",
            ),
        )
    )
