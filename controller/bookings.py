"""The calendar: what is taken on every directed link, and from when to when.

Immutable; a change shares what it keeps, so its cost does not depend on how much is booked elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import inf

import numpy as np
from immutables import Map
from numpy.typing import NDArray

from controller.optical.lightpaths import Lightpath
from controller.peaks import Activity, peak
from controller.reservation import Window

Steps = tuple[NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Booking:
    """A rate taken on a link during [start_s, end_s) by a flow of a reservation.

    `window`: only in that part of every period. `failures`: a backup's booking, needed only while one of these spans
    (`a-b`, names sorted) or ducts (`duct:...`) is down; empty: always. `lightpath`: the rate is taken in it, and `link`
    is its id.
    """

    reservation_id: str
    flow: str
    link: str
    rate_bps: int
    start_s: float
    end_s: float = inf
    window: Window | None = None
    failures: frozenset[str] = frozenset()
    lightpath: Lightpath | None = None

    @property
    def activity(self) -> Activity:
        """When the rate is needed."""
        return Activity(self.start_s, self.end_s, self.window, self.failures)

    @property
    def is_plain(self) -> bool:
        """Needed throughout its time, whatever fails."""
        return self.window is None and not self.failures


@dataclass(frozen=True)
class _LinkBookings:
    """The bookings of one link, in the order they were made."""

    bookings: tuple[Booking, ...]
    plain: bool = True

    def plus(self, booking: Booking) -> _LinkBookings:
        following = _LinkBookings((*self.bookings, booking), self.plain and booking.is_plain)
        if "_steps" in self.__dict__ and following.plain:
            following.__dict__["_steps"] = _raised(*self._steps, booking)
        return following

    def without(self, reservation_id: str) -> _LinkBookings:
        kept = tuple(each for each in self.bookings if each.reservation_id != reservation_id)
        return _LinkBookings(kept, all(booking.is_plain for booking in kept))

    def peak_bps(self, start_s: float, end_s: float) -> int:
        if not self.plain:
            return peak(((booking.activity, booking.rate_bps) for booking in self.bookings), start_s, end_s)
        moments, sums = self._steps
        first, last = int(moments.searchsorted(start_s, "right")) - 1, int(moments.searchsorted(end_s))
        return int(sums[max(first, 0) : last].max(initial=0))

    @cached_property
    def _steps(self) -> Steps:
        """The moments at which the sum changes, and what is taken from each on."""
        changes: dict[float, int] = {}
        for booking in self.bookings:
            changes[booking.start_s] = changes.get(booking.start_s, 0) + booking.rate_bps
            changes[booking.end_s] = changes.get(booking.end_s, 0) - booking.rate_bps
        moments = sorted(changes)
        sums = list(accumulate(changes[moment] for moment in moments))
        return np.array(moments, np.float64), np.array(sums, np.int64)


def _raised(moments: NDArray[np.float64], sums: NDArray[np.int64], booking: Booking) -> Steps:
    """The steps with one booking more."""
    first, last = (int(moments.searchsorted(moment)) for moment in (booking.start_s, booking.end_s))
    starts = ends = moments[:0]
    raised = lowered = sums[:0]
    if first == len(moments) or moments[first] != booking.start_s:
        before_bps = int(sums[first - 1]) if first else 0
        starts, raised = np.array([booking.start_s], np.float64), np.array([before_bps + booking.rate_bps], np.int64)
    if last == len(moments) or moments[last] != booking.end_s:
        ends = np.array([booking.end_s], np.float64)
        lowered = sums[last - 1 : last] if last else np.zeros(1, np.int64)
    middle = sums[first:last] + booking.rate_bps
    return (
        np.concatenate((moments[:first], starts, moments[first:last], ends, moments[last:])),
        np.concatenate((sums[:first], raised, middle, lowered, sums[last:])),
    )


_NOTHING = _LinkBookings(())
_DARK: Map[str, Lightpath] = Map()


def _with(lit: Map[str, Map[str, Lightpath]], lightpath: Lightpath) -> Map[str, Map[str, Lightpath]]:
    return lit.update({link: lit.get(link, _DARK).set(lightpath.id, lightpath) for link in lightpath.links})


def _without(lit: Map[str, Map[str, Lightpath]], lightpath: Lightpath) -> Map[str, Map[str, Lightpath]]:
    for link in lightpath.links:
        rest = lit[link].delete(lightpath.id)
        lit = lit.set(link, rest) if rest else lit.delete(link)
    return lit


@dataclass(frozen=True, slots=True)
class Bookings:
    """Every booking, by link and by reservation; equal if they hold the same bookings in the same order per link."""

    _links: Map[str, _LinkBookings] = field(default_factory=Map)
    _reservations: Map[str, tuple[Booking, ...]] = field(default_factory=Map)
    _lit: Map[str, Map[str, Lightpath]] = field(default_factory=Map)
    """For every link: the lightpaths in which anything is booked, by id."""

    def on(self, link: str) -> tuple[Booking, ...]:
        """The bookings of a link."""
        return self._links.get(link, _NOTHING).bookings

    def of(self, reservation_id: str) -> tuple[Booking, ...]:
        """The bookings of a reservation."""
        return self._reservations.get(reservation_id, ())

    def adding(self, bookings: Iterable[Booking]) -> Bookings:
        """This calendar with more in it; whether it fits is for admission to say."""
        links, reservations, lit = self._links.mutate(), self._reservations.mutate(), self._lit
        for booking in bookings:
            if booking.lightpath is not None and booking.link not in links:
                lit = _with(lit, booking.lightpath)
            links[booking.link] = links.get(booking.link, _NOTHING).plus(booking)
            reservations[booking.reservation_id] = (*reservations.get(booking.reservation_id, ()), booking)
        return Bookings(links.finish(), reservations.finish(), lit)

    def without(self, reservation_id: str) -> Bookings:
        """This calendar with nothing of that reservation left; the others keep their order."""
        if reservation_id not in self._reservations:
            return self
        links, lit = self._links.mutate(), self._lit
        for name, booking in {booking.link: booking for booking in self._reservations[reservation_id]}.items():
            kept = links[name].without(reservation_id)
            if kept.bookings:
                links[name] = kept
            else:
                del links[name]
                lit = lit if booking.lightpath is None else _without(lit, booking.lightpath)
        return Bookings(links.finish(), self._reservations.delete(reservation_id), lit)

    def lightpaths(self) -> dict[str, Lightpath]:
        """All lightpaths in which anything is booked, now or later, by id."""
        return {name: lightpath for lit in self._lit.values() for name, lightpath in lit.items()}

    def lit_on(self, link: str, start_s: float, end_s: float) -> Iterator[Lightpath]:
        """The lightpaths on a link in which anything is booked at any moment of [start_s, end_s)."""
        for name, lightpath in self._lit.get(link, _DARK).items():
            if any(each.start_s < end_s and start_s < each.end_s for each in self._links[name].bookings):
                yield lightpath

    def reserved_bps(self, link: str, start_s: float, end_s: float = inf) -> int:
        """The most that is taken on a link at any moment of [start_s, end_s), whichever one span or duct is down."""
        return self._links.get(link, _NOTHING).peak_bps(start_s, end_s)

    def reserved_with_bps(self, link: str, more: Iterable[Booking], start_s: float, end_s: float) -> int:
        """The same with further bookings of that link."""
        members = ((booking.activity, booking.rate_bps) for booking in (*self.on(link), *more))
        return peak(members, start_s, end_s)

    def ends_after(self, moment_s: float) -> list[float]:
        """The moments after this one at which something ends, in order: when what does not fit now may fit."""
        ends = {each[0].end_s for each in self._reservations.values()}
        return sorted(end_s for end_s in ends if moment_s < end_s < inf)
