"""How settings are written: each form turns text into a value, or refuses it with one sentence."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
MAX_PAUSES = 10
_VISIBLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Form:
    """How a setting is written.

    :ivar accepts: completes the sentence "NAME must be …".
    :ivar parse: text (stripped, not empty) → value; raises ``ValueError`` for anything else.
    """

    accepts: str
    parse: Callable[[str], Any]


def whole(low: int, high: int) -> Form:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Form(f"a whole number from {low} to {high}", parse)


def number(low: float, high: float) -> Form:
    """A whole number stays an ``int``, so that it is also written as one."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
            raise ValueError
        value = float(text) if "." in text else int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Form(f"a number from {low:g} to {high:.10g}", parse)


def choice(*words: str) -> Form:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return Form(f"one of {', '.join(words)}", parse)


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _pauses(text: str) -> tuple[float, ...]:
    if text == "0":
        return ()
    parts = text.split(",")
    if len(parts) > MAX_PAUSES:
        raise ValueError
    return tuple(SECONDS.parse(part.strip()) for part in parts)


def _text(text: str) -> str:
    if not text.isprintable():
        raise ValueError
    return text


def _secret(text: str) -> str:
    if not _VISIBLE.fullmatch(text) or "," in text:
        raise ValueError
    return text


def _secrets(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_secret(part.strip()) for part in text.split(",")))


def _path(text: str) -> Path:
    path = Path(_text(text))
    if path.is_dir():
        raise ValueError
    return path


def _host(text: str) -> str:
    """A name, an IPv4 address, or an IPv6 address in brackets."""
    if text.startswith("[") and text.endswith("]"):
        return f"[{ipaddress.IPv6Address(text[1:-1])}]"
    if not _HOST.fullmatch(text):
        raise ValueError
    return text.lower()


def _bind(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError
    return f"{_host(host)}:{whole(1, 65535).parse(port)}"


def origin(text: str) -> str:
    """``scheme://host[:port]`` as browsers write it: lower case, the scheme's own port left out."""
    url = urlsplit(text)
    host, port = url.hostname or "", url.port
    if url.scheme not in ("http", "https") or url.username is not None or not _VISIBLE.fullmatch(text):
        raise ValueError
    shown = _host(f"[{host}]" if ":" in host else host)
    own_port = {"http": 80, "https": 443}[url.scheme]
    return f"{url.scheme}://{shown}" + (f":{port}" if port is not None and port != own_port else "")


def _bare_origin(text: str) -> str:
    url = urlsplit(text)
    if url.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError
    return origin(text)


def _origins(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_bare_origin(part.strip()) for part in text.split(",")))


def _url(text: str) -> str:
    """http(s), a host, perhaps a path; no user, query or fragment; no trailing slash."""
    if "?" in text or "#" in text:
        raise ValueError
    return origin(text) + urlsplit(text).path.rstrip("/")


def _n8n_url(text: str) -> str:
    url = _url(text)
    if url.endswith("/api/v1"):
        raise ValueError
    return url


def _hook_url(text: str) -> str:
    """As ``_url``, but a query may be there and the path is kept as it is: webhook addresses have them."""
    origin(text)
    if "#" in text:
        raise ValueError
    return text


def _dead_letter_url(text: str) -> str:
    if not re.fullmatch(
        r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\x21-\x7e]*)?|dynamodb://[A-Za-z0-9_.-]{3,255}", text
    ):
        raise ValueError
    return text.rstrip("/")


def _redis_url(text: str) -> str | None:
    """redis(s), a host, perhaps a user, a password and a database; of a query only what is about TLS."""
    if text == "off":
        return None
    url = urlsplit(text)
    if url.scheme not in ("redis", "rediss") or not _VISIBLE.fullmatch(text) or url.fragment:
        raise ValueError
    host = url.hostname or ""
    _host(f"[{host}]" if ":" in host else host)
    whole(1, 65535).parse(str(6379 if url.port is None else url.port))
    if not re.fullmatch(r"/?|/[0-9]{1,5}", url.path):
        raise ValueError
    if any(not name.startswith("ssl_") for name, _ in parse_qsl(url.query, keep_blank_values=True)):
        raise ValueError
    return text


def redis_origin(text: str) -> str:
    """The server and the database of a checked ``REDIS_URL``, without user and password."""
    url = urlsplit(text)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{url.scheme}://{host}:{url.port or 6379}{url.path.rstrip('/')}"


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError
    return text


FLAG = Form("true or false", _flag)
REDIS_URL = Form("redis://HOST:PORT/DATABASE or rediss://…, perhaps with USER:PASSWORD@, or off", _redis_url)
PREFIX = Form("up to 64 letters, digits, dots, hyphens and underscores", _prefix)
TEXT = Form("printable text", _text)
PATH = Form("the path of a file, not of a folder", _path)
SECRET = Form("one value of visible ASCII characters, without spaces and commas", _secret)
SECRETS = Form("one or more values of visible ASCII characters without spaces, separated by commas", _secrets)
BIND = Form("HOST:PORT, as 127.0.0.1:3000 or [::1]:3000, with a port from 1 to 65535", _bind)
ORIGINS = Form("origins such as https://bridge.example.com, separated by commas", _origins)
URL = Form("an http:// or https:// address with a host, without user, query and fragment", _url)
N8N_URL = Form("an http:// or https:// address with a host, as it is before /api/v1", _n8n_url)
HOOK_URL = Form("an http:// or https:// address with a host, without user and fragment", _hook_url)
DEAD_LETTERS = Form("s3://BUCKET/PREFIX or dynamodb://TABLE", _dead_letter_url)
SECONDS = number(0.05, 86_400)
PAUSES = Form("up to 10 numbers of seconds from 0.05 to 86400, separated by commas, or 0", _pauses)
PER_MINUTE = whole(0, 1_000_000)
