"""Authentication of a request before its body is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from controller.api.middleware.origin import require_own_origin
from controller.api.schemas.problem_details import problem_response
from controller.errors import ControllerError, Forbidden
from controller.security import access
from controller.security.access import Caller, is_management_address
from controller.security.tokens import TokenStore
from topologies.maps import MANAGEMENT_NETWORK

CAMARA_DOCUMENTS = frozenset({
    "/quality-on-demand/v1/openapi.json", "/qos-booking/v0.1/openapi.json", "/qos-profiles/v1/openapi.json"
})  # fmt: skip
OPEN_PATHS = frozenset({"/", "/v1/healthz", "/docs", "/openapi.json"}) | CAMARA_DOCUMENTS
"""Public paths; the files under /docs/ are public too."""


def is_open(path: str) -> bool:
    """Whether a path needs no token."""
    return path in OPEN_PATHS or path.startswith("/docs/")


class AuthenticationMiddleware:
    """Finds the caller of a request, or answers 401. Without tokens only management addresses have access."""

    def __init__(self, app: ASGIApp, tokens: TokenStore, run_in_thread: Callable[..., Any]) -> None:
        self._app = app
        self._tokens = tokens
        self._run_in_thread = run_in_thread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Store the caller in the request state."""
        if scope["type"] == "http" and not is_open(scope["path"]):
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
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        caller = self._tokens.authenticate(None if authorization is None else authorization.decode("latin-1"))
        client = (scope.get("client") or ("",))[0]
        if caller is access.ANONYMOUS and client and not is_management_address(client, MANAGEMENT_NETWORK):
            sentence = "Without tokens only this machine and the management network have access: paceline token add."
            raise Forbidden(sentence, scope=str(access.Scope.READ))
        if caller is access.ANONYMOUS:
            require_own_origin(scope["headers"])
        return Caller(caller.tenant, caller.scopes, caller.quota, caller.token, client)
