"""Server-sent events with replay from a bounded buffer.

Source: WHATWG HTML, "Server-sent events". All subscribers read from one buffer, so a slow subscriber delays no other:
it falls behind and receives a `missed` event when events it has not read were dropped.
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
from datetime import UTC, datetime

from controller.domain.events import (
    BoundsChanged,
    ClockStepped,
    LedgerChanged,
    LightpathMoved,
    LinkChanged,
    ReservationChanged,
    ServiceEvent,
    SpanChanged,
    SwitchCertificateMismatch,
    SwitchChanged,
    SwitchDuplicate,
    SwitchReconciled,
)
from controller.domain.path import nodes_of
from controller.domain.reservation import Placement, State

BUFFERED_EVENTS = 1000
HEARTBEAT_S = 15.0

CanSee = Callable[[str], bool]
"""Whether a subscriber may see events of this tenant."""


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """One event; `tenant` None: visible to every subscriber."""

    number: int
    kind: str
    data: str
    tenant: str | None


class EventStream:
    """The last BUFFERED_EVENTS events since this process started. Thread-safe.

    An event id is `EPOCH-NUMBER`; the epoch is the start time of the process, so ids of an earlier run are recognized.
    """

    def __init__(self) -> None:
        self._epoch = f"{time.time_ns() // 1_000_000:x}"
        self._lock = threading.Lock()
        self._buffer: deque[StreamedEvent] = deque(maxlen=BUFFERED_EVENTS)
        self._number = 0
        self._degraded: set[str] = set()
        self._wakers: set[Callable[[], None]] = set()
        self._closed = False
        self.redact: Callable[[str, str | None], str | None] = lambda _tenant, reason: reason
        """What a tenant may see of a reason."""

    def on_event(self, event: ServiceEvent) -> None:
        """Publish an event of the service."""
        if isinstance(event, ReservationChanged):
            self._on_reservation_changed(event)
        elif isinstance(event, BoundsChanged):
            self._on_bounds_changed(event)
        elif isinstance(event, LinkChanged):
            self.publish("link", {"link": event.link, "up": event.up})
        elif isinstance(event, SpanChanged):
            span = {"span": event.span, "length_km": event.length_km, "duct": event.duct}
            self.publish("alarm", {**span, "state": event.state, "text": event.text})
        elif isinstance(event, SwitchChanged):
            self.publish("switch", {"switch": event.switch, "state": event.sync_state})
        elif isinstance(event, SwitchCertificateMismatch | SwitchDuplicate):
            peer = {"certificate": list(event.names), "address": event.address}
            reason = "certificate" if isinstance(event, SwitchCertificateMismatch) else "already_connected"
            self.publish("impostor", {"switch": event.switch, **peer, "reason": reason})
        elif isinstance(event, SwitchReconciled):
            counts = {"missing": event.missing, "wrong": event.wrong, "foreign": event.foreign}
            self.publish("reconcile", {"switch": event.switch, **counts})

        elif isinstance(event, LedgerChanged):
            self.publish("ledger", {"writable": event.is_writable, "unrecorded": event.unrecorded})

        elif isinstance(event, ClockStepped):
            at = datetime.fromtimestamp(event.at_s, UTC).isoformat().replace("+00:00", "Z")
            self.publish("clock", {"step_s": round(event.by_s, 3), "at": at})
        elif isinstance(event, LightpathMoved):
            ends = {"from_lightpath": event.before.id, "to_lightpath": event.after.id}
            channels = {"from_channel": event.before.first_slot, "to_channel": event.after.first_slot}
            nodes = list(nodes_of(event.after.nodes))
            self.publish("lightpath", {"nodes": nodes, **ends, **channels, "cause": event.cause})

    def _on_reservation_changed(self, event: ReservationChanged) -> None:
        reservation = event.reservation
        head = {"id": reservation.id, "version": reservation.version, "tenant": reservation.tenant}
        reason = self.redact(reservation.tenant, reservation.reason)
        state = {"state": str(reservation.state), "reason": reason}
        self.publish("reservation", {**head, **state}, reservation.tenant)
        if reservation.state is not State.DEGRADED:
            self._degraded.discard(reservation.id)
        elif reservation.id not in self._degraded:
            self._degraded.add(reservation.id)
            self.publish("violation", {**head, "cause": "degraded", "reason": reason}, reservation.tenant)

    def _on_bounds_changed(self, event: BoundsChanged) -> None:
        reservation = event.reservation
        head = {"id": reservation.id, "version": reservation.version, "tenant": reservation.tenant}
        flows = [{"name": change.after.flow.name, "before": _bounds(change.before), "after": _bounds(change.after)}
                 for change in event.flows]
        self.publish("bounds", {**head, "cause": event.cause, "flows": flows}, reservation.tenant)
        broken = [change.broken_promise for change in event.flows if change.broken_promise is not None]
        if broken and event.cause != "requested":
            violation = {**head, "cause": "bound_exceeded", "reason": " ".join(broken)}
            self.publish("violation", violation, reservation.tenant)

    def publish(self, kind: str, data: dict[str, object], tenant: str | None = None) -> None:
        """Append an event for subscribers that may see the tenant (None: all). Does not block."""
        with self._lock:
            self._number += 1
            self._buffer.append(StreamedEvent(self._number, kind, json.dumps(data), tenant))
            wakers = tuple(self._wakers)
        for wake in wakers:
            wake()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for wake in tuple(self._wakers):
            wake()

    async def subscribe(self, last_event_id: str | None, can_see: CanSee) -> AsyncIterator[str]:
        """Yield events after that id (None: new ones only) as text; comments keep idle connections open."""
        loop, wakeup = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(wakeup.set)

        self._wakers.add(wake)
        try:
            position, missed = self._position(last_event_id)
            yield "retry: 2000\n: Paceline\n\n"
            while not self._closed:
                wakeup.clear()
                events, oldest = self._after(position)
                if missed or oldest > position + 1:
                    yield 'event: missed\ndata: {"reason": "Events were dropped; read the present state."}\n\n'
                    missed = False
                for event in events:
                    position = event.number
                    if event.tenant is None or can_see(event.tenant):
                        yield f"id: {self._epoch}-{event.number}\nevent: {event.kind}\ndata: {event.data}\n\n"
                if not events:
                    yield await _wait(wakeup)
        finally:
            self._wakers.discard(wake)

    def _position(self, last_event_id: str | None) -> tuple[int, bool]:
        """The number of the last event the subscriber has, and whether it missed events."""
        if not last_event_id:
            return self._number, False
        epoch, _, number = last_event_id.rpartition("-")
        if epoch != self._epoch or not number.isascii() or not number.isdigit() or int(number[:18]) > self._number:
            return 0, True
        return int(number[:18]), False

    def _after(self, position: int) -> tuple[list[StreamedEvent], int]:
        """Buffered events after a position, and the number of the oldest one that is buffered (or the next one)."""
        with self._lock:
            oldest = self._buffer[0].number if self._buffer else self._number + 1
            if position >= self._number:
                return [], oldest if position < oldest - 1 else position + 1
            return [event for event in self._buffer if event.number > position], oldest


def _bounds(placement: Placement) -> dict[str, float | None]:
    """The bounds of a flow as in the body of a reservation."""
    completion_us = placement.completion_us
    return {
        "accumulated_latency_us": round(placement.accumulated_latency_us, 1),
        "latency_variation_us": round(placement.latency_variation_us, 1),
        "completion_ms": None if completion_us is None else round(completion_us / 1000, 4),
    }


async def _wait(wakeup: asyncio.Event) -> str:
    try:
        await asyncio.wait_for(wakeup.wait(), HEARTBEAT_S)
    except TimeoutError:
        return ": keep-alive\n\n"
    return ""
