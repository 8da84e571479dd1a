"""State shared by the parts of the service: store, ledger, switches, and the lock under which they change.

The lock is held while a change is decided, booked and recorded, never while waiting for a switch. An admitted request
counts from its decision on, so its capacity is not admitted twice while it is being installed.
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
"""The states in which switches hold entries of a reservation."""

DRAIN_MAX_S = 0.5
DRAIN_WAIT_MAX_S = 2.0


class ServiceState:
    """The only place where reservations change."""

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
        self.store = ReservationStore(network, calibration)
        self.reservation_locks = ReservationLocks()
        self.listeners: tuple[Listener, ...] = ()
        self.switches = SwitchManager(network, switches, self.publish)
        self.calibration = calibration

    def publish(self, event: ServiceEvent) -> None:
        """Call all listeners; an exception in one is logged and does not affect the others."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed event=%s", type(event).__name__)

    def decide(self, request: Request, calendar: Calendar | None = None) -> Admitted | Rejected:
        """The admission decision on a request, with the current or another calendar. Under the lock."""
        self.store.purge(self.switches.tracker)
        calendar = self.store.calendar if calendar is None else calendar
        now_s, down = self.clock(), self.switches.links.down
        return decide_with_offer(self.network, calendar, self.store.live, request, now_s, down, self.calibration)

    def admit(self, request: Request) -> Admitted:
        """The admission decision on a request, which must not be a rejection. Under the lock.

        Raises: Refused or UnknownHost if it is rejected.
        """
        decision = self.decide(request)
        if isinstance(decision, Rejected):
            raise decision.error
        failpoint(FailPoint.DECIDED)
        return decision

    def as_installed(self, changed: Reservation) -> Reservation:
        """The reservation after the switches have confirmed this change of it. Under the lock."""
        # A failure or another admission may have changed its paths or bounds meanwhile.
        current = self.store.live.get(changed.id) or changed
        return current.with_state(State.ACTIVE) if changed.state is State.HELD else current

    def record(
        self,
        *reservations: Reservation,
        are_new: bool = False,
        idempotency_keys: Mapping[str, IdempotencyKey] | None = None,
        extra_rows: Iterable[Row] = (),
    ) -> None:
        """Write reservations to the ledger in one transaction, then publish them; see Ledger.write. Under the lock."""
        self.ledger.write(
            *reservations, are_new=are_new, idempotency_keys=idempotency_keys, extra_rows=extra_rows,
            now_s=self.clock(),
        )  # fmt: skip
        for reservation in reservations:
            if reservation.is_live:
                self.store.publish(reservation)
            else:
                self.store.show(reservation)
            self.publish(ReservationChanged(reservation))

    def end(self, reservation: Reservation, state: State, reason: str | None) -> ChangedKeys:
        """End a reservation; returns the entries that change on switches. Under the lock."""
        ended = reservation.with_state(state, reason)
        self.record(ended)
        log.info("ended id=%s state=%s", ended.id, ended.state)
        if reservation.state not in INSTALLED:
            self.store.remove(ended.id)
            return {}
        self.store.retire(reservation)
        return self.switches.set_intended({ended.id: None})

    def purge(self) -> bool:
        """Free the capacity of ended reservations that no switch forwards any more; whether there were any."""
        with self.lock:
            return self.store.purge(self.switches.tracker)

    def wait_until_drained(self) -> bool:
        """Wait until the packets of ended and changed flows have left the network; False: none may be in it.

        A request that was refused beside them may be admitted then. Waits at most DRAIN_WAIT_MAX_S; without the lock.
        """
        with self.lock:
            drained_s = self.store.drained_s()
        if drained_s is None:
            return False
        time.sleep(min(max(0.0, drained_s - time.monotonic()), DRAIN_WAIT_MAX_S))
        return True


def switches_of(reservation: Reservation) -> frozenset[str]:
    """The switches on the working and backup paths of a reservation."""
    paths = [(placement.switches, (placement.backup_path or ())[1:-1]) for placement in reservation.carried_placements]
    return frozenset(name for pair in paths for path in pair for name in path)


def drain_time_s(*reservations: Reservation) -> float:
    """How long packets of these reservations may be in flight."""
    bounds_us = [each.accumulated_latency_us for reservation in reservations for each in reservation.carried_placements]
    return min(max(bounds_us, default=0.0) / 1e6, DRAIN_MAX_S)


def has_unrouted_flow(reservation: Reservation, down: frozenset[str]) -> bool:
    """Whether a flow has neither a working nor a backup path that is up."""
    return any(each.suspended or active_path(each, down) is None for each in reservation.placements)
