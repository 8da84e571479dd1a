"""HTTP/1.1 of uvicorn with limits on headers, on what surrounds a body, and on waiting times.

uvicorn's own parser joins a header that never ends for as long as it arrives, and waits for the rest of a request for
ever; both are limited here, before uvicorn sees the bytes.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from controller.api.connections import ClientConnection
from controller.api.limits import RestLimits
from controller.api.schemas.problem_details import PROBLEM_TYPE, problem_of
from controller.errors import ControllerError, HeadersTooLarge, MalformedRequest, TooSlow


class LimitedHttpProtocol(HttpToolsProtocol):
    """One client connection."""

    def __init__(self, *arguments: Any, connection: ClientConnection, limits: RestLimits) -> None:
        super().__init__(*arguments)
        self._connection = connection
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_head, self._in_message = True, False
        self._head_bytes = 0
        self._framing_bytes = 0
        """Bytes of the present body that are not content: chunk sizes, extensions and trailers, less eight times the
        content."""
        self._is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connection.abort = transport.abort
        self._start_timer(self._limits.header_s, self._on_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        self._unset_keepalive_if_required()
        self._connection.closed()
        super().connection_lost(exc)

    # Reading --------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Pass data on as far as the limits allow."""
        while data and not self._is_ending:
            if not self._in_head and not self._in_message:
                self._begin_head()
            if self._in_head:
                room = self._limits.header_bytes + 1 - self._head_bytes
                piece, data = data[:room], data[room:]
                self._head_bytes += len(piece)
            else:
                piece, data = data, b""
                self._framing_bytes += len(piece)
            super().data_received(piece)
            if self._in_head and self._head_bytes > self._limits.header_bytes:
                self._refuse_head()
            elif self._in_message and self._framing_bytes > self._limits.header_bytes:
                self._end()

    def _begin_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._start_timer(self._limits.header_s, self._on_slow_head)

    def on_message_begin(self) -> None:
        if not self._in_head:  # a further request within the same data
            self._begin_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._in_message, self._framing_bytes = False, True, 0
        self._stop_timer()
        if self._is_ending:
            return
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self._limits.header_bytes:
            self._refuse_head()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= 9 * len(body)
        if not self._is_ending:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        if self._is_ending:
            return
        super().on_message_complete()
        if self.cycle.response_complete:
            self._stop_timer()
            self._connection.set_idle()
        else:
            self._connection.set_busy()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_message and not self.transport.is_closing():  # answered before its body has arrived
            self._start_timer(self._limits.linger_s, self._end)
        elif self.cycle.response_complete:  # no further request waits
            self._connection.set_idle()

    def _on_slow_head(self) -> None:
        seconds = self._limits.header_s
        if self._head_bytes and (self.cycle is None or self.cycle.response_complete):
            self._refuse(TooSlow(f"The headers were not received within {seconds:g} s.", limit_s=seconds))
        else:
            self._end()

    # Responses of the connection itself -----------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for bytes that are not HTTP."""
        self._refuse(MalformedRequest(msg))

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore the upgrade without a line of log. Source: RFC 9110 §7.8."""

    def _refuse_head(self) -> None:
        limit = self._limits.header_bytes
        self._refuse(HeadersTooLarge(f"The headers are larger than {limit} bytes.", limit_bytes=limit))

    def _refuse(self, error: ControllerError) -> None:
        """Answer a request that the application does not get, and close the connection."""
        if self._is_ending:
            return
        self._is_ending = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        content = json.dumps(problem_of(error)).encode()
        head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: {PROBLEM_TYPE}\r\n"
        head += f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + content)
        self._start_timer(self._limits.linger_s, self.transport.close)

    def _end(self) -> None:
        self._is_ending = True
        self.transport.abort()

    # Writing --------------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self._write_timer or self.loop.call_later(self._limits.write_s, self._end)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # Timer of the present phase -------------------------------------------------------------------------------------

    def _start_timer(self, seconds: float, action: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
