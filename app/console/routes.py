"""``/``, the page, and its files below ``/console/``; auth: none, for there is nothing of anybody in them."""

from __future__ import annotations

from flask import Blueprint, Response, request

from app.console.assets import Asset, read_assets
from app.errors import NotFoundError
from app.web.security import page_csp

FOR_EVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"


def console_blueprint() -> Blueprint:
    blueprint = Blueprint("console", __name__)
    assets = read_assets()

    def answer(asset: Asset, caching: str) -> Response:
        body, headers = asset.sent(packed=request.accept_encodings.quality("gzip") > 0)
        response = Response(body, headers={**headers, "Cache-Control": caching})
        packed = "-gzip" if "Content-Encoding" in headers else ""
        response.set_etag(f"{assets.version}{packed}")
        response.make_conditional(request)
        return response

    @blueprint.get("/")
    @page_csp
    def page() -> Response:
        return answer(assets.page, ASK_AGAIN)

    @blueprint.get("/console/<version>/<path:name>")
    def file(version: str, name: str) -> Response:
        asset = assets.files.get(name)
        if asset is None:
            raise NotFoundError("The page has no such file.")
        # A page of another version, in the middle of a reload or of a roll-out, is not left without its files.
        return answer(asset, FOR_EVER if version == assets.version else ASK_AGAIN)

    return blueprint
