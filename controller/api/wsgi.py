"""The same application where every request has a greenlet of its own: ASGI driven by hand, offered as WSGI.

ryu-manager turns threads into greenlets, and an asyncio loop would hold up Ryu's hub. Our handlers wait for nothing but
what `beside` gives them, so their coroutines run to the end in one go once `beside` is a plain call.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message

from controller.api.middleware.body_limit import DISCARDED_BYTES, LIMIT_BYTES

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]


async def plain_call(work: Callable[..., Result], *args: Any) -> Result:
    """`beside` for greenlets: the call blocks this greenlet only."""
    return work(*args)


def wsgi_of(app: ASGIApp) -> WsgiApp:
    """The application as WSGI."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        received = {"type": "http.request", "body": _body(environ), "more_body": False}
        sent: list[Message] = []

        async def receive() -> Message:
            return received

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            _drive(app(_scope(environ), receive, send))
        except Exception:  # what was sent before it is the answer
            log.exception("request path=%s", environ.get("PATH_INFO"))
        start, *rest = sent
        status = HTTPStatus(start["status"])
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        start_response(f"{status.value} {status.phrase}", headers)
        return [message.get("body", b"") for message in rest]

    return answer


def _drive(work: Awaitable[None]) -> None:
    """Run a coroutine that never has to wait.

    Raises: RuntimeError if it does.
    """
    assert isinstance(work, Coroutine)
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("a handler waits for an event loop, and here is none")


def _body(environ: Environ) -> bytes:
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        length = LIMIT_BYTES + 1
    body: bytes = environ["wsgi.input"].read(min(length, LIMIT_BYTES + 1))
    if LIMIT_BYTES < length <= DISCARDED_BYTES:
        environ["wsgi.input"].read(length - len(body))
    return body


def _scope(environ: Environ) -> dict[str, Any]:
    headers = [(name[5:].replace("_", "-").lower(), value) for name, value in environ.items() if name[:5] == "HTTP_"]
    if environ.get("CONTENT_TYPE"):
        headers.append(("content-type", environ["CONTENT_TYPE"]))
    path = environ.get("PATH_INFO", "/").encode("latin-1")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": environ["REQUEST_METHOD"],
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "path": path.decode("utf-8", "replace"),
        "raw_path": path,
        "root_path": "",
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": (environ.get("REMOTE_ADDR", ""), 0),
        "server": (environ.get("SERVER_NAME", ""), int(environ.get("SERVER_PORT", 0))),
    }
