"""The calendar: bandwidth booked on every directed link, over time.

Immutable; a changed calendar shares unchanged parts, so the cost of a change does not depend on the number of other
bookings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import field
from functools import cache
from itertools import accumulate
from math import inf
from typing import NamedTuple

import numpy as np
from immutables import Map
from numpy.typing import NDArray

from controller.booking.lit_channels import LitChannels, link_channels
from controller.booking.peak_load import Activity, peak_load
from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath
from controller.domain.reservation import Window

Steps = tuple[NDArray[np.float64], NDArray[np.int64]]


class Booking(NamedTuple):
    """A rate booked on a link during [start_s, end_s) for a flow of a reservation.

    `window`: only in that part of every period. `failures`: of a backup, needed only while one of these spans (`a-b`,
    names sorted) or ducts (`duct:...`) is down; empty: always. `lightpath`: the booking is in this lightpath, and
    `link` is its id.
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
    def is_unconditional(self) -> bool:
        """Whether the rate is needed during all of its lifetime, in every failure state."""
        return self.window is None and not self.failures


class _LinkCalendar:
    """The bookings of one link, with sums for the common case in which all of them overlap the queried interval.

    Immutable; every change creates a new one.
    """

    __slots__ = ("_steps", "by_reservation", "conditional", "earliest_end_s", "latest_start_s", "total_bps")

    def __init__(
        self,
        by_reservation: Map[str, tuple[Booking, ...]],
        conditional: int,
        total_bps: int,
        latest_start_s: float,
        earliest_end_s: float,
        steps: Steps | None = None,
    ) -> None:
        """`conditional`: how many bookings are not unconditional. `latest_start_s`: at or after the last start;
        `earliest_end_s`: at or before the first end.
        """
        self.by_reservation = by_reservation
        self.conditional = conditional
        self.total_bps = total_bps
        self.latest_start_s = latest_start_s
        self.earliest_end_s = earliest_end_s
        self._steps = steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _LinkCalendar) and self.by_reservation == other.by_reservation

    def __iter__(self) -> Iterator[Booking]:
        for bookings in self.by_reservation.values():
            yield from bookings

    def with_booking(self, booking: Booking) -> _LinkCalendar:
        bookings = self.by_reservation.get(booking.reservation_id)
        conditional = self.conditional + (booking.window is not None or bool(booking.failures))
        start_s, end_s = booking.start_s, booking.end_s
        return _LinkCalendar(
            self.by_reservation.set(booking.reservation_id, (booking,) if bookings is None else (*bookings, booking)),
            conditional,
            self.total_bps + booking.rate_bps,
            start_s if start_s > self.latest_start_s else self.latest_start_s,
            end_s if end_s < self.earliest_end_s else self.earliest_end_s,
            None if conditional or self._steps is None else _adjusted(*self._steps, booking, booking.rate_bps),
        )

    def without_reservation(self, reservation_id: str) -> _LinkCalendar:
        steps = None if self.conditional else self._steps
        conditional, total_bps = self.conditional, self.total_bps
        latest_start_s, earliest_end_s = self.latest_start_s, self.earliest_end_s
        is_first_or_last = False
        for booking in self.by_reservation[reservation_id]:
            is_first_or_last |= booking.start_s == latest_start_s or inf > booking.end_s == earliest_end_s
            total_bps -= booking.rate_bps
            if conditional and not booking.is_unconditional:
                conditional -= 1
            if steps is not None:
                steps = _adjusted(*steps, booking, -booking.rate_bps)
        kept = self.by_reservation.delete(reservation_id)
        if is_first_or_last and kept:
            starts_and_ends = [(booking.start_s, booking.end_s) for bookings in kept.values() for booking in bookings]
            latest_start_s = max((start_s for start_s, _ in starts_and_ends), default=-inf)
            earliest_end_s = min((end_s for _, end_s in starts_and_ends), default=inf)
        return _LinkCalendar(kept, conditional, total_bps, latest_start_s, earliest_end_s, steps)

    def overlaps(self, start_s: float, end_s: float) -> bool:
        """Return whether any booking overlaps [start_s, end_s)."""
        if self.latest_start_s < end_s and start_s < self.earliest_end_s:
            return bool(self.by_reservation)
        return any(booking.start_s < end_s and start_s < booking.end_s for booking in self)

    def peak_bps(self, start_s: float, end_s: float) -> int:
        if self.conditional:
            return peak_load(((booking.activity, booking.rate_bps) for booking in self), start_s, end_s)
        if self.latest_start_s <= start_s and end_s <= self.earliest_end_s:
            return self.total_bps
        times, sums = self.steps
        first, last = int(times.searchsorted(start_s, "right")) - 1, int(times.searchsorted(end_s))
        return int(sums[max(first, 0) : last].max(initial=0))

    @property
    def steps(self) -> Steps:
        """The step function of booked bandwidth: the times at which the sum changes, and the sum from each on."""
        if self._steps is None:
            changes: dict[float, int] = {}
            for booking in self:
                changes[booking.start_s] = changes.get(booking.start_s, 0) + booking.rate_bps
                changes[booking.end_s] = changes.get(booking.end_s, 0) - booking.rate_bps
            times = sorted(changes)
            sums = list(accumulate(changes[time_s] for time_s in times))
            self._steps = np.array(times, np.float64), np.array(sums, np.int64)
        return self._steps


def _adjusted(times: NDArray[np.float64], sums: NDArray[np.int64], booking: Booking, rate_bps: int) -> Steps:
    """Return the step function with `rate_bps` (may be negative) added during a booking's lifetime."""
    first, last = (int(times.searchsorted(time_s)) for time_s in (booking.start_s, booking.end_s))
    starts = ends = times[:0]
    start_sums = end_sums = sums[:0]
    if first == len(times) or times[first] != booking.start_s:
        before_bps = int(sums[first - 1]) if first else 0
        starts, start_sums = np.array([booking.start_s], np.float64), np.array([before_bps + rate_bps], np.int64)
    if last == len(times) or times[last] != booking.end_s:
        ends = np.array([booking.end_s], np.float64)
        end_sums = sums[last - 1 : last] if last else np.zeros(1, np.int64)
    middle_sums = sums[first:last] + rate_bps
    times = np.concatenate((times[:first], starts, times[first:last], ends, times[last:]))
    sums = np.concatenate((sums[:first], start_sums, middle_sums, end_sums, sums[last:]))
    if rate_bps > 0:
        return times, sums
    is_step = np.diff(sums, prepend=0) != 0
    return times[is_step], sums[is_step]


_EMPTY = _LinkCalendar(Map(), 0, 0, -inf, inf)


@frozen
class Calendar:
    """All bookings, by link and by reservation; calendars with the same bookings are equal."""

    _links: Map[str, _LinkCalendar] = field(default_factory=Map)
    _reservations: Map[str, tuple[Booking, ...]] = field(default_factory=Map)
    _channels: LitChannels = field(default_factory=LitChannels, compare=False)
    _lightpaths_from_s: float = field(default=-inf, compare=False)
    """At or after the start of the last booking in a lightpath."""
    _lightpath_ends: int = field(default=0, compare=False)
    """The number of bookings in lightpaths that have an end."""

    def bookings_on(self, link: str) -> tuple[Booking, ...]:
        """Return the bookings of a link; those of a reservation in the order they were made."""
        return tuple(self._links.get(link, _EMPTY))

    def bookings_of(self, reservation_id: str) -> tuple[Booking, ...]:
        """Return the bookings of a reservation."""
        return self._reservations.get(reservation_id, ())

    def with_bookings(self, bookings: Iterable[Booking]) -> Calendar:
        """Return the calendar with further bookings; capacity is not checked here but by admission control."""
        links, reservations, channels = self._links.mutate(), self._reservations, self._channels
        lightpaths_from_s, lightpath_ends = self._lightpaths_from_s, self._lightpath_ends
        added: dict[str, list[Booking]] = {}
        for booking in bookings:
            name = booking.link
            link_calendar = links.get(name, _EMPTY)
            if booking.lightpath is not None:
                lightpaths_from_s = max(lightpaths_from_s, booking.start_s)
                lightpath_ends += booking.end_s < inf
                if link_calendar is _EMPTY:
                    channels = channels.with_lightpath(booking.lightpath)
            links[name] = link_calendar.with_booking(booking)
            added.setdefault(booking.reservation_id, []).append(booking)
        for reservation_id, new_bookings in added.items():
            reservations = reservations.set(reservation_id, (*reservations.get(reservation_id, ()), *new_bookings))
        return Calendar(links.finish(), reservations, channels, lightpaths_from_s, lightpath_ends)

    def without_reservation(self, reservation_id: str) -> Calendar:
        """Return the calendar without the bookings of that reservation."""
        if reservation_id not in self._reservations:
            return self
        links, channels, lightpath_ends = self._links.mutate(), self._channels, self._lightpath_ends
        removed = self._reservations[reservation_id]
        for name, booking in {booking.link: booking for booking in removed}.items():
            link_calendar = links[name].without_reservation(reservation_id)
            if link_calendar.by_reservation:
                links[name] = link_calendar
            else:
                del links[name]
                channels = channels if booking.lightpath is None else channels.without_lightpath(booking.lightpath)
        if lightpath_ends:
            lightpath_ends -= sum(booking.lightpath is not None and booking.end_s < inf for booking in removed)
        reservations = self._reservations.delete(reservation_id)
        return Calendar(links.finish(), reservations, channels, self._lightpaths_from_s, lightpath_ends)

    def shifted(self, by_s: float, until_s: float) -> Calendar:
        """Return the calendar with all bookings that start by `until_s` starting `by_s` later."""
        return Calendar().with_bookings(
            booking._replace(start_s=booking.start_s + by_s) if booking.start_s <= until_s else booking
            for bookings in self._reservations.values()
            for booking in bookings
        )

    def lightpaths(self) -> dict[str, Lightpath]:
        """Return all lightpaths that have a booking, now or later, by id."""
        return {lightpath.id: lightpath for lightpath in self._channels.lightpaths()}

    def lightpaths_during(
        self, start_s: float, end_s: float
    ) -> Callable[[tuple[str, ...]], Sequence[Lightpath] | None]:
        """Return a function: switches -> the lightpaths along them with a booking that overlaps [start_s, end_s).

        None: there are none.
        """
        if self.all_lightpaths_lit_from(start_s):
            return self._channels.along_or_none
        along = self._channels.lightpaths_along
        return cache(lambda nodes: self._overlapping(along(nodes), start_s, end_s))

    def slot_usage(self, link: str, start_s: float, end_s: float) -> tuple[int, int]:
        """Return the slots of a link occupied during [start_s, end_s), and those that several lightpaths occupy."""
        channels = self._channels.channels_on(link)
        if not self.all_lightpaths_lit_from(start_s):
            channels = link_channels(self._overlapping(channels.lightpaths.values(), start_s, end_s))
        return channels.slots, channels.overlap

    def _overlapping(self, lightpaths: Iterable[Lightpath], start_s: float, end_s: float) -> list[Lightpath]:
        return [lightpath for lightpath in lightpaths if self._links[lightpath.id].overlaps(start_s, end_s)]

    def all_lightpaths_lit_from(self, time_s: float) -> bool:
        """Return whether all bookings in lightpaths have started by `time_s` and none of them has an end."""
        return self._lightpaths_from_s <= time_s and not self._lightpath_ends

    def reserved_bps(self, link: str, start_s: float, end_s: float = inf) -> int:
        """Return the peak bandwidth booked on a link during [start_s, end_s), over all single failures."""
        link_calendar = self._links.get(link)
        if link_calendar is None:
            return 0
        lasts = link_calendar.latest_start_s <= start_s and end_s <= link_calendar.earliest_end_s
        if lasts and not link_calendar.conditional:  # the most frequent case
            return link_calendar.total_bps
        return link_calendar.peak_bps(start_s, end_s)

    def reserved_with_bps(self, link: str, further: Iterable[Booking], start_s: float, end_s: float) -> int:
        """Return the same with further bookings of that link."""
        demands = ((booking.activity, booking.rate_bps) for booking in (*self.bookings_on(link), *further))
        return peak_load(demands, start_s, end_s)
