"""The road that is used most, POST /v1/reservations, without what FastAPI does for a request of any kind.

Only a plain and valid request goes this way. Every other goes on to FastAPI as it came and is answered there, with all
its mistakes; what is done and what is answered is the same on both roads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api.routes.reserve import ReserveHandler
from controller.api.schemas.problem_details import problem_response
from controller.api.schemas.requests import ReservationRequest
from controller.api.schemas.serializers import reservation_body
from controller.errors import ControllerError
from controller.security import access
from controller.security.access import Caller
from controller.security.audit import AuditLog
from controller.telemetry.audit_writer import ReservationAudit

PATH = "/v1/reservations"
STATUS = 201
JSON = "application/json"

Redact = Callable[[Caller, ControllerError], ControllerError]
"""The error without what this caller must not see."""


@dataclass(frozen=True, slots=True)
class FastPathRoute:
    """What is counted under the route's name (see Observer)."""

    path: str = PATH


class ReserveFastPath:
    """ASGI middleware, the innermost."""

    def __init__(self, app: ASGIApp, promise: ReserveHandler, audit: AuditLog | None, shown: Redact) -> None:
        """`audit`: if the audit log is kept where reservations are, so that both are written together."""
        self._app = app
        self._audit = audit
        self._promise = promise
        self._shown = shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it here, or hand it on."""
        if scope["type"] != "http" or not _is_eligible(scope):
            await self._app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        wanted = _read(messages)
        if wanted is None:
            await self._app(scope, _replay(messages, receive), send)
        else:
            await (await self._answer(scope, wanted))(scope, receive, send)

    async def _answer(self, scope: Scope, wanted: ReservationRequest) -> Response:
        state = scope["state"]
        scope["route"] = FastPathRoute()
        caller: Caller = state["caller"]
        note = None if self._audit is None else ReservationAudit(self._audit, scope, STATUS)
        try:
            access.require(caller, access.Scope.RESERVE)
            reservation, _ = await self._promise(caller, wanted, None, note)
        except ControllerError as error:
            state["code"] = error.code
            return problem_response(self._shown(caller, error))
        state["reservation"] = reservation.id
        if self._audit is not None and note is not None and note.is_written:
            state["noted"], self._audit.is_failing = STATUS, False
        return Response(reservation_body(reservation).model_dump_json(), STATUS, media_type=JSON)


def _is_eligible(scope: Scope) -> bool:
    """Whether it is a new reservation in JSON that is not to be repeated."""
    if scope["method"] != "POST" or scope["path"] != PATH:
        return False
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    named = dict(headers)
    return named.get(b"content-type") == JSON.encode() and b"idempotency-key" not in named


def _read(messages: list[Message]) -> ReservationRequest | None:
    try:
        return ReservationRequest.model_validate(json.loads(b"".join(each["body"] for each in messages)))
    except (ValueError, RecursionError, KeyError):  # FastAPI says what is wrong
        return None


def _replay(messages: list[Message], receive: Receive) -> Receive:
    pending = iter(messages)

    async def replay() -> Message:
        return next(pending, None) or await receive()

    return replay
