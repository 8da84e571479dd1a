"""Server-sent events with replay from a bounded buffer.

Source: WHATWG HTML, "Server-sent events". All subscribers read from one buffer, so a slow subscriber delays no other:
it falls behind and receives a `missed` event when events it has not read were dropped. An event becomes text once, and
subscribers are woken a few at a time and not for every event, so that many streams delay no request.
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
from itertools import islice

from controller.domain.events import (
    BoundsChanged,
    ClockStepped,
    GatesLate,
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

BATCH_S = 0.05
"""The least time between two deliveries to a subscriber; the first event after a pause is delivered at once."""

WOKEN_AT_ONCE, WAKE_PAUSE_S = 4, 0.002
"""So many subscribers are woken together; then requests have this time until the next ones."""

CanSee = Callable[[str], bool]
"""Whether a subscriber may see events of this tenant."""


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """One event as text; `tenant` None: visible to every subscriber."""

    number: int
    text: str
    tenant: str | None


class _Subscribers:
    """The subscribers of one event loop. Only `notify` may be called by other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wakeups: dict[asyncio.Event, None] = {}
        self._loop = loop
        self._is_notified = False
        self._next_s = 0.0

    def notify(self) -> None:
        """Have all subscribers woken once, soon; further calls before that have no effect."""
        if not self._is_notified:
            self._is_notified = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._schedule)

    def _schedule(self) -> None:
        pause_s = self._next_s - self._loop.time()
        if pause_s > 0:
            self._loop.call_later(pause_s, self._wake)
        else:
            self._wake()

    def _wake(self) -> None:
        self._is_notified = False
        self._next_s = self._loop.time() + BATCH_S
        wakeups = list(self.wakeups)
        for number, first in enumerate(range(0, len(wakeups), WOKEN_AT_ONCE)):
            self._loop.call_later(number * WAKE_PAUSE_S, _set_all, wakeups[first : first + WOKEN_AT_ONCE])


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
        self._subscribers: dict[asyncio.AbstractEventLoop, _Subscribers] = {}
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
            self.publish("clock", {"step_s": round(event.by_s, 3), "at": _iso(event.at_s)})
        elif isinstance(event, GatesLate):
            late = {"since": _iso(event.since_s), "late_ms": round(event.late_s * 1e3, 1), "changes": event.changes}
            self.publish("gates", {"switches": list(event.switches), **late})
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
            number = self._number = self._number + 1
            text = f"id: {self._epoch}-{number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
            self._buffer.append(StreamedEvent(number, text, tenant))
            subscribers = tuple(self._subscribers.values())
        for each in subscribers:
            each.notify()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        with self._lock:
            subscribers = tuple(self._subscribers.values())
        for each in subscribers:
            each.notify()

    async def subscribe(self, last_event_id: str | None, can_see: CanSee) -> AsyncIterator[str]:
        """Yield the text of events after that id (None: new ones only); comments keep idle connections open."""
        loop, wakeup = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            subscribers = self._subscribers.setdefault(loop, _Subscribers(loop))
            subscribers.wakeups[wakeup] = None
        try:
            position, missed = self._position(last_event_id)
            yield "retry: 2000\n: Paceline\n\n"
            sent_s = loop.time()
            while not self._closed:
                wakeup.clear()
                events, oldest = self._after(position)
                if missed or oldest > position + 1:
                    yield 'event: missed\ndata: {"reason": "Events were dropped; read the present state."}\n\n'
                    missed = False
                if events:
                    position = events[-1].number
                    text = "".join([each.text for each in events if each.tenant is None or can_see(each.tenant)])
                elif (rest_s := sent_s + HEARTBEAT_S - loop.time()) > 0:
                    await _wait(loop, wakeup, rest_s)
                    continue
                else:
                    text = ": keep-alive\n\n"
                if text:
                    yield text
                    sent_s = loop.time()
        finally:
            with self._lock:
                del subscribers.wakeups[wakeup]
                if not subscribers.wakeups and self._subscribers.get(loop) is subscribers:
                    del self._subscribers[loop]

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
            newest_first = list(islice(reversed(self._buffer), self._number - position))
            return newest_first[::-1], oldest


def _bounds(placement: Placement) -> dict[str, float | None]:
    """The bounds of a flow as in the body of a reservation."""
    completion_us = placement.completion_us
    return {
        "accumulated_latency_us": round(placement.accumulated_latency_us, 1),
        "latency_variation_us": round(placement.latency_variation_us, 1),
        "completion_ms": None if completion_us is None else round(completion_us / 1000, 4),
    }


async def _wait(loop: asyncio.AbstractEventLoop, wakeup: asyncio.Event, timeout_s: float) -> None:
    """Wait until it is set, or for that long; `asyncio.wait_for` would create a task."""
    timer = loop.call_later(timeout_s, wakeup.set)
    try:
        await wakeup.wait()
    finally:
        timer.cancel()


def _set_all(wakeups: list[asyncio.Event]) -> None:
    for wakeup in wakeups:
        wakeup.set()


def _iso(at_s: float) -> str:
    """The Unix time in ISO 8601."""
    return datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")
