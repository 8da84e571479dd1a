"""A limit on the size of request bodies, counted as they come in, whatever the headers claim."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.errors import TooLarge

LIMIT_BYTES = 1 << 20


class BodyLimit:
    """ASGI middleware that answers 413 problem details once a body is larger than LIMIT_BYTES."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body first: it is small, or it is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        size = 0
        more = True
        while more:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
            if size > LIMIT_BYTES:
                await self._refuse(scope, receive, send)
                return
        pending = iter(messages)

        async def replay() -> Message:
            return next(pending, None) or await receive()

        await self._app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooLarge(f"The body is larger than {LIMIT_BYTES} bytes.", limit_bytes=LIMIT_BYTES)
        headers = {"connection": "close"}
        answer = JSONResponse(error.problem(), error.status, headers, media_type="application/problem+json")
        await answer(scope, receive, send)
