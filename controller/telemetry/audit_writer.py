"""Group commit of audit records: records that arrive during a write go into one transaction after it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Insert
from starlette.types import Scope

from controller.domain.reservation import Reservation
from controller.security.access import Caller
from controller.security.audit import INSERT, AuditLog, AuditRecord, printable

RETRY_S = 0.5
SLOW_S = 0.2
"""After an attempt that took longer, the database is probably locked: requests do not wait for the next ones."""
MAX_UNWRITTEN = 10_000
"""Records kept while the database cannot be written; beyond that the oldest are lost."""


class AuditWriter:
    """Writes to the audit log for one application. `run_in_thread` runs blocking calls.

    Records that cannot be written are kept, and written when the database works again.
    """

    def __init__(self, audit: AuditLog, run_in_thread: Callable[..., Any], has_loop: bool) -> None:
        self._audit = audit
        self._run_in_thread = run_in_thread
        self._has_loop = has_loop
        self._queue: list[tuple[AuditRecord, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._unwritten: deque[AuditRecord] = deque(maxlen=MAX_UNWRITTEN)
        self._last_failure_s = 0.0
        """How long the last attempt took, if it failed."""
        self._wakeup = asyncio.Event()

    async def write(self, record: AuditRecord) -> None:
        """Append a record; it is durable when this returns.

        Raises: any error of the database; the record is then written later.
        """
        if not self._has_loop:
            await self._write([record])
            return
        if self._unwritten and self._last_failure_s > SLOW_S:
            self._unwritten.append(record)
            raise TimeoutError(f"{len(self._unwritten)} records of the audit log wait for the database")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((record, written))
        self._wakeup.set()
        if self._task is None:
            self._task = asyncio.create_task(self._write_queue())
        await asyncio.shield(written)

    async def _write(self, records: list[AuditRecord]) -> None:
        """Write what could not be written before, and these records. Keeps all of them if that fails."""
        waiting, began_s = [*self._unwritten, *records], time.monotonic()
        try:
            await self._run_in_thread(self._audit.write, *waiting)
        except Exception:
            self._unwritten.extend(records)
            self._last_failure_s = time.monotonic() - began_s
            raise
        for written in waiting:
            if self._unwritten and self._unwritten[0] is written:
                self._unwritten.popleft()

    async def _write_queue(self) -> None:
        while self._queue or self._unwritten:
            batch, self._queue = self._queue, []
            error: Exception | None = None
            try:
                await self._write([record for record, _ in batch])
            except Exception as failure:  # noqa: BLE001 - raised to every writer of the batch
                error = failure
            for _, written in batch:
                if error is None:
                    written.set_result(None)
                else:
                    written.set_exception(error)
            if error is not None:
                self._wakeup.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wakeup.wait(), RETRY_S)
        self._task = None


class ReservationAudit:
    """Audit record of a request for a reservation, written in the transaction that stores the reservation."""

    def __init__(self, audit: AuditLog, scope: Scope, status: int) -> None:
        self.is_written = False
        self._audit = audit
        self._scope = scope
        self._status = status

    def row(self, reservation: Reservation) -> tuple[Insert, dict[str, object]]:
        """The record as a row, with the present time."""
        self._scope["state"]["reservation"] = reservation.id
        return INSERT, self._audit.row(record_of(self._scope, self._status))


def record_of(scope: Scope, status: int) -> AuditRecord:
    """The audit record of a request that was answered with this status."""
    state = scope["state"]
    caller: Caller | None = state.get("caller")
    return AuditRecord(
        at_s=time.time(),
        tenant=caller.tenant if caller else None,
        token=caller.token if caller else None,
        client=(scope.get("client") or ("",))[0],
        method=printable(scope["method"], 8),
        path=printable(scope["path"], 256),
        status=status,
        code=state.get("code"),
        reservation=state.get("reservation") or scope.get("path_params", {}).get("reservation_id", "")[:16] or None,
        request=state.get("request_text", ""),
    )
