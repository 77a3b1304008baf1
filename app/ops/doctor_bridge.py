"""Whether the bridge that runs here is ready, and has these settings: who changed them may not have reloaded it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from app.ops.doctor_findings import Examination, Finding
from app.settings import Settings

NAME = "bridge"
ANSWER_S = 3.0
TOLD = {
    "n8n": "N8N_API_URL and N8N_API_KEY",
    "claude": "ANTHROPIC_API_KEY",
    "callbacks": "N8N_CALLBACK_SECRET",
    "access": "ACCESS_TOKEN",
}
"""What ``/health`` says to be configured, and by what."""


def check_bridge(examination: Examination) -> Iterator[Finding]:
    settings = examination.settings
    url = settings.local_url
    if _asked(f"{url}/healthz") != {"status": "ok"}:
        yield Finding(NAME, "note", f"none answers at {url} (BIND)", "Start it where it is to run on this machine.")
        return
    checks = _asked(f"{url}/readyz").get("checks", {})
    wrong = "; ".join(f"{name}: {said}" for name, said in checks.items() if said != "ok")
    if wrong:
        detail = f"the one at {url} is not ready ({wrong})"
        yield Finding(NAME, "problem", detail, "Look at its log.")
    differing = _differing(settings, _asked(f"{url}/health").get("configured"))
    if differing:
        detail = f"the one at {url} runs with other settings than these: {', '.join(differing)}"
        todo = "Reload it (kill -HUP of its master), or give this command the environment that it has."
        yield Finding(NAME, "problem", detail, todo)
    if not wrong and not differing:
        yield Finding(NAME, "ok", f"the one at {url} is ready")


def _differing(settings: Settings, configured: Any) -> list[str]:
    if not isinstance(configured, dict):  # one that was asked too often does not say
        return []
    here = {
        "n8n": settings.n8n_connected,
        "claude": settings.anthropic_api_key is not None,
        "callbacks": bool(settings.n8n_callback_secret),
        "access": bool(settings.access_token),
    }
    return [
        f"{names} {'is' if ' and ' not in names else 'are'} {'unset' if here[key] else 'set'} there"
        for key, names in TOLD.items()
        if configured.get(key, here[key]) != here[key]
    ]


def _asked(url: str) -> dict[str, Any]:
    """The answer's object; empty where there is none."""
    try:
        with urllib3.PoolManager(1) as pool:
            told = json.loads(pool.request("GET", url, timeout=ANSWER_S, retries=False, redirect=False).data)
    except (HTTPError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
