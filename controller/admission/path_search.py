"""The search for paths: which route for each flow of a group, so that all of them fit at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain
from math import inf

from controller.admission.residual_capacity import ResidualCapacity
from controller.booking.calendar import Booking
from controller.booking.flow_bookings import PlacedFlow, SizedFlow
from controller.domain.network import Network
from controller.domain.reservation import Flow, Placement, Reservation
from controller.domain.route import Route, is_cut
from controller.errors import NoDisjointPath, NoPath, Refused
from controller.optical.grooming import most_bps
from controller.optical.route_order import order_on
from controller.optical.rsa import Order
from controller.routing.candidates import CANDIDATES, candidate_paths, candidate_routes, plain_routes, too_long
from controller.routing.srlg_disjoint import SOLVE_LIMIT_S

SEARCH_STEPS = 4000
"""Placements tried before a group counts as not fitting."""


_FOUND, _LIT, _NEW, _MIXED = range(4)
"""Of a route in the queue: its row of lightpaths is known, or of what kind the row is that is looked for next."""

Fitting = tuple[Route, tuple[Booking, ...]]
"""A route with its lightpaths, and what is taken of its links."""


class PathSearch:
    """A depth-first search over candidate routes, biggest flow first, that remembers how far it came."""

    def __init__(
        self,
        room: ResidualCapacity,
        flows: Sequence[SizedFlow],
        replaced: Reservation | None,
        down: frozenset[str],
        most_steps: int = SEARCH_STEPS,
    ) -> None:
        self.room = room
        self.most_steps = most_steps
        self._replaced, self._down = replaced, down
        self._order = order_on(room.network)
        self.flows = sorted(flows, key=lambda sized: sized.rate_bps, reverse=True)
        self.candidates = {sized.flow.name: _candidates(room.network, sized.flow, replaced, down) for sized in flows}
        self._lines: dict[tuple[str, int], tuple[Booking, ...]] = {}
        self.steps = 0
        self.deepest: tuple[int, dict[str, PlacedFlow]] = (-1, {})

    def assignments(self) -> Iterator[dict[str, PlacedFlow]]:
        """Every assignment of routes that fits, by the flows' names, best first, until `most_steps` are spent."""
        if not self.flows:
            return iter([{}])
        for depth, sized in enumerate(self.flows):
            if all(self._is_too_far(route) for route in self.candidates[sized.flow.name]):
                self.deepest = (depth, {})  # whatever becomes of the others
                return iter([])
        return self._place(0, {})

    def _is_too_far(self, route: Route) -> bool:
        """Whether no light gets over a span of it."""
        beyond = too_long(self.room.network)
        return bool(beyond) and any(is_cut(path, beyond) for path in (route.path, route.backup or ()))

    def _place(self, depth: int, chosen: dict[str, PlacedFlow]) -> Iterator[dict[str, PlacedFlow]]:
        sized = self.flows[depth]
        for dressed, lines in self._fitting(sized):
            bookings = (*lines, *self.room.lifetime.lightpath_bookings(sized, dressed)) if dressed.lightpaths else lines
            chosen[sized.flow.name] = PlacedFlow(sized, dressed, bookings)
            if depth + 1 == len(self.flows):
                yield dict(chosen)
            else:
                self.room.allocate(bookings)
                yield from self._place(depth + 1, chosen)
                self.room.free(bookings)
            del chosen[sized.flow.name]
        if depth > self.deepest[0]:
            self.deepest = (depth, dict(chosen))

    def _fitting(self, sized: SizedFlow) -> Iterator[Fitting]:
        """The routes on which there is room for a flow as things stand, best first."""
        flow, order = sized.flow, self._order
        if order is None or flow.requirement.protection != "none":
            yield from self._in_turn(sized, len(self.candidates[flow.name]))
            return
        held = held_placement(self._replaced, flow)
        fits, stays = False, held is not None and held.path == self.candidates[flow.name][0].path
        for fitting in chain(self._in_turn(sized, stays), self._by_price(sized, stays, order.order)):
            fits = True
            yield fitting
        known = self.candidates[flow.name]
        if not fits and len(known) >= CANDIDATES and not _is_too_much(self.room.network, sized, known[0]):
            paths = {route.path for route in known}
            further = candidate_paths(self.room.network, flow.source, flow.destination, self._down, order.k)
            self.candidates[flow.name] = (*known, *(Route(path) for path in further if path not in paths))
            yield from self._by_price(sized, len(known), order.order)

    def _in_turn(self, sized: SizedFlow, count: int) -> Iterator[Fitting]:
        """So many of the candidates, one after the other."""
        for number, route in enumerate(self.candidates[sized.flow.name][:count]):
            self.steps += 1
            if self.steps > self.most_steps:
                return
            lines = self._lines_of(sized, number)
            if self.room.fits(lines):
                dressed = self.room.with_lightpaths(sized, route)
                if dressed is not None:
                    yield dressed, lines

    def _by_price(self, sized: SizedFlow, first: int, order: Order) -> Iterator[Fitting]:
        """The candidates from there on, those that take the least of the spectrum first (see `Light.price`).

        Every route stands in a queue by what it costs at least: a row of lightpaths that are lit, else a new one all
        the way, else, on the first candidates, a row of which a part is new.
        """
        light, rate_bps, routes = self.room.light, sized.rate_bps, self.candidates[sized.flow.name]
        if _is_too_much(self.room.network, sized, routes[0]):
            return
        has_room = self.room.has_room_for(sized)
        queue = [(light.least_price(len(routes[i].path) - 3, rate_bps), _LIT, i) for i in range(first, len(routes))]
        heapify(queue)
        found: dict[int, Route] = {}
        while queue and self.steps < self.most_steps:
            _, stage, number = heappop(queue)
            path = routes[number].path
            if stage == _FOUND:
                lines = self._lines_of(sized, number)
                if self.room.fits(lines):
                    yield found[number], lines
                continue
            nodes = path[1:-1]
            if stage == _LIT:
                self.steps += 1
                row = light.existing(nodes, has_room)
            elif stage == _NEW:
                row = light.new(nodes, rate_bps)
            else:
                row = light.mixed(nodes, rate_bps, has_room)
            if row is not None:
                found[number] = Route(path, None, row)
                heappush(queue, (light.price(row, rate_bps, order), _FOUND, number))
            elif stage == _LIT and (price := light.least_price_of_new(nodes, rate_bps)) < inf:
                heappush(queue, (price, _NEW, number))
            elif stage != _MIXED and number < CANDIDATES:
                heappush(queue, (light.least_price_of_mixed(len(nodes) - 1, rate_bps), _MIXED, number))

    def _lines_of(self, sized: SizedFlow, number: int) -> tuple[Booking, ...]:
        key = sized.flow.name, number
        lines = self._lines.get(key)
        if lines is None:
            lines = self._lines[key] = self.room.lifetime.link_bookings(sized, self.candidates[sized.flow.name][number])
        return lines

    def refusal(self) -> Refused:
        """Why it did not fit: the flow that got stuck, and the tightest link of the route that came closest.

        If the links have room: why there is no lightpath on the first of those routes.
        """
        depth, placed = self.deepest
        stuck = self.flows[depth]
        room = ResidualCapacity(self.room.network, self.room.bookings, self.room.lifetime, self.room.light.held)
        for placing in placed.values():
            room.allocate(placing.bookings)
        for sized in self.flows[depth + 1 :]:
            room.allocate(room.lifetime.bookings(sized, self.candidates[sized.flow.name][0]))
        candidates = self.candidates[stuck.flow.name]
        if room.network.grid is not None:
            for route in candidates:
                dark = room.fits(room.lifetime.bookings(stuck, route)) and room.lightpath_refusal(stuck, route)
                if dark:
                    return dark
        return room.refusal(stuck, candidates)


def _is_too_much(network: Network, sized: SizedFlow, route: Route) -> bool:
    """Whether a flow needs light and more of it than any lightpath carries."""
    return len(route.path) > 3 and sized.rate_bps > most_bps(network)


def _candidates(
    network: Network, flow: Flow, replaced: Reservation | None, down: frozenset[str]
) -> tuple[Route, ...]:
    """The candidate routes. The one that the flow has now comes first if it is up, and last if half of it is.

    Raises: NoPath, NoDisjointPath.
    """
    paths = candidate_paths(network, flow.source, flow.destination, down)
    if not paths:
        raise NoPath(f"{flow.name}: no path from {flow.source} to {flow.destination} is up.", flow=flow.name)
    protection = flow.requirement.protection
    if protection == "none":
        pairs = plain_routes(paths)
    else:
        pairs = candidate_routes(network, flow.source, flow.destination, down, protection == "duct_disjoint")
    routes, held = pairs.routes, held_placement(replaced, flow)
    if held is not None and held.flow.requirement.protection == protection and not held.is_weak(network.ducts):
        route = Route(held.path, held.backup_path)
        cuts = [is_cut(path, down) for path in (route.path, route.backup) if path is not None]
        if not any(cuts):
            return (route, *(other for other in routes if other != route))
        if not all(cuts) and not held.suspended:  # it goes on as it does, until what is cut is mended
            return (*routes, route)
    if not routes:
        common = "span or duct" if protection == "duct_disjoint" else "span"
        ends = f"from {flow.source} to {flow.destination}"
        found = "are up" if pairs.complete else f"were found in {SOLVE_LIMIT_S:g} s; there may be some"
        sentence = f"{flow.name}: no two paths {ends} without a common {common} {found}."
        raise NoDisjointPath(sentence, flow=flow.name)
    return routes


def held_placement(replaced: Reservation | None, flow: Flow) -> Placement | None:
    """What a reservation that is being modified holds now for this flow."""
    if replaced is None:
        return None
    return next((p for p in replaced.placements if p.flow.five_tuple == flow.five_tuple), None)
