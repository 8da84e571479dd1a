"""The plan for a request: a route and a rate for each flow such that all promises are kept, the best first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from math import inf

from controller.admission.latency_limits import has_limit, late
from controller.admission.live_reservations import LiveReservations
from controller.admission.path_search import SEARCH_STEPS, PathSearch
from controller.admission.residual_capacity import ResidualCapacity, granted_burst_bytes
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import FlowBooker, PlacedFlow, SizedFlow
from controller.booking.transfer_rate import HEADROOM_SHARE, gate_of, least_rate_bps
from controller.calculus.failure_bounds import CarriedFlow, FailureBounds
from controller.calculus.network_bounds import NoBound
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.reservation import Flow, Reservation
from controller.domain.route import Route
from controller.errors import LatencyNotMet, Refused

BOUND_CHECKS = 32
"""Complete assignments whose bounds are worked out before the latency counts as not met."""

SETTLE_STEPS = 64
"""Rounds in which the rates of transfers may grow with the latency they cause before they count as not settling."""


@frozen
class Request:
    """Flows for the reservation of that id; if a standing one has it, this is its modification.

    Wanted during [start_s, end_s); a start of None is now. `keep`: flows, by name, whose present placement stays.
    `search_steps`: how long to look for an assignment of paths before it counts as not fitting.
    """

    reservation_id: str
    version: int
    flows: tuple[Flow, ...]
    start_s: float | None = None
    end_s: float = inf
    keep: frozenset[str] = field(default_factory=frozenset)
    search_steps: int = SEARCH_STEPS


@frozen
class PlanningProblem:
    """What a decision is about; `free` and `others` are without the reservation that is asked for."""

    network: Network
    free: Calendar
    everyone: LiveReservations
    others: LiveReservations
    request: Request
    replaced: Reservation | None
    start_s: float
    is_later: bool

    def carried(self, sized: SizedFlow, route: Route) -> CarriedFlow:
        """How the network would carry a flow of the request."""
        start_s = self.start_s if self.is_later else -inf
        gate = gate_of(sized.flow, sized.rate_bps)
        size, limit = (sized.rate_bps, sized.burst_bytes), has_limit(sized.flow.requirement)
        return CarriedFlow.during(route, size, start_s, self.request.end_s, gate, limit)


Placed = Mapping[str, PlacedFlow]
"""By flow name."""


@frozen
class FeasiblePlan:
    """A place for every flow, and everybody's bounds then."""

    placed: Placed
    promises: FailureBounds


def first_plan(case: PlanningProblem, down: frozenset[str]) -> FeasiblePlan:
    """The first assignment in which every flow, new or standing, stays within its limits.

    Transfers get some headroom if there is room for it, else the least rate that is quick enough.

    Raises: NoCapacity if none fits, LatencyNotMet with the first assignment's reason if none stays within.
    """
    if any(flow.requirement.transfer_bytes is not None for flow in case.request.flows):
        try:
            return _first_plan(case, down, HEADROOM_SHARE)
        except Refused:
            pass  # there is no room for headroom
    return _first_plan(case, down, 0.0)


def _first_plan(case: PlanningProblem, down: frozenset[str], headroom_share: float) -> FeasiblePlan:
    kept = _kept(case)
    sizes = _sizes(case.network, [flow for flow in case.request.flows if flow.name not in kept], {}, headroom_share)
    search = PathSearch(_room(case, kept), list(sizes.values()), case.replaced, down, case.request.search_steps)
    refusal: Refused | None = None
    for tried, new in enumerate(search.assignments()):
        if tried == BOUND_CHECKS:
            break
        try:
            return _settled(case, new, kept, headroom_share)
        except NoBound as endless:
            refusal = refusal or _unbounded(case.request, endless)
        except Refused as error:
            refusal = refusal or error
    raise refusal or search.refusal()


def _kept(case: PlanningProblem) -> Placed:
    """The flows whose present placement stays."""
    if case.replaced is None:
        return {}
    lifetime = _lifetime(case)
    return {
        p.flow.name: lifetime.placing(SizedFlow(p.flow, p.reserved_bps, p.burst_bytes), p.route)
        for p in case.replaced.placements
        if p.flow.name in case.request.keep
    }


def _room(case: PlanningProblem, placed: Placed) -> ResidualCapacity:
    """What is left on the links with these flows of the request placed."""
    held = dict.fromkeys(
        each for p in (case.replaced.carried if case.replaced else ()) for each in (*p.lightpaths, *p.backup_lightpaths)
    )
    room = ResidualCapacity(case.network, case.free, _lifetime(case), tuple(held))
    for placing in placed.values():
        room.allocate(placing.bookings)
    return room


def _lifetime(case: PlanningProblem) -> FlowBooker:
    request = case.request
    return FlowBooker(case.network.ducts, request.reservation_id, case.start_s, request.end_s)


def _sizes(
    network: Network, flows: Iterable[Flow], latencies_us: Mapping[str, float], headroom_share: float
) -> dict[str, SizedFlow]:
    """What each flow needs at these latencies (none: 0).

    Raises: LatencyNotMet if no rate is quick enough.
    """
    sizes = {}
    for flow in flows:
        latency_us = latencies_us.get(flow.name, 0.0)
        rate_bps = least_rate_bps(flow.requirement, latency_us, headroom_share)
        if rate_bps is None:
            limit_us = (flow.requirement.deadline_ms or 0) * 1000
            alone = f"the proven latency alone would be {latency_us:.0f} us"
            sentence = f"{flow.name}: {alone}; its deadline is {limit_us:.0f} us."
            facts = {"flow": flow.name, "promise": "completion", "limit_us": limit_us}
            raise LatencyNotMet(sentence, **facts, bound_us=round(latency_us, 1))
        sizes[flow.name] = SizedFlow(flow, rate_bps, granted_burst_bytes(flow, rate_bps, network))
    return sizes


def _settled(case: PlanningProblem, new: Placed, kept: Placed, headroom_share: float) -> FeasiblePlan:
    """Let the rates of transfers grow on the routes of these flows until they and the latencies agree.

    Raises: LatencyNotMet, or NoCapacity if there is no room to grow.
    """
    own_id, flows = case.request.reservation_id, [placing.sized.flow for placing in new.values()]
    for _ in range(SETTLE_STEPS):
        placed = {**new, **kept}
        promises = _promises(case, placed)
        if all(flow.requirement.transfer_bytes is None for flow in flows):
            _refuse_late(case, promises, placed)  # no rate depends on the latency
            return FeasiblePlan(placed, promises)
        latencies = {name: promises.bound((own_id, name)).accumulated_latency_us for name in new}
        sizes = _sizes(case.network, flows, latencies, headroom_share)
        if all(sizes[name] == placing.sized for name, placing in new.items()):
            _refuse_late(case, promises, placed)
            return FeasiblePlan(placed, promises)
        new = _resized(case, new, sizes, kept)
    first = flows[0].name
    raise LatencyNotMet(f"{first}: its rate and its latency do not settle.", flow=first, bound_us=None, limit_us=None)


def _promises(case: PlanningProblem, placed: Placed) -> FailureBounds:
    own_id = case.request.reservation_id
    added = {(own_id, name): case.carried(placing.sized, placing.route) for name, placing in placed.items()}
    return case.others.promises_with(added)


def _unbounded(request: Request, endless: NoBound) -> LatencyNotMet:
    """The refusal of a request under which nothing finite can be proven."""
    flow, link = request.flows[0].name, endless.link
    sentence = f"{flow}: no finite latency can be proven; the analysis does not settle at {link}."
    return LatencyNotMet(sentence, flow=flow, link=link, bound_us=None, limit_us=None)


def _resized(case: PlanningProblem, new: Placed, sizes: Mapping[str, SizedFlow], kept: Placed) -> Placed:
    """The flows on their routes as large as this.

    Raises: NoCapacity if there is no room.
    """
    room, resized = _room(case, kept), {}
    for name, sized in sizes.items():
        placing = resized[name] = room.lifetime.placing(sized, new[name].route)
        if not room.fits(placing.bookings):
            raise room.refusal(sized, [placing.route])
        room.allocate(placing.bookings)
    return resized


def _refuse_late(case: PlanningProblem, promises: FailureBounds, placed: Placed) -> None:
    own_id = case.request.reservation_id
    for name, placing in placed.items():
        bound, sized = promises.bound((own_id, name)), placing.sized
        broken = late(name, sized.flow.requirement, sized.rate_bps, bound, name, own_id)
        if broken is not None:
            raise broken
    for reservation_id, name in promises.changed_limited_flows():
        if reservation_id != own_id:
            key = reservation_id, name
            flow, whose = case.others.flow(key), f"{name} of standing reservation {reservation_id}"
            bound, rate_bps = promises.bound(key), promises.carried[key].rate_bps
            broken = late(whose, flow.requirement, rate_bps, bound, name, reservation_id)
            if broken is not None:
                raise broken
