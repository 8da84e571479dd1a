"""The calendar: what is taken on every directed link, and from when to when.

Immutable; a change shares what it keeps, so its cost does not depend on how much is booked elsewhere.
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

from controller.booking.lit_channels import Channels, on_link
from controller.booking.peak_load import Activity, peak_load
from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath
from controller.domain.reservation import Window

Steps = tuple[NDArray[np.float64], NDArray[np.int64]]


class Booking(NamedTuple):
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


class _LinkCalendar:
    """The bookings of one link, and sums that answer the usual question: all of them are needed all the time asked for.

    Never changed; every change makes another.
    """

    __slots__ = ("_steps", "by_reservation", "earliest_end_s", "latest_start_s", "special", "total_bps")

    def __init__(
        self,
        by_reservation: Map[str, tuple[Booking, ...]],
        special: int,
        total_bps: int,
        latest_start_s: float,
        earliest_end_s: float,
        steps: Steps | None = None,
    ) -> None:
        """`special`: how many are not plain. `latest_start_s`, `earliest_end_s`: or a moment after or before it."""
        self.by_reservation = by_reservation
        self.special = special
        self.total_bps = total_bps
        self.latest_start_s = latest_start_s
        self.earliest_end_s = earliest_end_s
        self._steps = steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _LinkCalendar) and self.by_reservation == other.by_reservation

    def __iter__(self) -> Iterator[Booking]:
        for own in self.by_reservation.values():
            yield from own

    def plus(self, booking: Booking) -> _LinkCalendar:
        own = self.by_reservation.get(booking.reservation_id)
        special = self.special + (not booking.is_plain)
        return _LinkCalendar(
            self.by_reservation.set(booking.reservation_id, (booking,) if own is None else (*own, booking)),
            special,
            self.total_bps + booking.rate_bps,
            max(self.latest_start_s, booking.start_s),
            min(self.earliest_end_s, booking.end_s),
            None if special or self._steps is None else _changed(*self._steps, booking, booking.rate_bps),
        )

    def without(self, reservation_id: str) -> _LinkCalendar:
        steps = None if self.special else self._steps
        special, total_bps = self.special, self.total_bps
        latest_start_s, earliest_end_s = self.latest_start_s, self.earliest_end_s
        is_first_or_last = False
        for booking in self.by_reservation[reservation_id]:
            is_first_or_last |= booking.start_s == latest_start_s or inf > booking.end_s == earliest_end_s
            total_bps -= booking.rate_bps
            if special and not booking.is_plain:
                special -= 1
            if steps is not None:
                steps = _changed(*steps, booking, -booking.rate_bps)
        kept = self.by_reservation.delete(reservation_id)
        if is_first_or_last and kept:
            starts_and_ends = [(each.start_s, each.end_s) for own in kept.values() for each in own]
            latest_start_s = max((start_s for start_s, _ in starts_and_ends), default=-inf)
            earliest_end_s = min((end_s for _, end_s in starts_and_ends), default=inf)
        return _LinkCalendar(kept, special, total_bps, latest_start_s, earliest_end_s, steps)

    def meets(self, start_s: float, end_s: float) -> bool:
        """Whether anything is booked at any moment of [start_s, end_s)."""
        if self.latest_start_s < end_s and start_s < self.earliest_end_s:
            return bool(self.by_reservation)
        return any(each.start_s < end_s and start_s < each.end_s for each in self)

    def peak_bps(self, start_s: float, end_s: float) -> int:
        if self.special:
            return peak_load(((booking.activity, booking.rate_bps) for booking in self), start_s, end_s)
        if self.latest_start_s <= start_s and end_s <= self.earliest_end_s:
            return self.total_bps
        moments, sums = self.steps
        first, last = int(moments.searchsorted(start_s, "right")) - 1, int(moments.searchsorted(end_s))
        return int(sums[max(first, 0) : last].max(initial=0))

    @property
    def steps(self) -> Steps:
        """The moments at which the sum changes, and what is taken from each on."""
        if self._steps is None:
            changes: dict[float, int] = {}
            for booking in self:
                changes[booking.start_s] = changes.get(booking.start_s, 0) + booking.rate_bps
                changes[booking.end_s] = changes.get(booking.end_s, 0) - booking.rate_bps
            moments = sorted(changes)
            sums = list(accumulate(changes[moment] for moment in moments))
            self._steps = np.array(moments, np.float64), np.array(sums, np.int64)
        return self._steps


def _changed(moments: NDArray[np.float64], sums: NDArray[np.int64], booking: Booking, rate_bps: int) -> Steps:
    """The steps with so much more, or less, during a booking's time."""
    first, last = (int(moments.searchsorted(moment)) for moment in (booking.start_s, booking.end_s))
    starts = ends = moments[:0]
    raised = lowered = sums[:0]
    if first == len(moments) or moments[first] != booking.start_s:
        before_bps = int(sums[first - 1]) if first else 0
        starts, raised = np.array([booking.start_s], np.float64), np.array([before_bps + rate_bps], np.int64)
    if last == len(moments) or moments[last] != booking.end_s:
        ends = np.array([booking.end_s], np.float64)
        lowered = sums[last - 1 : last] if last else np.zeros(1, np.int64)
    middle = sums[first:last] + rate_bps
    moments = np.concatenate((moments[:first], starts, moments[first:last], ends, moments[last:]))
    sums = np.concatenate((sums[:first], raised, middle, lowered, sums[last:]))
    if rate_bps > 0:
        return moments, sums
    counts = np.diff(sums, prepend=0) != 0
    return moments[counts], sums[counts]


_NOTHING = _LinkCalendar(Map(), 0, 0, -inf, inf)

@frozen
class Calendar:
    """Every booking, by link and by reservation; equal if they hold the same bookings."""

    _links: Map[str, _LinkCalendar] = field(default_factory=Map)
    _reservations: Map[str, tuple[Booking, ...]] = field(default_factory=Map)
    _channels: Channels = field(default_factory=Channels, compare=False)
    _light_from_s: float = field(default=-inf, compare=False)
    """When the last booking in a lightpath begins, or a later moment."""
    _light_ends: int = field(default=0, compare=False)
    """How many bookings in lightpaths have an end."""

    def on(self, link: str) -> tuple[Booking, ...]:
        """The bookings of a link, those of a reservation in the order they were made."""
        return tuple(self._links.get(link, _NOTHING))

    def of(self, reservation_id: str) -> tuple[Booking, ...]:
        """The bookings of a reservation."""
        return self._reservations.get(reservation_id, ())

    def adding(self, bookings: Iterable[Booking]) -> Calendar:
        """This calendar with more in it; whether it fits is for admission to say."""
        links, reservations, channels = self._links.mutate(), self._reservations, self._channels
        light_from_s, light_ends = self._light_from_s, self._light_ends
        added: dict[str, list[Booking]] = {}
        for booking in bookings:
            name = booking.link
            before = links.get(name, _NOTHING)
            if booking.lightpath is not None:
                light_from_s = max(light_from_s, booking.start_s)
                light_ends += booking.end_s < inf
                if before is _NOTHING:
                    channels = channels.plus(booking.lightpath)
            links[name] = before.plus(booking)
            added.setdefault(booking.reservation_id, []).append(booking)
        for reservation_id, own in added.items():
            reservations = reservations.set(reservation_id, (*reservations.get(reservation_id, ()), *own))
        return Calendar(links.finish(), reservations, channels, light_from_s, light_ends)

    def without(self, reservation_id: str) -> Calendar:
        """This calendar with nothing of that reservation left."""
        if reservation_id not in self._reservations:
            return self
        links, channels, light_ends = self._links.mutate(), self._channels, self._light_ends
        gone = self._reservations[reservation_id]
        for name, booking in {booking.link: booking for booking in gone}.items():
            kept = links[name].without(reservation_id)
            if kept.by_reservation:
                links[name] = kept
            else:
                del links[name]
                channels = channels if booking.lightpath is None else channels.minus(booking.lightpath)
        if light_ends:
            light_ends -= sum(each.lightpath is not None and each.end_s < inf for each in gone)
        rest = self._reservations.delete(reservation_id)
        return Calendar(links.finish(), rest, channels, self._light_from_s, light_ends)

    def lightpaths(self) -> dict[str, Lightpath]:
        """All lightpaths in which anything is booked, now or later, by id."""
        return {lightpath.id: lightpath for lightpath in self._channels.all()}

    def lit_during(self, start_s: float, end_s: float) -> Callable[[tuple[str, ...]], Sequence[Lightpath]]:
        """Looks up the lightpaths along switches in which anything is booked at any moment of [start_s, end_s)."""
        along = self._channels.along
        if self.all_light_is_lit(start_s):
            return along
        return cache(lambda nodes: [each for each in along(nodes) if self._links[each.id].meets(start_s, end_s)])

    def slots_on(self, link: str, start_s: float, end_s: float) -> tuple[int, int]:
        """The slots of a link that are taken at any moment of [start_s, end_s), and those that several take."""
        on = self._channels.on(link)
        if not self.all_light_is_lit(start_s):
            on = on_link(each for each in on.lightpaths.values() if self._links[each.id].meets(start_s, end_s))
        return on.slots, on.overlap

    def all_light_is_lit(self, moment_s: float) -> bool:
        """Whether everything booked in lightpaths has begun by then, and nothing of it has an end."""
        return self._light_from_s <= moment_s and not self._light_ends

    def reserved_bps(self, link: str, start_s: float, end_s: float = inf) -> int:
        """The most that is taken on a link at any moment of [start_s, end_s), whichever one span or duct is down."""
        on = self._links.get(link)
        return 0 if on is None else on.peak_bps(start_s, end_s)

    def reserved_with_bps(self, link: str, more: Iterable[Booking], start_s: float, end_s: float) -> int:
        """The same with further bookings of that link."""
        members = ((booking.activity, booking.rate_bps) for booking in (*self.on(link), *more))
        return peak_load(members, start_s, end_s)
