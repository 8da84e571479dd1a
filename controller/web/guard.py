"""At the door: who asks, before a byte of their request is read, and what of an answer is not for their eyes."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.errors import ControllerError, Forbidden, NotFound
from controller.inquiries import Inquiries
from controller.reservation import Flow, Reservation
from controller.security import access
from controller.security.access import Caller, check_quota, is_near, sees, wanted_by
from controller.security.tokens import Tokens
from controller.tally import Held
from controller.web.problems import answer
from topologies.maps import MANAGEMENT_NETWORK

OPEN_PATHS = frozenset({"/v1/healthz", "/docs", "/openapi.json"})
"""For everybody who can connect; so is what the page at /docs needs."""

_shown_in_openapi = HTTPBearer(
    auto_error=False, description="A token of `paceline token add`. Not needed as long as there is none."
)


class Guard:
    """ASGI middleware: finds out who asks, or answers 401; without tokens, lets in only those who are near."""

    def __init__(self, app: ASGIApp, tokens: Tokens, beside: Callable[..., Any]) -> None:
        self._app = app
        self._tokens = tokens
        self._beside = beside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Remember the caller in the request's state."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not scope["path"].startswith("/docs/"):
            try:
                scope.setdefault("state", {})["caller"] = await self._caller(scope)
            except ControllerError as error:
                scope["state"]["code"] = error.code
                await answer(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        if not self._tokens.is_fresh:
            await self._beside(self._tokens.refresh)
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        caller = self._tokens.caller_of(None if shown is None else shown.decode("latin-1"))
        client = (scope.get("client") or ("",))[0]
        if caller is access.ANYBODY and client and not is_near(client, MANAGEMENT_NETWORK):
            sentence = "Without tokens only this machine and the management network may ask: paceline token add."
            raise Forbidden(sentence, scope=str(access.Scope.READ))
        return caller


def caller_with(scope: access.Scope) -> Any:
    """A dependency: the caller, who must have this scope.

    Raises: Forbidden.
    """

    async def check(request: Request, _token: Annotated[Any, Depends(_shown_in_openapi)]) -> Caller:
        caller: Caller = request.state.caller
        access.require(caller, scope)
        return caller

    return Depends(check)


Reader = Annotated[Caller, caller_with(access.Scope.READ)]
Reserver = Annotated[Caller, caller_with(access.Scope.RESERVE)]
Operator = Annotated[Caller, caller_with(access.Scope.OPERATE)]


class Quotas:
    """Counts what is being asked for together with what is held, so that two requests at once cannot share a quota."""

    def __init__(self, service: Inquiries) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._pending: dict[str, Held] = defaultdict(Held)

    @contextmanager
    def counted(self, caller: Caller, asked: Sequence[Flow], instead_of: str | None = None) -> Iterator[None]:
        """Count these flows as the tenant's for as long as this lasts. `instead_of`: a reservation they replace.

        Raises: QuotaExceeded.
        """
        tenant, wanted = caller.tenant, wanted_by(asked)
        with self._lock:
            check_quota(caller, self._service.held_by(tenant, instead_of) + self._pending[tenant], wanted)
            self._pending[tenant] += wanted
        try:
            yield
        finally:
            with self._lock:
                self._pending[tenant] -= wanted
                if not self._pending[tenant].reservations:
                    del self._pending[tenant]


def shown(service: Inquiries, caller: Caller | None, error: ControllerError) -> ControllerError:
    """The error without the name of a reservation that is another tenant's."""
    name = error.facts.get("reservation")
    if not isinstance(name, str) or caller is None or _may_see(service, caller, name):
        return error
    facts = {fact: value for fact, value in error.facts.items() if fact != "reservation"}
    return type(error)(error.detail.replace(name, "another tenant's"), **facts)


def _may_see(service: Inquiries, caller: Caller, name: str) -> bool:
    try:
        found: Reservation = service.reservation(name)
    except NotFound:
        return False  # the request's own, which came to nothing
    return sees(caller, found.tenant)


