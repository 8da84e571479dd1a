"""HTML pages, and the stream that keeps each up to date."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from trainer.web.live import Fragment, Wakeups, stream
from trainer.web.templating import render

NAVIGATION = (("/", "Network"), ("/spectrum", "Spectrum"), ("/runs", "Training"))


@dataclass(frozen=True, slots=True)
class View:
    """A page: its template gets the fragments by id as `parts`, and `values`. `section`: its place in `NAVIGATION`."""

    template: str
    title: str
    section: str
    fragments: tuple[Fragment, ...]
    values: dict[str, Any] = field(default_factory=dict)


ViewFactory = Callable[[Request], View | None]
"""Makes the view that a request asks for; None: there is none."""


class Pages:
    """Registers pages and their streams."""

    def __init__(self, versions: Callable[[], Mapping[str, int]], wakeups: Wakeups) -> None:
        self.router = APIRouter(include_in_schema=False)
        self._versions = versions
        self._wakeups = wakeups

    def add(self, path: str, make_view: ViewFactory) -> None:
        """Serve a view at `path`, and its stream at `/live` and the path."""

        async def page(request: Request) -> HTMLResponse:
            view = make_view(request)
            if view is None:
                return await self.not_found()
            query = f"?{request.url.query}" if request.url.query else ""
            return HTMLResponse(await page_html(view, f"/live{request.url.path}{query}"))

        async def live(request: Request) -> Response:
            view = make_view(request)
            if view is None:
                return await self.not_found()
            return StreamingResponse(
                self._stream(view), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
            )

        self.router.add_api_route(path, page, methods=["GET"], response_class=HTMLResponse)
        self.router.add_api_route(f"/live{path}", live, methods=["GET"], response_class=StreamingResponse)

    async def _stream(self, view: View) -> AsyncIterator[str]:
        async for part in stream(view.fragments, self._versions, self._wakeups):
            yield part

    async def not_found(self) -> HTMLResponse:
        """The page for addresses that there are not."""
        view = View("not_found.html", "Not found", "", ())
        return HTMLResponse(await page_html(view, None), 404)


async def page_html(view: View, live_path: str | None) -> str:
    """Return the whole page as it is now."""
    parts = {fragment.id: str(await fragment.content()) for fragment in view.fragments}
    return render(
        view.template,
        title=view.title,
        section=view.section,
        navigation=NAVIGATION,
        live_path=live_path,
        parts=parts,
        **view.values,
    )
