"""Every reservation the service knows, and what all of them together take.

Changed by one thread at a time (under the writer's lock); reading needs no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from controller.admission import Admitted, bookings_of
from controller.bookings import Booking, Bookings
from controller.reservation import Reservation

KEPT_ENDED = 1000
"""Reservations that have ended and are still listed; older ones are in the ledger."""


class Book:
    """What clients see (`known`), and what decisions must respect (`standing`, `bookings`).

    The two differ while a change is on its way: a reservation counts before it is installed, and as long as a switch
    may still let its packets in.
    """

    def __init__(self) -> None:
        self.known: dict[str, Reservation] = {}
        self.standing: dict[str, Reservation] = {}
        self.bookings = Bookings()
        self._ended: deque[str] = deque()
        self._lingering: set[str] = set()

    def live(self) -> list[Reservation]:
        """Those that hold bandwidth, as clients see them."""
        return [reservation for reservation in tuple(self.known.values()) if reservation.is_live]

    def show(self, reservation: Reservation) -> None:
        """From now on clients see it so."""
        self.known[reservation.id] = reservation
        if not reservation.is_live:
            self._ended.append(reservation.id)
            while len(self._ended) > KEPT_ENDED:
                self.known.pop(self._ended.popleft(), None)

    def count(self, reservation: Reservation, admitted: Admitted) -> None:
        """It counts as admitted, and everybody else's bounds are now as they are beside it."""
        for each in admitted.standing:
            before = self.standing.get(each.id)
            if before is not None and before is not each:
                if self.known.get(each.id) is before:
                    self.known[each.id] = each
                self.standing[each.id] = each
        self.bookings = admitted.bookings
        self.standing[reservation.id] = reservation

    def stand(self, reservation: Reservation) -> None:
        """It is seen and counts as it is here; what it takes has not changed."""
        self.standing[reservation.id] = reservation
        self.show(reservation)

    def take_up(self, reservation: Reservation) -> None:
        """A live reservation from before a restart."""
        self.put_back(reservation)
        self.show(reservation)

    def put_back(self, reservation: Reservation) -> None:
        """It counts as it is here, whatever was tried meanwhile."""
        booked = bookings_of(reservation.id, reservation.placements, reservation.start_at_s or reservation.created_at_s)
        self.bookings = self.bookings.without(reservation.id).adding(booked)
        self.standing[reservation.id] = reservation

    def drop(self, reservation_id: str) -> None:
        """It does not count any more."""
        self.bookings = self.bookings.without(reservation_id)
        self.standing.pop(reservation_id, None)
        self._lingering.discard(reservation_id)

    def linger(self, reservation: Reservation) -> None:
        """It counts until no switch lets its packets in."""
        self.standing[reservation.id] = reservation
        self._lingering.add(reservation.id)

    def sweep(self, lets_in: Callable[[Reservation], bool]) -> None:
        """Drop those that no switch lets in any more."""
        for name in tuple(self._lingering):
            if not lets_in(self.standing[name]):
                self.drop(name)

    def hold_both(self, before: Reservation, now: Reservation) -> str:
        """While `before` becomes `now`, what only the first takes counts too; under the name returned."""
        taken: dict[tuple[str, str], int] = {}
        for booking in _bookings(now):
            key = booking.flow, booking.link
            taken[key] = taken.get(key, 0) + booking.rate_bps
        name = f"{before.id}~{before.version}"
        more = [(each, each.rate_bps - taken.get((each.flow, each.link), 0)) for each in _bookings(before)]
        held = [replace(each, reservation_id=name, rate_bps=rate_bps) for each, rate_bps in more if rate_bps > 0]
        self.bookings = self.bookings.adding(held)
        return name


def _bookings(reservation: Reservation) -> list[Booking]:
    return bookings_of(reservation.id, reservation.placements, reservation.start_at_s or reservation.created_at_s)
