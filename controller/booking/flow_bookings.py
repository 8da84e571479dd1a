"""What one sized flow books on one route (from room.py, admission.py)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from controller.booking.calendar import Booking
from controller.booking.transfer_rate import window_of
from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath
from controller.domain.path import link_names
from controller.domain.reservation import Flow, Placement
from controller.domain.route import NEVER, Ducts, Route, links_taken


def bookings_of(
    ducts: Ducts, reservation_id: str, placements: Sequence[Placement], start_s: float, end_s: float = inf
) -> list[Booking]:
    """What these placements take in the calendar from start to end, on their paths and on what protects them."""
    lifetime = FlowBooker(ducts, reservation_id, start_s, end_s)
    return [
        booking
        for p in placements
        if not p.suspended
        for booking in lifetime.bookings(
            SizedFlow(p.flow, p.reserved_bps, p.burst_bytes), p.route
        )
    ]



@frozen
class SizedFlow:
    """A flow with the rate and burst it is to get."""

    flow: Flow
    rate_bps: int
    burst_bytes: int


@frozen
class PlacedFlow:
    """A flow in its place: as large as it is to be, on its route, and what it takes in the calendar."""

    sized: SizedFlow
    route: Route
    bookings: tuple[Booking, ...]


@frozen
class FlowBooker:
    """Whose bookings, on a network with which ducts, and from when to when."""

    ducts: Ducts
    reservation_id: str
    start_s: float
    end_s: float = inf

    def placing(self, sized: SizedFlow, route: Route) -> PlacedFlow:
        """A flow on a route."""
        return PlacedFlow(sized, route, self.bookings(sized, route))

    def bookings(self, sized: SizedFlow, route: Route) -> tuple[Booking, ...]:
        """What a flow takes in the calendar on a route."""
        return (*self.link_bookings(sized, route), *self.lightpath_bookings(sized, route))

    def link_bookings(self, sized: SizedFlow, route: Route) -> tuple[Booking, ...]:
        """Of that, what it takes of links."""
        whose, name, rate_bps = self.reservation_id, sized.flow.name, sized.rate_bps
        start_s, end_s, window = self.start_s, self.end_s, window_of(sized.flow)
        if route.backup is None:
            return tuple([Booking(whose, name, x, rate_bps, start_s, end_s, window) for x in link_names(route.path)])
        taken = self.links_used(sized, route)
        return tuple([Booking(whose, name, x, rate_bps, start_s, end_s, window, failures) for x, failures in taken])

    def lightpath_bookings(self, sized: SizedFlow, route: Route) -> tuple[Booking, ...]:
        """Of that, what it takes of lightpaths."""
        first = tuple([self.lightpath_booking(sized, each, NEVER) for each in route.lightpaths])
        if not route.backup_lightpaths:
            return first
        _, around = self.links_used(sized, route)[-1]
        return (*first, *(self.lightpath_booking(sized, each, around) for each in route.backup_lightpaths))

    def links_used(self, sized: SizedFlow, route: Route) -> tuple[tuple[str, frozenset[str]], ...]:
        """The links, and under which failures; see controller.domain.route."""
        return links_taken(route, self.ducts, sized.flow.requirement.backup == "dedicated")

    def lightpath_booking(self, sized: SizedFlow, lightpath: Lightpath, failures: frozenset[str]) -> Booking:
        """What a flow takes of a lightpath; on a backup while one of these failures lasts."""
        times = self.start_s, self.end_s, window_of(sized.flow)
        return Booking(
            self.reservation_id, sized.flow.name, lightpath.id, sized.rate_bps, *times, failures, lightpath
        )
