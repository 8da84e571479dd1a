"""What to say beside a refusal: when the same request would fit, and the nearest one that would be accepted now.

Both are found by asking admission itself, so what is said is true at the moment it is said. The effort is bounded by
numbers of decisions, not by time: FIT_TRIES moments, OFFER_TRIES requests, each with a short search for paths.

The nearest request, by reason, with as small a change as halving finds:

- no capacity, no spectrum, or a transfer that cannot be there in time: all rates lower and all deadlines later in one
  proportion;
- the same for one flow of a plain rate: the highest rate for which there is room;
- a latency limit: smaller bursts in the same proportion; if that is not enough, limits that can be kept, or lower
  rates where the limit is a standing flow's;
- no second path: the same with a backup that may share a duct with the path; if that is not enough, without protection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from math import ceil, floor, inf
from typing import ParamSpec, TypeVar

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.live_reservations import LiveReservations, as_live_reservation
from controller.admission.residual_capacity import ResidualCapacity, granted_burst_bytes
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import FlowBooker
from controller.booking.transfer_rate import RATE_STEP_BPS
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.path import link_names
from controller.domain.reservation import Flow, Reservation
from controller.domain.route import both_ways
from controller.errors import LatencyNotMet, NoCapacity, NoDisjointPath, NoPath, NoSpectrum, OutOfReach, Refused
from controller.optical.grooming import most_bps
from controller.routing.candidates import candidate_paths

FIT_TRIES = 16
OFFER_TRIES = 20
SEARCH_STEPS = 200

QUIET_S = 1.0

LEAST_SHARE = 1 / 128
"""Nobody is offered less than this share of what was asked."""

LIMIT_STEP_US = 100
"""An offered latency limit is a multiple of this, so that it is not broken by the next smallest flow."""


Returned = TypeVar("Returned")
Arguments = ParamSpec("Arguments")


def attach_offer(ask: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """The same function whose refusals come with their advice: worked out when the function has let go of its locks."""

    @wraps(ask)
    def asked(*args: Arguments.args, **named: Arguments.kwargs) -> Returned:
        try:
            answer = ask(*args, **named)
        except Refused as error:
            error.add_offer()
            raise
        if isinstance(answer, Rejected) and isinstance(answer.error, Refused):
            answer.error.add_offer()
        return answer

    return asked


@frozen
class DecisionContext:
    """Everything a decision depends on but the request."""

    network: Network
    bookings: Calendar
    standing: LiveReservations
    now_s: float
    down: frozenset[str]
    calibration: Calibration

    def decide(self, request: Request) -> Admitted | Rejected:
        """What admission says."""
        return decide(self.network, self.bookings, self.standing, request, self.now_s, self.down, self.calibration)


def decide_with_offer(
    network: Network,
    bookings: Calendar,
    standing: Sequence[Reservation] | LiveReservations,
    request: Request,
    now_s: float,
    down: frozenset[str] = frozenset(),
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Admitted | Rejected:
    """As `decide`; a refusal's `advice` works out `fits_at` (seconds) and `offer` (flows) when it is wanted."""
    everyone = as_live_reservation(network, standing, calibration)
    circumstances = DecisionContext(network, bookings, everyone, now_s, down, calibration)
    decision = circumstances.decide(request)
    if isinstance(decision, Rejected) and isinstance(decision.error, Refused):
        decision.error.advice = lambda error: {
            "fits_at": fits_at_s(circumstances, request, error),
            "offer": offer(circumstances, request, error),
        }
    return decision


def fits_at_s(circumstances: DecisionContext, request: Request, error: Refused) -> float | None:
    """The earliest moment at which the calendar admits the same request for as long; None if none was found.

    What is booked only becomes less where a booking ends, so those moments are tried, on the links that matter, and
    those a little later, when the last queues that it left behind are empty for certain.
    """
    if isinstance(error, NoPath | NoDisjointPath | OutOfReach):
        return None
    start_s = max(circumstances.now_s, request.start_s or circumstances.now_s)
    ends = sorted(end_s for end_s in _ends(circumstances, request) if start_s < end_s < inf)
    moments = sorted({*ends, *(end_s + QUIET_S for end_s in ends)})
    for moment_s in moments[:FIT_TRIES]:
        later = replace(request, start_s=moment_s, end_s=request.end_s + moment_s - start_s, search_steps=SEARCH_STEPS)
        if isinstance(circumstances.decide(later), Admitted):
            return moment_s
    return None


def _ends(circumstances: DecisionContext, request: Request) -> set[float]:
    links = {
        link
        for flow in request.flows
        for path in candidate_paths(circumstances.network, flow.source, flow.destination, circumstances.down)
        for link in link_names(path)
    }
    return {
        booking.end_s
        for link in links
        for booking in circumstances.bookings.on(link)
        if booking.reservation_id != request.reservation_id
    }


def offer(circumstances: DecisionContext, request: Request, error: Refused) -> tuple[Flow, ...] | None:
    """The flows of the nearest request that is admitted now; None if none was found."""
    tries = _OfferSearch(circumstances, replace(request, search_steps=SEARCH_STEPS))

    def slower(share: float) -> tuple[Flow, ...]:
        return tuple(_slower(flow, share) for flow in request.flows)

    def smoother(share: float) -> tuple[Flow, ...]:
        frame_bytes = circumstances.network.frame_bytes
        return tuple(_smoother(flow, share, bursts[flow.name], frame_bytes) for flow in request.flows)

    bursts = _granted(circumstances, request)
    if isinstance(error, NoDisjointPath):
        return tries.first([
            tuple(_only_apart(flow) for flow in request.flows),
            tuple(_with(flow, protection="none", backup="shared") for flow in request.flows),
        ])  # fmt: skip
    if isinstance(error, NoCapacity | NoSpectrum) or error.facts.get("promise") == "completion":
        widest_bps = _widest_bps(circumstances, request)
        if widest_bps is None:
            return tries.nearest(slower)
        flow, asked_bps = request.flows[0], request.flows[0].requirement.min_bandwidth_bps or 0
        if widest_bps < max(RATE_STEP_BPS, asked_bps * LEAST_SHARE):
            return None
        widest = tries.first([(_with(flow, min_bandwidth_bps=min(asked_bps, widest_bps)),)])
        return widest or tries.nearest(slower)
    if isinstance(error, LatencyNotMet):
        own = error.facts.get("reservation") == request.reservation_id
        found = tries.nearest(smoother)
        return found or (tries.relaxed() if own else tries.nearest(slower))
    return None


def _widest_bps(circumstances: DecisionContext, request: Request) -> int | None:
    """The highest rate for which there is room, whatever the bounds say; None if not asked for one plain rate."""
    needed = request.flows[0].requirement
    if len(request.flows) > 1 or needed.transfer_bytes is not None or needed.protection != "none":
        return None
    network, flow, name = circumstances.network, request.flows[0], request.reservation_id
    now = circumstances.standing.get(name)
    held = dict.fromkeys(each for p in (now.carried if now else ()) for each in (*p.lightpaths, *p.backup_lightpaths))
    start_s = max(circumstances.now_s, request.start_s or circumstances.now_s)
    lifetime = FlowBooker(network.ducts, name, start_s, request.end_s)
    room = ResidualCapacity(network, circumstances.bookings.without(name), lifetime, tuple(held))
    widest_bps = 0
    for path in candidate_paths(network, flow.source, flow.destination, both_ways(circumstances.down)):
        widest_bps = max(widest_bps, room.widest_bps(path))
        if network.grid is not None and widest_bps >= most_bps(network):
            break
    return widest_bps // RATE_STEP_BPS * RATE_STEP_BPS


class _OfferSearch:
    """Requests that are like one that was refused, until OFFER_TRIES are spent."""

    def __init__(self, circumstances: DecisionContext, request: Request) -> None:
        self.circumstances = circumstances
        self.request = request
        self.left = OFFER_TRIES

    def refusal(self, flows: tuple[Flow, ...]) -> Exception | None:
        """Why these flows are not admitted; None if they are."""
        self.left -= 1
        decision = self.circumstances.decide(replace(self.request, flows=flows))
        return decision.error if isinstance(decision, Rejected) else None

    def first(self, candidates: Sequence[tuple[Flow, ...]]) -> tuple[Flow, ...] | None:
        """The first that is admitted."""
        return next((flows for flows in candidates if self.left > 0 and self.refusal(flows) is None), None)

    def nearest(self, like: Callable[[float], tuple[Flow, ...]]) -> tuple[Flow, ...] | None:
        """The admitted request of the largest share found by halving; a share of 1 is known to be refused."""
        best, low, high = self.first([like(LEAST_SHARE)]), LEAST_SHARE, 1.0
        tries = min(self.left, 10)
        for _ in range(tries if best else 0):
            middle = (low + high) / 2
            flows = like(middle)
            if flows == best or self.refusal(flows) is None:
                best, low = flows, middle
            else:
                high = middle
        return best

    def relaxed(self) -> tuple[Flow, ...] | None:
        """The request with the limits that can be kept in place of those that cannot."""
        flows = self.request.flows
        while self.left > 0:
            refusal = self.refusal(flows)
            if refusal is None:
                return flows
            if not isinstance(refusal, LatencyNotMet):
                return None
            name, limit, bound_us = (refusal.facts.get(frozen) for frozen in ("flow", "promise", "bound_us"))
            if limit not in ("latency", "latency_variation") or not isinstance(bound_us, float):
                return None
            if refusal.facts.get("reservation") != self.request.reservation_id:
                return None
            kept = {f"max_{limit}_us": float(ceil(bound_us / LIMIT_STEP_US + 0.5) * LIMIT_STEP_US)}
            flows = tuple(_with(flow, **kept) if flow.name == name else flow for flow in flows)
        return None


def _with(flow: Flow, **changes: object) -> Flow:
    return replace(flow, requirement=replace(flow.requirement, **changes))  # type: ignore[arg-type]


def _only_apart(flow: Flow) -> Flow:
    """Paths that share no span, where they were to share no duct."""
    return _with(flow, protection="link_disjoint") if flow.requirement.protection == "duct_disjoint" else flow


def _slower(flow: Flow, share: float) -> Flow:
    """A lower rate or a later deadline in the same proportion; a deadline stays within its period."""
    needed = flow.requirement
    if needed.min_bandwidth_bps is not None:
        rate_bps = max(RATE_STEP_BPS, floor(needed.min_bandwidth_bps * share / RATE_STEP_BPS) * RATE_STEP_BPS)
        flow = _with(flow, min_bandwidth_bps=min(rate_bps, needed.min_bandwidth_bps))
    if needed.deadline_ms is not None:
        deadline_ms = ceil(needed.deadline_ms / share * 10) / 10
        flow = _with(flow, deadline_ms=min(deadline_ms, needed.period_ms or inf))
    return flow


def _smoother(flow: Flow, share: float, burst_bytes: int, frame_bytes: int) -> Flow:
    """A smaller burst, one frame at least."""
    return _with(flow, burst_bytes=max(min(frame_bytes, burst_bytes), floor(burst_bytes * share)))


def _granted(circumstances: DecisionContext, request: Request) -> Mapping[str, int]:
    """The burst of every flow if there were no limits, or what it asked for."""
    return {
        flow.name: granted_burst_bytes(flow, flow.requirement.min_bandwidth_bps or 0, circumstances.network)
        for flow in request.flows
    }

