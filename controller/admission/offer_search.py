"""Searches for an admitted request that is similar to a refused one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil

from controller.admission.admission import Admitted, Rejected, Request, decide, planning_problem
from controller.admission.burst_offer import LargestShare
from controller.admission.feasible_plan import PlanningProblem
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.calculus.network_bounds import Calibration
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.reservation import Flow
from controller.errors import LatencyNotMet

OFFER_TRIES = 20

BURST_TRIES = 3
"""Decisions on an offer with the bursts that the one before was granted."""

LEAST_SHARE = 1 / 128
"""No offer is below this share of the request."""

LIMIT_STEP_US = 100
"""Offered latency limits are multiples of this, so that the next small flow does not exceed them."""


@frozen
class DecisionContext:
    """Everything a decision depends on except the request."""

    network: Network
    calendar: Calendar
    live: LiveReservations
    now_s: float
    down: frozenset[str]
    calibration: Calibration

    def decide(self, request: Request) -> Admitted | Rejected:
        """The admission decision on a request."""
        return decide(self.network, self.calendar, self.live, request, self.now_s, self.down, self.calibration)

    def problem(self, request: Request) -> PlanningProblem:
        """The input of the decision on a request."""
        return planning_problem(self.network, self.calendar, self.live, request, self.now_s)


class OfferSearch:
    """Searches for an admitted request similar to a refused one, with at most OFFER_TRIES decisions."""

    def __init__(self, context: DecisionContext, request: Request) -> None:
        self.context = context
        self.request = request
        self.decisions_left = OFFER_TRIES
        self._granted_burst_bytes: Mapping[str, int] = {}
        """Of the last admitted request, by flow name."""

    def refusal(self, flows: tuple[Flow, ...]) -> Exception | None:
        """The reason that these flows are refused; None if they are admitted."""
        decision = self._decide(flows)
        return decision.error if isinstance(decision, Rejected) else None

    def _decide(self, flows: tuple[Flow, ...], is_probe: bool = False) -> Admitted | Rejected:
        self.decisions_left -= 1
        decision = self.context.decide(replace(self.request, flows=flows, is_probe=is_probe))
        if isinstance(decision, Admitted):
            self._granted_burst_bytes = {p.flow.name: p.burst_bytes for p in decision.placements}
        return decision

    def with_granted_bursts(self, flows: tuple[Flow, ...]) -> tuple[Flow, ...] | None:
        """The last admitted request with the bursts that it was granted in place of smaller requested ones.

        A larger burst may need another rate, and that another burst: what is returned is admitted as it is. None: no
        such request was found; then with bursts left open.
        """
        for _ in range(BURST_TRIES):
            granted = self._granted_burst_bytes
            stated = tuple(
                flow if flow.requirement.burst_bytes is None
                else with_requirement(flow, burst_bytes=granted.get(flow.name, flow.requirement.burst_bytes))
                for flow in flows
            )  # fmt: skip
            if stated == flows:
                return flows
            flows = stated
            if self.refusal(flows) is not None:
                break
        left_open = tuple(with_requirement(flow, burst_bytes=None) for flow in flows)
        return left_open if self.refusal(left_open) is None else None

    def is_refused(self, flows: tuple[Flow, ...]) -> bool:
        """Whether these flows are refused, decided without a reason."""
        return isinstance(self._decide(flows, is_probe=True), Rejected)

    def first(self, candidates: Sequence[tuple[Flow, ...]]) -> tuple[Flow, ...] | None:
        """The first candidate that is admitted."""
        return next((flows for flows in candidates if self.decisions_left > 0 and self.refusal(flows) is None), None)

    def nearest(self, scaled: Callable[[float], tuple[Flow, ...]]) -> tuple[Flow, ...] | None:
        """The admitted request of the largest share, by bisection; a share of 1 is known to be refused."""
        best, low, high = self.first([scaled(LEAST_SHARE)]), LEAST_SHARE, 1.0
        tries = min(self.decisions_left, 10)
        for _ in range(tries if best else 0):
            middle = (low + high) / 2
            flows = scaled(middle)
            if flows == best or self.refusal(flows) is None:
                best, low = flows, middle
            else:
                high = middle
        return best

    def nearest_on_routes(
        self, scaled: Callable[[float], tuple[Flow, ...]], error: LatencyNotMet
    ) -> tuple[Flow, ...] | None:
        """The admitted request of the largest share on the routes of the least one."""
        least = scaled(LEAST_SHARE)
        decision = self._decide(least, is_probe=True)
        if isinstance(decision, Rejected):
            return None

        def problem_of(share: float) -> PlanningProblem:
            return self.context.problem(replace(self.request, flows=scaled(share)))

        routes = {placement.flow.name: placement.route for placement in decision.placements}
        largest = scaled(LargestShare(problem_of, routes, error).find(LEAST_SHARE, 1.0))
        return largest if largest == least else self.first([largest, least])

    def relaxed(self, error: LatencyNotMet) -> tuple[Flow, ...] | None:
        """The request with every limit that cannot be met replaced by one that can. `error`: of the request itself."""
        flows = self.request.flows
        refusal: Exception | None = error
        while self.decisions_left > 0:
            if refusal is None:
                return flows
            if not isinstance(refusal, LatencyNotMet):
                return None
            name, limit, bound_us = (refusal.facts.get(key) for key in ("flow", "promise", "bound_us"))
            if limit not in ("latency", "latency_variation") or not isinstance(bound_us, float):
                return None
            if refusal.facts.get("reservation") != self.request.reservation_id:
                return None
            relaxed = {f"max_{limit}_us": float(ceil(bound_us / LIMIT_STEP_US + 0.5) * LIMIT_STEP_US)}
            flows = tuple(with_requirement(flow, **relaxed) if flow.name == name else flow for flow in flows)
            refusal = self.refusal(flows)
        return None if refusal is not None else flows


def with_requirement(flow: Flow, **changes: object) -> Flow:
    """The flow with these changes of its requirement."""
    return replace(flow, requirement=replace(flow.requirement, **changes))  # type: ignore[arg-type]
