"""Assembly of the page's server. It has a process of its own, so that it costs the controller only its readings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from trainer.reservation.controller_client import ApiCredentials
from trainer.web.actions import action_routes, run_action_routes
from trainer.web.controller_feed import ControllerFeed
from trainer.web.live import Wakeups
from trainer.web.network_views import NetworkViews
from trainer.web.origin import OwnOrigin
from trainer.web.pages import Pages
from trainer.web.run_api import run_routes
from trainer.web.run_processes import RunProcesses
from trainer.web.run_store import RunStore
from trainer.web.run_views import RunViews
from trainer.web.templating import render

STATIC = {"page.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml"}


def make_app(controller_url: str, credentials: ApiCredentials, runs: Path, key: str | None) -> FastAPI:
    """Return the application. `key`: what browsers and programs must show; None: nothing.

    Raises: UsageError if the URL is not valid, NetworkError if the certificate file cannot be read.
    """
    wakeups = Wakeups()
    feed = ControllerFeed(controller_url, credentials, wakeups.wake)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        wakeups.bind()
        feed.start()
        yield
        wakeups.close()
        feed.stop()

    app = FastAPI(title="Paceline runs", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(OwnOrigin, key=key)
    pages = Pages(lambda: feed.state.versions, wakeups)
    NetworkViews(feed.state, controller_url, feed.client, feed.ask_for).add_to(pages)
    store, processes = RunStore(runs), RunProcesses(runs, controller_url)
    RunViews(store).add_to(pages)
    app.include_router(run_routes(store, processes))
    app.include_router(run_action_routes(store, processes))
    app.include_router(action_routes(feed.client))
    app.include_router(pages.router)
    _add_static(app)
    _add_errors(app, pages)
    return app


def _add_static(app: FastAPI) -> None:
    for name, media_type in STATIC.items():
        add_file(app, name, media_type)


def add_file(app: FastAPI, name: str, media_type: str) -> None:
    """Serve a file of the page."""
    content = (files("trainer.web") / "static" / name).read_bytes()

    @app.get(f"/static/{name}", include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})


def _add_errors(app: FastAPI, pages: Pages) -> None:
    """Answer errors as problem details (RFC 9457) under /v1, as pages and pieces of pages elsewhere."""

    async def answer(request: Request, status: int, sentence: str) -> Response:
        if request.url.path.startswith("/v1/"):
            title = HTTPStatus(status).phrase
            problem = {"type": "about:blank", "title": title, "status": status, "detail": sentence}
            return JSONResponse(problem, status, media_type="application/problem+json")
        if status == HTTPStatus.NOT_FOUND:
            return await pages.not_found()
        return HTMLResponse(render("refused.html", sentence=sentence, problem={}), status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await answer(request, 422, "; ".join(f"{_place(each)}: {each['msg']}" for each in error.errors()))

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        return await answer(request, error.status_code, str(error.detail))


def _place(mistake: dict[str, Any]) -> str:
    return ".".join(str(part) for part in mistake["loc"] if part != "body") or "body"
