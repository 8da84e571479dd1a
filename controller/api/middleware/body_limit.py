"""Limits on size and duration of request bodies, counted as bytes arrive, independent of the headers."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api.middleware.authentication import is_open
from controller.api.middleware.concurrency import ConcurrencyLimit, QueueLimits
from controller.api.middleware.lanes import request_lane
from controller.api.schemas.problem_details import problem_response
from controller.errors import Overloaded, RequestError, TooLarge, TooManyRequests, TooSlow

MAX_BYTES = 1 << 20
MAX_DISCARDED_BYTES = 8 << 20
"""How much of a rejected body is still read: a client whose connection is closed while it sends may lose the response.
Source: RFC 9112 §9.6."""
TIMEOUT_S = 10.0
AUDITED_BYTES = 4096


WITH_BODY = frozenset({"POST", "PATCH", "PUT"})
RECEIVING = QueueLimits(running=256, queued=0, per_lane=48, for_operators=32)
"""Requests whose body does not follow the headers within GRACE_S; all others need no place among these."""
GRACE_S = 1.0
SMALL_BYTES = 65_536
"""A larger body needs a place at once."""


class BodyLimit:
    """Answers 413 if a body is larger than MAX_BYTES, 408 if it takes longer than TIMEOUT_S, 429 or 503 if many do.

    The beginning of the body is stored in the request state as `request_text`. Bodies of other methods and of open
    paths are not read.
    """

    def __init__(self, app: ASGIApp, timeout_s: float = TIMEOUT_S) -> None:
        self._app = app
        self._timeout_s = timeout_s
        self._receiving = ConcurrencyLimit("incomplete bodies", RECEIVING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, which is small or rejected, before the application runs."""
        if scope["type"] != "http" or scope["method"] not in WITH_BODY or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        try:
            messages = await self._read(scope, receive)
        except (RequestError, TooManyRequests, Overloaded) as error:
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

    async def _read(self, scope: Scope, receive: Receive) -> list[Message]:
        """Return all messages of the body.

        Raises: TooLarge, TooSlow, TooManyRequests, Overloaded.
        """
        start_s, body = time.monotonic(), _Body()
        with suppress(TimeoutError):
            await body.receive_until(start_s + min(GRACE_S, self._timeout_s), receive, SMALL_BYTES)
        if body.is_complete and body.size <= MAX_BYTES:
            return body.messages
        with self._receiving.admit(request_lane(scope)):
            try:
                await body.receive_until(start_s + self._timeout_s, receive, MAX_DISCARDED_BYTES)
            except TimeoutError:
                sentence = f"The body was not received within {self._timeout_s:g} s."
                raise TooSlow(sentence, limit_s=self._timeout_s) from None
        if body.size > MAX_BYTES:
            raise TooLarge(f"The body is larger than {MAX_BYTES} bytes.", limit_bytes=MAX_BYTES)
        return body.messages


class _Body:
    """What has been received of a body; of one that is too large only the size."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.size = 0
        self.is_complete = False

    async def receive_until(self, deadline_s: float, receive: Receive, enough_bytes: int) -> None:
        """Receive the rest, or until there is more than enough.

        Raises: TimeoutError.
        """
        while not self.is_complete and self.size <= enough_bytes:
            message = await _receive(deadline_s - time.monotonic(), receive)
            self.size += len(message.get("body", b""))
            self.is_complete = message["type"] != "http.request" or not message.get("more_body", False)
            if self.size <= MAX_BYTES:
                self.messages.append(message)


async def _receive(timeout_s: float, receive: Receive) -> Message:
    """The next message.

    Raises: TimeoutError.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # inside ryu-manager: no event loop, and the body is complete
        return await receive()
    async with asyncio.timeout(timeout_s):
        return await receive()
