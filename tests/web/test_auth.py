"""Who passes: loopback, credentials, sessions, callbacks, metrics; and which address a request counts for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from app.errors import AuthenticationError, BaseError, NotConfiguredError
from app.journal import Session
from app.settings import Settings, load
from app.web import auth

ORIGIN = "http://localhost:3000"
REMOTE = {"REMOTE_ADDR": "203.0.113.9", "HTTP_HOST": "bridge.example"}
TOKENS = {"ACCESS_TOKEN": "alpha-token,beta-token"}
SECRET = {"N8N_CALLBACK_SECRET": "old-secret,new-secret"}
ANYONE = {"ALLOW_ANONYMOUS": "true"}
Refusal = type[BaseError] | None


def settings(**values: str) -> Settings:
    return load({"ENV_FILE": "/dev/null", **values})


def environ(token: str | None = None, **values: str) -> dict[str, Any]:
    """A request from this machine, as gunicorn hands it over."""
    made = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:3000", **values}
    return made if token is None else {**made, "HTTP_AUTHORIZATION": f"Bearer {token}"}


def refusal(check: Callable[[], None]) -> Refusal:
    try:
        check()
    except BaseError as error:
        return type(error)
    return None


@pytest.mark.parametrize(
    ("values", "loopback"),
    [
        ({}, True),
        ({"REMOTE_ADDR": "127.8.9.1", "HTTP_HOST": "127.1.2.3"}, True),
        ({"REMOTE_ADDR": "::1", "HTTP_HOST": "[::1]:3000"}, True),
        ({"REMOTE_ADDR": "::ffff:127.0.0.1", "HTTP_HOST": "LOCALHOST"}, True),
        ({"HTTP_HOST": "[::1]"}, True),
        ({"HTTP_ORIGIN": ORIGIN}, True),
        ({"REMOTE_ADDR": "203.0.113.9"}, False),
        ({"REMOTE_ADDR": "::ffff:203.0.113.9"}, False),
        ({"REMOTE_ADDR": "10.0.0.1"}, False),
        ({"REMOTE_ADDR": ""}, False),
        ({"REMOTE_ADDR": "localhost"}, False),
        ({"HTTP_HOST": ""}, False),
        ({"HTTP_HOST": "evil.example"}, False),
        ({"HTTP_HOST": "localhost.evil.example"}, False),
        ({"HTTP_HOST": "a.localhost"}, False),
        ({"HTTP_HOST": "localhost@evil.example"}, False),
        ({"HTTP_HOST": "localhost:3000:80"}, False),
        ({"HTTP_HOST": "localhost, evil.example"}, False),
        ({"HTTP_HOST": "127.0.0.1.evil.example"}, False),
        ({"HTTP_HOST": "127.1"}, False),
        ({"HTTP_HOST": "2130706433"}, False),
        ({"HTTP_HOST": "0.0.0.0"}, False),
        ({"HTTP_HOST": "[::]"}, False),
        ({"HTTP_HOST": "::1"}, False),
        ({"HTTP_HOST": "192.168.1.4:3000"}, False),
        ({"HTTP_ORIGIN": "https://evil.example"}, False),
        ({"HTTP_ORIGIN": "http://localhost:3001"}, False),
        ({"HTTP_ORIGIN": "null"}, False),
        ({"HTTP_ORIGIN": ""}, False),
        ({"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, False),
        ({"HTTP_X_FORWARDED_FOR": ""}, False),
        ({"HTTP_X_FORWARDED_HOST": "localhost"}, False),
        ({"HTTP_X_FORWARDED_PROTO": "http"}, False),
        ({"HTTP_FORWARDED": "for=127.0.0.1"}, False),
        ({"HTTP_X_REAL_IP": "127.0.0.1"}, False),
        ({"HTTP_VIA": "1.1 proxy"}, False),
    ],
)
def test_loopback_needs_peer_host_and_origin_and_no_proxy(values: dict[str, str], loopback: bool) -> None:
    assert auth.is_loopback(environ(**values), settings()) is loopback


def test_loopback_without_a_host_header_is_not_loopback() -> None:
    assert not auth.is_loopback({"REMOTE_ADDR": "127.0.0.1"}, settings())


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        (ORIGIN, True),
        ("http://[::1]:3000", True),
        ("null", False),
        ("", False),
        ("*", False),
        (ORIGIN + ".evil.example", False),
        (ORIGIN + "/", False),
        ("https://localhost:3000", False),
    ],
)
def test_origins_are_compared_whole(origin: str | None, allowed: bool) -> None:
    request = environ() if origin is None else environ(HTTP_ORIGIN=origin)
    assert auth.origin_allowed(request, settings()) is allowed


@pytest.mark.parametrize(
    ("header", "credential"),
    [
        (None, None),
        ("Bearer abc", "abc"),
        ("bEARER   abc", "abc"),
        ("Bearer gr\u00c3\u00bcn", "grün"),  # UTF-8, as WSGI hands it over
        ("Bearer \xff", ""),
        ("", ""),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Bearer a b", ""),
        ("Bearer a,b", ""),
        ("Basic YTpi", ""),
        ("abc", ""),
        ("Bearer " + "x" * 8000, ""),
    ],
)
def test_a_malformed_credential_is_presented_and_matches_nothing(header: str | None, credential: str | None) -> None:
    request = environ() if header is None else environ(HTTP_AUTHORIZATION=header)
    assert auth.bearer(request) == credential


@pytest.mark.parametrize("odd", ["", "\ud800", "grün", "x" * 1_000_000, "alpha-token ", "alpha-token,beta-token"])
def test_odd_credentials_match_nothing_and_break_nothing(odd: str) -> None:
    assert not auth.matches(odd, ("alpha-token", "beta-token"))


def test_an_empty_list_accepts_nothing() -> None:
    assert not auth.matches("", ())
    assert not auth.matches("x", ())
    assert auth.matches("grün", ("grün",))


@pytest.mark.parametrize(
    ("configured", "token", "from_here", "operator", "new_session"),
    [
        (TOKENS, "alpha-token", False, None, None),
        (TOKENS, "beta-token", True, None, None),
        (TOKENS, "gamma-token", True, AuthenticationError, AuthenticationError),
        (TOKENS, None, True, AuthenticationError, AuthenticationError),
        (TOKENS, None, False, AuthenticationError, AuthenticationError),
        (TOKENS | ANYONE, None, False, AuthenticationError, AuthenticationError),
        ({}, None, True, None, None),
        ({}, "gamma-token", True, AuthenticationError, AuthenticationError),
        ({}, "", True, AuthenticationError, AuthenticationError),
        ({}, None, False, NotConfiguredError, NotConfiguredError),
        ({}, "gamma-token", False, NotConfiguredError, NotConfiguredError),
        (ANYONE, None, False, NotConfiguredError, None),
        (ANYONE, None, True, None, None),
        (ANYONE, "gamma-token", False, NotConfiguredError, AuthenticationError),
        (ANYONE, "gamma-token", True, AuthenticationError, AuthenticationError),
    ],
)
def test_access(
    configured: dict[str, str], token: str | None, from_here: bool, operator: Refusal, new_session: Refusal
) -> None:
    where, known = environ(**({} if from_here else REMOTE)), settings(**configured)
    assert refusal(lambda: auth.check_access(token, where, known)) is operator
    assert refusal(lambda: auth.check_access(token, where, known, anonymous_ok=True)) is new_session


@pytest.mark.parametrize(
    ("configured", "token", "from_here", "expected"),
    [
        (TOKENS, "own", False, None),
        (TOKENS, "alpha-token", False, None),
        (TOKENS, "other", True, AuthenticationError),
        (TOKENS, None, True, AuthenticationError),
        (TOKENS, "", False, AuthenticationError),
        ({}, "own", False, None),
        ({}, "own", True, None),
        ({}, "other", True, AuthenticationError),
        ({}, "", True, AuthenticationError),
        ({}, "\ud800", True, AuthenticationError),
        ({}, None, True, None),
        ({}, None, False, AuthenticationError),
        (ANYONE, None, False, AuthenticationError),
    ],
)
def test_session(configured: dict[str, str], token: str | None, from_here: bool, expected: Refusal) -> None:
    now = datetime.now(UTC)
    session = Session("s1", auth.hash_token("own"), "live", now, now, 1, 0)
    where, known = environ(**({} if from_here else REMOTE)), settings(**configured)
    assert refusal(lambda: auth.check_session(token, session, where, known)) is expected


@pytest.mark.parametrize(
    ("configured", "token", "from_here", "expected"),
    [
        (SECRET, "old-secret", False, None),
        (SECRET, "new-secret", True, None),
        (SECRET, "wrong", True, AuthenticationError),
        (SECRET, None, True, AuthenticationError),
        (SECRET, None, False, AuthenticationError),
        (SECRET | TOKENS, "alpha-token", False, AuthenticationError),
        ({}, None, True, None),
        ({}, "wrong", True, AuthenticationError),
        ({}, None, False, NotConfiguredError),
        ({}, "wrong", False, NotConfiguredError),
        (ANYONE, None, False, NotConfiguredError),
    ],
)
def test_callback(configured: dict[str, str], token: str | None, from_here: bool, expected: Refusal) -> None:
    where = environ(token, **({} if from_here else REMOTE))
    assert refusal(lambda: auth.check_callback(where, settings(**configured))) is expected


def test_an_unconfigured_callback_says_when_to_come_back() -> None:
    with pytest.raises(NotConfiguredError) as caught:
        auth.check_callback(environ(**REMOTE), settings())
    assert caught.value.retry_after_s == 60


@pytest.mark.parametrize(
    ("configured", "token", "from_here", "expected"),
    [
        ({}, None, True, None),
        (TOKENS, None, True, None),
        ({"METRICS_TOKEN": "m"}, "m", False, None),
        (TOKENS, "alpha-token", False, None),
        (TOKENS, "wrong", True, AuthenticationError),
        (TOKENS, None, False, AuthenticationError),
        ({}, "wrong", True, AuthenticationError),
        ({}, "wrong", False, NotConfiguredError),
        ({}, None, False, NotConfiguredError),
    ],
)
def test_metrics(configured: dict[str, str], token: str | None, from_here: bool, expected: Refusal) -> None:
    where = environ(token, **({} if from_here else REMOTE))
    assert refusal(lambda: auth.check_metrics(where, settings(**configured))) is expected


@pytest.mark.parametrize(
    ("peer", "forwarded", "hops", "address"),
    [
        ("203.0.113.9", None, 0, "203.0.113.9"),
        ("203.0.113.9", "6.6.6.6", 0, "203.0.113.9"),
        ("10.0.0.2", "6.6.6.6, 198.51.100.7", 1, "198.51.100.7"),
        ("10.0.0.2", "6.6.6.6,198.51.100.7, 10.0.0.1", 2, "198.51.100.7"),
        ("10.0.0.2", "198.51.100.7", 2, "10.0.0.2"),
        ("10.0.0.2", None, 1, "10.0.0.2"),
        ("10.0.0.2", "", 1, "10.0.0.2"),
        ("10.0.0.2", "unknown", 1, "10.0.0.2"),
        ("10.0.0.2", "198.51.100.7:4711", 1, "198.51.100.7"),
        ("10.0.0.2", "[2001:db8::1]:4711", 1, "2001:db8::1"),
        ("10.0.0.2", "2001:DB8:0::1", 1, "2001:db8::1"),
        ("::ffff:10.0.0.2", None, 0, "10.0.0.2"),
        ("fe80::1%eth0", None, 0, "fe80::1"),
        ("", None, 0, "unknown"),
        ("10.0.0.2", "9" * 100_000, 1, "10.0.0.2"),
    ],
)
def test_client_address(peer: str, forwarded: str | None, hops: int, address: str) -> None:
    request = {"REMOTE_ADDR": peer} | ({} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded})
    assert auth.client_address(request, hops) == address


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("unknown", "unknown"),
    ],
)
def test_limits_count_ipv6_by_network(address: str, key: str) -> None:
    assert auth.limit_key(address) == key


def test_tokens_are_long_different_and_stored_hashed() -> None:
    tokens = {auth.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 22 for token in tokens)  # 128 bits in base64 are 22 letters
    token = tokens.pop()
    assert len(auth.hash_token(token)) == 64
    assert token not in auth.hash_token(token)
