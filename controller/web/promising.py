"""What a request for a reservation becomes: asked of the service within the tenant's limits."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from controller.asked import RepeatKey
from controller.newcomer import Note
from controller.reservation import Reservation
from controller.security.access import Caller
from controller.service import Service
from controller.web.guard import Quotas
from controller.web.load import Desk
from controller.web.requests import ReservationRequest

Promise = Callable[[Caller, ReservationRequest, RepeatKey | None, Note | None], Awaitable[tuple[Reservation, bool]]]
"""Reserve, and write a note with it; True with it if it is an earlier answer. Raises: ControllerError."""


def promising(service: Service, desk: Desk, quotas: Quotas) -> Promise:
    """The way to have something reserved for a caller."""

    async def promise(
        caller: Caller, wanted: ReservationRequest, repeat: RepeatKey | None, note: Note | None
    ) -> tuple[Reservation, bool]:
        asked = wanted.to_asked(caller.tenant, time.time())

        def within() -> AbstractContextManager[None]:
            return quotas.counted(caller, asked.flows)

        return await desk.promise(caller.tenant, service.reserve_soon, asked, repeat, within, note)

    return promise
