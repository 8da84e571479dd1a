"""A limit on the size of request bodies, counted as they come in, whatever the headers claim, and on their time."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api.schemas.problem_details import problem_response
from controller.errors import RequestError, TooLarge, TooSlow

MAX_BYTES = 1 << 20
MAX_DISCARDED_BYTES = 8 << 20
"""So much of a body that is refused is still taken: who is hung up on in mid-sentence may never read the answer.
Source: RFC 9112 §9.6."""
TIMEOUT_S = 10.0
AUDITED_BYTES = 4096


class BodyLimit:
    """ASGI middleware that answers 413 once a body is larger than LIMIT_BYTES, 408 if it takes longer than LIMIT_S.

    The body's beginning stays in the request's state as `request_text`.
    """

    def __init__(self, app: ASGIApp, limit_s: float = TIMEOUT_S) -> None:
        self._app = app
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body first: it is small, or it is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        try:
            messages = await self._read(receive)
        except RequestError as error:
            state["code"] = error.code
            refusal = problem_response(error)
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, send)
            return
        beginning = b"".join(message.get("body", b"") for message in messages)[:AUDITED_BYTES]
        state["request_text"] = beginning.decode("utf-8", "replace")
        pending = iter(messages)

        async def replay() -> Message:
            return next(pending, None) or await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> list[Message]:
        """All messages of the body.

        Raises: TooLarge, TooSlow.
        """
        messages: list[Message] = []
        size, more, until_s = 0, True, time.monotonic() + self._limit_s
        while more:
            message = await self._within(until_s, receive)
            size += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False) and size <= MAX_DISCARDED_BYTES
            if size <= MAX_BYTES:
                messages.append(message)
            elif not more:
                raise TooLarge(f"The body is larger than {MAX_BYTES} bytes.", limit_bytes=MAX_BYTES)
        return messages

    async def _within(self, until_s: float, receive: Receive) -> Message:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # inside ryu-manager the body is there already, and no loop is
            return await receive()
        try:
            async with asyncio.timeout(until_s - time.monotonic()):
                return await receive()
        except TimeoutError:
            raise TooSlow(f"The body did not come within {self._limit_s:g} s.", limit_s=self._limit_s) from None
