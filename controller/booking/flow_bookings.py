"""The bookings of a sized flow on a route."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf

from controller.booking.calendar import Booking
from controller.booking.transfer_rate import booked_window
from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath
from controller.domain.path import link_names
from controller.domain.reservation import Flow, Placement
from controller.domain.route import NO_FAILURES, Route, SrlgBySpan, link_usage


def bookings_of(
    srlgs: SrlgBySpan, reservation_id: str, placements: Sequence[Placement], start_s: float, end_s: float = inf
) -> list[Booking]:
    """Return the bookings of these placements from start to end, on their paths and backup paths."""
    booker = FlowBooker(srlgs, reservation_id, start_s, end_s)
    return [
        booking
        for placement in placements
        if not placement.suspended
        for booking in booker.bookings(
            SizedFlow(placement.flow, placement.reserved_bps, placement.burst_bytes), placement.route
        )
    ]


@frozen
class SizedFlow:
    """A flow with the rate and burst it is assigned."""

    flow: Flow
    rate_bps: int
    burst_bytes: int


@frozen
class PlacedFlow:
    """A sized flow on its route, with its bookings."""

    sized_flow: SizedFlow
    route: Route
    bookings: tuple[Booking, ...]


@frozen
class FlowBooker:
    """Creates the bookings of a reservation's flows for its lifetime."""

    srlgs: SrlgBySpan
    reservation_id: str
    start_s: float
    end_s: float = inf

    def place(self, sized_flow: SizedFlow, route: Route) -> PlacedFlow:
        """Return the flow placed on a route."""
        return PlacedFlow(sized_flow, route, self.bookings(sized_flow, route))

    def bookings(self, sized_flow: SizedFlow, route: Route) -> tuple[Booking, ...]:
        """Return all bookings of a flow on a route."""
        return (*self.link_bookings(sized_flow, route), *self.lightpath_bookings(sized_flow, route))

    def link_bookings(self, sized_flow: SizedFlow, route: Route) -> tuple[Booking, ...]:
        """Return the bookings on links."""
        reservation_id, name, rate_bps = self.reservation_id, sized_flow.flow.name, sized_flow.rate_bps
        start_s, end_s, window = self.start_s, self.end_s, booked_window(sized_flow.flow)
        if route.backup is None:
            links = link_names(route.path)
            return tuple([Booking(reservation_id, name, link, rate_bps, start_s, end_s, window) for link in links])
        usage = self.links_used(sized_flow, route)
        if route.seamless:
            copies = Counter(link for link, _ in usage)
            return tuple(
                [
                    Booking(reservation_id, name, link, rate_bps * count, start_s, end_s, window)
                    for link, count in copies.items()
                ]
            )
        return tuple(
            [
                Booking(reservation_id, name, link, rate_bps, start_s, end_s, window, failures)
                for link, failures in usage
            ]
        )

    def lightpath_bookings(self, sized_flow: SizedFlow, route: Route) -> tuple[Booking, ...]:
        """Return the bookings in lightpaths."""
        first = tuple([self.lightpath_booking(sized_flow, lightpath, NO_FAILURES) for lightpath in route.lightpaths])
        if not route.backup_lightpaths:
            return first
        _, around = self.links_used(sized_flow, route)[-1]
        return (
            *first,
            *(self.lightpath_booking(sized_flow, lightpath, around) for lightpath in route.backup_lightpaths),
        )

    def links_used(self, sized_flow: SizedFlow, route: Route) -> tuple[tuple[str, frozenset[str]], ...]:
        """Return the links the flow needs on a route, and the failures under which; empty: always."""
        return link_usage(route, self.srlgs, sized_flow.flow.requirement.backup == "dedicated")

    def lightpath_booking(self, sized_flow: SizedFlow, lightpath: Lightpath, failures: frozenset[str]) -> Booking:
        """Return the booking of a flow in a lightpath; `failures`: of a backup, those under which it is needed."""
        times = self.start_s, self.end_s, booked_window(sized_flow.flow)
        return Booking(
            self.reservation_id, sized_flow.flow.name, lightpath.id, sized_flow.rate_bps, *times, failures, lightpath
        )
