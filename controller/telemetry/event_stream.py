"""Server-sent events: what happens, to whoever listens, and what they missed while they were away.

Source: WHATWG HTML, "Server-sent events". All listeners read from one bounded buffer, so a slow one costs nothing and
holds up nobody: it falls behind, and is told so when what it has not read is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from controller.domain.events import (
    LinkChanged,
    Reconciled,
    ReservationChanged,
    ServiceEvent,
    SpanChanged,
    SwitchChanged,
    SwitchImpostor,
)
from controller.domain.reservation import State

KEPT = 1000
HEARTBEAT_S = 15.0

Visible = Callable[[str], bool]
"""Whether a tenant's affairs may be seen."""


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """One event; `tenant` None: for everybody."""

    number: int
    kind: str
    data: str
    tenant: str | None


class EventStream:
    """The events since this process began, the last KEPT of them. Thread-safe."""

    def __init__(self) -> None:
        self._era = f"{time.time_ns() // 1_000_000:x}"
        self._lock = threading.Lock()
        self._kept: deque[StreamedEvent] = deque(maxlen=KEPT)
        self._number = 0
        self._degraded: set[str] = set()
        self._wakers: set[Callable[[], None]] = set()
        self._closed = False

    def hear(self, event: ServiceEvent) -> None:
        """Pass on what the service tells."""
        if isinstance(event, ReservationChanged):
            self._hear_reservation(event)
        elif isinstance(event, LinkChanged):
            self.publish("link", {"link": event.link, "up": event.up})
        elif isinstance(event, SpanChanged):
            where = {"span": event.span, "length_km": event.length_km, "duct": event.duct}
            self.publish("alarm", {**where, "state": event.state, "text": event.text})
        elif isinstance(event, SwitchChanged):
            self.publish("switch", {"switch": event.switch, "state": event.standing})
        elif isinstance(event, SwitchImpostor):
            shown = {"certificate": list(event.names), "address": event.address}
            self.publish("impostor", {"switch": event.switch, **shown})
        elif isinstance(event, Reconciled):
            found = {"missing": event.missing, "wrong": event.wrong, "foreign": event.foreign}
            self.publish("reconcile", {"switch": event.switch, **found})

    def _hear_reservation(self, event: ReservationChanged) -> None:
        reservation = event.reservation
        head = {"id": reservation.id, "version": reservation.version, "tenant": reservation.tenant}
        told = {**head, "state": str(reservation.state), "reason": reservation.reason}
        self.publish("reservation", told, reservation.tenant)
        if reservation.state is not State.DEGRADED:
            self._degraded.discard(reservation.id)
        elif reservation.id not in self._degraded:
            self._degraded.add(reservation.id)
            self.publish("violation", {**head, "cause": "degraded", "reason": reservation.reason}, reservation.tenant)

    def publish(self, kind: str, data: dict[str, object], tenant: str | None = None) -> None:
        """Tell everybody who may see the tenant's affairs. Never waits."""
        with self._lock:
            self._number += 1
            self._kept.append(StreamedEvent(self._number, kind, json.dumps(data), tenant))
            wakers = tuple(self._wakers)
        for wake in wakers:
            wake()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for wake in tuple(self._wakers):
            wake()

    async def follow(self, last_event_id: str | None, visible: Visible) -> AsyncIterator[str]:
        """The events after that id (None: from now on), as text to send; a comment now and then keeps the line open."""
        loop, rung = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(rung.set)

        self._wakers.add(wake)
        try:
            position, missed = self._position(last_event_id)
            yield "retry: 2000\n: Paceline\n\n"
            while not self._closed:
                rung.clear()
                news, oldest = self._after(position)
                if missed or oldest > position + 1:
                    yield 'event: missed\ndata: {"reason": "Events are gone; read the present state."}\n\n'
                    missed = False
                for each in news:
                    position = each.number
                    if each.tenant is None or visible(each.tenant):
                        yield f"id: {self._era}-{each.number}\nevent: {each.kind}\ndata: {each.data}\n\n"
                if not news:
                    yield await _wait(rung)
        finally:
            self._wakers.discard(wake)

    def _position(self, last_event_id: str | None) -> tuple[int, bool]:
        """The number after which to go on, and whether something was missed."""
        if not last_event_id:
            return self._number, False
        era, _, number = last_event_id.rpartition("-")
        if era != self._era or not number.isascii() or not number.isdigit() or int(number[:18]) > self._number:
            return 0, True
        return int(number[:18]), False

    def _after(self, position: int) -> tuple[list[StreamedEvent], int]:
        """What is kept after a position, and the number of the oldest that is kept (or comes next)."""
        with self._lock:
            oldest = self._kept[0].number if self._kept else self._number + 1
            if position >= self._number:
                return [], oldest if position < oldest - 1 else position + 1
            return [each for each in self._kept if each.number > position], oldest


async def _wait(rung: asyncio.Event) -> str:
    try:
        await asyncio.wait_for(rung.wait(), HEARTBEAT_S)
    except TimeoutError:
        return ": still here\n\n"
    return ""
