"""Routing and spectrum assignment (RSA): the route and the channel of a lightpath.

A fibre's spectrum is divided into frequency slots. A lightpath occupies the same slots on every link of its route
(continuity), and adjacent slots (contiguity). The free slots of a route are the AND of its links' free slots.

A route costs slots x links. Among the feasible routes the one with the least cost plus the terms for position and load
(`RouteOrder`) is taken; on a route, the lowest block (first fit) or the one whose slots are used on most links (most
used). Routes are examined by rising cost, so the search ends at the first that costs more than the best found. A gap of
a link contains every block that is free on the whole route, so both of its sides touch only the ends of these: with the
terms for gaps, of each row of adjacent starts only the first and the last are compared (but for `misaligned`, one of
them is best), and those with a free slot beside them on every link cannot score less than the route. The
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

from controller.optical.candidate_routes import BoundedCandidate, CandidateRoutes
from controller.optical.spectrum import BLOCK_SHIFTS, Assignment, Spectrum, block_starts


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
MOST_ROUNDED = 1e-9
"""More than the terms of a score differ by when they are added in another order."""


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
        return _assign_by_gaps(
            spectrum, routes.bounded_candidates(source, destination, rate_gbps, order.filled), order
        )
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


def _assign_by_gaps(spectrum: Spectrum, routes: Sequence[BoundedCandidate], order: RouteOrder) -> Assignment | None:
    """Return the best route and block with the terms for gaps, at the first or the last of a row of starts."""
    best_score, best_route, best_block, compared = inf, None, 0, 0
    free, free_links, total = spectrum.free, spectrum.free_links, spectrum.grid.slots
    load, split, filled = order.load / total, order.split, order.filled
    misaligned, position_per_link, uneven = order.misaligned, order.position_per_link, split - filled
    for least_of_rest, cost, width, link_count, route in routes:
        if least_of_rest >= best_score:
            break
        most_filled = filled * link_count
        if cost - most_filled >= best_score:
            continue
        links, common = route.links, -1
        for link in links:
            common &= free[link]
        for shift in BLOCK_SHIFTS[width]:
            common &= common >> shift
        if not common:
            continue
        compared += 1
        if compared > MOST_COMPARED:
            break
        position = order.position + position_per_link * link_count
        occupied = total * link_count
        for link in links:  # here and below, loops: comprehensions would cost a call each
            occupied -= free[link].bit_count()
        route_score = cost + position + load * width * occupied
        if route_score - most_filled >= best_score:
            continue
        link_set, adjacent_set = route.link_set, route.adjacent_set
        after, before = common << 1, common >> 1
        alone = common & ~(after | before)
        ends = alone if route_score >= best_score else common & ~(after & before)
        while ends:
            start = ends & -ends
            ends ^= start
            first = start.bit_length() - 1
            score = route_score + position * first
            if score - most_filled >= best_score:
                break
            if score >= best_score and not start & alone:
                continue
            below, above = free_links[first - 1] & link_set, free_links[first + width] & link_set
            gaps = filled * (below.bit_count() + above.bit_count() - link_count)  # a link without side: -1, of two: 1
            if uneven:
                gaps += uneven * (below & above).bit_count()
            least_score = score + gaps - MOST_ROUNDED
            if least_score >= best_score:
                continue
            free_adjacent = 0
            for column in free_links[first : first + width]:
                free_adjacent += (column & adjacent_set).bit_count()
            misalignment = misaligned * free_adjacent
            if least_score + misalignment < best_score:
                score = _with_gaps(score, gaps, order, links, below, above) + misalignment
                if score < best_score:
                    best_score, best_route, best_block = score, route, start * ((1 << width) - 1)
    return None if best_route is None else Assignment(best_route, best_block)


def _with_gaps(score: float, gaps: float, order: RouteOrder, links: Sequence[int], below: int, above: int) -> float:
    """Return the score with the terms for gaps, as if added link by link, so that ties are rounded alike.

    `gaps`: the sum of these terms; `below`, `above`: the links as bits on which the slot below the block, or that
    above it, is free.
    """
    splits = (below & above).bit_count()
    if not splits or score + order.split * splits < 1 << int(score).bit_length():
        return score + gaps  # below the next power of two whole numbers are added exactly, in any order
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
