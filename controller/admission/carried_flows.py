"""How the network carries the flows of a reservation."""

from __future__ import annotations

from math import inf

from controller.admission.latency_limits import has_limit
from controller.calculus.failure_bounds import CarriedFlow
from controller.domain.reservation import Placement, Reservation


def is_carried_alike(before: Reservation, after: Reservation) -> bool:
    """Whether both have the same times and, apart from told bounds, placements: index and bounds are then the same."""
    times = before.created_at_s, before.start_at_s, before.end_at_s
    if times != (after.created_at_s, after.start_at_s, after.end_at_s):
        return False
    if before.placements is after.placements:
        return True
    pairs = zip(before.placements, after.placements, strict=False)
    return len(before.placements) == len(after.placements) and all(_is_placed_alike(*pair) for pair in pairs)


def _is_placed_alike(before: Placement, after: Placement) -> bool:
    """Whether two placements differ at most in their told bounds."""
    if before is after:
        return True
    facts = before.reserved_bps, before.burst_bytes, before.meter_id, before.window, before.suspended
    return (
        before.flow == after.flow
        and facts == (after.reserved_bps, after.burst_bytes, after.meter_id, after.window, after.suspended)
        and before.route == after.route
    )


def carried_flow(reservation: Reservation, placement: Placement) -> CarriedFlow:
    """How the network carries one flow of a reservation."""
    end_s = inf if reservation.end_at_s is None else reservation.end_at_s
    start_s = reservation.start_at_s if reservation.start_at_s > reservation.created_at_s else -inf
    size = placement.reserved_bps, placement.burst_bytes
    limit = has_limit(placement.flow.requirement)
    by_programmes = placement.flow.requirement.analysis == "linear_programme"
    return CarriedFlow.for_lifetime(placement.route, size, start_s, end_s, placement.window, limit, by_programmes)
