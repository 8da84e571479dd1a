"""State shared by the parts of the service: store, ledger, switches, and the lock under which they change.

The lock is held while a change is decided and booked, never while waiting for a switch or the ledger. An admitted
request counts from its decision on, so its capacity is not admitted twice while it is being installed and recorded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from controller.admission.admission import Admitted, Rejected, Request
from controller.admission.counter_offer import decide_with_offer
from controller.admission.live_reservations import LiveReservations
from controller.admission.told_bounds import bound_changes
from controller.booking.calendar import Calendar
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.clock import Clock
from controller.dataplane.fast_failover import active_path
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import Switches
from controller.domain.events import BoundsCause, BoundsChanged, ClockStepped, ReservationChanged, ServiceEvent
from controller.domain.network import Network
from controller.domain.reservation import Reservation, State
from controller.errors import LedgerUnavailable
from controller.failpoints import FailPoint, failpoint
from controller.service.concurrency import ReservationLocks
from controller.service.ledger_writer import LedgerWriter
from controller.service.reservation_store import ReservationStore
from controller.storage.ledger import IdempotencyKey, Ledger, Row
from controller.switches.switch_manager import SwitchManager

log = logging.getLogger(__name__)

Listener = Callable[[ServiceEvent], None]

INSTALLED = frozenset({State.ACTIVE, State.DEGRADED})
"""The states in which switches hold entries of a reservation."""

DRAIN_MAX_S = 0.5
DRAIN_WAIT_MAX_S = 2.0
DRAIN_POLL_MIN_S, DRAIN_POLL_S = 0.001, 0.1


class ServiceState:
    """The only place where reservations change."""

    def __init__(
        self,
        network: Network,
        switches: Switches,
        ledger: Ledger,
        calibration: Calibration = DEFAULT_CALIBRATION,
        clock: Clock | None = None,
    ) -> None:
        self.network = network
        self.ledger = ledger
        self.clock = clock or Clock()
        self.lock = threading.RLock()
        self.store = ReservationStore(network, calibration)
        self.reservation_locks = ReservationLocks()
        self.listeners: tuple[Listener, ...] = ()
        self.writer = LedgerWriter(ledger, self.publish)
        self.switches = SwitchManager(network, switches, self.publish, self.clock)
        self.calibration = calibration

    def publish(self, event: ServiceEvent) -> None:
        """Call all listeners; an exception in one is logged and does not affect the others."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed event=%s", type(event).__name__)

    def set_intended(self, changed: Mapping[str, Reservation | None]) -> ChangedKeys:
        """Set the reservations that should be installed (None: removed), with their meters and those that must grow.

        Under the lock; see SwitchManager.
        """
        live = self.store.live
        if live.grown:
            self.store.live = live.with_meters_intended()
        bursts = {name: live.meter_bursts(name) for name in (*changed, *live.grown)}
        return self.switches.set_intended(changed, {name: meters for name, meters in bursts.items() if meters})

    def decide(
        self, request: Request, calendar: Calendar | None = None, live: LiveReservations | None = None
    ) -> Admitted | Rejected:
        """The admission decision on a request, with the current or another calendar and reservations. Under the lock.
        """
        self.store.purge(self.switches.tracker)
        calendar = self.store.calendar if calendar is None else calendar
        live = self.store.live if live is None else live
        now_s, down = self.clock(), self.switches.links.down
        return decide_with_offer(self.network, calendar, live, request, now_s, down, self.calibration)

    def admit(self, request: Request, live: LiveReservations | None = None) -> Admitted:
        """The admission decision on a request, which must not be a rejection. Under the lock.

        `live`: other live reservations than the current ones. Raises: Refused or UnknownHost if it is rejected.
        """
        decision = self.decide(request, live=live)
        if isinstance(decision, Rejected):
            raise decision.error
        failpoint(FailPoint.DECIDED)
        return decision

    def record(
        self,
        *changes: Reservation,
        are_new: bool = False,
        idempotency_keys: Mapping[str, IdempotencyKey] | None = None,
        extra_rows: Iterable[Row] = (),
    ) -> tuple[list[Reservation], bool]:
        """Write changes by requests to the ledger in one transaction, then publish them; not under the lock.

        `store.live` holds them already, and the requests hold their locks. Returns them as they then are, and whether
        `extra_rows` were written (see LedgerWriter.write).

        Raises: LedgerUnavailable; then nothing is published.
        """
        with self.lock:
            written = [self._latest(change) for change in changes]
        has_extra_rows = self._write(
            *written, are_new=are_new, idempotency_keys=idempotency_keys, extra_rows=extra_rows
        )
        with self.lock:
            latest = [self._latest(change) for change in changes]
            for reservation in latest:
                self._publish_reservation(reservation)
            self.writer.queue(*(after for before, after in zip(written, latest, strict=True) if after != before))
        return latest, has_extra_rows

    def record_later(
        self, *reservations: Reservation, cause: BoundsCause = "rerouted", makes_room: bool = True
    ) -> None:
        """Publish what a failure or time has changed, and have it written as soon as possible. Under the lock.

        `cause`: why told bounds, if any, have changed. `makes_room`: see LedgerWriter.
        """
        for reservation in reservations:
            self._publish_reservation(reservation, cause)
        self.writer.queue(*reservations, makes_room=makes_room)

    def _latest(self, change: Reservation) -> Reservation:
        """The reservation after a change of it: a failure or another admission may have changed paths or bounds."""
        current = self.store.live.get(change.id) or change
        is_committed = current.state is State.HELD and change.state is not State.HELD
        return current.with_state(change.state) if is_committed else current

    def _write(
        self,
        *reservations: Reservation,
        are_new: bool = False,
        idempotency_keys: Mapping[str, IdempotencyKey] | None = None,
        extra_rows: Iterable[Row] = (),
    ) -> bool:
        try:
            return self.writer.write(
                *reservations, are_new=are_new, idempotency_keys=idempotency_keys, extra_rows=extra_rows,
                now_s=self.clock(),
            )  # fmt: skip
        except LedgerUnavailable:
            with self.lock:
                befores = {each.id: self.store.published.get(each.id) for each in reservations}
                self.writer.withdraw(befores, idempotency_keys)
            raise

    def _publish_reservation(self, reservation: Reservation, cause: BoundsCause = "requested") -> None:
        before = self.store.published.get(reservation.id)
        if reservation.is_live:
            self.store.publish(reservation)
        else:
            self.store.show(reservation)
        self.publish(ReservationChanged(reservation))
        changes = bound_changes(before, reservation) if before is not None else ()
        if changes:
            self.publish(BoundsChanged(reservation, cause, changes))

    def release(self, reservation: Reservation) -> ChangedKeys:
        """Record the release of a reservation and end it; returns the entries that change. Not under the lock.

        Raises: LedgerUnavailable; the reservation is then unchanged.
        """
        released = reservation.with_state(State.RELEASED)
        self._write(released)
        with self.lock:
            self._publish_reservation(released)
            return self._remove(reservation)

    def end(self, reservation: Reservation, state: State, reason: str | None) -> ChangedKeys:
        """End a reservation whose time has passed; returns the entries that change on switches. Under the lock."""
        self.record_later(reservation.with_state(state, reason))
        log.info("ended id=%s state=%s", reservation.id, state)
        return self._remove(reservation)

    def _remove(self, before: Reservation) -> ChangedKeys:
        """Remove an ended reservation; its bookings stay until no switch forwards its packets."""
        if before.state not in INSTALLED:
            self.store.remove(before.id)
            return {}
        self.store.retire(self.store.live.get(before.id) or before)
        return self.set_intended({before.id: None})

    def follow_clock(self) -> bool:
        """Take a step of the wall clock, if there was one, and tell of it; whether there was one."""
        step_s = self.clock.step_s()
        if not step_s:
            return False
        with self.lock:
            now_s = self.clock()
            step = self.clock.take_step(step_s)
            self.writer.queue(*self.store.step_clock(step_s, now_s))
        self.switches.on_clock_step()
        log.warning("clock: stepped by_s=%+.3f; leases keep their remaining time", step_s)
        self.publish(ClockStepped(step.by_s, step.at_s))
        return True

    def purge(self) -> bool:
        """Free the capacity of ended reservations that no switch forwards any more; whether there were any."""
        with self.lock:
            return self.store.purge(self.switches.tracker)

    def wait_until_drained(self) -> bool:
        """Wait until the packets of ended and changed flows have left the network; False: none may be in it.

        A request that was refused beside them may be admitted then. Waits at most DRAIN_WAIT_MAX_S; without the lock.
        """
        deadline_s = time.monotonic() + DRAIN_WAIT_MAX_S
        with self.lock:
            drained_s = self.store.drained_s()
        if drained_s is None:
            return False
        while True:
            with self.lock:
                self.store.purge(self.switches.tracker)
                drained_s = self.store.drained_s()
            now_s = time.monotonic()
            if drained_s is None or now_s >= deadline_s:
                return True
            time.sleep(min(max(drained_s - now_s, DRAIN_POLL_MIN_S), DRAIN_POLL_S, deadline_s - now_s))


def switches_of(reservation: Reservation) -> frozenset[str]:
    """The switches on the working and backup paths of a reservation."""
    paths = [
        path for placement in reservation.carried_placements
        for path in (placement.switches, (placement.backup_path or ())[1:-1])
    ]
    return frozenset[str]().union(*paths)


def drain_time_s(*reservations: Reservation) -> float:
    """How long packets of these reservations may be in flight."""
    bounds_us = [each.accumulated_latency_us for reservation in reservations for each in reservation.carried_placements]
    return min(max(bounds_us, default=0.0) / 1e6, DRAIN_MAX_S)


def has_unrouted_flow(reservation: Reservation, down: frozenset[str]) -> bool:
    """Whether a flow has neither a working nor a backup path that is up."""
    return any(each.suspended or active_path(each, down) is None for each in reservation.placements)
