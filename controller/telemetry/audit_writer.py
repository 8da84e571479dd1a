"""Writes the audit log: what is to be written while something is being written goes into one transaction after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Insert
from starlette.types import Scope

from controller.domain.reservation import Reservation
from controller.security.access import Caller
from controller.security.audit import INSERT, Audit, Entry


class AuditWriter:
    """One per application. `beside`: how work is done that would hold up others."""

    def __init__(self, audit: Audit, beside: Callable[..., Any], has_loop: bool) -> None:
        self._audit = audit
        self._beside = beside
        self._has_loop = has_loop
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._work: asyncio.Task[None] | None = None

    async def write(self, entry: Entry) -> None:
        """Add an entry; it is on disk when this returns.

        Raises: whatever the database raises.
        """
        if not self._has_loop:
            await self._beside(self._audit.write, entry)
            return
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, written))
        if self._work is None:
            self._work = asyncio.create_task(self._write_all())
        await asyncio.shield(written)

    async def _write_all(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            error: Exception | None = None
            try:
                await self._beside(self._audit.write, *(entry for entry, _ in together))
            except Exception as failure:  # noqa: BLE001 - everybody who waits is told
                error = failure
            for _, written in together:
                if error is None:
                    written.set_result(None)
                else:
                    written.set_exception(error)
        self._work = None


class Note:
    """The entry of a request that makes a reservation, for the transaction that does."""

    def __init__(self, audit: Audit, scope: Scope, status: int) -> None:
        self.is_written = False
        self._audit = audit
        self._scope = scope
        self._status = status

    def row(self, reservation: Reservation) -> tuple[Insert, dict[str, object]]:
        """The entry, at this moment."""
        self._scope["state"]["reservation"] = reservation.id
        return INSERT, self._audit.row(entry_of(self._scope, self._status))


def entry_of(scope: Scope, status: int) -> Entry:
    """What is kept of a request that is answered so."""
    state = scope["state"]
    caller: Caller | None = state.get("caller")
    return Entry(
        at_s=time.time(),
        tenant=caller.tenant if caller else None,
        token=caller.token if caller else None,
        client=(scope.get("client") or ("",))[0],
        method=scope["method"],
        path=scope["path"],
        status=status,
        code=state.get("code"),
        reservation=state.get("reservation") or scope.get("path_params", {}).get("reservation_id", "")[:16] or None,
        request=state.get("request_text", ""),
    )
