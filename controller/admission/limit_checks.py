"""Checks bounds against the limits of flows, and decides where linear programmes are worth their time."""

from __future__ import annotations

from collections.abc import Iterable

from controller.admission.latency_limits import limit_violation
from controller.admission.live_reservations import LiveReservations
from controller.calculus.failure_bounds import FailureBounds, FlowKey
from controller.calculus.network_bounds import Bound
from controller.domain.reservation import Flow, Placement
from controller.errors import LatencyNotMet

MAY_BE_LOWER = "A bound by linear programmes (`analysis`) may be lower."
LARGEST_GAIN = 10.0
"""Linear programmes are not solved where they would have to divide a bound by more."""


def check_limits(
    others: LiveReservations,
    bounds: FailureBounds,
    keys: Iterable[FlowKey],
    own_id: str,
    may_solve_programmes: bool = True,
) -> None:
    """Check the limits of these flows with these bounds, without those of the reservation `own_id`.

    Raises: LatencyNotMet.
    """
    for key in keys:
        reservation_id, name = key
        if reservation_id != own_id:
            placement, subject = others.placement(key), f"{name} of live reservation {reservation_id}"
            check_limit(bounds, key, placement.flow, subject, may_solve_programmes, placement)


def check_limit(
    bounds: FailureBounds,
    key: FlowKey,
    flow: Flow,
    subject: str,
    may_solve_programmes: bool,
    placement: Placement | None,
) -> None:
    """Check the limits of one flow; linear programmes are solved only where total-flow analysis exceeds one.

    `placement`: of a flow that keeps its place.

    Raises: LatencyNotMet.
    """
    carried = bounds.carried_flows[key]

    def violation_of(bound: Bound) -> LatencyNotMet | None:
        return limit_violation(subject, flow.requirement, carried.rate_bps, bound, key[1], key[0], placement)

    bound = bounds.total_flow_bound(key)
    if not carried.has_limit:
        return
    violation = violation_of(bound)
    if violation is not None and carried.by_programmes and may_solve_programmes and _may_gain(violation):
        violation = violation_of(bounds.bound(key))
    if violation is not None:
        is_own_rate = placement is None and flow.requirement.transfer_bytes is None
        has_programmes = not (carried.by_programmes or bounds.network.is_regulated)
        if is_own_rate and has_programmes and _may_gain(violation):
            raise LatencyNotMet(f"{violation.detail} {MAY_BE_LOWER}", **violation.facts)
        raise violation


def _may_gain(violation: LatencyNotMet) -> bool:
    """Whether linear programmes may bring this bound below its limit."""
    bound_us, limit_us = violation.facts.get("bound_us"), violation.facts.get("limit_us")
    return isinstance(bound_us, float) and isinstance(limit_us, float | int) and bound_us <= LARGEST_GAIN * limit_us
