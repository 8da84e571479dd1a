"""Which requests the page's server answers: those of its own pages, and of programs that are no browser.

A browser lets any page send requests to any address, and a page can name this address as its own (DNS rebinding).
Source: Fetch Standard (`Origin`, `Sec-Fetch-Site`), RFC 9110 §7.2 (`Host`), CSP Level 3.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "paceline-key"
SAFE = frozenset({"GET", "HEAD"})

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def refusal(method: str, headers: Headers) -> str | None:
    """Why a request is refused, as a sentence; None: it is not."""
    host = headers.get("host", "")
    if not is_known_host(host):
        return f"Host must be an address, localhost or {socket.gethostname()}, not {host[:256]!r}."
    if method in SAFE:
        return None
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "same-origin") != "same-origin" or (
        origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    ):
        return "Pages of other origins cannot act here."
    if headers.get("content-type", "application/json").partition(";")[0].strip() != "application/json":
        return "The body must be JSON, with Content-Type: application/json."
    return None


def is_known_host(host: str) -> bool:
    """Whether `Host` names this machine by an address, as localhost or by its own name."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() in ("localhost", socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class OwnOrigin:
    """Refuses requests of other origins, and without the access key if there is one; adds security headers.

    The key comes once, as `?key=`, and is then kept in a cookie that scripts cannot read and other sites cannot send;
    programs may send it as bearer token.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        answer = self._answer(Request(scope))
        await (answer or self._app)(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        reason = refusal(request.method, request.headers)
        if reason is not None:
            return PlainTextResponse(f"{reason}\n", 403)
        if self._key is None or self._is_key(request.cookies.get(COOKIE)):
            return None
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_key(bearer):
            return None
        if request.method == "GET" and self._is_key(request.query_params.get("key")):
            response = RedirectResponse(request.url.path, 303)
            response.set_cookie(COOKIE, self._key, httponly=True, samesite="strict")
            return response
        return PlainTextResponse("Open the address that `paceline web` printed when it started: it has the key.\n", 403)

    def _is_key(self, offered: str | None) -> bool:
        return offered is not None and hmac.compare_digest(offered.encode(), (self._key or "").encode())
