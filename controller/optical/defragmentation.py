"""Lightpaths that move to lower channels of their routes, so that free spectrum comes to lie in one piece.

The highest lightpath goes first, to the lowest block that is free all along its route for as long as anything is booked
in it. A move only goes down, so this ends. Each is made before it is broken: until all packets have left the old
channel both are lit, so they never overlap.

Source: Takagi et al., "Disruption minimized spectrum defragmentation in elastic optical path networks that adopt
distance adaptive modulation", ECOC 2011 (make before break); Patel et al., "Defragmentation of transparent flexible
optical WDM networks", OFC 2011 (greedy first fit).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from math import inf

from controller.booking.calendar import Booking, Calendar
from controller.booking.flow_bookings import bookings_of
from controller.domain.lightpath import Lightpath, lightpath_id
from controller.domain.network import Network
from controller.domain.reservation import Placement, Reservation
from controller.optical.grooming import LightpathAllocator

MOST_MOVES = 64
"""Looked at for one request."""


@dataclass(frozen=True, slots=True)
class Move:
    """A lightpath changes its channel; `reservations` are all that travel in it."""

    before: Lightpath
    after: Lightpath
    reservations: tuple[str, ...]


def moved(reservation: Reservation, move: Move) -> Reservation:
    """The reservation after the move; for the switches only the channel is another."""

    def on(row: tuple[Lightpath, ...]) -> tuple[Lightpath, ...]:
        return tuple(move.after if each.id == move.before.id else each for each in row)

    def changed(placement: Placement) -> Placement:
        rows = on(placement.lightpaths), on(placement.backup_lightpaths)
        return replace(placement, lightpaths=rows[0], backup_lightpaths=rows[1])

    return replace(reservation, placements=tuple(changed(each) for each in reservation.placements))


def next_move(network: Network, bookings: Calendar, movable: Collection[str]) -> Move | None:
    """The next lightpath that can go down; None if there is none.

    `movable`: the reservations that may be changed now; a lightpath in which others travel stays.
    """
    for lightpath in sorted(bookings.lightpaths().values(), key=lambda each: (-each.first_slot, each.nodes)):
        booked = bookings.bookings_on(lightpath.id)
        travellers = sorted({each.reservation_id for each in booked})
        if not all(name in movable for name in travellers):
            continue
        start_s, end_s = min(each.start_s for each in booked), max(each.end_s for each in booked)
        first = LightpathAllocator(network, bookings, start_s, end_s).lowest(lightpath.nodes, lightpath.width)
        if first is not None and first < lightpath.first_slot:
            name = lightpath_id(lightpath.nodes, first, lightpath.width)
            return Move(lightpath, replace(lightpath, id=name, first_slot=first), tuple(travellers))
    return None


def moves_until(
    network: Network,
    bookings: Calendar,
    reservations: Collection[Reservation],
    enough: Callable[[Calendar], bool],
) -> tuple[Move, ...] | None:
    """The moves, one after the other, after which the calendar is `enough`; None if it never is."""
    made: list[Move] = []
    for move, after in _moves(network, bookings, {each.id: each for each in reservations}):
        made.append(move)
        if enough(after):
            return tuple(made)
    return None


def _moves(
    network: Network, bookings: Calendar, reservations: dict[str, Reservation]
) -> Iterator[tuple[Move, Calendar]]:
    for _ in range(MOST_MOVES):
        move = next_move(network, bookings, reservations.keys())
        if move is None:
            return
        for name in move.reservations:
            reservations[name] = moved(reservations[name], move)
            bookings = bookings.without_reservation(name).with_bookings(_bookings(network, reservations[name]))
        yield move, bookings


def _bookings(network: Network, reservation: Reservation) -> list[Booking]:
    start_s = max(reservation.start_at_s, reservation.created_at_s)
    end_s = inf if reservation.end_at_s is None else reservation.end_at_s
    return bookings_of(network.srlg_by_span, reservation.id, reservation.placements, start_s, end_s)
