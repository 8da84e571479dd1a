"""Residual capacity of links and lightpaths for the flows of one request, and the reason when it is not enough."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from controller.booking.calendar import Booking, Calendar
from controller.booking.flow_bookings import FlowBooker, SizedFlow
from controller.booking.transfer_rate import booked_window
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.domain.lightpath import Lightpath
from controller.domain.network import Network
from controller.domain.path import Path, link_names
from controller.domain.reservation import Flow, Reservation, default_burst_bytes, least_burst_bytes
from controller.domain.route import NO_FAILURES, Route
from controller.errors import NoCapacity, Refused
from controller.optical.grooming import LightpathAllocator
from controller.optical.lightpath_design import reservable_bps


def granted_burst_bytes(
    flow: Flow, rate_bps: int, network: Network, calibration: Calibration = DEFAULT_CALIBRATION
) -> int:
    """The requested burst, or the default for the rate; at least what the full rate needs (`least_burst_bytes`).

    The frame that counts is the largest of the flow; larger ones pass only as far as the bucket holds them. A meter
    that refills continuously needs no more than one frame.
    """
    requirement = flow.requirement
    frame_bytes = requirement.frame_bytes(network.max_frame_bytes)
    if requirement.burst_bytes is None and not requirement.is_one_frame:
        return default_burst_bytes(rate_bps, frame_bytes)
    least_bytes = least_burst_bytes(rate_bps, frame_bytes) if calibration.meter_tick_us else frame_bytes
    return max(requirement.burst_bytes or 0, least_bytes)


def held_lightpaths(reservation: Reservation | None) -> tuple[Lightpath, ...]:
    """The lightpaths that carry the flows of a reservation."""
    carried = reservation.carried_placements if reservation else ()
    return tuple(dict.fromkeys(each for p in carried for each in (*p.lightpaths, *p.backup_lightpaths)))


class ResidualCapacity:
    """Residual capacity of every link and lightpath while flows of one request are allocated and freed."""

    def __init__(
        self, network: Network, calendar: Calendar, booker: FlowBooker, held: Sequence[Lightpath] = ()
    ) -> None:
        """`held`: the lightpaths that carry these flows at present."""
        self.network = network
        self.calendar = calendar
        self.booker = booker
        self.lightpaths = LightpathAllocator(network, calendar, booker.start_s, booker.end_s, held)
        self._others_bps: dict[str, int] = {}
        self._allocated: dict[str, list[Booking]] = {}

    def others_bps(self, link: str) -> int:
        """The peak rate that other reservations book on a link during the request's lifetime."""
        others_bps = self._others_bps.get(link)
        if others_bps is None:
            others_bps = self.calendar.reserved_bps(link, self.booker.start_s, self.booker.end_s)
            self._others_bps[link] = others_bps
        return others_bps

    def total_bps(self, link: str, more: Sequence[Booking] = ()) -> int:
        """The peak rate booked on a link, the request's allocated bookings and `more` included."""
        own: tuple[Booking, ...] = (*self._allocated.get(link, ()), *more)
        own_bps = 0
        for booking in own:
            if booking.window is not None or booking.failures:
                break
            own_bps += booking.rate_bps
        else:  # plain bookings last as long as the request, so they add to the peak of the others
            return self.others_bps(link) + own_bps
        return self.calendar.reserved_with_bps(link, own, self.booker.start_s, self.booker.end_s)

    def fits(self, bookings: Sequence[Booking]) -> bool:
        """Whether the residual capacity suffices for these bookings, each on a different link."""
        links, allocated = self.network.links, self._allocated
        for booking in bookings:
            link, lightpath = booking.link, booking.lightpath
            if link in allocated or booking.window is not None or booking.failures:
                total_bps = self.total_bps(link, (booking,))
            else:  # by far the most frequent case
                total_bps = self.others_bps(link) + booking.rate_bps
            limit_bps = links[link].reservable_bps if lightpath is None else reservable_bps(lightpath.rate_bps)
            if total_bps > limit_bps:
                return False
        return True

    def with_lightpaths(self, sized: SizedFlow, route: Route) -> Route | None:
        """The route with existing or new lightpaths along it; None if none are available.

        Unchanged on a network without optical grid.
        """
        if self.network.grid is None:
            return route
        if route.backup is None:
            row = self.lightpaths.lightpaths_along(route.path[1:-1], sized.rate_bps, self.has_capacity_for(sized))
            return None if row is None else Route(route.path, None, row)
        _, backup_failures = self.booker.links_used(sized, route)[-1]
        rows = [
            self.lightpaths.lightpaths_along(path[1:-1], sized.rate_bps, partial(self._has_capacity, sized, failures))
            for path, failures in ((route.path, NO_FAILURES), (route.backup, backup_failures))
        ]
        return None if None in rows else Route(route.path, route.backup, rows[0] or (), rows[1] or ())

    def has_capacity_for(self, sized: SizedFlow) -> Callable[[Lightpath], bool]:
        """A predicate: whether the residual capacity of a lightpath on the working path is enough for the flow."""
        if self._allocated or booked_window(sized.flow) is not None:
            return partial(self._has_capacity, sized, NO_FAILURES)
        rate_bps, known_bps, others_bps = sized.rate_bps, self._others_bps, self.others_bps

        def has_capacity(lightpath: Lightpath) -> bool:  # fast path: by far the most frequent case
            name = lightpath.id
            booked_bps = known_bps[name] if name in known_bps else others_bps(name)
            return booked_bps + rate_bps <= reservable_bps(lightpath.rate_bps)

        return has_capacity

    def _has_capacity(self, sized: SizedFlow, failures: frozenset[str], lightpath: Lightpath) -> bool:
        if not failures and lightpath.id not in self._allocated and booked_window(sized.flow) is None:
            return self.others_bps(lightpath.id) + sized.rate_bps <= reservable_bps(lightpath.rate_bps)
        return self.fits((self.booker.lightpath_booking(sized, lightpath, failures),))

    def _limits_bps(self, booking: Booking) -> tuple[int, int]:
        """Capacity and reservable rate of the booked link or lightpath."""
        if booking.lightpath is not None:
            return booking.lightpath.rate_bps, reservable_bps(booking.lightpath.rate_bps)
        link = self.network.links[booking.link]
        return link.capacity_bps, link.reservable_bps

    def widest_bps(self, path: Path) -> int:
        """The highest rate at which an unprotected flow without a window fits on a path."""
        lightpath_bps = sys.maxsize
        if self.network.grid is not None:
            lightpath_bps = self.lightpaths.max_rate_bps(
                path[1:-1], lambda lightpath: reservable_bps(lightpath.rate_bps) - self.total_bps(lightpath.id)
            )
        links = link_names(path)
        return min(lightpath_bps, *(self.network.links[name].reservable_bps - self.total_bps(name) for name in links))

    def lightpath_refusal(self, sized: SizedFlow, route: Route) -> Refused | None:
        """The reason that no lightpaths are available along a route; None if there are some."""
        _, backup_failures = self.booker.links_used(sized, route)[-1]
        for path, failures in ((route.path, NO_FAILURES), (route.backup or (), backup_failures)):
            has_capacity = partial(self._has_capacity, sized, failures)
            refusal = self.lightpaths.refusal(sized.flow.name, path[1:-1], sized.rate_bps, has_capacity)
            if refusal is not None:
                return refusal
        return None

    def refusal(self, sized: SizedFlow, routes: Sequence[Route]) -> NoCapacity:
        """The bottleneck link of the route with the smallest shortfall, and the rate requested of it."""
        bottlenecks = [self._bottleneck(sized, route) for route in routes]
        shortfall_bps, booking = min(bottlenecks, key=lambda bottleneck: bottleneck[0])
        if shortfall_bps <= 0:  # the flow fits by itself; the search ended early or placed the others differently
            shortfall_bps, booking = max(bottlenecks, key=lambda bottleneck: bottleneck[0])
        link, (capacity_bps, limit_bps) = booking.link, self._limits_bps(booking)
        reserved_bps = self.others_bps(link)
        free_bps = limit_bps - reserved_bps
        requested_bps = free_bps + shortfall_bps
        whole = "" if requested_bps == sized.rate_bps else f" and the whole request {_mbps(requested_bps)} of {link}"
        of = "its only path" if len(routes) == 1 else f"the best of {len(routes)} paths"
        return NoCapacity(
            f"{sized.flow.name} needs {_mbps(sized.rate_bps)}{whole}; {link} has {_mbps(free_bps)} free on {of}.",
            flow=sized.flow.name,
            bottleneck={
                "link": link,
                "capacity_bps": capacity_bps,
                "reserved_bps": reserved_bps,
                "free_bps": free_bps,
                "asked_bps": requested_bps,
            },
        )

    def _bottleneck(self, sized: SizedFlow, route: Route) -> tuple[int, Booking]:
        """The largest shortfall among the links and lightpaths of a route (negative: free), and the booking there."""
        shortfalls = [
            (self.total_bps(booking.link, (booking,)) - self._limits_bps(booking)[1], booking)
            for booking in self.booker.bookings(sized, route)
        ]
        return max(shortfalls, key=lambda shortfall: shortfall[0])

    def allocate(self, bookings: Sequence[Booking]) -> None:
        """Subtract these bookings from the residual capacity."""
        for booking in bookings:
            self._allocated.setdefault(booking.link, []).append(booking)
            if booking.lightpath is not None:
                self.lightpaths.allocate(booking.lightpath)

    def free(self, bookings: Sequence[Booking]) -> None:
        """Undo the last `allocate`, which had the same bookings."""
        for booking in bookings:
            allocated = self._allocated[booking.link]
            allocated.pop()
            if not allocated:
                del self._allocated[booking.link]
            if booking.lightpath is not None:
                self.lightpaths.free(booking.lightpath)


def _mbps(rate_bps: int) -> str:
    return f"{rate_bps / 1e6:.6g} Mb/s"
