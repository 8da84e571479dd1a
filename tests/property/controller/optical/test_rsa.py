"""Lightpaths get the same slots, side by side, on every link of a route that reaches; and the best of these."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.optical.candidate_routes import CandidateRoute, CandidateRoutes
from controller.optical.rsa import BY_COST, GAP_AWARE, TUNED, RouteOrder, assign
from controller.optical.spectrum import (
    Spectrum,
    block_starts,
    covered_slots,
    overlapping_starts,
    starts_within_bands,
)
from controller.optical.spectrum_grid import FIXED, FLEXIBLE, modulation_for
from tests.property.strategies import GRID, REACHES, plants


@st.composite
def demands(draw: st.DrawFn) -> tuple[str, str, float]:
    source, destination = draw(st.permutations("abcde").map(lambda nodes: nodes[:2]))
    return source, destination, draw(st.sampled_from([10.0, 25.0, 50.0, 120.0]))


def brute_force_starts(free: int, width: int, slots: int) -> int:
    wanted = [sum(1 << (first + offset) for offset in range(width)) for first in range(slots - width + 1)]
    return sum(1 << first for first, block in enumerate(wanted) if free & block == block)


@given(st.integers(0, 2**16 - 1), st.integers(1, 16))
def test_block_starts_are_where_that_many_slots_are_free_side_by_side(free: int, width: int) -> None:
    assert block_starts(free, width) == brute_force_starts(free, width, 16)


@given(st.integers(0, 2**16 - 1), st.integers(1, 8))
def test_the_slots_of_blocks_are_those_from_each_start_on(starts: int, width: int) -> None:
    blocks = [((1 << width) - 1) << first for first in range(16) if starts >> first & 1]
    assert covered_slots(starts, width) == sum(1 << slot for slot in range(32) if any(b >> slot & 1 for b in blocks))


@given(st.integers(0, 12), st.integers(1, 4), st.integers(1, 8))
def test_overlapping_blocks_start_up_to_their_width_below_a_block(first: int, slots: int, width: int) -> None:
    block = ((1 << slots) - 1) << first
    expected = [start for start in range(20) if block & ((1 << width) - 1) << start]
    assert overlapping_starts(block, width) == sum(1 << start for start in expected)


@given(st.integers(0, 2**16 - 1), st.integers(1, 8), st.integers(1, 15))
def test_no_block_is_in_two_bands(starts: int, width: int, first_of_upper: int) -> None:
    kept = starts_within_bands(starts, width, first_of_upper)
    for start in range(16):
        crosses = start < first_of_upper < start + width
        assert bool(kept >> start & 1) == (bool(starts >> start & 1) and not crosses)


@given(
    plants(), st.lists(st.tuples(demands(), st.booleans()), max_size=40), st.sampled_from([BY_COST, TUNED, GAP_AWARE])
)
def test_no_slot_is_ever_given_twice(
    routes: CandidateRoutes, wanted: list[tuple[tuple[str, str, float], bool]], order: RouteOrder
) -> None:
    spectrum, standing = Spectrum(routes.grid, routes.all_free), []
    for (source, destination, rate_gbps), then_leave in wanted:
        nodes = {node for name in routes.link_names for node in name.split("->")}
        if not {source, destination} <= nodes:
            continue
        found = assign(spectrum, routes, source, destination, rate_gbps, order)
        if found is not None:
            route = found.route
            assert route.nodes[0] == source
            assert route.nodes[-1] == destination
            assert route.length_km <= route.modulation.reach_km
            assert found.block == ((1 << found.width) - 1) << found.first
            assert found.width == GRID.slots_for(rate_gbps, route.modulation.bits_per_symbol)
            spectrum.occupy(found)  # refuses a slot that is taken
            standing.append(found)
        if then_leave and standing:
            spectrum.release(standing.pop(0))
        for link in range(len(routes.link_names)):
            taken = [each.block for each in standing if link in each.route.links]
            assert spectrum.free[link] == GRID.all_free & ~sum(taken)
            assert sum(block.bit_count() for block in taken) == sum(taken).bit_count()
        for slot, links in enumerate(spectrum.free_links):
            assert links == sum((free >> slot & 1) << link for link, free in enumerate(spectrum.free))


@given(plants(), st.data())
def test_the_best_of_all_routes_that_fit_is_taken(routes: CandidateRoutes, data: st.DataObject) -> None:
    spectrum = Spectrum(routes.grid, routes.all_free)
    spectrum.free = [data.draw(st.integers(0, GRID.all_free)) for _ in routes.link_names]
    order = RouteOrder(
        data.draw(st.sampled_from([0.0, 0.1, 1.0])), data.draw(st.sampled_from([0.0, 0.5, 2.0])),
        data.draw(st.sampled_from([0.0, 1.0])), data.draw(st.sampled_from([0.0, 1.0])),
        misaligned=data.draw(st.sampled_from([0.0, 0.1])), position_per_link=data.draw(st.sampled_from([0.0, 0.1])),
    )  # fmt: skip
    is_gap_aware = bool(order.split or order.filled)  # the only orders with the last two terms
    nodes = sorted({node for name in routes.link_names for node in name.split("->")})
    source, destination = data.draw(st.permutations(nodes).map(lambda found: found[:2]))
    rate_gbps = data.draw(st.sampled_from([10.0, 25.0, 50.0]))

    def score(found_first: int, width: int, route: CandidateRoute) -> float:
        links, block = route.links, ((1 << width) - 1) << found_first
        taken = sum(GRID.slots - spectrum.free[link].bit_count() for link in links)
        beside = [side for side in (found_first - 1, found_first + width) if side in range(GRID.slots)]
        sides = [[bool(spectrum.free[link] >> side & 1) for side in beside] for link in links]
        if len(beside) < 2:
            sides = [[*pair, False] for pair in sides]
        gaps = order.split * sum(map(all, sides)) - order.filled * sum(not any(pair) for pair in sides)
        position = order.position
        if is_gap_aware:
            position += order.position_per_link * len(links)
            free_adjacent = sum((spectrum.free[link] & block).bit_count() for link in adjacent(routes, route.nodes))
            gaps += order.misaligned * free_adjacent
        return width * len(links) + position * (found_first + 1) + order.load / GRID.slots * width * taken + gaps

    scores = []
    for route in routes.between(source, destination):
        width = GRID.slots_for(rate_gbps, route.modulation.bits_per_symbol)
        fits = [
            all(spectrum.free[link] >> first & (1 << width) - 1 == (1 << width) - 1 for link in route.links)
            for first in range(GRID.slots - width + 1)
        ]
        for first in (first for first, is_free in enumerate(fits) if is_free):
            is_inside = first > 0 and first + 1 < len(fits) and fits[first - 1] and fits[first + 1]
            if not (is_gap_aware and is_inside):
                scores.append(score(first, width, route))
    found = assign(spectrum, routes, source, destination, rate_gbps, order)
    if found is None:
        assert not scores
    else:
        assert score(found.first, found.width, found.route) == pytest.approx(min(scores))


def adjacent(routes: CandidateRoutes, nodes: tuple[str, ...]) -> set[int]:
    """The links from which a lightpath may go on over a link of the route, or to which, without a loop."""
    hops = list(pairwise(nodes))
    ends = [tuple(name.split("->")) for name in routes.link_names]
    return {
        number
        for number, (a, b) in enumerate(ends)
        if (a, b) not in hops and (b, a) not in hops and any(b == x or a == y for x, y in hops)
    }


def test_a_block_that_neighbouring_links_cannot_use_is_preferred() -> None:
    routes = CandidateRoutes({("a", "b"): 100.0, ("b", "c"): 100.0}, 1)
    spectrum = Spectrum(routes.grid, routes.all_free)
    onward = routes.link_names.index("b->c")
    spectrum.free[onward] &= ~(0b111 << 6)
    spectrum.free[routes.link_names.index("a->b")] &= ~(0b111 << 3)
    order = RouteOrder(split=1.0, misaligned=0.1)
    found = assign(spectrum, routes, "a", "b", 100.0, order)
    plain = assign(spectrum, routes, "a", "b", 100.0, replace(order, misaligned=0.0))
    assert found is not None and plain is not None
    assert (plain.first, found.first) == (0, 6)


def test_the_grids_are_those_of_the_recommendation() -> None:
    assert [FIXED.central_thz(channel, 1) for channel in (0, 35, 95)] == pytest.approx([191.35, 193.1, 196.1])
    assert FLEXIBLE.central_thz(4, 3) == pytest.approx(193.16875)
    assert FLEXIBLE.slots_for(100, 4) == 3
    assert FLEXIBLE.slots_for(25, 1) == 3


def test_the_format_with_most_bits_that_reaches_is_chosen() -> None:
    assert [modulation_for(km, REACHES) for km in (300.0, 300.1, 900.1)] == [*REACHES, None]


@given(plants(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([10.0, 50.0, 120.0]))
def test_candidates_know_what_later_ones_cost_at_least(routes: CandidateRoutes, filled: float, rate: float) -> None:
    source, destination = routes.link_names[0].split("->")
    bounded = routes.bounded_candidates(source, destination, rate, filled)
    assert [(cost, width, route) for _, cost, width, _, route in bounded] == [
        *routes.candidates(source, destination, rate)
    ]
    for number, (least_of_rest, _, _, link_count, route) in enumerate(bounded):
        assert link_count == len(route.links)
        assert least_of_rest == min(cost - filled * links for _, cost, _, links, _ in bounded[number:])


def test_routes_are_sorted_by_length_or_hops_only() -> None:
    with pytest.raises(ValueError, match="length, hops or hops/efficiency"):
        CandidateRoutes({("a", "b"): 1.0}, 1, by="colour")


def test_the_shortest_routes_may_be_sorted_by_links_per_bit_of_a_symbol() -> None:
    spans = {("a", "b"): 250.0, ("b", "c"): 250.0, ("a", "c"): 400.0, ("c", "d"): 100.0, ("a", "d"): 550.0}
    by_length = CandidateRoutes(spans, 8, table=REACHES)
    by_efficiency = CandidateRoutes(spans, 8, by="hops/efficiency", table=REACHES)
    expected = sorted(
        by_length.between("a", "c"), key=lambda route: len(route.links) / route.modulation.bits_per_symbol
    )
    assert by_efficiency.between("a", "c") == tuple(expected)
    adopting = CandidateRoutes(spans, 8, by="hops/efficiency", table=REACHES)
    adopting.adopt(by_length)
    assert adopting.between("a", "c") == tuple(expected)
