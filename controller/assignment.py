"""The search for paths: which route for each flow of a group, so that all of them fit at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from controller.bookings import Booking, Bookings
from controller.ducts import SOLVE_LIMIT_S
from controller.errors import NoCapacity, NoDisjointPath, NoPath, Refused
from controller.network import Network
from controller.optical.grooming import Light
from controller.optical.lightpaths import Lightpath
from controller.optical.lines import reservable_bps
from controller.paths import Pairs, candidate_paths, candidate_routes
from controller.reservation import Flow, Placement, Reservation, default_burst_bytes
from controller.routes import NEVER, Ducts, Route, is_cut, links_taken
from controller.transfers import window_of

SEARCH_STEPS = 4000
"""Placements tried before a group counts as not fitting."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A flow with the rate and burst it is to get."""

    flow: Flow
    rate_bps: int
    burst_bytes: int


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Whose bookings, on a network with which ducts, and from when to when."""

    ducts: Ducts
    reservation_id: str
    start_s: float
    end_s: float = inf

    def bookings(self, sized: Sized, route: Route) -> tuple[Booking, ...]:
        """What a flow takes in the calendar on a route."""
        name, rate_bps, window = sized.flow.name, sized.rate_bps, window_of(sized.flow)
        taken = self.taken(sized, route)
        lines = (
            Booking(self.reservation_id, name, link, rate_bps, self.start_s, self.end_s, window, failures)
            for link, failures in taken
        )
        _, around = taken[-1]
        light = [(each, NEVER) for each in route.lightpaths] + [(each, around) for each in route.backup_lightpaths]
        return (*lines, *(self.in_light(sized, *each) for each in light))

    def taken(self, sized: Sized, route: Route) -> tuple[tuple[str, frozenset[str]], ...]:
        """The links, and under which failures; see controller.routes."""
        return links_taken(route, self.ducts, sized.flow.requirement.backup == "dedicated")

    def in_light(self, sized: Sized, lightpath: Lightpath, failures: frozenset[str]) -> Booking:
        """What a flow takes of a lightpath; on a backup while one of these failures lasts."""
        times = self.start_s, self.end_s, window_of(sized.flow)
        return Booking(
            self.reservation_id, sized.flow.name, lightpath.id, sized.rate_bps, *times, failures, lightpath
        )


def granted_burst_bytes(flow: Flow, rate_bps: int, network: Network) -> int:
    """What was asked, or the default for the rate, and one whole frame at least."""
    asked = flow.requirement.burst_bytes
    if asked is None:
        return default_burst_bytes(rate_bps, network.frame_bytes)
    return max(asked, network.frame_bytes)


class Room:
    """What is left on every link while flows of one request are placed and taken away again."""

    def __init__(
        self, network: Network, bookings: Bookings, lifetime: Lifetime, held: Sequence[Lightpath] = ()
    ) -> None:
        """`held`: the lightpaths in which these flows travel now."""
        self.network = network
        self.bookings = bookings
        self.lifetime = lifetime
        self.light = Light(network, bookings, lifetime.start_s, lifetime.end_s, held)
        self._before_bps: dict[str, int] = {}
        self._own: dict[str, list[Booking]] = {}

    def before_bps(self, link: str) -> int:
        """The most that others take of a link during the request's lifetime."""
        if link not in self._before_bps:
            self._before_bps[link] = self.bookings.reserved_bps(link, self.lifetime.start_s, self.lifetime.end_s)
        return self._before_bps[link]

    def after_bps(self, link: str, more: Sequence[Booking] = ()) -> int:
        """The most that is taken of a link with what has been placed, and with more."""
        own: tuple[Booking, ...] = (*self._own.get(link, ()), *more)
        own_bps = 0
        for booking in own:
            if not booking.is_plain:
                break
            own_bps += booking.rate_bps
        else:  # they last as long as the request: they add to the peak
            return self.before_bps(link) + own_bps
        return self.bookings.reserved_with_bps(link, own, self.lifetime.start_s, self.lifetime.end_s)

    def fits(self, bookings: Sequence[Booking]) -> bool:
        """Whether there is room for these bookings, each on a link of its own."""
        return all(self.after_bps(each.link, (each,)) <= self._most_bps(each)[1] for each in bookings)

    def dressed(self, sized: Sized, route: Route) -> Route | None:
        """The route with lightpaths along it, as they are or as they can be lit; None if there are none."""
        if self.network.grid is None:
            return route
        _, around = ("", NEVER) if route.backup is None else self.lifetime.taken(sized, route)[-1]
        light = [
            self.light.along(path[1:-1], sized.rate_bps, partial(self._has_room, sized, failures))
            for path, failures in ((route.path, NEVER), (route.backup, around))
            if path is not None
        ]
        if None in light:
            return None
        first, second = (*light, ()) if route.backup is None else light
        return Route(route.path, route.backup, first or (), second or ())

    def _has_room(self, sized: Sized, failures: frozenset[str], lightpath: Lightpath) -> bool:
        return self.fits((self.lifetime.in_light(sized, lightpath, failures),))

    def _most_bps(self, booking: Booking) -> tuple[int, int]:
        """The capacity of what is booked, and how much of it may be."""
        if booking.lightpath is not None:
            return booking.lightpath.rate_bps, reservable_bps(booking.lightpath.rate_bps)
        link = self.network.links[booking.link]
        return link.capacity_bps, link.reservable_bps

    def no_light(self, sized: Sized, route: Route) -> Refused | None:
        """Why there are no lightpaths along a route; None if there are."""
        _, around = self.lifetime.taken(sized, route)[-1]
        for path, failures in ((route.path, NEVER), (route.backup or (), around)):
            has_room = partial(self._has_room, sized, failures)
            refusal = self.light.refusal(sized.flow.name, path[1:-1], sized.rate_bps, has_room)
            if refusal is not None:
                return refusal
        return None

    def refusal(self, sized: Sized, routes: Sequence[Route]) -> NoCapacity:
        """Why a flow does not fit: the tightest link of the route that comes closest, and what is wanted of it."""
        tightest = [self._tightest(sized, route) for route in routes]
        short_bps, booking = min(tightest, key=lambda each: each[0])
        if short_bps <= 0:  # it fits by itself and the search gave up or went another way round
            short_bps, booking = max(tightest, key=lambda each: each[0])
        link, (capacity_bps, most_bps) = booking.link, self._most_bps(booking)
        reserved_bps = self.before_bps(link)
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

    def _tightest(self, sized: Sized, route: Route) -> tuple[int, Booking]:
        """By how much the tightest link of a route is too small (below 0: that much is free), and what it would take.

        A lightpath of the route is like a link.
        """
        short = [
            (self.after_bps(each.link, (each,)) - self._most_bps(each)[1], each)
            for each in self.lifetime.bookings(sized, route)
        ]
        return max(short, key=lambda each: each[0])

    def place(self, bookings: Sequence[Booking]) -> None:
        """Take room."""
        for booking in bookings:
            self._own.setdefault(booking.link, []).append(booking)
            if booking.lightpath is not None:
                self.light.place(booking.lightpath)

    def take_away(self, bookings: Sequence[Booking]) -> None:
        """Give back what was placed last."""
        for booking in bookings:
            self._own[booking.link].pop()
            if booking.lightpath is not None:
                self.light.take_away(booking.lightpath)


class PathSearch:
    """A depth-first search over candidate routes, biggest flow first, that remembers how far it came."""

    def __init__(
        self,
        room: Room,
        flows: Sequence[Sized],
        replaced: Reservation | None,
        down: frozenset[str],
        most_steps: int = SEARCH_STEPS,
    ) -> None:
        self.room = room
        self.most_steps = most_steps
        self.flows = sorted(flows, key=lambda sized: sized.rate_bps, reverse=True)
        self.candidates = {sized.flow.name: _candidates(room.network, sized.flow, replaced, down) for sized in flows}
        self._bookings: dict[tuple[str, Route], tuple[Booking, ...]] = {}
        self.steps = 0
        self.deepest: tuple[int, dict[str, Route]] = (-1, {})

    def assignments(self) -> Iterator[dict[str, Route]]:
        """Every assignment of routes that fits, best first, until `most_steps` are spent."""
        return self._place(0, {})

    def _place(self, depth: int, chosen: dict[str, Route]) -> Iterator[dict[str, Route]]:
        if depth == len(self.flows):
            yield dict(chosen)
            return
        sized = self.flows[depth]
        for route in self.candidates[sized.flow.name]:
            self.steps += 1
            if self.steps > self.most_steps:
                break
            if not self.room.fits(self._bookings_of(sized, route)):
                continue
            dressed = self.room.dressed(sized, route)
            if dressed is None:
                continue
            bookings = self._bookings_of(sized, dressed)
            self.room.place(bookings)
            chosen[sized.flow.name] = dressed
            yield from self._place(depth + 1, chosen)
            del chosen[sized.flow.name]
            self.room.take_away(bookings)
        if depth > self.deepest[0]:
            self.deepest = (depth, dict(chosen))

    def _bookings_of(self, sized: Sized, route: Route) -> tuple[Booking, ...]:
        key = sized.flow.name, route
        if key not in self._bookings:
            self._bookings[key] = self.room.lifetime.bookings(sized, route)
        return self._bookings[key]

    def refusal(self) -> Refused:
        """Why it did not fit: the flow that got stuck, and the tightest link of the route that came closest.

        If the links have room: why there is no lightpath on the first of those routes.
        """
        depth, placed = self.deepest
        stuck = self.flows[depth]
        waiting = {sized.flow.name: self.candidates[sized.flow.name][0] for sized in self.flows[depth + 1 :]}
        room = Room(self.room.network, self.room.bookings, self.room.lifetime, self.room.light.held)
        for sized in self.flows:
            route = (placed | waiting).get(sized.flow.name)
            if route is not None:
                room.place(room.lifetime.bookings(sized, route))
        candidates = self.candidates[stuck.flow.name]
        if room.network.grid is not None:
            for route in candidates:
                dark = room.fits(room.lifetime.bookings(stuck, route)) and room.no_light(stuck, route)
                if dark:
                    return dark
        return room.refusal(stuck, candidates)


def _mbps(rate_bps: int) -> str:
    return f"{rate_bps / 1e6:.6g} Mb/s"


def _candidates(
    network: Network, flow: Flow, replaced: Reservation | None, down: frozenset[str]
) -> tuple[Route, ...]:
    """The candidate routes, with the one the flow has now in front if it is up."""
    paths = candidate_paths(network, flow.source, flow.destination, down)
    if not paths:
        raise NoPath(f"{flow.name}: no path from {flow.source} to {flow.destination} is up.", flow=flow.name)
    protection = flow.requirement.protection
    protected = protection != "none"
    if protected:
        pairs = candidate_routes(network, flow.source, flow.destination, down, protection == "duct_disjoint")
    else:
        pairs = Pairs(tuple(Route(path) for path in paths))
    routes = pairs.routes
    if not routes:
        common = "span or duct" if protection == "duct_disjoint" else "span"
        ends = f"from {flow.source} to {flow.destination}"
        found = "are up" if pairs.complete else f"were found in {SOLVE_LIMIT_S:g} s; there may be some"
        sentence = f"{flow.name}: no two paths {ends} without a common {common} {found}."
        raise NoDisjointPath(sentence, flow=flow.name)
    held = held_placement(replaced, flow)
    if held is None or held.flow.requirement.protection != flow.requirement.protection:
        return routes
    route = Route(held.path, held.backup_path)
    if held.is_weak(network.ducts) or is_cut(held.path, down) or is_cut(held.backup_path or (), down):
        return routes
    return (route, *(other for other in routes if other != route))


def held_placement(replaced: Reservation | None, flow: Flow) -> Placement | None:
    """What a reservation that is being modified holds now for this flow."""
    placements: Sequence[Placement] = replaced.placements if replaced else ()
    return next((p for p in placements if p.flow.five_tuple == flow.five_tuple), None)
