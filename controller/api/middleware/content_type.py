"""Request bodies are JSON, whatever Content-Type they come with; only web pages of another origin must declare it."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from controller.api.middleware.body_limit import WITH_BODY
from controller.api.middleware.origin import is_cross_origin
from controller.api.schemas.problem_details import problem_response
from controller.errors import UnsupportedMediaType

JSON = b"application/json"


class JsonContentType:
    """Sets the Content-Type of a request with a body to JSON, since `curl -d` announces a form.

    A browser lets any web page send a form or plain text to any address, and asks the server first only for other
    types. So a request from a page of another origin (`Origin`, `Sec-Fetch-Site`) must say application/json.
    Source: Fetch Standard, "CORS-safelisted request-header" and "CORS-preflight request".
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrite the header, or answer 415."""
        if scope["type"] == "http" and scope["method"] in WITH_BODY:
            headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
            named = dict(headers)
            if not _is_json(named.get(b"content-type", b"")):
                if is_cross_origin(headers):
                    error = UnsupportedMediaType(
                        "A web page of another origin must send Content-Type: application/json."
                    )
                    scope.setdefault("state", {})["code"] = error.code
                    await problem_response(error)(scope, receive, send)
                    return
                rest = [(name, value) for name, value in headers if name != b"content-type"]
                scope["headers"] = [*rest, (b"content-type", JSON)]  # in place: the router tells its route in `scope`
        await self._app(scope, receive, send)


def _is_json(content_type: bytes) -> bool:
    kind = content_type.split(b";", 1)[0].strip().lower()
    return kind == JSON or (kind.startswith(b"application/") and kind.endswith(b"+json"))
