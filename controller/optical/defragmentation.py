"""Spectrum defragmentation: which lightpaths of the network move to other channels of their routes.

On demand (`next_move`) the highest lightpath moves first, to the lowest block that is free on its whole route for as
long as it has bookings. Moves only go down, so the procedure terminates. For a request that finds no spectrum
(`moves_to_admit`) the fewest lightpaths that are in its way move, see controller.optical.reallocation. Each move is
make-before-break: both channels are lit until all packets have left the old one, so they never overlap.

Source: Takagi et al., "Disruption minimized spectrum defragmentation in elastic optical path networks that adopt
distance adaptive modulation", ECOC 2011 (make before break); Patel et al., "Defragmentation of transparent flexible
optical WDM networks", OFC 2011 (greedy first fit).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, product
from math import inf
from typing import overload

from controller.booking.calendar import Booking, Calendar
from controller.booking.flow_bookings import bookings_of
from controller.domain.lightpath import Lightpath, lightpath_id
from controller.domain.network import Network
from controller.domain.path import Path, link_names
from controller.domain.reservation import Placement, Reservation
from controller.errors import NoSpectrum
from controller.optical.candidate_routes import CandidateRoute
from controller.optical.grooming import LightpathAllocator
from controller.optical.lightpath_design import design_lightpath
from controller.optical.lit_spectrum import LitLightpath, LitSpectrum, RouteOption
from controller.optical.reallocation import MovePolicy, reallocate
from controller.optical.spectrum import Assignment
from controller.optical.spectrum_grid import FIXED, FLEXIBLE, Modulation
from topologies.maps import C_BAND_SLOTS, SLOTS_PER_CHANNEL

GRIDS = {"fixed": FIXED, "flexible": FLEXIBLE}


@dataclass(frozen=True, slots=True)
class LightpathMove:
    """A lightpath changes its channel, or route and channel; `reservations`: all that use it."""

    before: Lightpath
    after: Lightpath
    reservations: tuple[str, ...]

    @property
    def is_reroute(self) -> bool:
        """Whether it takes another route."""
        return self.before.nodes != self.after.nodes


def with_move(reservation: Reservation, move: LightpathMove) -> Reservation:
    """Return the reservation after the move; lightpaths and paths differ, bounds are as before."""

    def with_move(lightpaths: tuple[Lightpath, ...]) -> tuple[Lightpath, ...]:
        return tuple(move.after if lightpath.id == move.before.id else lightpath for lightpath in lightpaths)

    def changed(placement: Placement) -> Placement:
        working, backup = with_move(placement.lightpaths), with_move(placement.backup_lightpaths)
        path = placement.path
        if move.is_reroute and working != placement.lightpaths:
            start = path.index(move.before.nodes[0])
            path = path[:start] + move.after.nodes + path[start + len(move.before.nodes) :]
        return replace(placement, path=path, lightpaths=working, backup_lightpaths=backup)

    return replace(reservation, placements=tuple(changed(placement) for placement in reservation.placements))


def next_move(network: Network, bookings: Calendar, movable: Mapping[str, Reservation]) -> LightpathMove | None:
    """Return the next lightpath that can move down; None if there is none.

    `movable`: the reservations that may be changed now, by id; a lightpath that others use does not move.
    """
    for lightpath in sorted(
        bookings.lightpaths().values(), key=lambda lightpath: (-lightpath.first_slot, lightpath.nodes)
    ):
        if not _is_movable(bookings, lightpath, movable):
            continue
        booked = bookings.bookings_on(lightpath.id)
        start_s, end_s = min(booking.start_s for booking in booked), max(booking.end_s for booking in booked)
        first_slot = LightpathAllocator(network, bookings, start_s, end_s).first_fit(lightpath.nodes, lightpath.width)
        if first_slot is not None and first_slot < lightpath.first_slot:
            return _lightpath_move(bookings, lightpath, first_slot)
    return None


def moves_to_admit(
    network: Network,
    bookings: Calendar,
    movable: Collection[Reservation],
    refusal_of: Callable[[Calendar, Sequence[Reservation]], Exception | None],
    paths_of: Callable[[str], Sequence[Path]],
    paths_between: Callable[[str, str], Sequence[Path]],
) -> tuple[LightpathMove, ...] | None:
    """Return the moves, in order, after which a request is admitted; None if none are found.

    `refusal_of`: why it is refused with a calendar and reservations on other paths, or why these are; None if all are
    admitted. `paths_of`: the candidate paths of one of its flows between switches; `paths_between`: of a lightpath
    between its ends. At most `MovePolicy.max_moves` per flow that finds no spectrum.
    """
    reservations = {reservation.id: reservation for reservation in movable}
    moves: list[LightpathMove] = []
    helped: set[object] = set()
    refusal = refusal_of(bookings, ())
    while isinstance(refusal, NoSpectrum) and refusal.facts["flow"] not in helped:
        helped.add(refusal.facts["flow"])
        paths = paths_of(str(refusal.facts["flow"]))
        for found in _reallocations(network, bookings, reservations, paths, paths_between):
            after, after_bookings = _after_moves(network, bookings, reservations, found)
            rerouted = {name: after[name] for move in (*moves, *found) if move.is_reroute for name in move.reservations}
            after_refusal = refusal_of(after_bookings, tuple(rerouted.values()))
            if after_refusal is None:
                return (*moves, *found)
            if isinstance(after_refusal, NoSpectrum) and after_refusal.facts["flow"] not in helped:
                reservations, bookings, refusal = after, after_bookings, after_refusal
                moves += found
                break
    return None


def _reallocations(
    network: Network,
    bookings: Calendar,
    reservations: Mapping[str, Reservation],
    paths: Sequence[Path],
    paths_between: Callable[[str, str], Sequence[Path]],
) -> Iterator[tuple[LightpathMove, ...]]:
    """Yield moves after which a lightpath fits: over the best of the paths, over each, over a part of one.

    First with other slots only: a move to another route changes delays, so it may be refused.
    """
    numbers = {name: number for number, name in enumerate(network.links)}
    lightpaths = sorted(bookings.lightpaths().values(), key=lambda lightpath: (lightpath.nodes, lightpath.first_slot))
    plan = _SpectrumPlan(network, bookings, reservations, numbers, paths_between)
    spectrum = plan.spectrum(lightpaths)
    parts = dict.fromkeys(segment for path in paths for segment in network.transparent_segments(path))
    whole = [option for path in paths if (option := _option(network, numbers, path)) is not None]
    single = [[option] for part in parts if (option := _option(network, numbers, part)) is not None]
    groups = [sorted(whole, key=lambda option: option[0]), *([option] for option in whole), *single]
    for policy, options in product((MovePolicy(may_reroute=False), MovePolicy()), groups):
        found = reallocate(spectrum, options, policy)
        if found is not None:
            yield tuple(plan.lightpath_move(lightpaths[move.before.number], move.after) for move in found.moves)


def _option(network: Network, numbers: Mapping[str, int], nodes: Path) -> RouteOption | None:
    """Return a new lightpath along these switches as a candidate; None if it is infeasible."""
    design = design_lightpath(network, nodes) if len(nodes) > 1 else None
    if design is None or not design.is_feasible:
        return None
    route = _route(network, numbers, nodes, design.modulation)
    return design.width * len(route.links), design.width, route


def _route(network: Network, numbers: Mapping[str, int], nodes: Path, modulation: str) -> CandidateRoute:
    names = link_names(nodes)
    length_km = sum(network.links[name].length_km for name in names)
    return CandidateRoute(nodes, tuple(numbers[name] for name in names), length_km, Modulation(modulation, 0, inf))


@dataclass(frozen=True, slots=True)
class _SpectrumPlan:
    """The lightpaths of a network as the search for moves sees them; `numbers`: of the links."""

    network: Network
    bookings: Calendar
    reservations: Mapping[str, Reservation]
    numbers: Mapping[str, int]
    paths_between: Callable[[str, str], Sequence[Path]]

    def spectrum(self, lightpaths: Sequence[Lightpath]) -> LitSpectrum:
        """Return the spectrum as if all were lit now; those that share slots at different times cannot move."""
        links = self.network.links
        overlaps = [self.bookings.slot_usage(name, -inf, inf)[1] for name in links]
        available = [(1 << link.slot_count) - 1 for link in links.values()]
        is_shared = [any(overlaps[self.numbers[link]] & each.slot_mask for link in each.links) for each in lightpaths]
        for lightpath in compress(lightpaths, is_shared):
            for link in lightpath.links:
                available[self.numbers[link]] &= ~lightpath.slot_mask
        grid = self.network.grid or "fixed"
        spectrum = LitSpectrum(GRIDS[grid], available, SLOTS_PER_CHANNEL[grid], C_BAND_SLOTS[grid])
        for number, lightpath in enumerate(lightpaths):
            if not is_shared[number]:
                spectrum.light(self._lit(number, lightpath))
        return spectrum

    def _lit(self, number: int, lightpath: Lightpath) -> LitLightpath:
        route = _route(self.network, self.numbers, lightpath.nodes, lightpath.modulation)
        assignment = Assignment(route, lightpath.slot_mask)
        if not _is_movable(self.bookings, lightpath, self.reservations):
            return LitLightpath(number, assignment, is_pinned=True)
        most_saved = lightpath.width * len(route.links)
        return LitLightpath(number, assignment, _RouteOptions(self, lightpath), least_growth=-most_saved)

    def reroutes(self, lightpath: Lightpath) -> list[RouteOption]:
        """Return the routes of the same rate between its ends, cheapest first; none if a flow of it is protected."""
        names = {booking.reservation_id for booking in self.bookings.bookings_on(lightpath.id)}
        placements = [
            placement
            for name in names
            for placement in self.reservations[name].placements
            if lightpath in (*placement.lightpaths, *placement.backup_lightpaths)
        ]
        if any(placement.backup_path is not None or len(placement.lightpaths) > 1 for placement in placements):
            return []
        options = []
        for path in self.paths_between(lightpath.nodes[0], lightpath.nodes[-1]):
            option = _option(self.network, self.numbers, path)
            if option is not None and design_lightpath(self.network, path).rate_bps >= lightpath.rate_bps:
                options.append(option)
        return sorted(options, key=lambda option: option[0])

    def lightpath_move(self, before: Lightpath, after: Assignment) -> LightpathMove:
        """Return the move of a lightpath to another block, perhaps of another route."""
        if after.route.nodes == before.nodes:
            return _lightpath_move(self.bookings, before, after.first)
        nodes, design = after.route.nodes, design_lightpath(self.network, after.route.nodes)
        facts = design.rate_bps, design.modulation, design.gsnr_db, design.margin_db
        name = lightpath_id(nodes, after.first, after.width)
        lightpath = Lightpath(name, nodes, after.first, after.width, *facts)
        return replace(_lightpath_move(self.bookings, before, after.first), after=lightpath)


class _RouteOptions(Sequence[RouteOption]):
    """The routes that a lightpath may take, computed when the search asks for them."""

    def __init__(self, plan: _SpectrumPlan, lightpath: Lightpath) -> None:
        self._plan, self._lightpath = plan, lightpath

    @cached_property
    def _options(self) -> list[RouteOption]:
        return self._plan.reroutes(self._lightpath)

    @overload
    def __getitem__(self, index: int) -> RouteOption: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RouteOption]: ...
    def __getitem__(self, index: int | slice) -> RouteOption | Sequence[RouteOption]:
        return self._options[index]

    def __len__(self) -> int:
        return len(self._options)


def _is_movable(bookings: Calendar, lightpath: Lightpath, reservations: Mapping[str, Reservation]) -> bool:
    """Whether all reservations that use it may be changed and none has pinned it."""
    names = {booking.reservation_id for booking in bookings.bookings_on(lightpath.id)}
    return names <= reservations.keys() and not any(
        lightpath in (*placement.lightpaths, *placement.backup_lightpaths)
        for name in names
        for placement in reservations[name].placements
        if placement.flow.requirement.pinned
    )


def _lightpath_move(bookings: Calendar, before: Lightpath, first_slot: int) -> LightpathMove:
    after_id = lightpath_id(before.nodes, first_slot, before.width)
    names = sorted({booking.reservation_id for booking in bookings.bookings_on(before.id)})
    return LightpathMove(before, replace(before, id=after_id, first_slot=first_slot), tuple(names))


def _after_moves(
    network: Network, bookings: Calendar, reservations: Mapping[str, Reservation], moves: Sequence[LightpathMove]
) -> tuple[dict[str, Reservation], Calendar]:
    after = dict(reservations)
    for move in moves:
        for name in move.reservations:
            after[name] = with_move(after[name], move)
            bookings = bookings.without_reservation(name).with_bookings(_bookings(network, after[name]))
    return after, bookings


def _bookings(network: Network, reservation: Reservation) -> list[Booking]:
    start_s = max(reservation.start_at_s, reservation.created_at_s)
    end_s = inf if reservation.end_at_s is None else reservation.end_at_s
    return bookings_of(network.srlg_by_span, reservation.id, reservation.placements, start_s, end_s)
