"""The search for paths: which route for each flow of a group, so that all of them fit at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from controller.bookings import Booking, Bookings
from controller.errors import NoCapacity, NoDisjointPath, NoPath
from controller.network import Network
from controller.paths import candidate_paths, candidate_routes
from controller.reservation import Flow, Placement, Reservation, default_burst_bytes
from controller.routes import Ducts, Route, is_cut, links_taken
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
        return tuple(
            Booking(self.reservation_id, name, link, rate_bps, self.start_s, self.end_s, window, failures)
            for link, failures in links_taken(route, self.ducts)
        )


def granted_burst_bytes(flow: Flow, rate_bps: int, network: Network) -> int:
    """What was asked, or the default for the rate, and one whole frame at least."""
    asked = flow.requirement.burst_bytes
    if asked is None:
        return default_burst_bytes(rate_bps, network.frame_bytes)
    return max(asked, network.frame_bytes)


class Room:
    """What is left on every link while flows of one request are placed and taken away again."""

    def __init__(self, network: Network, bookings: Bookings, lifetime: Lifetime) -> None:
        self.network = network
        self.bookings = bookings
        self.lifetime = lifetime
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
        if all(booking.is_plain for booking in own):  # they last as long as the request: they add to the peak
            return self.before_bps(link) + sum(booking.rate_bps for booking in own)
        return self.bookings.reserved_with_bps(link, own, self.lifetime.start_s, self.lifetime.end_s)

    def fits(self, bookings: Sequence[Booking]) -> bool:
        """Whether there is room for these bookings, each on a link of its own."""
        links = self.network.links
        return all(self.after_bps(each.link, (each,)) <= links[each.link].reservable_bps for each in bookings)

    def refusal(self, sized: Sized, routes: Sequence[Route]) -> NoCapacity:
        """Why a flow does not fit: the tightest link of the route that comes closest, and what is wanted of it."""
        tightest = [self._tightest(sized, route) for route in routes]
        short_bps, link = min(tightest, key=lambda each: each[0])
        if short_bps <= 0:  # it fits by itself and the search gave up or went another way round
            short_bps, link = max(tightest, key=lambda each: each[0])
        facts, reserved_bps = self.network.links[link], self.before_bps(link)
        free_bps, asked_bps = facts.reservable_bps - reserved_bps, short_bps + facts.reservable_bps - reserved_bps
        whole = "" if asked_bps == sized.rate_bps else f" and the whole request {_mbps(asked_bps)} of {link}"
        of = "its only path" if len(routes) == 1 else f"the best of {len(routes)} paths"
        return NoCapacity(
            f"{sized.flow.name} needs {_mbps(sized.rate_bps)}{whole}; {link} has {_mbps(free_bps)} free on {of}.",
            flow=sized.flow.name,
            bottleneck={
                "link": link,
                "capacity_bps": facts.capacity_bps,
                "reserved_bps": reserved_bps,
                "free_bps": free_bps,
                "asked_bps": asked_bps,
            },
        )

    def _tightest(self, sized: Sized, route: Route) -> tuple[int, str]:
        """By how much the tightest link of a route is too small (below 0: that much is free), and the link."""
        short = [
            (self.after_bps(each.link, (each,)) - self.network.links[each.link].reservable_bps, each.link)
            for each in self.lifetime.bookings(sized, route)
        ]
        return max(short, key=lambda each: each[0])

    def place(self, bookings: Sequence[Booking]) -> None:
        """Take room."""
        for booking in bookings:
            self._own.setdefault(booking.link, []).append(booking)

    def take_away(self, bookings: Sequence[Booking]) -> None:
        """Give back what was placed last."""
        for booking in bookings:
            self._own[booking.link].pop()


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
            bookings = self._bookings_of(sized, route)
            if not self.room.fits(bookings):
                continue
            self.room.place(bookings)
            chosen[sized.flow.name] = route
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

    def no_capacity(self) -> NoCapacity:
        """Why it did not fit: the flow that got stuck, and the tightest link of the route that came closest."""
        depth, placed = self.deepest
        stuck = self.flows[depth]
        waiting = {sized.flow.name: self.candidates[sized.flow.name][0] for sized in self.flows[depth + 1 :]}
        room = Room(self.room.network, self.room.bookings, self.room.lifetime)
        for sized in self.flows:
            route = (placed | waiting).get(sized.flow.name)
            if route is not None:
                room.place(room.lifetime.bookings(sized, route))
        return room.refusal(stuck, self.candidates[stuck.flow.name])


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
        routes = candidate_routes(network, flow.source, flow.destination, down, protection == "duct_disjoint")
    else:
        routes = tuple(Route(path) for path in paths)
    if not routes:
        common = "span or duct" if protection == "duct_disjoint" else "span"
        ends = f"from {flow.source} to {flow.destination}"
        sentence = f"{flow.name}: no two paths {ends} without a common {common} are up."
        raise NoDisjointPath(sentence, flow=flow.name)
    held = held_placement(replaced, flow)
    if held is None or held.flow.requirement.protection != flow.requirement.protection:
        return routes
    route = Route(held.path, held.backup_path)
    unprotected = protected and held.backup_path is None and len(held.path) > 3
    if unprotected or is_cut(held.path, down) or is_cut(held.backup_path or (), down):
        return routes
    return (route, *(other for other in routes if other != route))


def held_placement(replaced: Reservation | None, flow: Flow) -> Placement | None:
    """What a reservation that is being modified holds now for this flow."""
    placements: Sequence[Placement] = replaced.placements if replaced else ()
    return next((p for p in placements if p.flow.five_tuple == flow.five_tuple), None)
