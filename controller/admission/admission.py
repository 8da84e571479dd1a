"""Admission: may these flows be promised, and how? All of a request's flows or none.

Three promises are kept at once, whichever one span is down and at every moment of the request's lifetime: capacity on
every link, the bound of each new flow, and the limits that earlier flows were promised. A modification sees its own
capacity as free and keeps its paths where it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from controller.admission.feasible_plan import FeasiblePlan, PlanningProblem, Request, first_plan
from controller.admission.live_reservations import LiveReservations, as_live_reservation
from controller.admission.path_search import held_placement
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import SizedFlow
from controller.booking.transfer_rate import completion_us, gate_of
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.reservation import END_GUARD_S, Flow, Placement, Reservation
from controller.domain.route import Route, both_ways
from controller.errors import FlowInUse, InvalidRequest, Refused, RequestError, UnknownHost

__all__ = ["Admitted", "Rejected", "Request", "decide"]


@frozen
class Admitted:
    """The placements in the order asked, and the calendar with them in it.

    `after`: all other live reservations as they are then, with what was worked out; add the new one with `having`.
    """

    placements: tuple[Placement, ...]
    bookings: Calendar
    after: LiveReservations


@frozen
class Rejected:
    """Why not, as the error to answer with."""

    error: Refused | RequestError


def decide(
    network: Network,
    bookings: Calendar,
    standing: Sequence[Reservation] | LiveReservations,
    request: Request,
    now_s: float,
    down: frozenset[str] = frozenset(),
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Admitted | Rejected:
    """Place every flow of the request, or say what is in the way. `standing`: all live reservations."""
    down = both_ways(down)
    everyone = as_live_reservation(network, standing, calibration)
    start_s = now_s if request.start_s is None else max(now_s, request.start_s)
    free = bookings.without(request.reservation_id)
    try:
        _check_ends(network, request.flows)
        _check_lifetime(request, start_s)
        _check_five_tuples(request, start_s, everyone)
        others, replaced = everyone.without(request.reservation_id), everyone.get(request.reservation_id)
        case = PlanningProblem(network, free, everyone, others, request, replaced, start_s, start_s > now_s)
        plan = first_plan(case, down)
    except (Refused, RequestError) as error:
        # Its traceback would hold all that was looked at, in a circle that only the garbage collector finds.
        return Rejected(error.with_traceback(None))
    placements = _placements(case, plan)
    booked = [booking for flow in request.flows for booking in plan.placed[flow.name].bookings]
    return Admitted(placements, free.adding(booked), others.with_bounds(plan.promises))




def _check_ends(network: Network, flows: Sequence[Flow]) -> None:
    for flow in flows:
        for end in (flow.source, flow.destination):
            node = network.nodes.get(end)
            if node is None or node.is_switch:
                sentence = f"{flow.name}: there is no host {end!r} on map {network.name}; its hosts are "
                names = ", ".join(host.name for host in network.hosts)
                raise UnknownHost(f"{sentence}{names}.", flow=flow.name, host=end)


def _check_lifetime(request: Request, start_s: float) -> None:
    if request.end_s <= start_s + END_GUARD_S:
        place, least = "end_at", f"more than {END_GUARD_S:g} s after its start"
        lasts_s = request.end_s - start_s
        sentence = f"The reservation would end {lasts_s:.3f} s after its start; it must end {least}."
        raise InvalidRequest(sentence, mistakes=[{"place": place, "message": least}])


def _check_five_tuples(request: Request, start_s: float, everyone: LiveReservations) -> None:
    for flow in request.flows:
        for holder in everyone.holders(flow):
            end_s = inf if holder.end_at_s is None else holder.end_at_s
            overlaps = holder.start_at_s < request.end_s and start_s < end_s
            if overlaps and holder.id != request.reservation_id:
                match = flow.match
                ends = f"{flow.source}:{match.source_port} to {flow.destination}:{match.destination_port}"
                sentence = f"{flow.name}: {match.protocol} from {ends} is already reserved by {holder.id}."
                raise FlowInUse(sentence, flow=flow.name, reservation=holder.id)


def _placements(case: PlanningProblem, plan: FeasiblePlan) -> tuple[Placement, ...]:
    first_switches = {placing.route.path[1] for placing in plan.placed.values()}
    free_meters = {switch: case.everyone.free_meters(switch) for switch in first_switches}
    placements = []
    for flow in case.request.flows:
        placing = plan.placed[flow.name]
        sized, route = placing.sized, placing.route
        held = held_placement(case.replaced, flow)
        keeps_meter = held is not None and held.switches[0] == route.path[1]
        bound = plan.promises.bound((case.request.reservation_id, flow.name))
        new = Placement(
            flow,
            route.path,
            sized.rate_bps,
            sized.burst_bytes,
            held.meter_id if held and keeps_meter else next(free_meters[route.path[1]]),
            held.version if held and _as_before(held, sized, route) else case.request.version,
            bound.accumulated_latency_us,
            bound.latency_variation_us,
            completion_us(flow.requirement, sized.rate_bps, bound.accumulated_latency_us),
            window=gate_of(flow, sized.rate_bps),
            backup_path=route.backup,
            lightpaths=route.lightpaths,
            backup_lightpaths=route.backup_lightpaths,
        )
        placements.append(new)
    return tuple(placements)


def _as_before(held: Placement, sized: SizedFlow, route: Route) -> bool:
    """Whether the switches have nothing new to be told about a flow."""
    before = SizedFlow(sized.flow, held.reserved_bps, held.burst_bytes), held.route
    same_gate = held.window == gate_of(sized.flow, sized.rate_bps)
    return before == (sized, route) and same_gate and not held.suspended
