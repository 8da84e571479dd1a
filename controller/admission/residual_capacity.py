"""What is left on links and in lightpaths for the flows of one request, and why it may not be enough."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from controller.booking.calendar import Booking, Calendar
from controller.booking.flow_bookings import FlowBooker, SizedFlow
from controller.booking.transfer_rate import window_of
from controller.domain.lightpath import Lightpath
from controller.domain.network import Network
from controller.domain.path import Path, link_names
from controller.domain.reservation import Flow, default_burst_bytes
from controller.domain.route import NEVER, Route
from controller.errors import NoCapacity, Refused
from controller.optical.grooming import LightpathAllocator
from controller.optical.lightpath_design import reservable_bps


def granted_burst_bytes(flow: Flow, rate_bps: int, network: Network) -> int:
    """What was asked, or the default for the rate, and one whole frame at least."""
    asked = flow.requirement.burst_bytes
    if asked is None:
        return default_burst_bytes(rate_bps, network.frame_bytes)
    return max(asked, network.frame_bytes)


class ResidualCapacity:
    """What is left on every link while flows of one request are placed and taken away again."""

    def __init__(
        self, network: Network, bookings: Calendar, lifetime: FlowBooker, held: Sequence[Lightpath] = ()
    ) -> None:
        """`held`: the lightpaths in which these flows travel now."""
        self.network = network
        self.bookings = bookings
        self.lifetime = lifetime
        self.light = LightpathAllocator(network, bookings, lifetime.start_s, lifetime.end_s, held)
        self._before_bps: dict[str, int] = {}
        self._own: dict[str, list[Booking]] = {}

    def others_bps(self, link: str) -> int:
        """The most that others take of a link during the request's lifetime."""
        before_bps = self._before_bps.get(link)
        if before_bps is None:
            before_bps = self.bookings.reserved_bps(link, self.lifetime.start_s, self.lifetime.end_s)
            self._before_bps[link] = before_bps
        return before_bps

    def total_bps(self, link: str, more: Sequence[Booking] = ()) -> int:
        """The most that is taken of a link with what has been placed, and with more."""
        own: tuple[Booking, ...] = (*self._own.get(link, ()), *more)
        own_bps = 0
        for booking in own:
            if not booking.is_plain:
                break
            own_bps += booking.rate_bps
        else:  # they last as long as the request: they add to the peak
            return self.others_bps(link) + own_bps
        return self.bookings.reserved_with_bps(link, own, self.lifetime.start_s, self.lifetime.end_s)

    def fits(self, bookings: Sequence[Booking]) -> bool:
        """Whether there is room for these bookings, each on a link of its own."""
        for each in bookings:
            alone = each.link not in self._own and each.is_plain
            after_bps = self.others_bps(each.link) + each.rate_bps if alone else self.total_bps(each.link, (each,))
            if after_bps > self._most_bps(each)[1]:
                return False
        return True

    def with_lightpaths(self, sized: SizedFlow, route: Route) -> Route | None:
        """The route with lightpaths along it, as they are or as they can be lit; None if there are none."""
        if self.network.grid is None:
            return route
        if route.backup is None:
            row = self.light.along(route.path[1:-1], sized.rate_bps, self.has_room_for(sized))
            return None if row is None else Route(route.path, None, row)
        _, around = ("", NEVER) if route.backup is None else self.lifetime.links_used(sized, route)[-1]
        light = [
            self.light.along(path[1:-1], sized.rate_bps, partial(self._has_room, sized, failures))
            for path, failures in ((route.path, NEVER), (route.backup, around))
        ]
        return None if None in light else Route(route.path, route.backup, light[0] or (), light[1] or ())

    def has_room_for(self, sized: SizedFlow) -> Callable[[Lightpath], bool]:
        """Whether there is room for a flow in a lightpath on its path."""
        if self._own or window_of(sized.flow) is not None:
            return partial(self._has_room, sized, NEVER)
        rate_bps, before_bps = sized.rate_bps, self.others_bps  # by far the most often
        return lambda lightpath: before_bps(lightpath.id) + rate_bps <= reservable_bps(lightpath.rate_bps)

    def _has_room(self, sized: SizedFlow, failures: frozenset[str], lightpath: Lightpath) -> bool:
        if not failures and lightpath.id not in self._own and window_of(sized.flow) is None:
            return self.others_bps(lightpath.id) + sized.rate_bps <= reservable_bps(lightpath.rate_bps)
        return self.fits((self.lifetime.lightpath_booking(sized, lightpath, failures),))

    def _most_bps(self, booking: Booking) -> tuple[int, int]:
        """The capacity of what is booked, and how much of it may be."""
        if booking.lightpath is not None:
            return booking.lightpath.rate_bps, reservable_bps(booking.lightpath.rate_bps)
        link = self.network.links[booking.link]
        return link.capacity_bps, link.reservable_bps

    def widest_bps(self, path: Path) -> int:
        """The highest rate for which an unprotected flow has room on a path if it is there at all times."""
        light_bps = sys.maxsize
        if self.network.grid is not None:
            light_bps = self.light.widest_bps(
                path[1:-1], lambda lightpath: reservable_bps(lightpath.rate_bps) - self.total_bps(lightpath.id)
            )
        lines = link_names(path)
        return min(light_bps, *(self.network.links[name].reservable_bps - self.total_bps(name) for name in lines))

    def lightpath_refusal(self, sized: SizedFlow, route: Route) -> Refused | None:
        """Why there are no lightpaths along a route; None if there are."""
        _, around = self.lifetime.links_used(sized, route)[-1]
        for path, failures in ((route.path, NEVER), (route.backup or (), around)):
            has_room = partial(self._has_room, sized, failures)
            refusal = self.light.refusal(sized.flow.name, path[1:-1], sized.rate_bps, has_room)
            if refusal is not None:
                return refusal
        return None

    def refusal(self, sized: SizedFlow, routes: Sequence[Route]) -> NoCapacity:
        """Why a flow does not fit: the tightest link of the route that comes closest, and what is wanted of it."""
        tightest = [self._tightest(sized, route) for route in routes]
        short_bps, booking = min(tightest, key=lambda each: each[0])
        if short_bps <= 0:  # it fits by itself and the search gave up or went another way round
            short_bps, booking = max(tightest, key=lambda each: each[0])
        link, (capacity_bps, most_bps) = booking.link, self._most_bps(booking)
        reserved_bps = self.others_bps(link)
        free_bps, asked_bps = most_bps - reserved_bps, short_bps + most_bps - reserved_bps
        whole = "" if asked_bps == sized.rate_bps else f" and the whole request {_mbps(asked_bps)} of {link}"
        of = "its only path" if len(routes) == 1 else f"the best of {len(routes)} paths"
        return NoCapacity(
            f"{sized.flow.name} needs {_mbps(sized.rate_bps)}{whole}; {link} has {_mbps(free_bps)} free on {of}.",
            flow=sized.flow.name,
            bottleneck={
                "link": link,
                "capacity_bps": capacity_bps,
                "reserved_bps": reserved_bps,
                "free_bps": free_bps,
                "asked_bps": asked_bps,
            },
        )

    def _tightest(self, sized: SizedFlow, route: Route) -> tuple[int, Booking]:
        """By how much the tightest link of a route is too small (below 0: that much is free), and what it would take.

        A lightpath of the route is like a link.
        """
        short = [
            (self.total_bps(each.link, (each,)) - self._most_bps(each)[1], each)
            for each in self.lifetime.bookings(sized, route)
        ]
        return max(short, key=lambda each: each[0])

    def allocate(self, bookings: Sequence[Booking]) -> None:
        """Take room."""
        for booking in bookings:
            self._own.setdefault(booking.link, []).append(booking)
            if booking.lightpath is not None:
                self.light.allocate(booking.lightpath)

    def free(self, bookings: Sequence[Booking]) -> None:
        """Give back what was placed last."""
        for booking in bookings:
            own = self._own[booking.link]
            own.pop()
            if not own:
                del self._own[booking.link]
            if booking.lightpath is not None:
                self.light.free(booking.lightpath)


def _mbps(rate_bps: int) -> str:
    return f"{rate_bps / 1e6:.6g} Mb/s"
