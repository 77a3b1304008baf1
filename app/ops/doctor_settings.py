"""Whether the settings fit each other; that each of them is right, ``app.settings.load`` has seen to."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from app.ops.doctor_findings import Examination, Finding
from app.settings import Settings, is_loopback

NAME = "settings"


def check_settings(examination: Examination) -> Iterator[Finding]:
    settings = examination.settings
    found = [*_access(settings), *_n8n(settings), *_callbacks(settings), *_notifications(settings)]
    yield from found
    if not any(finding.state == "problem" for finding in found):
        n8n = settings.n8n_api_url if settings.n8n_connected else "none"
        detail = f"agent {settings.agent_name}, n8n {n8n}, repairs {settings.heal_autonomy}"
        yield Finding(NAME, "ok", detail)


def _access(settings: Settings) -> Iterator[Finding]:
    if settings.access_token or is_loopback(settings.bind_host):
        return
    if settings.allow_anonymous:
        detail = f"ALLOW_ANONYMOUS=true and BIND={settings.bind}: whoever reaches this machine may use the bridge"
        yield Finding(NAME, "problem", detail, "Set ACCESS_TOKEN, or listen on 127.0.0.1.")
    else:
        detail = "others than this machine are refused, for ACCESS_TOKEN is unset"
        yield Finding(NAME, "note", detail, "Set ACCESS_TOKEN where others are to use the bridge.")


def _n8n(settings: Settings) -> Iterator[Finding]:
    if settings.n8n_api_url and not settings.n8n_api_key:
        detail = "N8N_API_URL is set and N8N_API_KEY is not, so n8n is not used"
        yield Finding(NAME, "problem", detail, "Make a key in n8n under Settings, n8n API, and set N8N_API_KEY.")
    if settings.n8n_api_key and not settings.n8n_api_url:
        detail = "N8N_API_KEY is set and N8N_API_URL is not, so n8n is not used"
        yield Finding(NAME, "problem", detail, "Set N8N_API_URL to n8n's address before /api/v1.")


def _callbacks(settings: Settings) -> Iterator[Finding]:
    if not settings.n8n_connected:
        return
    near = _near(settings.n8n_api_url or "")
    if not settings.n8n_callback_secret and not (near and is_loopback(settings.bind_host)):
        detail = "N8N_CALLBACK_SECRET is unset, so callbacks are taken from this machine only"
        todo = "Set it, then run `flask n8n install-error-workflow`."
        yield Finding(NAME, "problem", detail, todo)
    if not near and _near(settings.n8n_callback_url):
        detail = f"n8n runs elsewhere and is told to report to {settings.n8n_callback_url}, which is n8n's own machine"
        yield Finding(NAME, "problem", detail, "Set N8N_CALLBACK_URL (or PUBLIC_URL) to the bridge as n8n reaches it.")


def _notifications(settings: Settings) -> Iterator[Finding]:
    if settings.notify_url and not settings.notify_secret:
        detail = "NOTIFY_SECRET is unset, so who gets the notifications cannot tell that they are the bridge's"
        yield Finding(NAME, "note", detail, "Set it, and have the signature checked where they arrive.")


def _near(url: str) -> bool:
    """Whether the address is one of this machine's loopback."""
    host = urlsplit(url).hostname or ""
    return is_loopback(host) or host.endswith(".localhost")
