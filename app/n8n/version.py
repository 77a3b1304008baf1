"""Which n8n this is, as far as it tells, and whether the bridge was tested with it.

The public API does not say. Up to 1.122 ``/rest/settings`` tells anybody; later ones tell it in the page of their
editor (as the release that its errors are filed under), unless a proxy keeps that away. Then the API's behaviour still
tells n8n 1 from n8n 2.

Source: n8n 2.41.1; n8n's pull request 22106.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Literal

from app.n8n.client import N8nClient
from app.n8n.errors import N8nDownError, N8nTooLargeError

TESTED = (2, 41)
TESTED_TEXT = "2.41"
_NUMBER = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.\d{1,5})?(?:-[\w.]{1,40})?")
_EDITOR = re.compile(rb'<meta name="n8n:config:sentry" content="([A-Za-z0-9+/=]{1,2000})"')


@dataclass(frozen=True, slots=True)
class Version:
    """:ivar text: as n8n tells it, ``2.41.1``; empty where it does not.
    :ivar major: known from its behaviour, too; ``None``: not known.
    """

    text: str
    major: int | None
    minor: int | None = None

    @property
    def range(self) -> Literal["tested", "likely", "unknown", "too old"]:
        if self.major is None:
            return "unknown"
        if self.major < TESTED[0]:
            return "too old"
        return "tested" if (self.major, self.minor) == TESTED else "likely"


def version(client: N8nClient) -> Version:
    """Ask without the key, then look at how the API answers; nothing is changed.

    :raises N8nDownError: no answer.
    """
    return _parsed(_of_settings(client)) or _parsed(_of_editor(client)) or _guessed(client)


def _parsed(text: str) -> Version | None:
    found = _NUMBER.fullmatch(text)
    return Version(text, int(found[1]), int(found[2])) if found else None


def _of_settings(client: N8nClient) -> str:
    settings = client.ask("GET", "/rest/settings").json
    data = settings.get("data") if isinstance(settings, dict) else None
    return str(data.get("versionCli", "")) if isinstance(data, dict) else ""


def _of_editor(client: N8nClient) -> str:
    try:
        found = _EDITOR.search(client.ask("GET", "/").body)
        told = json.loads(base64.b64decode(found[1])) if found else None
    except (N8nTooLargeError, ValueError, RecursionError):
        return ""
    release = told.get("release") if isinstance(told, dict) else None
    return release.removeprefix("n8n@") if isinstance(release, str) else ""


def _guessed(client: N8nClient) -> Version:
    """By the field that tells a workflow's published version from its draft, which n8n 2 brought."""
    try:
        listed = client.ask("GET", "/api/v1/workflows?limit=1&excludePinnedData=true", key=True).json
    except N8nDownError:
        return Version("", None)
    rows = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        return Version("", None)
    return Version("", 2 if "activeVersionId" in rows[0] else 1)
