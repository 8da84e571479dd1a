"""The largest bursts or rates with which a request stays within the limits of latency, on given routes.

A probe analyses one change of the request on the routes on which its smallest form was admitted, without a path
search. The bound of a flow is a concave function of the bursts and rates, so a step to where the chord meets the limit
usually comes close; steps of bisection between make the number of probes certain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from controller.admission.feasible_plan import FeasiblePlan, PlanningProblem, plan_on_routes
from controller.admission.latency_limits import effective_limits_us
from controller.admission.latency_screen import LatencyScreen
from controller.calculus.failure_bounds import FlowKey
from controller.calculus.network_bounds import NoBound
from controller.domain.route import Route
from controller.errors import LatencyNotMet, Refused

PROBES = 5
CLOSE_ENOUGH = 0.01
"""Relative to the request."""

CHORD_SHARE = 0.98
"""How far towards the chord's intersection with the limit a step goes; the concave bound lies above the chord."""

LITTLE_SLACK = 0.03
"""The search ends with a bound this close to its limit, relative to the range between the first two."""


class LargestShare:
    """Finds the largest share of a request that is admitted, between one that is and one that is not."""

    def __init__(
        self, problem_of: Callable[[float], PlanningProblem], routes: Mapping[str, Route], refusal: LatencyNotMet
    ) -> None:
        """`problem_of`: the problem of a share of the request; `refusal`: that of the whole request."""
        self.problem_of = problem_of
        self.routes = routes
        holder, flow = refusal.facts.get("reservation"), refusal.facts.get("flow")
        self.key: FlowKey | None = (holder, flow) if isinstance(holder, str) and isinstance(flow, str) else None
        self.promise = refusal.facts.get("promise")
        self.refusal = refusal
        self.screen = LatencyScreen(problem_of(1.0))
        self.screen.note(refusal)
        self.screen.is_tight = True

    def find(self, low: float, high: float) -> float:
        """Return the largest share found, at least `low`."""
        low_us, high_us = self._excess_us(low), self._excess_of(self.refusal)
        little_us = LITTLE_SLACK * ((high_us or 0.0) - (low_us or 0.0))
        for probe in range(PROBES):
            if high - low <= CLOSE_ENOUGH or (low_us is not None and -low_us < little_us):
                break
            share = (low + high) / 2
            if probe % 2 == 0 and low_us is not None and high_us is not None and low_us < 0 < high_us:
                share = low + (high - low) * CHORD_SHARE * low_us / (low_us - high_us)
            excess_us = self._excess_us(share)
            if excess_us is None or excess_us > 0:
                high, high_us = share, excess_us
            else:
                low, low_us = share, excess_us
        return low

    def _excess_us(self, share: float) -> float | None:
        """Return by how much the limit that was exceeded first is exceeded; None if the request fails otherwise."""
        problem = self.problem_of(share)
        try:
            plan = plan_on_routes(problem, self.routes, self.screen)
        except LatencyNotMet as refusal:
            self.screen.note(refusal)
            return self._excess_of(refusal)
        except (NoBound, Refused):
            return None
        return self._slack_of(plan, problem)

    def _excess_of(self, refusal: LatencyNotMet) -> float | None:
        key, bound_us = (refusal.facts.get("reservation"), refusal.facts.get("flow")), refusal.facts.get("bound_us")
        limit_us = refusal.facts.get("limit_us")
        if key != self.key or refusal.facts.get("promise") != self.promise:
            return None
        return bound_us - limit_us if isinstance(bound_us, float) and isinstance(limit_us, float | int) else None

    def _slack_of(self, plan: FeasiblePlan, problem: PlanningProblem) -> float:
        """Return how far that bound is below its limit, negative; a little below 0 where there is no such limit."""
        if self.key is None:
            return -1.0
        if self.key[0] == problem.request.reservation_id:
            requirement = {flow.name: flow.requirement for flow in problem.request.flows}[self.key[1]]
            latency_us, variation_us = requirement.max_latency_us, requirement.max_latency_variation_us
        else:
            latency_us, variation_us = effective_limits_us(problem.others.placement(self.key))
        bound = plan.bounds.total_flow_bound(self.key)
        if self.promise == "latency" and latency_us is not None:
            return min(-1.0, bound.accumulated_latency_us - latency_us)
        if self.promise == "latency_variation" and variation_us is not None:
            return min(-1.0, bound.latency_variation_us - variation_us)
        return -1.0
