"""All reservations known to the service, and the calendar of what they book.

Changed by one thread at a time, under the lock of ServiceState; reading needs no lock.
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
"""Ended reservations that are still listed; older ones are only in the ledger."""


class ReservationStore:
    """Reservations as clients see them (`published`) and as admission must respect them (`live`, `calendar`).

    The two differ while a change is being installed: a reservation counts for admission before it is installed, and
    for as long as a switch may still forward its packets.
    """

    def __init__(self, network: Network, calibration: Calibration) -> None:
        self.published: dict[str, Reservation] = {}
        self.live = LiveReservations(network, calibration)
        self.calendar = Calendar()
        self.usage = TenantUsage()
        self._srlg_by_span = network.srlg_by_span
        self._ended: deque[str] = deque()
        self._retiring: dict[str, Reservation] = {}

    def published_live(self) -> list[Reservation]:
        """The live reservations as clients see them."""
        return [reservation for reservation in tuple(self.published.values()) if reservation.is_live]

    def with_current_bounds(self, reservation: Reservation) -> Reservation:
        """The reservation with the latency bounds that hold beside the live reservations."""
        try:
            return self.live.with_current_bounds(reservation) if reservation.is_live else reservation
        except NoBound:  # possible only if the calibration changed after its admission
            return reservation

    def show(self, reservation: Reservation) -> None:
        """Publish a reservation to clients without changing what counts for admission."""
        self.usage.update(self.published.get(reservation.id), reservation)
        self.published[reservation.id] = reservation
        if not reservation.is_live:
            self._ended.append(reservation.id)
            while len(self._ended) > KEPT_ENDED:
                self.published.pop(self._ended.popleft(), None)

    def publish(self, reservation: Reservation) -> None:
        """Publish a live reservation whose bookings have not changed."""
        current = self.live.get(reservation.id)
        if current is not reservation and current != reservation:
            self.replace(reservation)
        self.show(reservation)

    def replace(self, reservation: Reservation) -> None:
        """Replace the live reservation of that id; its bookings have not changed, and clients do not see it yet."""
        self.live = self.live.with_reservation(reservation)

    def add(self, reservation: Reservation, admitted: Admitted) -> None:
        """Add an admitted reservation and its bookings."""
        self.calendar = admitted.calendar
        self.live = admitted.others.with_reservation(reservation)

    def revert(self, reservation: Reservation) -> None:
        """Restore this version of a reservation and its bookings."""
        self.calendar = self.calendar.without_reservation(reservation.id).with_bookings(self._bookings_of(reservation))
        self.live = self.live.with_reservation(reservation)

    def remove(self, reservation_id: str) -> None:
        """Remove a reservation and its bookings from admission."""
        self.calendar = self.calendar.without_reservation(reservation_id)
        self.live = self.live.without(reservation_id)
        self._retiring.pop(reservation_id, None)

    def retire(self, reservation: Reservation) -> None:
        """Keep the bookings of an ended reservation until `purge` finds that no switch forwards its packets."""
        self._retiring[reservation.id] = reservation

    def purge(self, may_forward: Callable[[Reservation], bool]) -> bool:
        """Remove the retired reservations that no switch forwards any more; whether there were any."""
        unforwarded = [each.id for each in tuple(self._retiring.values()) if not may_forward(each)]
        for reservation_id in unforwarded:
            self.remove(reservation_id)
        return bool(unforwarded)

    def live_without_retiring(self) -> LiveReservations:
        """The live reservations apart from those that have ended."""
        live = self.live
        for reservation_id in self._retiring:
            live = live.without(reservation_id)
        return live

    def apply_restoration(self, restoration: Restoration) -> None:
        """Take over calendar and live reservations as re-evaluated after a link change."""
        self.calendar, self.live = restoration.calendar, restoration.live
        for reservation in self._retiring.values():
            self.live = self.live.with_reservation(reservation)

    def book_transition(self, before: Reservation, after: Reservation) -> str:
        """Book what `before` needs beyond `after` while one replaces the other; returns the id of these bookings."""
        booked_bps: dict[object, int] = {}
        for booking in self._bookings_of(after):
            booked_bps[_resource(booking)] = booked_bps.get(_resource(booking), 0) + booking.rate_bps
        transition_id = f"{before.id}~{before.version}"
        extra = [
            booking._replace(reservation_id=transition_id, rate_bps=extra_bps)
            for booking in self._bookings_of(before)
            if (extra_bps := booking.rate_bps - booked_bps.get(_resource(booking), 0)) > 0
        ]
        self.calendar = self.calendar.with_bookings(extra)
        return transition_id

    def _bookings_of(self, reservation: Reservation) -> Iterable[Booking]:
        start_s = max(reservation.start_at_s, reservation.created_at_s)
        end_s = inf if reservation.end_at_s is None else reservation.end_at_s
        return bookings_of(self._srlg_by_span, reservation.id, reservation.placements, start_s, end_s)


def _resource(booking: Booking) -> object:
    """What a booking takes a rate of, as a key."""
    return booking.flow, booking.link, booking.window, booking.failures
