"""Counter-offer for a refused request: when the same request would fit, and the nearest request that fits now.

Both are found with admission decisions, so they hold at the moment they are computed. The effort is bounded by the
number of decisions, not by time: FIT_TRIES start times, OFFER_TRIES requests, each with a short path search.

The nearest request depends on the reason; bisection keeps the change small:

- no capacity, no spectrum, or a transfer that would miss its deadline: all rates lower and all deadlines later in one
  proportion;
- the same for a single flow with a plain rate: the highest rate that fits;
- no buffer: smaller bursts in the same proportion; if that does not suffice, with lower rates as well;
- a latency limit: smaller bursts in the same proportion; if that does not suffice, limits that can be met, or lower
  rates where the limit belongs to a flow admitted before;
- no disjoint path: a backup that may share a duct with the path; if that does not suffice, no protection.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from math import ceil, floor, inf
from typing import ParamSpec, TypeVar

from controller.admission.admission import Admitted, Rejected, Request
from controller.admission.live_reservations import LiveReservations, as_live_reservations
from controller.admission.offer_search import LEAST_SHARE, DecisionContext, OfferSearch, with_requirement
from controller.admission.residual_capacity import ResidualCapacity, granted_burst_bytes, held_lightpaths
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import FlowBooker
from controller.booking.transfer_rate import RATE_STEP_BPS
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.domain.network import Network
from controller.domain.path import link_names
from controller.domain.reservation import Flow, Reservation, least_burst_bytes
from controller.domain.route import with_reverse_links
from controller.errors import (
    LatencyNotMet,
    NoBuffer,
    NoCapacity,
    NoDisjointPath,
    NoPath,
    NoSpectrum,
    OutOfReach,
    Refused,
)
from controller.optical.grooming import max_flow_bps
from controller.routing.candidates import candidate_paths

__all__ = ["DecisionContext", "attach_offer", "decide_with_offer", "earliest_fit_s", "nearest_request"]

FIT_TRIES = 16
SEARCH_STEPS = 200
BOUND_CHECKS = 3
"""Routes analysed for each start time and each offer."""

DRAIN_S = 1.0
"""Time after the end of a booking within which the queues that it caused are certain to be empty."""


Returned = TypeVar("Returned")
Arguments = ParamSpec("Arguments")


def attach_offer(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Decorator: add the counter-offer to refusals, after the function has released its locks."""

    @wraps(function)
    def with_offer(*args: Arguments.args, **named: Arguments.kwargs) -> Returned:
        try:
            result = function(*args, **named)
        except Refused as error:
            error.add_offer()
            raise
        if isinstance(result, Rejected) and isinstance(result.error, Refused):
            result.error.add_offer()
        return result

    return with_offer


def decide_with_offer(
    network: Network,
    calendar: Calendar,
    live: Sequence[Reservation] | LiveReservations,
    request: Request,
    now_s: float,
    down: frozenset[str] = frozenset(),
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Admitted | Rejected:
    """As `decide`; a refusal's `advice` computes `fits_at` (seconds) and `offer` (flows) on demand."""
    index = as_live_reservations(network, live, calibration)
    context = DecisionContext(network, calendar, index, now_s, down, calibration)
    decision = context.decide(request)
    if isinstance(decision, Rejected) and isinstance(decision.error, Refused):
        quick = replace(request, may_solve_programmes=False)
        decision.error.advice = lambda error: {
            "fits_at": earliest_fit_s(context, quick, error),
            "offer": nearest_request(context, quick, error),
        }
    return decision


def earliest_fit_s(context: DecisionContext, request: Request, error: Refused) -> float | None:
    """The earliest start at which the same request of the same duration is admitted; None if none was found.

    Load decreases only where a booking ends, so the ends of bookings on the candidate paths are tried, and DRAIN_S
    after each, when the queues that it caused are empty. For a limit of latency, whose decisions are expensive: by
    bisection, as if once it fits it fitted at all later ones.
    """
    if isinstance(error, NoPath | NoDisjointPath | OutOfReach):
        return None
    if isinstance(error, NoBuffer) and _exceeds_empty_queue(context.network, error):
        return None
    start_s = max(context.now_s, request.start_s or context.now_s)
    ends_s = sorted(end_s for end_s in _booking_ends_s(context, request) if start_s < end_s < inf)
    starts_s = sorted({*ends_s, *(end_s + DRAIN_S for end_s in ends_s)})
    cheap = replace(request, search_steps=SEARCH_STEPS, bound_checks=BOUND_CHECKS)

    def fits(later_s: float) -> bool:
        later = replace(cheap, start_s=later_s, end_s=request.end_s + later_s - start_s)
        return isinstance(context.decide(later), Admitted)

    starts_s = starts_s[:FIT_TRIES]
    if not isinstance(error, LatencyNotMet):
        return next((later_s for later_s in starts_s if fits(later_s)), None)
    if not starts_s or not fits(starts_s[-1]):
        return None
    return starts_s[bisect_left(starts_s, True, hi=len(starts_s) - 1, key=fits)]


def _exceeds_empty_queue(network: Network, error: NoBuffer) -> bool:
    """Whether the request alone is too much for a queue on every path, that of its source or destination."""
    link = network.links[str(error.facts["link"])]
    ends = network.nodes[link.source], network.nodes[link.destination]
    return error.facts["free_bytes"] == link.queue_bytes and not all(node.is_switch for node in ends)


def _booking_ends_s(context: DecisionContext, request: Request) -> set[float]:
    links = {
        link
        for flow in request.flows
        for path in candidate_paths(context.network, flow.source, flow.destination, context.down)
        for link in link_names(path)
    }
    return {
        booking.end_s
        for link in links
        for booking in context.calendar.bookings_on(link)
        if booking.reservation_id != request.reservation_id
    }


def nearest_request(context: DecisionContext, request: Request, error: Refused) -> tuple[Flow, ...] | None:
    """The flows of the nearest request that is admitted now, with the bursts that it grants; None if none was found."""
    search = OfferSearch(context, replace(request, search_steps=SEARCH_STEPS, bound_checks=BOUND_CHECKS))
    found = _nearest_request(search, error)
    return None if found is None else search.with_granted_bursts(found)


def _nearest_request(search: OfferSearch, error: Refused) -> tuple[Flow, ...] | None:
    context, request = search.context, search.request

    def with_lower_rates(share: float) -> tuple[Flow, ...]:
        return tuple(_with_lower_rate(flow, share) for flow in request.flows)

    def with_smaller_bursts(share: float) -> tuple[Flow, ...]:
        largest_bytes = context.network.max_frame_bytes
        return tuple(_with_smaller_burst(flow, share, burst_bytes[flow.name], largest_bytes) for flow in request.flows)

    def with_less_of_both(share: float) -> tuple[Flow, ...]:
        smaller = zip(with_smaller_bursts(share), with_lower_rates(share), strict=True)
        return tuple(with_requirement(lower, burst_bytes=flow.requirement.burst_bytes) for flow, lower in smaller)

    burst_bytes = _granted_burst_bytes(context, request)
    if isinstance(error, NoDisjointPath):
        return search.first([
            tuple(_link_disjoint(flow) for flow in request.flows),
            tuple(with_requirement(flow, protection="none", backup="shared") for flow in request.flows),
        ])  # fmt: skip
    if isinstance(error, NoCapacity | NoSpectrum) or error.facts.get("promise") == "completion":
        widest_bps = _widest_bps(context, request)
        if widest_bps is None:
            return search.nearest(with_lower_rates) or search.nearest(with_less_of_both)
        flow, requested_bps = request.flows[0], request.flows[0].requirement.min_bandwidth_bps or 0
        if widest_bps < max(RATE_STEP_BPS, requested_bps * LEAST_SHARE):
            return None
        widest = search.first([(with_requirement(flow, min_bandwidth_bps=min(requested_bps, widest_bps)),)])
        return widest or search.nearest(with_lower_rates) or search.nearest(with_less_of_both)
    if isinstance(error, NoBuffer):
        return search.nearest(with_smaller_bursts) or search.nearest(with_less_of_both)
    if isinstance(error, LatencyNotMet):
        if error.facts.get("reservation") == request.reservation_id:
            return search.nearest_on_routes(with_smaller_bursts, error) or search.relaxed(error)
        smaller = search.nearest_on_routes(with_smaller_bursts, error)
        if smaller is not None or search.is_refused(with_less_of_both(LEAST_SHARE)):
            return smaller
        return search.nearest_on_routes(with_lower_rates, error)
    return None


def _widest_bps(context: DecisionContext, request: Request) -> int | None:
    """The highest rate that the residual capacity allows.

    None unless the request is a single unprotected flow with a plain rate.
    """
    requirement = request.flows[0].requirement
    if len(request.flows) > 1 or requirement.transfer_bytes is not None or requirement.protection != "none":
        return None
    network, flow, name = context.network, request.flows[0], request.reservation_id
    held = held_lightpaths(context.live.get(name))
    start_s = max(context.now_s, request.start_s or context.now_s)
    booker = FlowBooker(network.srlg_by_span, name, start_s, request.end_s)
    residual = ResidualCapacity(network, context.calendar.without_reservation(name), booker, held)
    widest_bps = 0
    for path in candidate_paths(network, flow.source, flow.destination, with_reverse_links(context.down)):
        widest_bps = max(widest_bps, residual.widest_bps(path))
        if network.grid is not None and widest_bps >= max_flow_bps(network):
            break
    return widest_bps // RATE_STEP_BPS * RATE_STEP_BPS


def _link_disjoint(flow: Flow) -> Flow:
    """The flow with link-disjoint in place of duct-disjoint protection."""
    is_duct_disjoint = flow.requirement.protection == "duct_disjoint"
    return with_requirement(flow, protection="link_disjoint") if is_duct_disjoint else flow


def _with_lower_rate(flow: Flow, share: float) -> Flow:
    """The flow with a lower rate or, in the same proportion, a later deadline; a deadline stays within the period."""
    requirement = flow.requirement
    if requirement.min_bandwidth_bps is not None:
        rate_bps = max(RATE_STEP_BPS, floor(requirement.min_bandwidth_bps * share / RATE_STEP_BPS) * RATE_STEP_BPS)
        flow = with_requirement(flow, min_bandwidth_bps=min(rate_bps, requirement.min_bandwidth_bps))
    if requirement.deadline_ms is not None:
        deadline_ms = ceil(requirement.deadline_ms / share * 10) / 10
        flow = with_requirement(flow, deadline_ms=min(deadline_ms, requirement.period_ms or inf))
    return flow


def _with_smaller_burst(flow: Flow, share: float, burst_bytes: int, largest_frame_bytes: int) -> Flow:
    """The flow with a smaller burst, at least what its rate needs; of a transfer, at least one frame."""
    frame_bytes = flow.requirement.frame_bytes(largest_frame_bytes)
    least_bytes = least_burst_bytes(flow.requirement.min_bandwidth_bps or 0, frame_bytes)
    return with_requirement(flow, burst_bytes=max(min(least_bytes, burst_bytes), floor(burst_bytes * share)))


def _granted_burst_bytes(context: DecisionContext, request: Request) -> Mapping[str, int]:
    """The burst of every flow, requested or default."""
    facts = context.network, context.calibration
    return {
        flow.name: granted_burst_bytes(flow, flow.requirement.min_bandwidth_bps or 0, *facts) for flow in request.flows
    }

