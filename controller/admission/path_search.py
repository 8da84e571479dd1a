"""Path search: one route for every flow of a group such that all fit at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import chain
from math import inf

from controller.admission.five_tuples import FiveTuple
from controller.admission.residual_capacity import ResidualCapacity
from controller.booking.calendar import Booking
from controller.booking.flow_bookings import PlacedFlow, SizedFlow
from controller.domain.network import Network
from controller.domain.path import hop_count
from controller.domain.reservation import Flow, Placement, Reservation
from controller.domain.route import Route, is_cut
from controller.errors import NoDisjointPath, Refused
from controller.optical.grooming import max_flow_bps
from controller.optical.route_order import route_order_for
from controller.optical.rsa import RouteOrder
from controller.routing.candidates import (
    CANDIDATES,
    candidate_paths,
    candidate_routes,
    links_out_of_reach,
    unprotected_routes,
)
from controller.routing.partition import no_path
from controller.routing.srlg_disjoint import SOLVE_LIMIT_S

SEARCH_STEPS = 4000
"""Placements tried before a group counts as not fitting."""

_READY, _EXISTING, _NEW, _MIXED = range(4)
"""State of a queued route: its lightpaths are known, or the kind of lightpaths to look for next."""

FittingRoute = tuple[Route, tuple[Booking, ...]]
"""A route with its lightpaths, and the bookings of its links."""

CurrentPlacements = Mapping[FiveTuple, Placement]
"""By 5-tuple: where the flows of a reservation that is being modified are."""


class PathSearch:
    """Depth-first search over candidate routes, largest flow first; remembers the deepest partial assignment."""

    def __init__(
        self,
        residual: ResidualCapacity,
        flows: Sequence[SizedFlow],
        current: CurrentPlacements,
        down: frozenset[str],
        most_steps: int = SEARCH_STEPS,
    ) -> None:
        self.residual = residual
        self.most_steps = most_steps
        self._current, self._down = current, down
        self._order = route_order_for(residual.network)
        self.flows = sorted(flows, key=lambda sized: sized.rate_bps, reverse=True)
        self.candidates = {
            sized.flow.name: _candidates(residual.network, sized.flow, current, down) for sized in flows
        }
        self._link_bookings: dict[tuple[str, int], tuple[Booking, ...]] = {}
        self.steps = 0
        self.deepest: tuple[int, dict[str, PlacedFlow]] = (-1, {})

    def assignments(self) -> Iterator[dict[str, PlacedFlow]]:
        """Assignments of routes that fit, by flow name, best first, within `most_steps` steps."""
        if not self.flows:
            return iter([{}])
        for depth, sized in enumerate(self.flows):
            if all(self._is_out_of_reach(route) for route in self.candidates[sized.flow.name]):
                self.deepest = (depth, {})  # this flow fits nowhere, however the others are placed
                return iter([])
        return self._place(0, {})

    def _is_out_of_reach(self, route: Route) -> bool:
        """Whether a span of the route exceeds the optical reach."""
        beyond = links_out_of_reach(self.residual.network)
        return bool(beyond) and any(is_cut(path, beyond) for path in (route.path, route.backup or ()))

    def _place(self, depth: int, chosen: dict[str, PlacedFlow]) -> Iterator[dict[str, PlacedFlow]]:
        sized = self.flows[depth]
        for route, bookings in self._fitting(sized):
            if route.lightpaths:
                bookings = (*bookings, *self.residual.booker.lightpath_bookings(sized, route))
            chosen[sized.flow.name] = PlacedFlow(sized, route, bookings)
            if depth + 1 == len(self.flows):
                yield dict(chosen)
            else:
                self.residual.allocate(bookings)
                yield from self._place(depth + 1, chosen)
                self.residual.free(bookings)
            del chosen[sized.flow.name]
        if depth > self.deepest[0]:
            self.deepest = (depth, dict(chosen))

    def _fitting(self, sized: SizedFlow) -> Iterator[FittingRoute]:
        """The routes on which a flow fits beside the flows placed so far, best first."""
        flow, order = sized.flow, self._order
        if order is None or flow.requirement.protection != "none":
            yield from self._in_order(sized, len(self.candidates[flow.name]))
            return
        current = self._current.get(flow.five_tuple)
        fits, current_first = False, current is not None and current.path == self.candidates[flow.name][0].path
        for fitting in chain(self._in_order(sized, current_first), self._by_price(sized, current_first, order.order)):
            fits = True
            yield fitting
        known = self.candidates[flow.name]
        if not fits and len(known) >= CANDIDATES and not _exceeds_lightpaths(self.residual.network, sized, known[0]):
            paths = {route.path for route in known}
            further = candidate_paths(self.residual.network, flow.source, flow.destination, self._down, order.k)
            self.candidates[flow.name] = (*known, *(Route(path) for path in further if path not in paths))
            yield from self._by_price(sized, len(known), order.order)

    def _in_order(self, sized: SizedFlow, count: int) -> Iterator[FittingRoute]:
        """The first `count` candidates that fit, in their order."""
        for number, route in enumerate(self.candidates[sized.flow.name][:count]):
            self.steps += 1
            if self.steps > self.most_steps:
                return
            bookings = self._link_bookings_of(sized, number)
            if self.residual.fits(bookings):
                groomed = self.residual.with_lightpaths(sized, route)
                if groomed is not None:
                    yield groomed, bookings

    def _by_price(self, sized: SizedFlow, first: int, order: RouteOrder) -> Iterator[FittingRoute]:
        """The candidates from `first` on, cheapest in spectrum first (see `LightpathAllocator.cost`).

        A best-first queue, keyed by a lower bound of the price. For each route the existing lightpaths are tried
        first, then a new one end to end, then, on the first candidates only, a mixture of both.
        """
        allocator, rate_bps, routes = self.residual.lightpaths, sized.rate_bps, self.candidates[sized.flow.name]
        if _exceeds_lightpaths(self.residual.network, sized, routes[0]):
            return
        has_capacity = self.residual.has_capacity_for(sized)
        queue = [
            (allocator.min_cost_existing(hop_count(routes[number].path) - 2, rate_bps), _EXISTING, number)
            for number in range(first, len(routes))
        ]
        heapify(queue)
        found: dict[int, Route] = {}
        while queue and self.steps < self.most_steps:
            _, stage, number = heappop(queue)
            path = routes[number].path
            if stage == _READY:
                bookings = self._link_bookings_of(sized, number)
                if self.residual.fits(bookings):
                    yield found[number], bookings
                continue
            nodes = path[1:-1]
            if stage == _EXISTING:
                self.steps += 1
                row = allocator.existing(nodes, has_capacity)
            elif stage == _NEW:
                row = allocator.new(nodes, rate_bps)
            else:
                row = allocator.mixed(nodes, rate_bps, has_capacity)
            if row is not None:
                found[number] = Route(path, None, row)
                heappush(queue, (allocator.cost(row, rate_bps, order), _READY, number))
            elif stage == _EXISTING and (price := allocator.min_cost_new(nodes, rate_bps)) < inf:
                heappush(queue, (price, _NEW, number))
            elif stage != _MIXED and number < CANDIDATES:
                heappush(queue, (allocator.min_cost_mixed(len(nodes) - 1, rate_bps), _MIXED, number))

    def _link_bookings_of(self, sized: SizedFlow, number: int) -> tuple[Booking, ...]:
        """The link bookings of a flow on its candidate of that number; computed once."""
        key = sized.flow.name, number
        bookings = self._link_bookings.get(key)
        if bookings is None:
            route = self.candidates[sized.flow.name][number]
            bookings = self._link_bookings[key] = self.residual.booker.link_bookings(sized, route)
        return bookings

    def refusal(self) -> Refused:
        """The flow that could not be placed, and the bottleneck of its route with the smallest shortfall.

        If the links have room: the reason that its first such route has no lightpaths.
        """
        depth, placed = self.deepest
        unplaced, base = self.flows[depth], self.residual
        residual = ResidualCapacity(base.network, base.calendar, base.booker, base.lightpaths.held)
        for placed_flow in placed.values():
            residual.allocate(placed_flow.bookings)
        for sized in self.flows[depth + 1 :]:
            residual.allocate(residual.booker.bookings(sized, self.candidates[sized.flow.name][0]))
        candidates = self.candidates[unplaced.flow.name]
        if residual.network.grid is not None:
            for route in candidates:
                if residual.fits(residual.booker.bookings(unplaced, route)):
                    refusal = residual.lightpath_refusal(unplaced, route)
                    if refusal is not None:
                        return refusal
        return residual.refusal(unplaced, candidates)


def _exceeds_lightpaths(network: Network, sized: SizedFlow, route: Route) -> bool:
    """Whether a flow between different switches exceeds the rate of every lightpath."""
    return len(route.path) > 3 and sized.rate_bps > max_flow_bps(network)


def _candidates(
    network: Network, flow: Flow, placements: CurrentPlacements, down: frozenset[str]
) -> tuple[Route, ...]:
    """The candidate routes. The flow's current route comes first if it is up, last if one of its two paths is.

    Raises: NoPath, NoDisjointPath.
    """
    paths = candidate_paths(network, flow.source, flow.destination, down)
    if not paths:
        raise no_path(network, flow.name, flow.source, flow.destination, down)
    protection = flow.requirement.protection
    if protection == "none":
        pairs = unprotected_routes(paths)
    else:
        pairs = candidate_routes(network, flow.source, flow.destination, down, protection == "duct_disjoint")
    is_seamless = protection != "none" and flow.requirement.backup == "seamless"
    if is_seamless and network.grid is not None:
        raise NoDisjointPath(f"{flow.name}: lightpaths carry no seamless backup.", flow=flow.name)
    routes, current = pairs.routes, placements.get(flow.five_tuple)
    if is_seamless:
        routes = tuple(replace(route, seamless=route.backup is not None) for route in routes)
    if (
        current is not None
        and current.flow.requirement.protection == protection
        and not current.is_underprotected(network.srlg_by_span)
    ):
        route = Route(current.path, current.backup_path, seamless=is_seamless and current.backup_path is not None)
        cuts = [is_cut(path, down) for path in (route.path, route.backup) if path is not None]
        if not any(cuts):
            return (route, *(other for other in routes if other != route))
        if not all(cuts) and not current.suspended:  # it stays on the path that is up until the other is repaired
            return (*routes, route)
    if not routes:
        common = "span or duct" if protection == "duct_disjoint" else "span"
        ends = f"from {flow.source} to {flow.destination}"
        found = "are up" if pairs.is_complete else f"were found in {SOLVE_LIMIT_S:g} s; there may be some"
        sentence = f"{flow.name}: no two paths {ends} without a common {common} {found}."
        raise NoDisjointPath(sentence, flow=flow.name)
    return routes


def current_placements(replaced: Reservation | None) -> CurrentPlacements:
    """The placements in the reservation that is being modified."""
    return {} if replaced is None else {placement.flow.five_tuple: placement for placement in replaced.placements}
