"""What the routes of CAMARA share."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Path

from controller.api.camara.bodies import QosRequest
from controller.api.camara.errors import ErrorInfo
from controller.api.camara.mapping import Offer, requested_json
from controller.api.middleware.concurrency import RequestExecutor, lane_of
from controller.api.routes.dependencies import QuotaTracker
from controller.api.schemas.patterns import UUID
from controller.domain.reservation import Reservation
from controller.errors import NotFound
from controller.security.access import Caller, can_see
from controller.service.qos_sessions import Kind, QosSession, QosSessions
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service

ResourceId = Annotated[str, Path(pattern=UUID, examples=["3fa85f64-5717-4562-b3fc-2c963f66afa6"])]

_MEANINGS = {
    400: "The request is not valid",
    401: "No token, or an invalid one",
    403: "The token lacks a scope",
    404: "Not found",
    409: "In conflict with what there is",
    413: "The body is too large",
    422: "Understood, but not possible here",
    429: "A quota is exceeded, or too many requests are in flight",
    500: "Internal error of the controller",
    503: "Overloaded, or a switch or the ledger is not available",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for its document; those that every route can have are added."""
    listed = sorted({*statuses, 401, 403, 429, 500, 503})
    return {status: {"model": ErrorInfo, "description": _MEANINGS[status]} for status in listed}


@dataclass(frozen=True, slots=True)
class Camara:
    """The service and its sessions, the offer, and what limits requests."""

    service: Service
    sessions: QosSessions
    offer: Offer
    executor: RequestExecutor
    quotas: QuotaTracker
    clock: Callable[[], float]

    async def reserve(self, caller: Caller, spec: ReservationSpec) -> Reservation:
        """Reserve the flows of a session or booking.

        Raises: what the service raises.
        """

        def charge() -> AbstractContextManager[None]:
            return self.quotas.charge(caller, spec.flows)

        reservation, _ = await self.executor.submit(lane_of(caller), self.service.reserve, spec, None, charge, None)
        return reservation

    async def record(self, caller: Caller, kind: Kind, reservation: Reservation | None, request: QosRequest,
                     sink: tuple[str | None, str | None, float | None]) -> QosSession:
        """Record a session or booking; `reservation` None: a booking that was declined.

        Raises: LedgerUnavailable.
        """
        session = QosSession(
            id=str(uuid.uuid4()),
            kind=kind,
            tenant=caller.tenant,
            reservation_id=None if reservation is None else reservation.id,
            request=requested_json(request),
            created_at_s=self.clock(),
            duration_s=request.duration,
        )
        url, token, token_expires_s = sink
        session = replace(session, sink=url, sink_token=token, sink_token_expires_s=token_expires_s)
        return await self.executor.change(lane_of(caller), self.sessions.add, session)

    def visible(self, caller: Caller, session_id: str, kind: Kind) -> QosSession:
        """A session or booking that the caller may see.

        Raises: NotFound, LedgerUnavailable.
        """
        found = self.sessions.find(session_id, kind)
        if not can_see(caller, found.tenant):
            raise NotFound(f"There is no {kind} {session_id}.")
        return found
