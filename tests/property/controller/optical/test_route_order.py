"""First fit and most used are what the literature calls so; a tuned order is never worse than first fit where it was
chosen; the orders that are kept belong to the maps that they name.
"""

from __future__ import annotations

from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.optical.candidate_routes import CandidateRoutes
from controller.optical.route_order import (
    DEFAULT_SELECTION,
    SELECTION_BY_FINGERPRINT,
    RouteSelection,
    fingerprint,
    tuned_selection_for,
)
from controller.optical.rsa import FIRST_FIT, MOST_USED, TUNED, RouteOrder, assign
from controller.optical.spectrum import Assignment, Spectrum
from harness.route_order_search import OrderTrial, blocked_demands, demands, tune
from tests.property.strategies import GRID, plants
from topologies.plants.published import read_plant

RING = {
    ("a", "b"): 300.0, ("b", "c"): 500.0, ("c", "d"): 400.0, ("d", "e"): 700.0, ("a", "e"): 200.0, ("b", "e"): 900.0,
}  # fmt: skip


@st.composite
def spectra(draw: st.DrawFn) -> tuple[CandidateRoutes, Spectrum]:
    routes = draw(plants())
    spectrum = Spectrum(routes.grid, routes.all_free)
    spectrum.free = [draw(st.integers(0, GRID.all_free)) for _ in routes.link_names]
    return routes, spectrum


def fitting(routes: CandidateRoutes, spectrum: Spectrum, ends: tuple[str, str], rate_gbps: float) -> list[Assignment]:
    """All blocks that fit on the first route with one, from the lowest up; one slot looked at after another."""
    for route in routes.between(*ends):
        width = GRID.slots_for(rate_gbps, route.modulation.bits_per_symbol)
        found = []
        for first in range(GRID.slots - width + 1):
            block = sum(1 << slot for slot in range(first, first + width))
            if all(spectrum.free[link] & block == block for link in route.links):
                found.append(Assignment(route, block))
        if found:
            return found
    return []


@given(spectra(), st.data())
def test_first_fit_and_most_used_are_what_they_are_called(
    drawn: tuple[CandidateRoutes, Spectrum], data: st.DataObject
) -> None:
    routes, spectrum = drawn
    sites = sorted({node for name in routes.link_names for node in name.split("->")})
    source, destination = data.draw(st.permutations(sites).map(lambda found: found[:2]))
    rate_gbps = data.draw(st.sampled_from([10.0, 25.0, 50.0, 120.0]))
    possible = fitting(routes, spectrum, (source, destination), rate_gbps)

    def times_used(block: int) -> int:
        return sum((block & ~free).bit_count() for free in spectrum.free)

    for order in (FIRST_FIT, MOST_USED):
        found = assign(spectrum, routes, source, destination, rate_gbps, order)
        if not possible:
            assert found is None
        elif order is FIRST_FIT:
            assert found == possible[0]
        else:
            assert found == max(possible, key=lambda each: times_used(each.block))


@settings(max_examples=5)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
def test_tuning_never_chooses_what_is_worse_than_first_fit_on_the_seeds_it_saw(seeds: list[int]) -> None:
    trial = OrderTrial(RING, seeds, 300, GRID, most_routes=6)
    choice = tune(trial)
    first_fits = [each for each in trial.baselines() if each.order == FIRST_FIT]
    assert len(first_fits) == 3
    for first_fit in first_fits:
        assert mean(trial.blocked(choice.chosen, choice.erlang)) <= mean(trial.blocked(first_fit, choice.erlang))


def test_tuning_returns_to_first_fit_where_nothing_is_better() -> None:
    """Between two sites with one fibre there is one route, and nothing to weigh."""
    choice = tune(OrderTrial({("a", "b"): 100.0}, [1, 2], 400, GRID))
    shares = dict(choice.blocking)
    assert choice.chosen.order.is_sequential
    assert {shares[each] for each in shares if not each.order.most_used} == {shares[RouteSelection(FIRST_FIT, 5)]}


def test_the_load_is_where_first_fit_blocks_one_in_twenty() -> None:
    trial = OrderTrial(RING, [3], 2000, GRID, most_routes=6)
    assert trial.blocked(trial.baselines()[0], trial.calibrated_load()) == [pytest.approx(0.05, abs=0.02)]


def test_demands_are_those_of_their_seed() -> None:
    first, again, other = (list(demands("abc", 1.0, 5.0, seed, 50)) for seed in (1, 1, 2))
    assert first == again != other
    assert all(0 < each.leaves - each.arrives < 10 for each in first)
    assert all(25 <= each.rate_gbps <= 100 and each.source != each.destination for each in first)


def test_a_demand_that_finds_no_room_is_refused_and_takes_none() -> None:
    routes = CandidateRoutes({("a", "b"): 100.0}, 1, GRID)
    wanted = list(demands("ab", 10.0, 50.0, 1, 60))
    blocked = blocked_demands(routes, TUNED, wanted)
    assert 0 < len(blocked) < 60
    assert blocked_demands(routes, TUNED, [each for number, each in enumerate(wanted) if number not in blocked]) == []


def test_a_trial_needs_something_to_compare_on() -> None:
    with pytest.raises(ValueError, match="0 seeds"):
        OrderTrial(RING, [], 100)
    with pytest.raises(ValueError, match="0 sites"):
        OrderTrial({}, [1], 100)


def test_a_kept_order_is_found_whatever_the_sites_are_called() -> None:
    spans = {fibre.ends: fibre.length_km for fibre in read_plant("sndlib/nobel-us").fibres}
    renamed = {(f"x{a}", f"x{b}"): length_km for (a, b), length_km in spans.items()}
    assert fingerprint(spans) in SELECTION_BY_FINGERPRINT
    assert tuned_selection_for(renamed) is tuned_selection_for(spans) is SELECTION_BY_FINGERPRINT[fingerprint(spans)]
    assert tuned_selection_for({**spans, ("x", "y"): 1.0}) is DEFAULT_SELECTION


def test_orders_for_places_and_load_are_kept_as_they_are_weighed() -> None:
    assert all(
        isinstance(each, RouteSelection) and isinstance(each.order, RouteOrder)
        for each in SELECTION_BY_FINGERPRINT.values()
    )
    assert all(each.k >= 1 and each.by in ("length", "hops") for each in SELECTION_BY_FINGERPRINT.values())
