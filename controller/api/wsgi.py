"""The ASGI application as a WSGI application, for ryu-manager (why: `controller.runtime.ryu_hosted`).

Each request has a greenlet of its own and no event loop. Handlers await nothing but `run_in_thread`, so with
`call_directly` in its place their coroutines run to completion in one step.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message

from controller.api.middleware.authentication import is_open
from controller.api.middleware.body_limit import MAX_BYTES, MAX_DISCARDED_BYTES, WITH_BODY

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]


async def call_directly(function: Callable[..., Result], *args: Any) -> Result:
    """`run_in_thread` for greenlets: the call blocks this greenlet only."""
    return function(*args)


def wsgi_of(app: ASGIApp) -> WsgiApp:
    """Return the WSGI form of an ASGI application."""

    def wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = {"type": "http.request", "body": _body(environ) if _takes_body(environ) else b"", "more_body": False}
        sent: list[Message] = []

        async def receive() -> Message:
            return request

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            _run_to_completion(app(_scope(environ), receive, send))
        except Exception:  # a response with status 500 was sent before it was raised
            log.exception("request path=%s", environ.get("PATH_INFO"))
        start, *rest = sent
        status = HTTPStatus(start["status"])
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        start_response(f"{status.value} {status.phrase}", headers)
        return [message.get("body", b"") for message in rest]

    return wsgi


def _run_to_completion(coroutine: Awaitable[None]) -> None:
    """Run a coroutine that never suspends.

    Raises: RuntimeError if it does.
    """
    assert isinstance(coroutine, Coroutine)
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("a handler needs an event loop inside ryu-manager")


def _takes_body(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] in WITH_BODY and not is_open(environ.get("PATH_INFO", "/"))


def _body(environ: Environ) -> bytes:
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        length = MAX_BYTES + 1
    body: bytes = environ["wsgi.input"].read(min(length, MAX_BYTES + 1))
    if MAX_BYTES < length <= MAX_DISCARDED_BYTES:
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
