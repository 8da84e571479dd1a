"""Admission control: admit all flows of a request or none.

Three guarantees hold at every moment of the request's lifetime, without a failure and under every single failure:
capacity on every link, the latency limits of the requested flows, and those of the flows admitted before. A
modification counts its own capacity as free and keeps its paths where possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from controller.admission.feasible_plan import FeasiblePlan, PlanningProblem, Request, first_plan
from controller.admission.latency_limits import promised_us
from controller.admission.live_reservations import LiveReservations, as_live_reservations
from controller.admission.path_search import current_placements
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import SizedFlow
from controller.booking.transfer_rate import completion_us, gate_window
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.ports import describe_ports
from controller.domain.reservation import END_GUARD_S, LABELLED_VERSIONS, Flow, Placement, Reservation
from controller.domain.route import Route, with_reverse_links
from controller.errors import FlowInUse, InvalidRequest, Refused, RequestError, UnknownHost

__all__ = ["Admitted", "Rejected", "Request", "decide"]


@frozen
class Admitted:
    """The placements in the order of the request, and the calendar with their bookings.

    `others`: all other live reservations with the new bounds; `with_reservation` adds the admitted one.
    """

    placements: tuple[Placement, ...]
    calendar: Calendar
    others: LiveReservations


@frozen
class Rejected:
    """The reason for a refusal, as an error for the caller."""

    error: Refused | RequestError


def decide(
    network: Network,
    calendar: Calendar,
    live: Sequence[Reservation] | LiveReservations,
    request: Request,
    now_s: float,
    down: frozenset[str] = frozenset(),
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Admitted | Rejected:
    """Place every flow of the request, or give the reason for the refusal. `live`: all live reservations."""
    down = with_reverse_links(down)
    index = as_live_reservations(network, live, calibration)
    try:
        _check_ends(network, request.flows)
        _check_analyses(network, request.flows)
        problem = planning_problem(network, calendar, index, request, now_s)
        _check_lifetime(request, problem.start_s)
        _check_five_tuples(request, problem.start_s, index)
        plan = first_plan(problem, down)
    except (Refused, RequestError) as error:
        # A traceback refers to the frames and their objects, in a cycle that only the garbage collector can free.
        return Rejected(error.with_traceback(None))
    placements = _placements(problem, plan)
    booked = [booking for flow in request.flows for booking in plan.placed[flow.name].bookings]
    return Admitted(placements, problem.calendar.with_bookings(booked), problem.others.with_bounds(plan.bounds))


def planning_problem(
    network: Network, calendar: Calendar, live: LiveReservations, request: Request, now_s: float
) -> PlanningProblem:
    """The input of the search for a plan."""
    start_s = now_s if request.start_s is None else max(now_s, request.start_s)
    free = calendar.without_reservation(request.reservation_id)
    others, replaced = live.without(request.reservation_id), live.get(request.reservation_id)
    current = current_placements(replaced)
    return PlanningProblem(network, free, live, others, request, replaced, start_s, start_s > now_s, current)


def _check_ends(network: Network, flows: Sequence[Flow]) -> None:
    for flow in flows:
        for end in (flow.source, flow.destination):
            node = network.nodes.get(end)
            if node is None or node.is_switch:
                sentence = f"{flow.name}: there is no host {end!r} on map {network.name}; its hosts are "
                names = ", ".join(host.name for host in network.hosts)
                raise UnknownHost(f"{sentence}{names}.", flow=flow.name, host=end)


def _check_analyses(network: Network, flows: Sequence[Flow]) -> None:
    asking = [number for number, flow in enumerate(flows) if flow.requirement.analysis == "linear_programme"]
    if network.is_regulated and asking:
        message = f"linear programmes know no regulators, which the ports of map {network.name} have; use total_flow"
        mistakes = [{"place": f"body.flows.{number}.requirement.analysis", "message": message} for number in asking]
        raise InvalidRequest(f"{flows[asking[0]].name}: analysis: {message}.", mistakes=mistakes)


def _check_lifetime(request: Request, start_s: float) -> None:
    if request.end_s <= start_s + END_GUARD_S:
        place, least = "end_at", f"more than {END_GUARD_S:g} s after its start"
        lasts_s = request.end_s - start_s
        sentence = f"The reservation would end {lasts_s:.3f} s after its start; it must end {least}."
        message = f"it is {lasts_s:.3f} s after its start; it must be {least}"
        raise InvalidRequest(sentence, mistakes=[{"place": place, "message": message}])


def _check_five_tuples(request: Request, start_s: float, live: LiveReservations) -> None:
    for flow in request.flows:
        for holder in live.holders(flow):
            end_s = inf if holder.end_at_s is None else holder.end_at_s
            overlaps = holder.start_at_s < request.end_s and start_s < end_s
            if overlaps and holder.id != request.reservation_id:
                match = flow.match
                ports = describe_ports(match.source_port), describe_ports(match.destination_port)
                ends = f"{flow.source}:{ports[0]} to {flow.destination}:{ports[1]}"
                is_same = any(placement.flow.five_tuple == flow.five_tuple for placement in holder.placements)
                already = "already" if is_same else "in part already"
                sentence = f"{flow.name}: {match.protocol} from {ends} is {already} reserved by {holder.id}."
                raise FlowInUse(sentence, flow=flow.name, reservation=holder.id)


def _placements(problem: PlanningProblem, plan: FeasiblePlan) -> tuple[Placement, ...]:
    first_switches = {placed.route.path[1] for placed in plan.placed.values()}
    free_meters = {switch: problem.live.free_meters(switch) for switch in first_switches}
    bound_of = plan.bounds.bound if problem.request.may_solve_programmes else plan.bounds.total_flow_bound
    placements = []
    for flow in problem.request.flows:
        placed = plan.placed[flow.name]
        sized, route = placed.sized_flow, placed.route
        current = problem.current.get(flow.five_tuple)
        keeps_meter = current is not None and current.switches[0] == route.path[1]
        bound = bound_of((problem.request.reservation_id, flow.name))
        kept = problem.kept_placement(flow.name)
        promised = promised_us(flow.requirement, bound)
        new = Placement(
            flow,
            route.path,
            sized.rate_bps,
            sized.burst_bytes,
            current.meter_id if current and keeps_meter else next(free_meters[route.path[1]]),
            _version_of_entries(current, sized, route, problem.request.version),
            bound.accumulated_latency_us,
            bound.latency_variation_us,
            completion_us(flow.requirement, sized.rate_bps, bound.accumulated_latency_us),
            window=gate_window(flow, sized.rate_bps),
            backup_path=route.backup,
            lightpaths=route.lightpaths,
            backup_lightpaths=route.backup_lightpaths,
            promised_latency_us=kept.promised_latency_us if kept else promised[0],
            promised_variation_us=kept.promised_variation_us if kept else promised[1],
        )
        placements.append(new)
    return tuple(placements)


def _version_of_entries(current: Placement | None, sized: SizedFlow, route: Route, version: int) -> int:
    """The version in which the flow's entries were last changed: they stay while its route does, whatever its rate."""
    if current is None or current.suspended or version - current.version >= LABELLED_VERSIONS // 2:
        return version
    is_kept = current.route == route and current.window == gate_window(sized.flow, sized.rate_bps)
    return current.version if is_kept else version
