"""At the door: who asks, before a byte of their request is read, and what of an answer is not for their eyes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from controller.api.schemas.problem_details import problem_response
from controller.errors import ControllerError, Forbidden
from controller.security import access
from controller.security.access import Caller, is_management_address
from controller.security.tokens import TokenStore
from topologies.maps import MANAGEMENT_NETWORK

OPEN_PATHS = frozenset({"/v1/healthz", "/docs", "/openapi.json"})
"""For everybody who can connect; so is what the page at /docs needs."""



class AuthenticationMiddleware:
    """ASGI middleware: finds out who asks, or answers 401; without tokens, lets in only those who are near."""

    def __init__(self, app: ASGIApp, tokens: TokenStore, run_in_thread: Callable[..., Any]) -> None:
        self._app = app
        self._tokens = tokens
        self._run_in_thread = run_in_thread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Remember the caller in the request's state."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not scope["path"].startswith("/docs/"):
            try:
                scope.setdefault("state", {})["caller"] = await self._caller(scope)
            except ControllerError as error:
                scope["state"]["code"] = error.code
                await problem_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        if not self._tokens.is_cached:
            await self._run_in_thread(self._tokens.refresh)
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        caller = self._tokens.authenticate(None if shown is None else shown.decode("latin-1"))
        client = (scope.get("client") or ("",))[0]
        if caller is access.ANONYMOUS and client and not is_management_address(client, MANAGEMENT_NETWORK):
            sentence = "Without tokens only this machine and the management network may ask: paceline token add."
            raise Forbidden(sentence, scope=str(access.Scope.READ))
        return caller












