"""Necessary conditions of latency limits, cheaper than an analysis: they end the search for a route early."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

from controller.calculus.failure_bounds import FailureBounds, FlowKey
from controller.calculus.incremental import MAX_EXCESS
from controller.calculus.network_bounds import NoBound
from controller.errors import LatencyNotMet, Refused

if TYPE_CHECKING:
    from controller.admission.feasible_plan import PlacedFlows, PlanningProblem

SAME_VIOLATIONS, SAME_VIOLATIONS_AT_HOST = 4, 2
"""After so many routes on which the limit of the same admitted flow is exceeded, further routes are not tried; the
second where the flow shares the link to a host with the request, which all routes then share with it."""

UNBOUNDED_ROUTES = 2
"""After so many routes without a finite bound, further routes are not tried."""


class LatencyScreen:
    """What the routes analysed so far show about those still to be tried."""

    def __init__(self, problem: PlanningProblem) -> None:
        self.problem = problem
        self._violations: Counter[FlowKey] = Counter()
        self._unbounded = 0
        self.is_tight = False
        """Whether the bounds of all earlier flows are those of a new analysis."""
        self.may_solve_programmes = problem.request.may_solve_programmes

    @property
    def suspects(self) -> list[FlowKey]:
        """The admitted flows whose limits were exceeded, most often exceeded first."""
        return [key for key, _ in self._violations.most_common()]

    def note(self, refusal: Refused | NoBound) -> None:
        """Record why a route was refused."""
        if isinstance(refusal, NoBound):
            self._unbounded += 1
        elif isinstance(refusal, LatencyNotMet):
            holder, flow = refusal.facts.get("reservation"), refusal.facts.get("flow")
            if isinstance(holder, str) and isinstance(flow, str) and holder != self.problem.request.reservation_id:
                self._violations[holder, flow] += 1

    def needs_tight_bounds(self, refusal: LatencyNotMet) -> bool:
        """Switch to the bounds of a new analysis where they may be within the limit; return whether that is new."""
        bound_us, limit_us = refusal.facts.get("bound_us"), refusal.facts.get("limit_us")
        if self.is_tight or not isinstance(bound_us, float) or not isinstance(limit_us, float | int):
            return False
        self.is_tight = bound_us <= limit_us * (1 + MAX_EXCESS)
        return self.is_tight

    @property
    def is_hopeless(self) -> bool:
        """Whether further routes are unlikely to be feasible."""
        if not self._unbounded and not self._violations:
            return False
        if self._unbounded >= UNBOUNDED_ROUTES:
            return True
        return any(
            times >= (SAME_VIOLATIONS_AT_HOST if self._shares_host(key) else SAME_VIOLATIONS)
            for key, times in self._violations.items()
        )

    def _shares_host(self, key: FlowKey) -> bool:
        """Whether an admitted flow has the source or the destination of a requested one."""
        admitted = self.problem.others.flow(key)
        flows = self.problem.request.flows
        return any(flow.source == admitted.source or flow.destination == admitted.destination for flow in flows)

    def exceeds_own_limit(self, placed: PlacedFlows) -> bool:
        """Whether a requested flow is certain to exceed its own limit on these routes."""
        if self._bounds is None:
            return False
        for placed_flow in placed.values():
            requirement = placed_flow.sized_flow.flow.requirement
            if requirement.analysis == "linear_programme" and self.may_solve_programmes:
                continue  # its bound may be below that of any total-flow analysis
            deadline_us = None if requirement.deadline_ms is None else requirement.deadline_ms * 1000
            limits_us = [limit for limit in (requirement.max_latency_us, deadline_us) if limit is not None]
            if limits_us:
                carried = self.problem.carried(placed_flow.sized_flow, placed_flow.route)
                if self._bounds.least_latency_us(carried) > min(limits_us):
                    return True
        return False

    @cached_property
    def _bounds(self) -> FailureBounds | None:
        try:
            return self.problem.others.bounds
        except NoBound:
            return None
