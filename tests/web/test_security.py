"""What every response carries, whatever became of the request; and which pages may read it."""

from __future__ import annotations

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from app.settings import Settings, load
from app.web import problems, security

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE = "https://page.example"
HTTPS = {"X-Forwarded-Proto": "https"}


def client(**values: str) -> FlaskClient:
    settings: Settings = load({"ENV_FILE": "/dev/null", "ALLOWED_ORIGINS": f"{PAGE},http://[::1]:3000", **values})
    app = Flask(__name__)
    problems.register(app)
    security.register(app, settings)

    @app.get("/api")
    def api() -> dict[str, int]:
        return {"one": 1}

    @app.post("/bug")
    def bug() -> str:
        raise ZeroDivisionError

    @app.get("/metrics")
    def metrics() -> Response:
        return Response("a 1", mimetype="text/plain", headers={"Vary": "Accept-Encoding", "Cache-Control": "max-age=1"})

    @app.get("/")
    @security.page_csp
    def page() -> str:
        return "<title>page</title>"

    return app.test_client()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api", 200),
        ("HEAD", "/api", 200),
        ("OPTIONS", "/api", 200),
        ("GET", "/metrics", 200),
        ("GET", "/", 200),
        ("GET", "/nowhere", 404),
        ("POST", "/api", 405),
        ("POST", "/bug", 500),
    ],
)
def test_every_response_has_each_security_header_once(method: str, path: str, status: int) -> None:
    answer = client().open(path, method=method)
    assert answer.status_code == status
    for name, value in ALWAYS.items():
        assert answer.headers.getlist(name) == [value]
    assert len(answer.headers.getlist("Permissions-Policy")) == 1
    assert "camera=()" in answer.headers["Permissions-Policy"]
    (policy,) = answer.headers.getlist("Content-Security-Policy")
    assert policy == (security.PAGE_CSP if path == "/" else "default-src 'none'; frame-ancestors 'none'")
    assert "unsafe" not in policy
    assert "Origin" in answer.headers["Vary"]
    assert "Strict-Transport-Security" not in answer.headers
    assert "Set-Cookie" not in answer.headers


def test_json_is_not_stored_and_a_views_own_word_holds() -> None:
    bridge = client()
    assert bridge.get("/api").headers["Cache-Control"] == "no-store"
    assert bridge.get("/nowhere").headers["Cache-Control"] == "no-store"
    metrics = bridge.get("/metrics").headers
    assert metrics["Cache-Control"] == "max-age=1"
    assert metrics.getlist("Vary") == ["Accept-Encoding, Origin"]


@pytest.mark.parametrize(
    ("hops", "scheme", "headers", "sent"),
    [
        ("0", "https", {}, True),
        ("1", "http", HTTPS, True),
        ("1", "http", {"X-Forwarded-Proto": "HTTPS, http"}, True),
        ("1", "http", {"X-Forwarded-Proto": "http"}, False),
        ("1", "http", {}, False),
        ("0", "http", HTTPS, False),
        ("0", "http", {}, False),
    ],
)
def test_hsts_only_where_the_client_came_by_https(hops: str, scheme: str, headers: dict[str, str], sent: bool) -> None:
    answer = client(TRUSTED_PROXY_HOPS=hops).get("/api", base_url=f"{scheme}://localhost", headers=headers)
    assert ("Strict-Transport-Security" in answer.headers) is sent


def test_plain_http_is_not_redirected() -> None:
    assert client().get("/api", base_url="http://bridge.example").status_code == 200


@pytest.mark.parametrize("path", ["/api", "/nowhere", "/bug"])
@pytest.mark.parametrize("origin", [PAGE, "http://[::1]:3000"])
def test_a_listed_origin_may_read_answers_and_errors(path: str, origin: str) -> None:
    headers = client().get(path, headers={"Origin": origin}).headers
    assert headers.getlist("Access-Control-Allow-Origin") == [origin]
    assert headers["Access-Control-Expose-Headers"] == "Retry-After, X-Request-ID"
    assert "Access-Control-Allow-Credentials" not in headers
    assert headers.getlist("Vary") == ["Origin"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        PAGE + ".evil.example",
        PAGE + ":8443",
        "http://page.example",
        "https://pageXexample",
        "http://1:3000",
        "http://::3000.evil.example",
        "*",
    ],
)
def test_other_origins_may_not(origin: str) -> None:
    bridge = client()
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for answer in (bridge.get("/api", headers=asked), bridge.options("/api", headers=asked)):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
        assert answer.headers.getlist("Vary") == ["Origin"]


def test_a_preflight_grants_what_the_console_needs_and_no_more() -> None:
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization, content-type, x-request-id, x-other",
    }
    answer = client().options("/api", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, content-type, x-request-id"
    assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Max-Age"] == "600"


def test_a_request_without_origin_gets_no_cors_headers() -> None:
    assert not [name for name, _ in client().get("/api").headers if name.startswith("Access-Control")]
