"""The calendar: what is taken on every directed link, and from when to when. Immutable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from controller.reservation import Window


@dataclass(frozen=True, slots=True)
class Booking:
    """A rate taken on a link during [start_s, end_s) by a flow of a reservation.

    `window`: only in that part of every period. `failures`: a backup's booking, needed only while one of these spans
    (`a-b`, names sorted) is down; empty: always.
    """

    reservation_id: str
    flow: str
    link: str
    rate_bps: int
    start_s: float
    end_s: float = inf
    window: Window | None = None
    failures: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Bookings:
    """Every booking by link; a link with none is absent, so equal calendars compare equal."""

    by_link: Mapping[str, tuple[Booking, ...]] = field(default_factory=dict)

    def adding(self, bookings: Iterable[Booking]) -> Bookings:
        """This calendar with more in it; whether it fits is for admission to say."""
        by_link = dict(self.by_link)
        for booking in bookings:
            by_link[booking.link] = (*by_link.get(booking.link, ()), booking)
        return Bookings(by_link)

    def without(self, reservation_id: str) -> Bookings:
        """This calendar with nothing of that reservation left; the others keep their order."""
        by_link = {}
        for link, bookings in self.by_link.items():
            kept = tuple(booking for booking in bookings if booking.reservation_id != reservation_id)
            if kept:
                by_link[link] = kept
        return Bookings(by_link)

    def reserved_bps(self, link: str, start_s: float, end_s: float = inf) -> int:
        """The most that is taken on a link at any moment of [start_s, end_s)."""
        overlapping = [
            booking
            for booking in self.by_link.get(link, ())
            if booking.start_s < end_s and start_s < booking.end_s
        ]
        # The sum only ever rises where a booking starts, so these moments are enough.
        moments = {max(start_s, booking.start_s) for booking in overlapping}
        return max((_sum_at(overlapping, moment) for moment in moments), default=0)


def _sum_at(bookings: list[Booking], moment_s: float) -> int:
    return sum(booking.rate_bps for booking in bookings if booking.start_s <= moment_s < booking.end_s)
