"""Lightpaths move out of the way of a request only where both their blocks can be lit at once."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from controller.optical.candidate_routes import CandidateRoute, CandidateRoutes
from controller.optical.lit_spectrum import LitLightpath, LitSpectrum, Move
from controller.optical.reallocation import MovePolicy, reallocate
from controller.optical.rsa import BY_COST, assign
from controller.optical.spectrum import Assignment
from tests.property.strategies import GRID, plants

Cells = set[tuple[int, int]]
POLICIES = st.builds(MovePolicy, max_moves=st.integers(1, 3), may_reroute=st.booleans(), max_trials=st.just(10_000))


def cells(assignment: Assignment) -> Cells:
    slots = [slot for slot in range(GRID.slots) if assignment.block >> slot & 1]
    return set(product(assignment.route.links, slots))


@st.composite
def filled(draw: st.DrawFn) -> tuple[LitSpectrum, CandidateRoutes, dict[int, LitLightpath], tuple[str, str, float]]:
    """A plant with lightpaths after arrivals and departures, and a request that is blocked if there is one."""
    routes = draw(plants())
    spectrum = LitSpectrum(routes.grid, routes.all_free)
    lit: dict[int, LitLightpath] = {}
    nodes = sorted({node for name in routes.link_names for node in name.split("->")})
    ends = st.permutations(nodes).map(lambda order: (order[0], order[1]))
    rates = st.sampled_from([25.0, 50.0, 100.0])
    for number in range(draw(st.integers(5, 40))):
        wanted = (*draw(ends), draw(rates))
        found = assign(spectrum, routes, *wanted, BY_COST)
        if found is None:
            if draw(st.booleans()):
                return spectrum, routes, lit, wanted
            continue
        lit[number] = LitLightpath(number, found, routes.candidates(*wanted), is_pinned=draw(st.integers(0, 9)) == 0)
        spectrum.light(lit[number])
        if lit and draw(st.integers(0, 3)) == 0:
            spectrum.extinguish(lit.pop(draw(st.sampled_from(sorted(lit)))))
    return spectrum, routes, lit, (*draw(ends), 100.0)


@given(filled(), POLICIES)
def test_every_move_is_make_before_break_and_the_request_fits_after_the_last(
    plant: tuple[LitSpectrum, CandidateRoutes, dict[int, LitLightpath], tuple[str, str, float]], policy: MovePolicy
) -> None:
    spectrum, routes, lit, wanted = plant
    before = list(spectrum.free)
    found = reallocate(spectrum, routes.candidates(*wanted), policy)
    assert spectrum.free == before, "the search changes nothing"
    assert found == reallocate(spectrum, routes.candidates(*wanted), policy), "ties have an order"
    if found is None:
        return
    assert 1 <= len(found.moves) <= policy.max_moves
    occupied = {number: cells(lightpath.assignment) for number, lightpath in lit.items()}
    for move in found.moves:
        number, new = move.before.number, cells(move.after)
        assert not lit[number].is_pinned
        assert all(not new & others for others in occupied.values()), "its own old slots too"
        assert move.after.route in [route for _, _, route in lit[number].options]
        assert policy.may_reroute or move.after.route == lit[number].assignment.route
        ends = lit[number].assignment.route.nodes
        assert (move.after.route.nodes[0], move.after.route.nodes[-1]) == (ends[0], ends[-1])
        occupied[number] = new
    assert all(not cells(found.assignment) & others for others in occupied.values())
    for move in found.moves:
        spectrum.move(Move(move.before, move.after))
    spectrum.occupy(found.assignment)  # refuses a slot that is taken


@given(filled())
def test_one_move_is_found_if_any_would_do_and_the_least_spectrum_is_taken(
    plant: tuple[LitSpectrum, CandidateRoutes, dict[int, LitLightpath], tuple[str, str, float]],
) -> None:
    spectrum, routes, lit, wanted = plant
    if assign(spectrum, routes, *wanted, BY_COST) is not None:
        return
    policy = MovePolicy(max_moves=1, max_trials=10_000)
    occupied = {number: cells(lightpath.assignment) for number, lightpath in lit.items()}
    costs = []
    for cost, width, route in routes.candidates(*wanted)[: policy.request_routes]:
        for window in blocks(route, width):
            in_the_way = [number for number, taken in occupied.items() if taken & cells(window)]
            if len(in_the_way) == 1 and not lit[in_the_way[0]].is_pinned:
                moved = lit[in_the_way[0]]
                own = moved.assignment.width * len(moved.assignment.route.links), moved.assignment.width
                options = [*moved.options[: policy.moved_routes], (*own, moved.assignment.route)]
                costs += [
                    cost + new_cost - own[0]
                    for new_cost, new_width, new_route in options
                    for new in blocks(new_route, new_width)
                    if not cells(new) & cells(window) and all(not cells(new) & others for others in occupied.values())
                ]
    found = reallocate(spectrum, routes.candidates(*wanted), policy)
    if found is None:
        assert not costs
    else:
        (move,) = found.moves
        changes = (1, found.assignment), (1, move.after), (-1, move.before.assignment)
        assert sum(sign * each.width * len(each.route.links) for sign, each in changes) == min(costs)


def blocks(route: CandidateRoute, width: int) -> list[Assignment]:
    return [Assignment(route, ((1 << width) - 1) << first) for first in range(GRID.slots - width + 1)]
