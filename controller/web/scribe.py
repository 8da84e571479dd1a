"""Writes the audit log: what is to be written while something is being written goes into one transaction after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from controller.security.audit import Audit, Entry


class Scribe:
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
