"""The page's files, read once, under an address that changes with them: so they may be kept for ever, and fit together.

Modules import each other by relative names. Under ``console/<version>/`` those stay within one version by themselves.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Other files, our own Python above all, are not served."""
PLACEHOLDER, PRELOADS = "{version}", "<!-- preloads -->"
VERSION_CHARS = 16
VENDORED = "vendor/"
COMMENTS = re.compile(rb"^[ \t]*(?://.*|/\*\*(?:[^*]|\*(?!/))*\*/)$", re.MULTILINE)
"""Whole lines of our modules that only people read, a tenth. The lines stay, so a stack names the right ones."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. :ivar packed: by gzip; made once, not for each request."""

    name: str
    content_type: str
    body: bytes
    packed: bytes

    def sent(self, *, packed: bool) -> tuple[bytes, dict[str, str]]:
        """What goes out, and the headers that say so."""
        headers = {"Content-Type": self.content_type, "Vary": "Accept-Encoding"}
        return (self.packed, {**headers, "Content-Encoding": "gzip"}) if packed else (self.body, headers)


@dataclass(frozen=True, slots=True)
class Assets:
    """:ivar version: hash of all files. :ivar page: the HTML, with that version in its addresses."""

    version: str
    page: Asset
    files: Mapping[str, Asset]


def read_assets(folder: Path = FOLDER) -> Assets:
    """Read what is served, all of it now: a file that is changed later is seen after a reload, with its new version."""
    found = {
        (name := path.relative_to(folder).as_posix()): _read(path, name)
        for path in sorted(folder.rglob("*"))
        if path.suffix in TYPES and path.is_file()
    }
    digest = hashlib.sha256()
    for name, body in found.items():
        digest.update(f"{name}\0{len(body)}\0".encode() + body)
    version = digest.hexdigest()[:VERSION_CHARS]
    # A module's imports are known only when it has come. Told in the page, all of them are fetched at once.
    modules = [name for name in found if name.endswith(".js")]
    preloads = "\n".join(f'<link rel="modulepreload" href="console/{PLACEHOLDER}/{name}">' for name in modules)
    page = found.pop(PAGE).decode().replace(PRELOADS, preloads).replace(PLACEHOLDER, version)
    files = {name: _asset(name, body) for name, body in found.items()}
    return Assets(version, _asset(PAGE, page.encode()), files)


def _read(path: Path, name: str) -> bytes:
    body = path.read_bytes()
    if path.suffix != ".js" or name.startswith(VENDORED):
        return body
    return COMMENTS.sub(lambda found: b"\n" * found[0].count(b"\n"), body)


def _asset(name: str, body: bytes) -> Asset:
    return Asset(name, TYPES[Path(name).suffix], body, gzip.compress(body, mtime=0))
