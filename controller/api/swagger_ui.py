"""The pages for people: / says where things are, /docs is Swagger UI with local files.

A test network often cannot reach the CDN that FastAPI's page uses.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
"""Files of the page, taken from the package fastapi-offline, and their media types."""


START_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Paceline controller</title><link rel="icon" href="/docs/favicon.png"></head>
<body><main><h1>Paceline controller</h1>
<p>This is the REST API of a network. For a page with its map, live, run on this machine: <code>paceline web</code></p>
<ul><li><a href="/docs">Documentation of the REST API, to try</a></li>
<li><a href="/openapi.json">The same for programs</a> (OpenAPI)</li>
<li><a href="/v1/healthz">Is everything in order?</a></li></ul></main></body></html>
"""


def add_swagger_ui(app: FastAPI) -> None:
    """Add the pages and their files to an application created with `docs_url=None`."""

    @app.get("/", include_in_schema=False)
    async def start() -> HTMLResponse:
        return HTMLResponse(START_PAGE)

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=app.openapi_url or "",
            title=app.title,
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="/docs/favicon.png",
        )

    for name, media_type in ASSETS.items():
        _add_asset(app, name, media_type)


def _add_asset(app: FastAPI, name: str, media_type: str) -> None:
    content = (files("fastapi_offline") / "static" / name).read_bytes()

    @app.get(f"/docs/{name}", include_in_schema=False)
    async def asset() -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "max-age=3600"})
