"""How the page's files are served: kept for ever under their version, small, and nothing else with them."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path

from app.console.assets import read_assets
from tests.support.server import BridgeServer

OWN_LIMIT_BYTES = 60 * 1024
MARKED_SHA256 = "5371fea86fd0656b4fc7bea7c94c663109d82789b69433eeee78d42895aa44de"


def test_files_are_kept_for_ever_and_the_page_is_asked_for_again(bridge: BridgeServer) -> None:
    page = bridge.get("/")
    assert page.headers["cache-control"] == "no-cache"
    again = bridge.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status, again.body) == (304, b"")

    places = re.findall(r'(?:href|src)="(console/[^"]+)"', page.body.decode())
    assert len(places) > 20
    for place in places:
        packed = bridge.get(f"/{place}", headers={"Accept-Encoding": "gzip"})
        assert packed.status == 200 and packed.headers["cache-control"].endswith("immutable")
        assert "Accept-Encoding" in packed.headers["vary"]
        plain = bridge.get(f"/{place}")
        assert plain.body == gzip.decompress(packed.body) and plain.headers["etag"] != packed.headers["etag"]
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[place.rpartition(".")[2]]
        assert plain.headers["content-type"].startswith(kind)

    old = bridge.get("/console/0123456789abcdef/main.js")
    assert (old.status, old.headers["cache-control"]) == (200, "no-cache")


def test_nothing_else_is_served(bridge: BridgeServer) -> None:
    version = read_assets().version
    for name in ("routes.py", "__init__.py", "../settings.py", "..%2fsettings.py", "index.html", "", "vendor/", "x.js"):
        assert bridge.get(f"/console/{version}/{name}").status == 404, name


def test_a_changed_file_changes_the_version(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!-- preloads --> console/{version}/main.js")
    (tmp_path / "main.js").write_text("one")
    before = read_assets(tmp_path)
    (tmp_path / "main.js").write_text("two")
    after = read_assets(tmp_path)
    assert before.version != after.version and after.version.encode() in after.page.body


def test_comments_stay_here_and_lines_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("page")
    source = "// Why.\nconst a = '/** // */'; // so\n  /** Two\n   * lines. */\n  b(a);\n/** kept */ c();\n/** out */\n"
    (tmp_path / "main.js").write_text(source)
    sent = read_assets(tmp_path).files["main.js"].body.decode()
    assert sent == "\nconst a = '/** // */'; // so\n\n\n  b(a);\n/** kept */ c();\n\n"


def test_our_own_part_is_small_and_the_rest_is_as_it_was_published() -> None:
    assets = read_assets()
    own = [
        one for name, one in assets.files.items() if name.endswith((".js", ".css")) and not name.startswith("vendor/")
    ]
    assert sum(len(one.packed) for one in own) < OWN_LIMIT_BYTES
    assert hashlib.sha256(assets.files["vendor/marked.js"].body).hexdigest() == MARKED_SHA256
    assert (
        b"MIT" in assets.files["vendor/marked.LICENSE.txt"].body
        or b"Permission is hereby" in assets.files["vendor/marked.LICENSE.txt"].body
    )
