"""Whether n8n answers, which it is, what its API key may do, and whether its clock is ours."""

from __future__ import annotations

import secrets
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from app.errors import BaseError
from app.n8n.client import N8nClient
from app.n8n.errors import N8nDownError, clean, from_answer
from app.n8n.version import TESTED_TEXT, version
from app.ops.doctor_findings import Examination, Finding

TIMEOUT_S = 5.0
SKEW_S = 5.0
LAST_EXECUTION = 2_147_483_647
"""Ids of runs are 32-bit numbers in n8n's PostgreSQL."""
Probes = tuple[tuple[str, str, str, dict[str, str] | None], ...]
"""Scope, method, path, body."""
NEW_KEY = "Make a key with all of them in n8n under Settings, n8n API, and set N8N_API_KEY."


def check_reach(examination: Examination) -> Iterator[Finding]:
    settings = examination.settings
    if settings.n8n_api_url is None or settings.n8n_api_key is None:
        examination.lacks |= {"n8n": "no n8n is configured", "api": "no n8n is configured"}
        detail = "none is configured; workflows stay drafts in the journal"
        yield Finding("n8n", "note", detail, "To connect one, set N8N_API_URL and N8N_API_KEY.")
        return
    examination.lacks |= {"n8n": "n8n does not answer", "api": "n8n does not answer"}
    url = settings.n8n_api_url
    examination.client = client = N8nClient(url, settings.n8n_api_key, timeout_s=TIMEOUT_S)
    try:
        ready = client.ask("GET", "/healthz/readiness").status == 200
        answer = client.ask("GET", "/api/v1/workflows?limit=1", key=True)
    except N8nDownError as exc:
        why, todo = _unreachable(exc, url)
        yield Finding("n8n", "problem", f"{url} cannot be reached: {why}", todo)
        return
    del examination.lacks["n8n"]
    if answer.status in (200, 403):  # what the key may not do is told by its own check
        del examination.lacks["api"]
        state = "" if ready else ", though it does not say that it is ready"
        yield Finding("n8n", "ok", f"{url} answers{state}")
        return
    error = from_answer(answer.status, answer.body, what="GET /workflows")
    examination.lacks["api"] = "n8n refuses the key" if answer.status == 401 else "n8n's API does not answer"
    yield Finding("n8n", "problem", f"{url} answers {answer.status} to the API", error.detail)


def check_version(examination: Examination) -> Iterator[Finding]:
    found = version(examination.n8n)
    text = found.text or f"n8n does not tell; by how it behaves {found.major}.x"
    match found.range:
        case "tested":
            yield Finding("n8n version", "ok", f"{text}, tested with this bridge")
        case "likely":
            detail = f"{text}; this bridge was tested with {TESTED_TEXT}, others of n8n 2 will probably do"
            yield Finding("n8n version", "note", detail)
        case "too old":
            detail = f"{text} is too old: it has no drafts beside what runs"
            yield Finding("n8n version", "problem", detail, f"Use n8n 2, best {TESTED_TEXT}.")
        case "unknown":
            yield Finding("n8n version", "note", f"n8n does not tell, and there is nothing to guess by ({TESTED_TEXT})")


def check_key(examination: Examination) -> Iterator[Finding]:
    """Each scope is asked for by a request that cannot do anything: it names what does not exist, or has no content.
    A key without the scope gets 403 before n8n looks at either."""
    client = examination.n8n
    nothing = secrets.token_hex(8)
    run = LAST_EXECUTION - secrets.randbelow(1_000_000)
    workflow, execution = f"/api/v1/workflows/{nothing}", f"/api/v1/executions/{run}"
    needed: Probes = (
        ("workflow:list", "GET", "/api/v1/workflows?limit=1", None),
        ("workflow:read", "GET", workflow, None),
        ("workflow:create", "POST", "/api/v1/workflows", {}),
        ("workflow:update", "PUT", workflow, {}),
        ("workflow:activate", "POST", f"{workflow}/activate", {}),
        ("workflow:deactivate", "POST", f"{workflow}/deactivate", {}),
        ("workflow:delete", "DELETE", workflow, None),
        ("execution:list", "GET", "/api/v1/executions?limit=1", None),
        ("execution:read", "GET", execution, None),
        ("execution:retry", "POST", f"{execution}/retry", {}),
        ("execution:stop", "POST", f"{execution}/stop", {}),
    )
    wanted: Probes = (
        ("credential:list", "GET", "/api/v1/credentials?limit=1", None),
        ("credential:create", "POST", "/api/v1/credentials", {}),
    )
    lacking: list[list[str]] = []
    for probes in (needed, wanted):
        refused = []
        for scope, method, path, body in probes:
            if client.ask(method, path, key=True, body=body).status == 403:
                refused.append(scope)
        lacking.append(refused)
        examination.missing_scopes.update(refused)
    missing, optional = lacking
    if missing:
        yield Finding("API key", "problem", f"the key lacks {', '.join(missing)}", NEW_KEY)
    else:
        yield Finding("API key", "ok", f"the key may do all that is needed ({len(needed)} scopes)")
    if optional:
        detail = f"the key lacks {', '.join(optional)}: the agent sees no credentials, or none is made for the callback"
        yield Finding("API key", "note", detail, "Needed to install the error workflow where a callback secret is set.")


def check_clock(examination: Examination) -> Iterator[Finding]:
    before = time.time()
    date = examination.n8n.ask("GET", "/healthz").headers.get("Date")
    after = time.time()
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError):
        yield Finding("clock", "note", "n8n (or the proxy before it) does not tell its time")
        return
    # It tells whole seconds: its time then was between ``theirs`` and a second later.
    ahead, behind = theirs - after, before - (theirs + 1)
    if max(ahead, behind) >= SKEW_S:
        side = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{behind:.0f} s behind"
        detail = f"n8n's clock is {side} this machine's"
        yield Finding("clock", "problem", detail, "Keep both machines' clocks right (NTP).")
    else:
        yield Finding("clock", "ok", "n8n's clock and this machine's agree, as far as whole seconds tell")


def _unreachable(error: BaseError, url: str) -> tuple[str, str]:
    """Why n8n cannot be reached, from the errors below, and what to do."""
    parts = urlsplit(url)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            told = clean(cause.verify_message) or "not trusted"
            return f"its TLS certificate is refused ({told})", "Correct the certificate, or N8N_API_URL's host name."
        if isinstance(cause, ssl.SSLError):
            why = f"no TLS there ({cause.reason or 'handshake failed'})"
            return why, "Use http:// in N8N_API_URL, or correct the proxy before n8n."
        if isinstance(cause, socket.gaierror):
            return f"no host has the name {parts.hostname}", "Correct N8N_API_URL, or this machine's DNS."
        if isinstance(cause, ConnectionRefusedError):
            return "nobody listens there (connection refused)", "Start n8n, or correct N8N_API_URL's port."
    return error.detail, "Start n8n, and see that this machine may reach it (firewall, network, proxy)."


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    left: list[BaseException] = [error]
    while left and len(seen) < 20:
        cause = left.pop(0)
        seen.append(cause)
        yield cause
        inner = [*cause.args, cause.__cause__, cause.__context__, getattr(cause, "reason", None)]
        left += [found for found in inner if isinstance(found, BaseException) and found not in seen]
