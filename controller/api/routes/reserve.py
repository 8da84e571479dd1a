"""What a request for a reservation becomes: asked of the service within the tenant's limits."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from controller.api.middleware.concurrency import RequestExecutor
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
"""Reserve, and write a note with it; True with it if it is an earlier answer. Raises: ControllerError."""


def reserve_handler(service: Service, executor: RequestExecutor, quotas: QuotaTracker) -> ReserveHandler:
    """The way to have something reserved for a caller."""

    async def promise(
        caller: Caller, wanted: ReservationRequest, repeat: IdempotencyKey | None, note: AttachedRow | None
    ) -> tuple[Reservation, bool]:
        asked = wanted.to_spec(caller.tenant, time.time())

        def within() -> AbstractContextManager[None]:
            return quotas.charge(caller, asked.flows)

        return await executor.submit(caller.tenant, service.reserve_soon, asked, repeat, within, note)

    return promise
