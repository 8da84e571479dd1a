"""Limits on size and duration of request bodies, counted as bytes arrive, independent of the headers."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api.schemas.problem_details import problem_response
from controller.errors import RequestError, TooLarge, TooSlow

MAX_BYTES = 1 << 20
MAX_DISCARDED_BYTES = 8 << 20
"""How much of a rejected body is still read: a client whose connection is closed while it sends may lose the response.
Source: RFC 9112 §9.6."""
TIMEOUT_S = 10.0
AUDITED_BYTES = 4096


class BodyLimit:
    """Answers 413 if a body is larger than MAX_BYTES, 408 if it takes longer than TIMEOUT_S.

    The beginning of the body is stored in the request state as `request_text`.
    """

    def __init__(self, app: ASGIApp, timeout_s: float = TIMEOUT_S) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, which is small or rejected, before the application runs."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        try:
            messages = await self._read(receive)
        except RequestError as error:
            state["code"] = error.code
            response = problem_response(error)
            response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        beginning = b"".join(message.get("body", b"") for message in messages)[:AUDITED_BYTES]
        state["request_text"] = beginning.decode("utf-8", "replace")
        pending = iter(messages)

        async def replay() -> Message:
            return next(pending, None) or await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> list[Message]:
        """Return all messages of the body.

        Raises: TooLarge, TooSlow.
        """
        messages: list[Message] = []
        size, more, deadline_s = 0, True, time.monotonic() + self._timeout_s
        while more:
            message = await self._receive(deadline_s, receive)
            size += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False) and size <= MAX_DISCARDED_BYTES
            if size <= MAX_BYTES:
                messages.append(message)
            elif not more:
                raise TooLarge(f"The body is larger than {MAX_BYTES} bytes.", limit_bytes=MAX_BYTES)
        return messages

    async def _receive(self, deadline_s: float, receive: Receive) -> Message:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # inside ryu-manager: no event loop, and the body is complete
            return await receive()
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                return await receive()
        except TimeoutError:
            raise TooSlow(f"The body was not received within {self._timeout_s:g} s.", limit_s=self._timeout_s) from None
