"""Spectrum defragmentation: moves lightpaths to lower channels of their routes, so that free spectrum is contiguous.

The highest lightpath moves first, to the lowest block that is free on its whole route for as long as it has bookings.
Moves only go down, so the procedure terminates. Each move is make-before-break: both channels are lit until all packets
have left the old one, so they never overlap.

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

MAX_MOVES = 64
"""The maximum number of moves considered for one request."""


@dataclass(frozen=True, slots=True)
class LightpathMove:
    """A lightpath changes its channel; `reservations`: all that use it."""

    before: Lightpath
    after: Lightpath
    reservations: tuple[str, ...]


def with_move(reservation: Reservation, move: LightpathMove) -> Reservation:
    """Return the reservation after the move; only the channel differs."""

    def with_move(lightpaths: tuple[Lightpath, ...]) -> tuple[Lightpath, ...]:
        return tuple(move.after if lightpath.id == move.before.id else lightpath for lightpath in lightpaths)

    def changed(placement: Placement) -> Placement:
        working, backup = with_move(placement.lightpaths), with_move(placement.backup_lightpaths)
        return replace(placement, lightpaths=working, backup_lightpaths=backup)

    return replace(reservation, placements=tuple(changed(placement) for placement in reservation.placements))


def next_move(network: Network, bookings: Calendar, movable: Collection[str]) -> LightpathMove | None:
    """Return the next lightpath that can move down; None if there is none.

    `movable`: the reservations that may be changed now; a lightpath that others use does not move.
    """
    for lightpath in sorted(
        bookings.lightpaths().values(), key=lambda lightpath: (-lightpath.first_slot, lightpath.nodes)
    ):
        booked = bookings.bookings_on(lightpath.id)
        reservation_ids = sorted({booking.reservation_id for booking in booked})
        if not all(name in movable for name in reservation_ids):
            continue
        start_s, end_s = min(booking.start_s for booking in booked), max(booking.end_s for booking in booked)
        first_slot = LightpathAllocator(network, bookings, start_s, end_s).first_fit(lightpath.nodes, lightpath.width)
        if first_slot is not None and first_slot < lightpath.first_slot:
            name = lightpath_id(lightpath.nodes, first_slot, lightpath.width)
            return LightpathMove(lightpath, replace(lightpath, id=name, first_slot=first_slot), tuple(reservation_ids))
    return None


def moves_until(
    network: Network,
    bookings: Calendar,
    reservations: Collection[Reservation],
    is_sufficient: Callable[[Calendar], bool],
) -> tuple[LightpathMove, ...] | None:
    """Return the moves, in order, after which the calendar satisfies `is_sufficient`; None if it never does."""
    moves: list[LightpathMove] = []
    for move, after in _moves(network, bookings, {reservation.id: reservation for reservation in reservations}):
        moves.append(move)
        if is_sufficient(after):
            return tuple(moves)
    return None


def _moves(
    network: Network, bookings: Calendar, reservations: dict[str, Reservation]
) -> Iterator[tuple[LightpathMove, Calendar]]:
    for _ in range(MAX_MOVES):
        move = next_move(network, bookings, reservations.keys())
        if move is None:
            return
        for name in move.reservations:
            reservations[name] = with_move(reservations[name], move)
            bookings = bookings.without_reservation(name).with_bookings(_bookings(network, reservations[name]))
        yield move, bookings


def _bookings(network: Network, reservation: Reservation) -> list[Booking]:
    start_s = max(reservation.start_at_s, reservation.created_at_s)
    end_s = inf if reservation.end_at_s is None else reservation.end_at_s
    return bookings_of(network.srlg_by_span, reservation.id, reservation.placements, start_s, end_s)
