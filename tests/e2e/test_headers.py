"""Every kind of answer, from every layer, over a real gunicorn: each security header once, and the request's id."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.web.security import API_CSP, HSTS, PAGE_CSP
from tests.e2e.conftest import ACCESS, SECRET, UNLIMITED, adopt
from tests.support.client import Client, failure
from tests.support.projects import copy_project
from tests.support.server import BridgeServer
from tests.support.wire import Received, Wire

EXACT = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
REQUEST_ID = "asked-for.this_1"
FOREIGN = "https://evil.example"
OPERATOR = {"Authorization": f"Bearer {ACCESS}"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"
Headers = dict[str, str]


def ask(server: BridgeServer, method: str, path: str, headers: Headers | None = None, body: bytes = b"") -> Received:
    """One request, with a request id of its own unless ``headers`` has one; a HEAD's answer has no body at all."""
    lines = {"Host": f"localhost:{server.port}", "X-Request-ID": REQUEST_ID, "Connection": "close", **(headers or {})}
    if body:
        lines["Content-Length"] = str(len(body))
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return answered(server, head.encode("latin-1") + b"\r\n" + body, head_only=method == "HEAD")


def answered(server: BridgeServer, sent: bytes, *, head_only: bool = False, source: str = "127.0.0.1") -> Received:
    """The only answer to these bytes; nothing follows it."""
    wire = Wire(server.port, source=source)
    try:
        wire.send(sent, end=True)
        answer = wire.answer(head_only=head_only)
        assert answer is not None, sent[:200]
        while wire.more():
            pass
        assert not wire.data, (sent[:200], bytes(wire.data[:200]))
        return answer
    finally:
        wire.close()


def check(answer: Received, *, request_id: str | None = REQUEST_ID, page: bool = False, head: bool = False) -> None:
    """:param request_id: the one to be echoed; ``None``: a new one."""
    values: dict[str, list[str]] = {}
    for name, value in answer.headers:
        values.setdefault(name, []).append(value)
    for name, expected in EXACT.items():
        assert values.get(name) == [expected], (name, values)
    assert values["content-security-policy"] == [PAGE_CSP if page else API_CSP]
    assert len(values["permissions-policy"]) == 1 and "camera=()" in values["permissions-policy"][0]
    assert [value.count("Origin") for value in values["vary"]] == [1]
    assert not {"x-powered-by", "set-cookie", "via"} & values.keys()
    assert not any(word in "".join(values.get("server", [])).lower() for word in ("unicorn", "gevent", "werkzeug"))
    (given,) = values["x-request-id"]
    assert given == request_id if request_id else len(given) == 32 and given != REQUEST_ID
    if answer.status >= 400 and not head:
        assert values["content-type"] == ["application/problem+json"]
        problem = answer.json
        assert {"type", "title", "status", "detail", "code", "correlationId"} <= problem.keys()
        assert (problem["status"], problem["correlationId"]) == (answer.status, given)
        assert problem["type"] == f"urn:problem:{problem['code']}"


def cors(answer: Received) -> set[str]:
    return {name for name, _ in answer.headers if name.startswith("access-control-")}


# -- what the application answers

APPLICATION: list[tuple[str, str, Headers, bytes, int]] = [
    ("GET", "/", {}, b"", 200),
    ("GET", "/healthz", {}, b"", 200),
    ("GET", "/readyz", {}, b"", 200),
    ("GET", "/health", {}, b"", 200),
    ("GET", "/sessions", OPERATOR, b"", 200),
    ("GET", "/dead-letters", OPERATOR, b"", 200),
    ("GET", "/sessions/{sid}", {}, b"", 200),
    ("GET", "/sessions/{sid}/events", {}, b"", 200),
    ("GET", "/sessions/{sid}/repairs", {}, b"", 200),
    ("GET", "/sessions/{sid}/workflows/{wid}/snapshots", {}, b"", 200),
    ("POST", "/sessions", OPERATOR, b"", 201),
    ("POST", "/sessions/{sid}/messages", {}, b'{"text":"hello","clientMessageId":"one"}', 202),
    ("PUT", "/autonomy", OPERATOR, b'{"autonomy":"auto"}', 200),
    ("GET", "/sessions/{sid}/events?limit=x", {}, b"", 400),
    ("POST", "/sessions/{sid}/commands", {}, b"{", 400),
    ("GET", "/ws", {}, b"", 400),
    ("GET", "/sessions", {"Authorization": "Bearer wrong"}, b"", 401),
    ("POST", "/callbacks/n8n/error", {"Authorization": "Bearer wrong"}, b"{}", 401),
    ("GET", "/ws", {"Origin": FOREIGN, "Upgrade": "websocket", "Connection": "Upgrade"}, b"", 403),
    ("GET", "/nowhere", {}, b"", 404),
    ("GET", f"/sessions/{UNKNOWN}", OPERATOR, b"", 404),
    ("GET", "/dead-letters/none", OPERATOR, b"", 404),
    ("DELETE", "/healthz", {}, b"", 405),
    ("POST", "/ws", {}, b"", 405),
    ("POST", "/sessions/{sid}/commands", {}, b'{"type":"cancel"}', 409),
    ("POST", "/sessions/{sid}/messages", {}, b'{"text":"' + b"x" * 1_048_576 + b'"}', 413),
    ("POST", "/callbacks/n8n/error", {"Authorization": f"Bearer {SECRET}"}, b" " * 1_048_577, 413),
    ("POST", "/sessions/{sid}/messages", {"Content-Type": "text/plain"}, b"{}", 415),
]


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"), APPLICATION, ids=[f"{a[4]} {a[0]} {a[1]}" for a in APPLICATION]
)
def test_an_answer_and_its_head_have_each_header_once(
    bridge: BridgeServer, user: Client, method: str, path: str, headers: Headers, body: bytes, status: int
) -> None:
    wid = adopt(user) if "{wid}" in path else ""
    path = path.format(sid=user.session_id, wid=wid)
    known = {"Authorization": f"Bearer {user.token}", "Content-Type": "application/json", **headers}

    answer = ask(bridge, method, path, known, body)

    assert answer.status == status, answer.body
    check(answer, page=path == "/")
    assert not cors(answer)
    if status == 405:
        assert "OPTIONS" in answer.header("allow")
    if method == "GET":
        head = ask(bridge, "HEAD", path, known)
        assert head.status == status
        check(head, page=path == "/", head=True)
        if status == 200 and path not in ("/health", "/sessions"):
            assert head.header("content-type") == answer.header("content-type")
    if status != 404 and path != "/ws":
        options = ask(bridge, "OPTIONS", path)
        assert options.status == 200
        assert method in options.header("allow") or status == 405
        check(options)


def test_a_deleted_session_leaves_no_body(bridge: BridgeServer, user: Client) -> None:
    answer = ask(bridge, "DELETE", f"/sessions/{user.session_id}", {"Authorization": f"Bearer {user.token}"})
    assert (answer.status, answer.body) == (204, b"")
    check(answer)


def test_a_taken_callback_has_them_too(bridge: BridgeServer, user: Client) -> None:
    for workflow_id in (adopt(user), "nobodys"):
        body = json.dumps(failure(workflow_id)).encode()
        answer = ask(bridge, "POST", "/callbacks/n8n/error", {"Authorization": f"Bearer {SECRET}"}, body)
        assert answer.status == 202
        check(answer)
        again = ask(bridge, "POST", "/callbacks/n8n/error", {"Authorization": f"Bearer {SECRET}"}, body)
        assert again.status == 200
        check(again)


# -- what gunicorn answers by itself

BELOW: dict[str, tuple[bytes, int, bool]] = {
    "garbage": (b"GARBAGE\r\n\r\n", 400, False),
    "garbage with headers": (b"GARBAGE\r\nX-Request-ID: %s\r\n\r\n", 400, True),
    "version": (b"GET / HTTP/9.9\r\nX-Request-ID: %s\r\n\r\n", 400, True),
    "header name": (b"GET / HTTP/1.1\r\nX-Request-ID: %s\r\nBad Header: x\r\n\r\n", 400, True),
    "header name first": (b"HEAD / HTTP/1.1\r\nBad Header: x\r\nX-Request-ID: %s\r\n\r\n", 400, True),
    "two lengths": (
        b"POST / HTTP/1.1\r\nX-Request-ID: %s\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        True,
    ),
    "expectation": (b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: %s\r\nExpect: cake\r\n\r\n", 417, True),
    "coding": (b"POST / HTTP/1.1\r\nHost: x\r\nX-Request-ID: %s\r\nTransfer-Encoding: cake\r\n\r\n", 501, True),
    "long line": (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nX-Request-ID: %s\r\n\r\n", 414, False),
    "large headers": (b"GET / HTTP/1.1\r\nX-Request-ID: %s\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431, True),
    "many headers": (b"GET / HTTP/1.1\r\nX-Request-ID: %s\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, True),
}


@pytest.mark.parametrize("kind", BELOW)
def test_refusals_below_the_application_have_them_too(bridge: BridgeServer, kind: str) -> None:
    sent, status, echoed = BELOW[kind]
    is_head = sent.startswith(b"HEAD")

    answer = answered(bridge, sent.replace(b"%s", REQUEST_ID.encode()), head_only=is_head)

    assert answer.status == status
    check(answer, request_id=REQUEST_ID if echoed else None, head=is_head)
    assert answer.header("connection") == "close"


def test_an_odd_request_id_is_replaced_below_the_application_too(bridge: BridgeServer) -> None:
    sent = b"GET / HTTP/1.1\r\nX-Request-ID: too short\r\nBad Header: x\r\n\r\n"
    check(answered(bridge, sent), request_id=None)


@pytest.mark.parametrize("given", ["short", "x" * 65, "a,b,c,d,e", "\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9", ""])
def test_an_odd_request_id_is_replaced(bridge: BridgeServer, given: str) -> None:
    check(ask(bridge, "GET", "/nowhere", {"X-Request-ID": given}), request_id=None)


# -- CORS


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/sessions", f"/sessions/{UNKNOWN}", "/dead-letters", "/autonomy"])
def test_a_preflight_is_granted_to_listed_origins_only(bridge: BridgeServer, path: str, method: str) -> None:
    ours = f"http://localhost:{bridge.port}"
    asked = {**PREFLIGHT, "Access-Control-Request-Method": method}

    granted = ask(bridge, "OPTIONS", path, {**asked, "Origin": ours})
    assert granted.status == 200
    check(granted)
    assert granted.header("access-control-allow-origin") == ours
    assert method in granted.header("access-control-allow-methods")

    for origin in (FOREIGN, "null", f"{ours}.evil.example"):
        refused = ask(bridge, "OPTIONS", path, {**asked, "Origin": origin})
        check(refused)
        assert not cors(refused)


# -- failures of ours, and who is believed about https


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeServer]:
    """A bridge behind one proxy whose routes fail."""
    project = copy_project(tmp_path_factory.mktemp("broken") / "project")
    shutil.copy(Path(__file__).parents[1] / "support" / "broken_wsgi.py", project / "wsgi.py")
    with BridgeServer({**UNLIMITED, "TRUSTED_PROXY_HOPS": 1}, project=project) as server:
        yield server


@pytest.mark.parametrize(
    ("name", "status"),
    [("bug", 500), ("limit", 429), ("busy", 503), ("draining", 503), ("journal", 503), ("n8n", 502), ("agent", 502)],
)
def test_failures_have_them_too(broken: BridgeServer, name: str, status: int) -> None:
    for method in ("GET", "HEAD", "POST", "DELETE"):
        answer = ask(broken, method, f"/fail/{name}", {"Origin": FOREIGN})
        assert answer.status == status
        check(answer, head=method == "HEAD")
        assert not cors(answer)
        assert not any(word in answer.body for word in (b"secret", b".py", b"Zero"))
        assert bool(answer.header("retry-after")) is (status in (429, 503))


def test_an_answer_that_cannot_be_written_is_a_500_of_the_same_shape(broken: BridgeServer) -> None:
    answer = ask(broken, "GET", "/headers")
    assert answer.status == 500
    check(answer)


def test_a_caller_who_is_not_configured_for_gets_a_503(broken: BridgeServer) -> None:
    answer = ask(broken, "POST", "/callbacks/n8n/error", {"X-Forwarded-For": "203.0.113.9"}, b"{}")
    assert answer.status == 503
    check(answer)


def test_https_is_believed_from_trusted_proxies_only(broken: BridgeServer, bridge: BridgeServer) -> None:
    """gunicorn itself believes a proxy at 127.0.0.1; from elsewhere ``TRUSTED_PROXY_HOPS`` has to say so."""
    for path in ("/healthz", "/", "/nowhere"):
        sent = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-Proto: https\r\n\r\n".encode()
        trusted, untrusted = (answered(server, sent, source="127.0.0.2") for server in (broken, bridge))
        assert [value for name, value in trusted.headers if name == "strict-transport-security"] == [HSTS]
        assert not untrusted.header("strict-transport-security")
        assert not ask(broken, "GET", path).header("strict-transport-security")
    for path in ("/fail/bug", "/fail/limit"):
        assert ask(broken, "GET", path, {"X-Forwarded-Proto": "https"}).header("strict-transport-security") == HSTS
