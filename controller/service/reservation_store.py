"""Every reservation the service knows, and what all of them together take.

Changed by one thread at a time (under the writer's lock); reading needs no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import inf

from controller.admission.admission import Admitted
from controller.admission.live_reservations import LiveReservations
from controller.admission.restoration import Restoration
from controller.booking.calendar import Booking, Calendar
from controller.booking.flow_bookings import bookings_of
from controller.calculus.network_bounds import Calibration, NoBound
from controller.domain.network import Network
from controller.domain.reservation import Reservation
from controller.security.tenant_usage import TenantUsage

KEPT_ENDED = 1000
"""Reservations that have ended and are still listed; older ones are in the ledger."""


class ReservationStore:
    """What clients see (`known`), and what decisions must respect (`standing`, `bookings`).

    The two differ while a change is on its way: a reservation counts before it is installed, and as long as a switch
    may still let its packets in.
    """

    def __init__(self, network: Network, calibration: Calibration) -> None:
        self.known: dict[str, Reservation] = {}
        self.standing = LiveReservations(network, calibration)
        self._ducts = network.srlg_by_span
        self.bookings = Calendar()
        self.tally = TenantUsage()
        self._ended: deque[str] = deque()
        self._lingering: dict[str, Reservation] = {}

    def live(self) -> list[Reservation]:
        """Those that hold bandwidth, as clients see them."""
        return [reservation for reservation in tuple(self.known.values()) if reservation.is_live]

    def with_current_bounds(self, reservation: Reservation) -> Reservation:
        """The reservation with its bounds as they are beside what stands now."""
        try:
            return self.standing.with_current_bounds(reservation) if reservation.is_live else reservation
        except NoBound:  # only a calibration changed since it was admitted
            return reservation

    def show(self, reservation: Reservation) -> None:
        """From now on clients see it so."""
        self.tally.update(self.known.get(reservation.id), reservation)
        self.known[reservation.id] = reservation
        if not reservation.is_live:
            self._ended.append(reservation.id)
            while len(self._ended) > KEPT_ENDED:
                self.known.pop(self._ended.popleft(), None)

    def publish(self, reservation: Reservation) -> None:
        """It is seen and counts as it is here; what it takes has not changed."""
        now = self.standing.get(reservation.id)
        if now is not reservation and now != reservation:
            self.replace(reservation)
        self.show(reservation)

    def replace(self, reservation: Reservation) -> None:
        """It counts as it is here; what it takes has not changed, and clients do not see it yet."""
        self.standing = self.standing.with_reservation(reservation)

    def add(self, reservation: Reservation, admitted: Admitted) -> None:
        """It counts as admitted."""
        self.bookings = admitted.calendar
        self.standing = admitted.others.with_reservation(reservation)

    def revert(self, reservation: Reservation) -> None:
        """It counts as it is here, whatever was tried meanwhile."""
        self.bookings = self.bookings.without_reservation(reservation.id).with_bookings(self._bookings_of(reservation))
        self.standing = self.standing.with_reservation(reservation)

    def remove(self, reservation_id: str) -> None:
        """It does not count any more."""
        self.bookings = self.bookings.without_reservation(reservation_id)
        self.standing = self.standing.without(reservation_id)
        self._lingering.pop(reservation_id, None)

    def retire(self, reservation: Reservation) -> None:
        """It counts as it does until no switch lets its packets in."""
        self._lingering[reservation.id] = reservation

    def purge(self, lets_in: Callable[[Reservation], bool]) -> bool:
        """Drop those that no switch lets in any more; whether there were any."""
        gone = [each.id for each in tuple(self._lingering.values()) if not lets_in(each)]
        for name in gone:
            self.remove(name)
        return bool(gone)

    def without_lingering(self) -> LiveReservations:
        """What stands and goes on."""
        standing = self.standing
        for name in self._lingering:
            standing = standing.without(name)
        return standing

    def survived(self, survival: Restoration) -> None:
        """Everybody counts as decided after a failure or a return."""
        self.bookings, self.standing = survival.calendar, survival.live
        for reservation in self._lingering.values():
            self.standing = self.standing.with_reservation(reservation)

    def book_transition(self, before: Reservation, now: Reservation) -> str:
        """While `before` becomes `now`, what only the first takes counts too; under the name returned."""
        taken: dict[object, int] = {}
        for booking in self._bookings_of(now):
            taken[_place(booking)] = taken.get(_place(booking), 0) + booking.rate_bps
        name = f"{before.id}~{before.version}"
        more = [(each, each.rate_bps - taken.get(_place(each), 0)) for each in self._bookings_of(before)]
        held = [each._replace(reservation_id=name, rate_bps=rate_bps) for each, rate_bps in more if rate_bps > 0]
        self.bookings = self.bookings.with_bookings(held)
        return name

    def _bookings_of(self, reservation: Reservation) -> Iterable[Booking]:
        start_s = max(reservation.start_at_s, reservation.created_at_s)
        end_s = inf if reservation.end_at_s is None else reservation.end_at_s
        return bookings_of(self._ducts, reservation.id, reservation.placements, start_s, end_s)


def _place(booking: Booking) -> object:
    return booking.flow, booking.link, booking.window, booking.failures
