"""Headers on every response: what a browser may do with it (Flask-Talisman) and which pages may read it (Flask-CORS).

Each extension does what it does right; what it gets wrong, or does not know, is done here beside it, and said why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, make_response, request
from flask_cors.core import get_cors_options, set_cors_headers
from flask_talisman import DENY, Talisman  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from app.settings import Settings

CSP = "Content-Security-Policy"
API_CSP = "default-src 'none'; frame-ancestors 'none'"
PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # No text becomes HTML or a script's address, whatever a module does: it builds elements, one by one.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
UNUSED_FEATURES = (
    *("accelerometer", "browsing-topics", "camera", "display-capture", "geolocation", "gyroscope"),
    *("magnetometer", "microphone", "midi", "payment", "screen-wake-lock", "usb"),
)
# Talisman knows neither of these two.
ISOLATION = [("Cross-Origin-Opener-Policy", "same-origin"), ("Cross-Origin-Resource-Policy", "same-origin")]
HSTS = "max-age=31536000; includeSubDomains"
PREFLIGHT_MAX_AGE_S = 600


def page_csp(view: Callable[..., Any]) -> Callable[..., Response]:
    """Decorator for a view that serves a page: it may use its own scripts, styles and connections, nothing else."""

    @wraps(view)
    def page(*args: Any, **kwargs: Any) -> Response:
        response = make_response(view(*args, **kwargs))
        response.headers[CSP] = PAGE_CSP
        return response

    return page


def register(app: Flask, settings: Settings) -> None:
    """Put the security headers on every response of ``app``, errors included, and let the listed origins read them."""
    app.wsgi_app = SecurityHeaders(  # type: ignore[method-assign]  # as Flask's documentation wraps it
        app.wsgi_app, trusts_proxy=settings.trusted_proxy_hops > 0
    )
    options = get_cors_options(
        app,
        {
            # Compiled, since text with brackets in it (http://[::1]:3000) is taken for a pattern, of which only the
            # beginning is compared: http://1:3000.evil.example would pass.
            "origins": [re.compile(re.escape(origin) + r"\Z") for origin in settings.allowed_origins],
            "methods": ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"],
            "allow_headers": ["Authorization", "Content-Type", "X-Request-ID"],
            "expose_headers": ["Retry-After", "X-Request-ID"],
            "supports_credentials": False,
            "max_age": PREFLIGHT_MAX_AGE_S,
            "always_send": False,
            # It adds Vary only where the origin was allowed: a cache would then give one origin's answer to another.
            "vary_header": False,
        },
    )

    @app.after_request
    def cors(response: Response) -> Response:
        # The extension's own hook works out the same answer, none, for the many requests that no page made.
        return set_cors_headers(response, options) if "HTTP_ORIGIN" in request.environ else response


class SecurityHeaders:
    """A WSGI layer that completes the headers of whatever answers inside.

    Flask's ``after_request`` would do, at ten times the cost: there each header passes through checks and conversions
    (26 against 2 µs a response).
    """

    def __init__(self, app: WSGIApplication, *, trusts_proxy: bool) -> None:
        self._app = app
        self._trusts_proxy = trusts_proxy
        self._fixed = [*_talismans_headers(), *ISOLATION]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
            return start_response(status, self._completed(headers, environ), exc_info)

        return self._app(environ, start)

    def _completed(self, headers: list[tuple[str, str]], environ: WSGIEnvironment) -> list[tuple[str, str]]:
        given = {name.lower(): value for name, value in headers}
        headers = [*headers, *self._fixed]
        if "content-security-policy" not in given:
            headers.append((CSP, API_CSP))
        if "vary" not in given:
            headers.append(("Vary", "Origin"))
        elif "origin" not in given["vary"].lower():
            headers = [(name, f"{value}, Origin" if name.lower() == "vary" else value) for name, value in headers]
        if "cache-control" not in given and "json" in given.get("content-type", ""):
            headers.append(("Cache-Control", "no-store"))
        if _is_https(environ, self._trusts_proxy):
            headers.append(("Strict-Transport-Security", HSTS))
        return headers


def _talismans_headers() -> list[tuple[str, str]]:
    """What Talisman puts on a response, without the CSP.

    It works out the same headers anew for each response, which would cost as much as half of a small request (26 of
    41 µs). So it is asked once, in an application of its own. That also keeps out what it does to requests and to the
    configuration for redirects, nonces and cookies, none of which we have.
    """
    scratch = Flask("headers")
    Talisman(
        scratch,
        force_https=False,  # a redirected POST comes back as a GET; redirecting is the proxy's
        content_security_policy=API_CSP,
        permissions_policy=dict.fromkeys(UNUSED_FEATURES, "()"),
        frame_options=DENY,
        referrer_policy="no-referrer",
        strict_transport_security=False,  # it believes X-Forwarded-Proto from anybody
        session_cookie_secure=False,
    )
    with scratch.test_request_context():
        headers = scratch.process_response(Response()).headers
    return [(name, value) for name, value in headers if name not in (CSP, "Content-Type", "Content-Length")]


def _is_https(environ: dict[str, Any], trusts_proxy: bool) -> bool:
    """Whether the client came by https: this connection, or, with own proxies in front, what they say."""
    if environ["wsgi.url_scheme"] == "https":
        return True
    forwarded = environ.get("HTTP_X_FORWARDED_PROTO", "") if trusts_proxy else ""
    return bool(forwarded.partition(",")[0].strip().lower() == "https")
