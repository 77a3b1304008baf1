"""Who may do what: loopback, bearer credentials, session tokens, the client's address. Pure functions, no Flask."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from app.errors import AuthenticationError, NotConfiguredError

if TYPE_CHECKING:
    from app.journal import Session
    from app.settings import Settings

Environ = Mapping[str, Any]

TOKEN_BYTES = 32
MAX_CREDENTIAL_CHARS = 4096
CALLBACK_RETRY_S = 60
# Any of these says that somebody stands between the peer and us, and that the peer's address is not the client's.
FORWARDING_HEADERS = (
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_X_FORWARDED_SERVER",
    "HTTP_X_FORWARDED_SSL",
    "HTTP_X_FORWARDED_PREFIX",
    "HTTP_FORWARDED",
    "HTTP_X_REAL_IP",
    "HTTP_X_CLIENT_IP",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_CF_CONNECTING_IP",
    "HTTP_VIA",
)
_BEARER = re.compile(r"bearer +([^\s,]+)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@/]+)(?::[0-9]{1,5})?", re.IGNORECASE)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def new_token() -> str:
    """A fresh credential of 256 bits."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> str:
    """What is stored of a token: SHA-256, in hex. Tokens are random and long, so no salt is needed."""
    return hashlib.sha256(_bytes(token)).hexdigest()


def bearer(environ: Environ) -> str | None:
    """The credential in ``Authorization: Bearer …``.

    :returns: ``None`` where there is no such header; ``""``, which matches nothing, where it is malformed: whoever
        sends one presents something, and it is wrong.
    """
    header = environ.get("HTTP_AUTHORIZATION")
    if header is None:
        return None
    found = _BEARER.fullmatch(header) if len(header) <= MAX_CREDENTIAL_CHARS else None
    if found is None:
        return ""
    try:
        # WSGI hands bytes over as latin-1 text; a credential from a frame is the text itself.
        return found[1].encode("latin-1").decode()
    except UnicodeError:
        return ""


def matches(credential: str, accepted: Iterable[str]) -> bool:
    """Whether ``credential`` is one of ``accepted``, in a time that does not tell which or how nearly."""
    if not 0 < len(credential) <= MAX_CREDENTIAL_CHARS:
        return False
    given, found = _bytes(credential), False
    for one in accepted:
        found |= hmac.compare_digest(given, _bytes(one))
    return found


def origin_allowed(environ: Environ, settings: Settings) -> bool:
    """Whether the page that sent this is on the list. Without ``Origin`` it is no page of another site.

    ``null`` (a sandboxed frame, a file) is never on the list.
    """
    origin = environ.get("HTTP_ORIGIN")
    return origin is None or (origin != "null" and origin in settings.allowed_origins)


def is_loopback(environ: Environ, settings: Settings) -> bool:
    """Whether the caller is on this machine and means us.

    The peer alone does not say so: a proxy on this host, another site's page in a local browser, and a name that was
    made to resolve to 127.0.0.1 (DNS rebinding) all come from there too.
    """
    peer = parse_address(environ.get("REMOTE_ADDR") or "")
    return (
        peer is not None
        and peer.is_loopback
        and not any(name in environ for name in FORWARDING_HEADERS)
        and _is_loopback_name(environ.get("HTTP_HOST") or "")
        and origin_allowed(environ, settings)
    )


def check_access(credential: str | None, environ: Environ, settings: Settings, *, anonymous_ok: bool = False) -> None:
    """Pass whoever holds the access token, or needs none.

    :param credential: what was presented; ``None``: nothing.
    :param anonymous_ok: ``ALLOW_ANONYMOUS`` opens this (a new session); it never opens what is an operator's.
    :raises AuthenticationError: it is missing where one is configured, or wrong.
    :raises NotConfiguredError: there is none to present, and the caller is not on this machine.
    """
    if settings.access_token:
        if credential is None or not matches(credential, settings.access_token):
            raise AuthenticationError("The access token is missing or wrong.")
        return
    anonymous = anonymous_ok and settings.allow_anonymous
    if not anonymous and not is_loopback(environ, settings):
        raise NotConfiguredError("ACCESS_TOKEN is not set here, so only callers on the same machine may do this.")
    if credential is not None:
        raise AuthenticationError("There is no access token here; this one is wrong.")


def check_session(credential: str | None, session: Session, environ: Environ, settings: Settings) -> None:
    """Pass whoever holds the session's token or the access token; or nothing, on loopback without an access token.

    :raises AuthenticationError: it is missing or wrong.
    """
    if credential is None:
        if not settings.access_token and is_loopback(environ, settings):
            return
        raise AuthenticationError("The session's token is missing.")
    # Both are compared, so that the time does not tell which kind of token was nearly right.
    own = bool(credential) and hmac.compare_digest(hash_token(credential), session.token_hash)
    if not own | matches(credential, settings.access_token):
        raise AuthenticationError("The session's token is wrong.")


def check_callback(environ: Environ, settings: Settings) -> None:
    """Pass n8n.

    :raises AuthenticationError: the secret is missing where one is configured, or wrong.
    :raises NotConfiguredError: no secret is configured, and the caller is not on this machine.
    """
    credential = bearer(environ)
    if settings.n8n_callback_secret:
        if credential is None or not matches(credential, settings.n8n_callback_secret):
            raise AuthenticationError("The callback secret is missing or wrong.")
    elif not is_loopback(environ, settings):
        raise NotConfiguredError(
            "N8N_CALLBACK_SECRET is not set here, so only an n8n on the same machine may call back.",
            retry_after_s=CALLBACK_RETRY_S,
        )
    elif credential is not None:
        raise AuthenticationError("There is no callback secret here; this one is wrong.")


def check_metrics(environ: Environ, settings: Settings) -> None:
    """Pass a scraper: on loopback, or with the metrics token or the access token.

    :raises AuthenticationError: it is missing or wrong.
    :raises NotConfiguredError: neither is configured, and the caller is not on this machine.
    """
    credential, accepted = bearer(environ), settings.metrics_token + settings.access_token
    if credential is not None and accepted:
        if not matches(credential, accepted):
            raise AuthenticationError("The metrics token is wrong.")
    elif not is_loopback(environ, settings):
        if accepted:
            raise AuthenticationError("The metrics token is missing.")
        raise NotConfiguredError("METRICS_TOKEN is not set here, so only callers on the same machine may do this.")
    elif credential is not None:
        raise AuthenticationError("There is no metrics token here; this one is wrong.")


def client_address(environ: Environ, hops: int) -> str:
    """Where the request comes from.

    :param hops: number of own proxies in front. Each appends the address it saw to ``X-Forwarded-For``, so the
        ``hops``-th from the right is the last one that was not made up by the client.
    :returns: an address in its canonical form (IPv4-mapped ones as IPv4); the peer's where the header has too few or
        no such entry; ``"unknown"`` without either.
    """
    peer = parse_address(environ.get("REMOTE_ADDR") or "")
    if hops > 0:
        entries = str(environ.get("HTTP_X_FORWARDED_FOR") or "").split(",")
        if len(entries) >= hops:
            peer = parse_address(_without_port(entries[-hops].strip())) or peer
    return str(peer) if peer is not None else "unknown"


def limit_key(address: str) -> str:
    """What rate limits count by: an IPv4 address, or the /64 of an IPv6 one, which is what one household gets."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed) if parsed is not None else address


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """An IP address without zone, IPv4-mapped IPv6 as IPv4; ``None`` for anything else."""
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _without_port(text: str) -> str:
    """Some proxies write ``1.2.3.4:567`` or ``[2001:db8::1]:567``."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _is_loopback_name(host: str) -> bool:
    """``localhost``, 127.0.0.0/8 or ``[::1]``, with or without a port."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower()
    if name.startswith("["):
        return name == "[::1]"
    parsed = parse_address(name)
    return name == "localhost" or (isinstance(parsed, ipaddress.IPv4Address) and parsed.is_loopback)


def _bytes(text: str) -> bytes:
    """UTF-8; a lone surrogate from JSON is kept apart from everything else instead of failing."""
    return text.encode("utf-8", "surrogatepass")
