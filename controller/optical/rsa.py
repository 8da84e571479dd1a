"""Routing and spectrum assignment (RSA): the route and the channel of a lightpath.

A fibre's spectrum is divided into frequency slots, and a set of slots is the bits of an integer: bit i is slot i. A
lightpath occupies the same slots on every link of its route (continuity), and adjacent slots (contiguity). The free
slots of a route are the AND of its links' free slots; the starts of free blocks of w slots are found by shifting that
onto itself, about log2 w times.

A route costs slots x links. Among the feasible routes the one with the least cost plus the terms for position and load
(`RouteOrder`) is taken; on a route, the lowest block (first fit) or the one whose slots are used on most links (most
used). Routes are examined by rising cost, so the search ends at the first that costs more than the best found. The
classical orders, which take the first feasible route, are available too; `bench/harness/route_order_search.py` finds
the best order for a map.

Source: ITU-T G.694.1 (2020) §6, §7 (the grids); Jinno et al., "Distance-adaptive spectrum resource allocation in
spectrum-sliced elastic optical path network", IEEE Communications Magazine 48 (2010); Zang, Jue and Mukherjee, "A
review of routing and wavelength assignment approaches", Optical Networks Magazine 1 (2000) (first fit, most used); Yin
et al., "Spectral and spatial 2D fragmentation-aware routing and spectrum assignment algorithms in elastic optical
networks", J. Opt. Commun. Netw. 5(10) (2013) (cuts, misalignment).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from controller.domain.frozen import frozen
from controller.optical.candidate_routes import CandidateRoute, CandidateRoutes
from controller.optical.spectrum_grid import SpectrumGrid


@dataclass(frozen=True, slots=True)
class RouteOrder:
    """The preference among feasible routes, in units of slots x links.

    `position`: added for each slot that the block lies above the lowest, to keep high slots free for wide requests;
    `position_per_link`: the same for each link.
    `split`: added for each link on which the block leaves free slots on both sides of it; `filled`: subtracted for each
    link on which it leaves none on either.
    `misaligned`: added for each slot of the block and adjacent link on which it stays free: a later lightpath over both
    links cannot have it.
    `load`: added for each occupied slot, times the utilisation of every link, to avoid full links. `is_sequential`: no
    costs; the first feasible route is taken, in the order of `CandidateRoutes.between`. `most_used`: on a route, not
    the lowest block, but the one whose slots are used on most links of the plant.
    """

    position: float = 0.0
    load: float = 0.0
    split: float = 0.0
    filled: float = 0.0
    misaligned: float = 0.0
    position_per_link: float = 0.0
    is_sequential: bool = False
    most_used: bool = False


BY_COST: Final = RouteOrder()
"""Slots x links alone."""
TUNED: Final = RouteOrder(position=0.03, load=0.3)
"""Found by search on the 14-node NSFNET (bench/blocking.py); good on other maps, best there."""
GAP_AWARE: Final = RouteOrder(position_per_link=0.01, load=0.3, split=1.0, filled=1.0, misaligned=0.1)
"""Leaves contiguous slots contiguous, and on adjacent links the same ones free. The weights were compared on NSFNET,
COST239 and USNET, with other seeds than those of bench/blocking.py.
"""
FIRST_FIT: Final = RouteOrder(is_sequential=True)
MOST_USED: Final = RouteOrder(is_sequential=True, most_used=True)


MOST_COMPARED = 8
"""The number of feasible routes whose gaps are compared: more did not lower the blocking."""


@frozen
class Assignment:
    """A route and a block of slots on it, as a bit set."""

    route: CandidateRoute
    block: int

    @property
    def first(self) -> int:
        """The lowest slot."""
        return (self.block & -self.block).bit_length() - 1

    @property
    def width(self) -> int:
        """The number of slots."""
        return self.block.bit_count()


class Spectrum:
    """The free slots of every link; `occupy` and `release` update them."""

    def __init__(self, grid: SpectrumGrid, free: Sequence[int]) -> None:
        self.grid = grid
        self.free = list(free)
        self._free_links: list[int] | None = None

    @property
    def free_links(self) -> list[int]:
        """Of each slot the set of links where it is free, as bits; the last element, also that of slot -1, is empty.

        Kept up to date from the first use on.
        """
        if self._free_links is None:
            slots = max(free.bit_length() for free in self.free)
            columns = [sum((free >> slot & 1) << link for link, free in enumerate(self.free)) for slot in range(slots)]
            self._free_links = [*columns, 0]
        return self._free_links

    def occupy(self, assignment: Assignment) -> None:
        """Occupy a block.

        Raises: ValueError if one of its slots is occupied (a bug in the caller).
        """
        block, free = assignment.block, self.free
        for link in assignment.route.links:
            if block & ~free[link]:
                raise ValueError(f"slots {assignment.first}+{assignment.width} of link {link} are taken")
            free[link] ^= block
        if self._free_links is not None:
            self._change(self._free_links, assignment)

    def release(self, assignment: Assignment) -> None:
        """Free a block."""
        block, free = assignment.block, self.free
        for link in assignment.route.links:
            free[link] |= block
        if self._free_links is not None:
            self._change(self._free_links, assignment)

    @staticmethod
    def _change(free_links: list[int], assignment: Assignment) -> None:
        """Add the links to the sets of the block's slots, or remove them."""
        block, links = assignment.block, assignment.route.link_set
        for slot in range((block & -block).bit_length() - 1, block.bit_length()):
            free_links[slot] ^= links

    def most_used(self, starts: int, width: int) -> int:
        """Return the start, out of these, whose block of `width` slots is used on most links, the lowest on a tie."""
        planes: list[int] = []  # bit i of plane p: bit p of the usage count of slot i
        for free in self.free:
            _add_bits(planes, self.grid.all_free & ~free, 0)
        block_planes: list[int] = []
        for offset in range(width):
            for weight, plane in enumerate(planes):
                _add_bits(block_planes, plane >> offset, weight)
        for plane in reversed(block_planes):
            starts = starts & plane or starts
        return starts & -starts


def assign(
    spectrum: Spectrum,
    routes: CandidateRoutes,
    source: str,
    destination: str,
    rate_gbps: float,
    order: RouteOrder = TUNED,
) -> Assignment | None:
    """Return the best route and block for a rate, or None if the request is blocked."""
    if order.is_sequential:
        return _assign_sequentially(spectrum, routes, source, destination, rate_gbps, order.most_used)
    if order.split or order.filled:
        return _assign_by_gaps(spectrum, routes.candidates(source, destination, rate_gbps), order)
    best_score, best_route, best_block = inf, None, 0
    free, total = spectrum.free, spectrum.grid.slots
    position, load = order.position, order.load / total
    for cost, width, route in routes.candidates(source, destination, rate_gbps):
        if cost >= best_score:
            break
        links = route.links
        common = -1
        for link in links:
            common &= free[link]
        starts = block_starts(common, width)
        if not starts:
            continue
        lowest = spectrum.most_used(starts, width) if order.most_used else starts & -starts
        score = cost + position * lowest.bit_length()
        if load and score < best_score:
            score += load * width * (total * len(links) - sum([free[link].bit_count() for link in links]))
        if score < best_score:
            best_score, best_route, best_block = score, route, lowest * ((1 << width) - 1)
    return None if best_route is None else Assignment(best_route, best_block)


def _assign_by_gaps(
    spectrum: Spectrum, candidates: Sequence[tuple[int, int, CandidateRoute]], order: RouteOrder
) -> Assignment | None:
    """Return the best route and block with the terms for split and filled gaps.

    A gap of a link contains every block that is free on the whole route, so both of its sides touch only the ends of
    these: of each row of adjacent starts only the first and the last are compared. But for `misaligned`, one of them is
    best.
    """
    best_score, best_route, best_block = inf, None, 0
    free, free_links, total = spectrum.free, spectrum.free_links, spectrum.grid.slots
    load, split, filled = order.load / total, order.split, order.filled
    misaligned, position_per_link = order.misaligned, order.position_per_link
    compared = 0
    least_share = 1 - filled / (1 + spectrum.grid.guard_slots)  # of its cost, the least score of any route
    for cost, width, route in candidates:
        links = route.links
        link_count = len(links)
        most_filled = filled * link_count
        if cost - most_filled >= best_score:
            if cost * least_share >= best_score:
                break
            continue
        common = -1
        for link in links:
            common &= free[link]
        starts = block_starts(common, width)
        if not starts:
            continue
        compared += 1
        if compared > MOST_COMPARED:
            break
        position = order.position + position_per_link * link_count
        route_score = cost + position
        if load:
            route_score += load * width * (total * link_count - sum([free[link].bit_count() for link in links]))
        link_set, adjacent_set = route.link_set, route.adjacent_set
        next_power = 1 << int(route_score).bit_length()
        ends = starts & ~(starts << 1) | starts & ~(starts >> 1)
        while ends:
            start = ends & -ends
            ends ^= start
            first = start.bit_length() - 1
            score = route_score + position * first
            if score - most_filled >= best_score:
                break
            below, above = free_links[first - 1] & link_set, free_links[first + width] & link_set
            splits = (below & above).bit_count()
            if splits and score + split * splits >= next_power:
                score = _with_gaps(score, order, links, below, above)
            else:  # below the next power of two whole numbers are added exactly, in any order
                score += split * splits - filled * (link_count - (below | above).bit_count())
            if score >= best_score:
                continue
            if misaligned:
                slots = free_links[first : first + width]
                score += misaligned * sum([(column & adjacent_set).bit_count() for column in slots])
            if score < best_score:
                best_score, best_route, best_block = score, route, start * ((1 << width) - 1)
    return None if best_route is None else Assignment(best_route, best_block)


def _with_gaps(score: float, order: RouteOrder, links: Sequence[int], below: int, above: int) -> float:
    """Return the score with the terms for gaps, added link by link so that ties are rounded alike.

    `below`, `above`: the links as bits on which the slot below the block, or that above it, is free.
    """
    for link in links:
        is_free_below, is_free_above = below >> link & 1, above >> link & 1
        if is_free_below and is_free_above:
            score += order.split
        elif not is_free_below and not is_free_above:
            score -= order.filled
    return score


def _assign_sequentially(
    spectrum: Spectrum, routes: CandidateRoutes, source: str, destination: str, rate_gbps: float, most_used: bool
) -> Assignment | None:
    """K-shortest-path first fit or most used: return the first feasible route and its block."""
    for route in routes.between(source, destination):
        width = spectrum.grid.slots_for(rate_gbps, route.modulation.bits_per_symbol)
        common = spectrum.grid.all_free
        for link in route.links:
            common &= spectrum.free[link]
        starts = block_starts(common, width)
        if starts:
            first = spectrum.most_used(starts, width) if most_used else starts & -starts
            return Assignment(route, first * ((1 << width) - 1))
    return None


def block_starts(free: int, width: int) -> int:
    """Return the slots at which a free block of `width` slots starts."""
    covered = 1
    while covered * 2 <= width:
        free &= free >> covered
        covered *= 2
    return free & free >> (width - covered) if covered < width else free


def starts_within_bands(starts: int, width: int, first_of_upper: int) -> int:
    """Return those of the starts from which a block does not cross into the band that begins at a slot."""
    crossing = ((1 << width - 1) - 1 << first_of_upper) >> width - 1
    return starts & ~crossing


def _add_bits(planes: list[int], bits: int, weight: int) -> None:
    """Add 2^weight to the counter of each column whose bit is set; plane p holds bit p of all counters."""
    while bits:
        while len(planes) <= weight:
            planes.append(0)
        bits, planes[weight] = bits & planes[weight], bits ^ planes[weight]
        weight += 1
