"""The REST API of a standby: reservations are read from the ledger, other requests go to the active controller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.api.middleware.authentication import AuthenticationMiddleware
from controller.api.schemas.problem_details import problem_response
from controller.api.schemas.serializers import reservation_body
from controller.domain.reservation import Reservation, State
from controller.errors import ControllerError, InvalidRequest, NoActiveController, NotFound
from controller.security.access import Caller, can_see, require
from controller.security.access import Scope as AccessScope
from controller.security.tokens import TokenStore
from controller.storage.ledger import Ledger

Handler = Callable[[Request], Awaitable[Response]]
METHODS = ["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD"]


class ReplaceableApp:
    """An application that another one may replace while it is served."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the present application."""
        await self.app(scope, receive, send)


def standby_app(
    ledger: Ledger, tokens: TokenStore, active_address: Callable[[], str | None], mtu_bytes: int
) -> Starlette:
    """Build the application. `active_address`: URL of the active controller; None or empty: it is not known."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "standby", "active": active_address() or None})

    def listed(caller: Caller, state: str | None) -> list[Reservation]:
        found = [each for each in ledger.live() if can_see(caller, each.tenant) and state in (None, each.state)]
        return sorted(found, key=lambda each: (each.created_at_s, each.id))

    async def reservations(request: Request) -> Response:
        caller: Caller = request.state.caller
        require(caller, AccessScope.READ)
        state = request.query_params.get("state")
        if state is not None and state not in list(State):
            message = f"it is {state[:60]!r}; it must be {', '.join(State)}"
            raise InvalidRequest(f"The request is not valid: query.state: {message}.",
                                 mistakes=[{"place": "query.state", "message": message}])
        found = await run_in_threadpool(listed, caller, state)
        return _json({"reservations": [_body(each, mtu_bytes) for each in found]})

    async def reservation(request: Request) -> Response:
        caller: Caller = request.state.caller
        require(caller, AccessScope.READ)
        name = request.path_params["reservation"]
        found = await run_in_threadpool(ledger.find, name)
        if found is None or not can_see(caller, found.tenant):
            raise NotFound(f"There is no reservation {name}.")
        return _json(_body(found, mtu_bytes))

    async def elsewhere(request: Request) -> Response:
        address = active_address()
        if not address:
            sentence = "This controller is a standby, and no active one is known now; try again later."
            raise NoActiveController(sentence, retry_after_s=1)
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{address}{request.url.path}{query}", status_code=307)

    return Starlette(
        routes=[
            Route("/v1/healthz", health),
            Route("/v1/reservations", reservations),
            Route("/v1/reservations/{reservation}", reservation),
            Route("/v1/reservations", elsewhere, methods=["POST"]),
            Route("/v1/reservations/{reservation}", elsewhere, methods=["PATCH", "DELETE"]),
            Route("/{path:path}", elsewhere, methods=METHODS),
        ],
        middleware=[Middleware(AuthenticationMiddleware, tokens=tokens, run_in_thread=run_in_threadpool)],
        exception_handlers={ControllerError: _problem},
    )


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ControllerError)
    return problem_response(error)


def _body(reservation: Reservation, mtu_bytes: int) -> dict[str, Any]:
    return reservation_body(reservation, mtu_bytes).model_dump(mode="json")


def _json(content: dict[str, Any]) -> Response:
    return JSONResponse(content, headers={"Paceline-Standby": "true"})
