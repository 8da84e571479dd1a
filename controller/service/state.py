"""What the service and its caretaker share: the book, the ledger, the fabric, and the lock under which they change.

The lock is held while something is decided, counted and written down, never while a switch is waited for: what is
admitted counts from the moment it is decided, so nobody is promised the same capacity while it is being installed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from controller.admission.admission import Admitted, Rejected, Request
from controller.admission.counter_offer import decide_with_offer
from controller.booking.calendar import Calendar
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.dataplane.fast_failover import active_path
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import Switches
from controller.domain.events import ReservationChanged, ServiceEvent
from controller.domain.network import Network
from controller.domain.reservation import Reservation, State
from controller.failpoints import FailPoint, failpoint
from controller.service.concurrency import ReservationLocks
from controller.service.reservation_store import ReservationStore
from controller.storage.ledger import IdempotencyKey, Ledger, Row
from controller.switches.switch_manager import SwitchManager

log = logging.getLogger(__name__)

Listener = Callable[[ServiceEvent], None]

INSTALLED = frozenset({State.ACTIVE, State.DEGRADED})
"""The states in which switches hold a reservation."""

DRAIN_MAX_S = 0.5


class ServiceState:
    """The one place where reservations change."""

    def __init__(
        self,
        network: Network,
        switches: Switches,
        ledger: Ledger,
        calibration: Calibration = DEFAULT_CALIBRATION,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.network = network
        self.ledger = ledger
        self.clock = clock
        self.lock = threading.RLock()
        self.book = ReservationStore(network, calibration)
        self.turns = ReservationLocks()
        self.listeners: tuple[Listener, ...] = ()
        self.fabric = SwitchManager(network, switches, self.publish)
        self.calibration = calibration

    def publish(self, event: ServiceEvent) -> None:
        """Call every listener; one that fails must not stop the others, nor us."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed event=%s", type(event).__name__)

    def decide(self, request: Request, bookings: Calendar | None = None) -> Admitted | Rejected:
        """What admission says now, or would say with another calendar. Under the lock."""
        self.book.purge(self.fabric.tracker.may_forward)
        book, now_s, down = self.book, self.clock(), self.fabric.links.down
        taken = book.bookings if bookings is None else bookings
        return decide_with_offer(self.network, taken, book.standing, request, now_s, down, self.calibration)

    def admit(self, request: Request) -> Admitted:
        """The same.

        Raises: Refused or UnknownHost if it is rejected.
        """
        decision = self.decide(request)
        if isinstance(decision, Rejected):
            raise decision.error
        failpoint(FailPoint.DECIDED)
        return decision

    def as_installed(self, changed: Reservation) -> Reservation:
        """How a reservation stands when the switches have confirmed this change of it. Under the lock."""
        # With the bounds it has by now; a failure on the way may have moved it, too.
        now = self.book.standing.get(changed.id) or changed
        return now.with_state(State.ACTIVE) if changed.state is State.HELD else now

    def record(
        self,
        *reservations: Reservation,
        are_new: bool = False,
        answers: Mapping[str, IdempotencyKey] | None = None,
        along: Iterable[Row] = (),
    ) -> None:
        """Write down how these stand now, all or none, and let everybody see it; see Ledger.write. Under the lock."""
        self.ledger.write(
            *reservations, are_new=are_new, idempotency_keys=answers, extra_rows=along, now_s=self.clock()
        )
        for reservation in reservations:
            if reservation.is_live:
                self.book.publish(reservation)
            else:
                self.book.show(reservation)
            self.publish(ReservationChanged(reservation))

    def end(self, reservation: Reservation, state: State, reason: str | None) -> ChangedKeys:
        """End a reservation; what the switches must be told then. Under the lock."""
        ended = reservation.with_state(state, reason)
        self.record(ended)
        log.info("ended id=%s state=%s", ended.id, ended.state)
        if reservation.state not in INSTALLED:
            self.book.remove(ended.id)
            return {}
        self.book.retire(reservation)
        return self.fabric.set_intended({ended.id: None})

    def sweep(self) -> bool:
        """Give back the capacity of what has ended and is shut out by now; whether there was any."""
        with self.lock:
            return self.book.purge(self.fabric.tracker.may_forward)


def switches_of(reservation: Reservation) -> frozenset[str]:
    """The switches that hold entries of it."""
    both = [(each.switches, (each.backup_path or ())[1:-1]) for each in reservation.carried_placements]
    return frozenset(name for pair in both for path in pair for name in path)


def drain_s(*reservations: Reservation) -> float:
    """How long packets of these may be on their way."""
    bounds_us = [each.accumulated_latency_us for reservation in reservations for each in reservation.carried_placements]
    return min(max(bounds_us, default=0.0) / 1e6, DRAIN_MAX_S)


def is_stranded(reservation: Reservation, down: frozenset[str]) -> bool:
    """Whether a flow has no path left; a protected flow may still have its backup."""
    return any(each.suspended or active_path(each, down) is None for each in reservation.placements)
