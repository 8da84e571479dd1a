"""A route and a rate for each flow of a request such that every reservation stays within its limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from math import inf

from controller.admission.latency_limits import has_limit
from controller.admission.latency_screen import LatencyScreen
from controller.admission.limit_checks import check_limit, check_limits
from controller.admission.live_reservations import LiveReservations
from controller.admission.path_search import SEARCH_STEPS, CurrentPlacements, PathSearch
from controller.admission.queue_limits import overfull_queue
from controller.admission.residual_capacity import ResidualCapacity, granted_burst_bytes, held_lightpaths
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import FlowBooker, PlacedFlow, SizedFlow
from controller.booking.transfer_rate import HEADROOM_SHARE, gate_window, least_rate_bps
from controller.calculus.failure_bounds import CarriedFlow, FailureBounds
from controller.calculus.network_bounds import NoBound
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.reservation import Flow, Placement, Reservation
from controller.domain.route import Route
from controller.errors import LatencyNotMet, Refused

BOUND_CHECKS = 32
"""Complete assignments whose bounds are computed before the request is refused for latency."""

PROGRAMME_CHECKS = 2
"""Assignments for which linear programmes may be solved."""

RATE_ITERATIONS = 64
"""Iterations after which the mutually dependent rates and latencies of transfers count as not converging."""


@frozen
class Request:
    """Flows for the reservation of that id; a modification if a live reservation has the id.

    During [start_s, end_s); a start of None is immediate. `keep`: names of flows whose current placement stays.
    `search_steps`: the limit of the path search. `bound_checks`: that of the analyses. `is_probe`: a refusal needs no
    bound of the first route. `may_solve_programmes`: whether linear programmes may decide where total-flow analysis
    exceeds a limit.
    """

    reservation_id: str
    version: int
    flows: tuple[Flow, ...]
    start_s: float | None = None
    end_s: float = inf
    keep: frozenset[str] = field(default_factory=frozenset)
    search_steps: int = SEARCH_STEPS
    bound_checks: int = BOUND_CHECKS
    is_probe: bool = False
    may_solve_programmes: bool = True


@frozen
class PlanningProblem:
    """The input of a decision; `calendar` and `others` are without the requested reservation, `live` is with it."""

    network: Network
    calendar: Calendar
    live: LiveReservations
    others: LiveReservations
    request: Request
    replaced: Reservation | None
    start_s: float
    is_later: bool
    current: CurrentPlacements
    """Those of `replaced`."""

    def carried(self, sized: SizedFlow, route: Route) -> CarriedFlow:
        """How the network would carry a flow of the request."""
        start_s = self.start_s if self.is_later else -inf
        gate = gate_window(sized.flow, sized.rate_bps)
        size, limit = (sized.rate_bps, sized.burst_bytes), has_limit(sized.flow.requirement)
        by_programmes = sized.flow.requirement.analysis == "linear_programme"
        return CarriedFlow.for_lifetime(route, size, start_s, self.request.end_s, gate, limit, by_programmes)

    def kept_placement(self, name: str) -> Placement | None:
        """The placement of a flow of the request that stays; None if it is placed anew."""
        if self.replaced is None or name not in self.request.keep:
            return None
        return next(placement for placement in self.replaced.placements if placement.flow.name == name)


PlacedFlows = Mapping[str, PlacedFlow]
"""By flow name."""


@frozen
class FeasiblePlan:
    """A place for every flow, and the resulting bounds of all carried flows."""

    placed: PlacedFlows
    bounds: FailureBounds


def first_plan(problem: PlanningProblem, down: frozenset[str]) -> FeasiblePlan:
    """The first assignment in which every flow, requested or already admitted, stays within its limits.

    Transfers get headroom where capacity allows, else the least rate that meets the deadline.

    Raises: NoCapacity if no assignment fits, LatencyNotMet of the first one if none stays within the limits.
    """
    if any(flow.requirement.transfer_bytes is not None for flow in problem.request.flows):
        try:
            return _first_plan(problem, down, HEADROOM_SHARE)
        except Refused:
            pass  # no capacity for the headroom
    return _first_plan(problem, down, 0.0)


def _first_plan(problem: PlanningProblem, down: frozenset[str], headroom_share: float) -> FeasiblePlan:
    kept = _kept_flows(problem)
    sizes = _sized_flows(
        problem, [flow for flow in problem.request.flows if flow.name not in kept], {}, headroom_share
    )
    residual = _residual_capacity(problem, kept)
    search = PathSearch(residual, list(sizes.values()), problem.current, down, problem.request.search_steps)
    refusal: Refused | None = None
    screen = LatencyScreen(problem)
    for number, new in enumerate(search.assignments()):
        if number == problem.request.bound_checks or screen.is_hopeless:
            break
        if (refusal is not None or problem.request.is_probe) and screen.exceeds_own_limit(new):
            refusal = refusal or LatencyNotMet("The limit cannot be met.", bound_us=None, limit_us=None)
            continue
        try:
            screen.may_solve_programmes = problem.request.may_solve_programmes and number < PROGRAMME_CHECKS
            return _with_final_rates(problem, new, kept, headroom_share, screen)
        except NoBound as error:
            screen.note(error)
            refusal = refusal or _unbounded(problem.request, error)
        except Refused as error:
            screen.note(error)
            refusal = refusal or error
    raise refusal or search.refusal()


def plan_on_routes(problem: PlanningProblem, routes: Mapping[str, Route], screen: LatencyScreen) -> FeasiblePlan:
    """The plan with every flow on its given route.

    Raises: Refused or NoBound if it is not feasible.
    """
    sizes = _sized_flows(problem, problem.request.flows, {}, 0.0)
    return _with_final_rates(problem, _on_routes(problem, sizes, routes, {}), {}, 0.0, screen)


def _kept_flows(problem: PlanningProblem) -> PlacedFlows:
    """The flows whose current placement stays."""
    if problem.replaced is None:
        return {}
    booker = _flow_booker(problem)
    return {
        p.flow.name: booker.place(SizedFlow(p.flow, p.reserved_bps, p.burst_bytes), p.route)
        for p in problem.replaced.placements
        if p.flow.name in problem.request.keep
    }


def _residual_capacity(problem: PlanningProblem, placed: PlacedFlows) -> ResidualCapacity:
    """The residual capacity with these flows of the request placed."""
    held = held_lightpaths(problem.replaced)
    residual = ResidualCapacity(problem.network, problem.calendar, _flow_booker(problem), held)
    for placed_flow in placed.values():
        residual.allocate(placed_flow.bookings)
    return residual


def _flow_booker(problem: PlanningProblem) -> FlowBooker:
    request = problem.request
    return FlowBooker(problem.network.srlg_by_span, request.reservation_id, problem.start_s, request.end_s)


def _sized_flows(
    problem: PlanningProblem, flows: Iterable[Flow], latencies_us: Mapping[str, float], headroom_share: float
) -> dict[str, SizedFlow]:
    """Rate and burst of each flow at these latencies (default: 0).

    Raises: LatencyNotMet if no rate meets the deadline.
    """
    sizes, calibration = {}, problem.live.calibration
    for flow in flows:
        latency_us = latencies_us.get(flow.name, 0.0)
        rate_bps = least_rate_bps(flow.requirement, latency_us, headroom_share)
        if rate_bps is None:
            limit_us = (flow.requirement.deadline_ms or 0) * 1000
            alone = f"the proven latency alone would be {latency_us:.0f} us"
            sentence = f"{flow.name}: {alone}; its deadline is {limit_us:.0f} us."
            facts = {"flow": flow.name, "promise": "completion", "limit_us": limit_us}
            raise LatencyNotMet(sentence, **facts, bound_us=round(latency_us, 1))
        sizes[flow.name] = SizedFlow(flow, rate_bps, granted_burst_bytes(flow, rate_bps, problem.network, calibration))
    return sizes


def _with_final_rates(
    problem: PlanningProblem,
    new: PlacedFlows,
    kept: PlacedFlows,
    headroom_share: float,
    screen: LatencyScreen,
) -> FeasiblePlan:
    """Iterate the rates of transfers on their routes until rates and latencies are consistent.

    Where bounds that were updated change by change exceed a limit by less than they may exceed those of a new analysis,
    they are replaced by those of a new analysis.

    Raises: LatencyNotMet, or NoCapacity if the routes do not have the capacity.
    """
    try:
        return _with_rates_for(problem, new, kept, headroom_share, screen)
    except LatencyNotMet as error:
        if not screen.needs_tight_bounds(error):
            raise
    return _with_rates_for(problem, new, kept, headroom_share, screen)


def _with_rates_for(
    problem: PlanningProblem, new: PlacedFlows, kept: PlacedFlows, headroom_share: float, screen: LatencyScreen
) -> FeasiblePlan:
    own_id, flows = problem.request.reservation_id, [placed_flow.sized_flow.flow for placed_flow in new.values()]
    for _ in range(RATE_ITERATIONS):
        placed = {**new, **kept}
        bounds = _bounds(problem, placed, screen.is_tight)
        if all(flow.requirement.transfer_bytes is None for flow in flows):
            check_limits(problem.others, bounds, screen.suspects, own_id, screen.may_solve_programmes)
            _check_limits(problem, bounds, placed, screen.may_solve_programmes)  # the rates do not depend on latencies
            return FeasiblePlan(placed, bounds)
        latencies = {name: bounds.bound((own_id, name)).accumulated_latency_us for name in new}
        sizes = _sized_flows(problem, flows, latencies, headroom_share)
        if all(sizes[name] == placed_flow.sized_flow for name, placed_flow in new.items()):
            _check_limits(problem, bounds, placed, screen.may_solve_programmes)
            return FeasiblePlan(placed, bounds)
        new = _on_routes(problem, sizes, {name: placed_flow.route for name, placed_flow in new.items()}, kept)
    first = flows[0].name
    raise LatencyNotMet(f"{first}: its rate and its latency do not converge.", flow=first, bound_us=None, limit_us=None)


def _bounds(problem: PlanningProblem, placed: PlacedFlows, is_tight: bool) -> FailureBounds:
    own_id = problem.request.reservation_id
    added = {(own_id, name): problem.carried(flow.sized_flow, flow.route) for name, flow in placed.items()}
    return problem.others.bounds_with(added, is_tight=is_tight)


def _unbounded(request: Request, error: NoBound) -> LatencyNotMet:
    """The refusal of a request with which no finite bound can be proven."""
    flow, link = request.flows[0].name, error.link
    sentence = f"{flow}: no finite latency can be proven; the analysis does not converge at {link}."
    return LatencyNotMet(sentence, flow=flow, link=link, bound_us=None, limit_us=None)


def _on_routes(
    problem: PlanningProblem, sizes: Mapping[str, SizedFlow], routes: Mapping[str, Route], kept: PlacedFlows
) -> PlacedFlows:
    """The flows on these routes with these rates and bursts.

    Raises: NoCapacity if they do not fit.
    """
    residual, resized = _residual_capacity(problem, kept), {}
    for name, sized in sizes.items():
        placed_flow = resized[name] = residual.booker.place(sized, routes[name])
        if not residual.fits(placed_flow.bookings):
            raise residual.refusal(sized, [placed_flow.route])
        residual.allocate(placed_flow.bookings)
    return resized


def _check_limits(
    problem: PlanningProblem, bounds: FailureBounds, placed: PlacedFlows, may_solve_programmes: bool = True
) -> None:
    """Check the limits of the requested flows, of all flows whose bounds may have changed, and of queues.

    `may_solve_programmes`: otherwise total-flow analysis decides alone.

    Raises: LatencyNotMet, NoBuffer.
    """
    own_id = problem.request.reservation_id
    for name, placed_flow in placed.items():
        flow, kept = placed_flow.sized_flow.flow, problem.kept_placement(name)
        check_limit(bounds, (own_id, name), flow, name, may_solve_programmes, kept)
    check_limits(problem.others, bounds, bounds.changed_limited_flows(), own_id, may_solve_programmes)
    crowded = bounds.crowded_queues()
    if crowded:
        routes = {name: placed_flow.route for name, placed_flow in placed.items()}
        refusal = overfull_queue(problem.network, routes, crowded, problem.others)
        if refusal is not None:
            raise refusal
