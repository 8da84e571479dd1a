"""Request body -> reservation by the service, within the limits and the quota of the tenant."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext

from controller.api.middleware.concurrency import RequestExecutor, lane_of
from controller.api.routes.dependencies import QuotaTracker
from controller.api.schemas.requests import ReservationRequest
from controller.domain.reservation import Reservation
from controller.security.access import Caller
from controller.service.requests import AttachedRow
from controller.service.reservation_service import Service
from controller.storage.ledger import IdempotencyKey

ReserveHandler = Callable[
    [Caller, ReservationRequest, IdempotencyKey | None, AttachedRow | None], Awaitable[tuple[Reservation, bool]]
]
"""Reserves, writing the attached row in the same transaction; True with a replayed answer. Raises: ControllerError."""


def reserve_handler(service: Service, executor: RequestExecutor, quotas: QuotaTracker) -> ReserveHandler:
    """Return the handler that both routes to POST /v1/reservations share."""

    async def reserve(
        caller: Caller, body: ReservationRequest, key: IdempotencyKey | None, row: AttachedRow | None
    ) -> tuple[Reservation, bool]:
        spec = body.to_spec(caller.tenant, time.time())

        def charge() -> AbstractContextManager[None]:
            return quotas.charge(caller, spec.flows)

        guard = nullcontext if caller.token is None else charge  # without tokens there are no quotas
        return await executor.submit(lane_of(caller), service.reserve, spec, key, guard, row)

    return reserve
