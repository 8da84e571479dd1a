"""Checks proven bounds against latency limits and words the violation.

A limit is given in the requirement, or is the bound told at admission with the requirement's `bound_slack`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from controller.booking.transfer_rate import completion_us
from controller.calculus.network_bounds import Bound
from controller.domain.reservation import Placement, Requirement
from controller.errors import LatencyNotMet

NOISE = 1e-6
"""Relative difference of bounds that is rounding of the analysis."""


def has_limit(requirement: Requirement) -> bool:
    """Whether the requirement limits latency, latency variation or completion time."""
    limits = requirement.max_latency_us, requirement.max_latency_variation_us, requirement.deadline_ms
    return limits != (None, None, None) or requirement.bound_slack is not None


def promised_us(requirement: Requirement, bound: Bound) -> tuple[float | None, float | None]:
    """What latency and latency variation may grow to after this bound has been told; None without a `bound_slack`.

    The completion of a transfer is a constant plus the latency, so that its share of growth is smaller.
    """
    if requirement.bound_slack is None:
        return None, None
    factor = 1 + requirement.bound_slack
    return bound.accumulated_latency_us * factor, bound.latency_variation_us * factor


def limit_violation(
    subject: str,
    requirement: Requirement,
    rate_bps: int,
    bound: Bound,
    flow: str,
    reservation_id: str,
    placement: Placement | None = None,
) -> LatencyNotMet | None:
    """The first limit that this bound exceeds, as a refusal; None if it meets all.

    `subject` begins the sentence. `placement`: of a flow that keeps its place, so that what was promised counts.
    """
    if not has_limit(requirement):
        return None
    facts = {"flow": flow, "reservation": reservation_id}
    for quantity, bound_us, limit_us in _checks(requirement, rate_bps, bound):
        if limit_us is not None and bound_us > limit_us:
            sentence = f"{subject}: the proven {quantity} would be {bound_us:.0f} us; its limit is {limit_us:.0f} us."
            promise = quantity.replace(" ", "_")
            return LatencyNotMet(sentence, **facts, promise=promise, bound_us=round(bound_us, 1), limit_us=limit_us)
    slack = requirement.bound_slack
    if placement is None or slack is None:
        return None
    for quantity, bound_us, limit_us in _promises(placement, bound):
        if limit_us is not None and bound_us > limit_us * (1 + NOISE):
            sentence = f"{subject}: the proven {quantity} would be {bound_us:.0f} us; its limit is {limit_us:.0f} us, "
            sentence += f"as promised ({limit_us / (1 + slack):.0f} us with a bound_slack of {slack:g})."
            promise = quantity.replace(" ", "_")
            limits = {"bound_us": round(bound_us, 1), "limit_us": round(limit_us, 1), "bound_slack": slack}
            return LatencyNotMet(sentence, **facts, promise=promise, **limits)
    return None


def effective_limits_us(placement: Placement) -> tuple[float | None, float | None]:
    """The limits of latency and latency variation that later admissions keep: as required, or as promised if lower."""
    requirement = placement.flow.requirement
    pairs = (
        (requirement.max_latency_us, placement.promised_latency_us),
        (requirement.max_latency_variation_us, placement.promised_variation_us),
    )
    latency_us, variation_us = (min((limit for limit in pair if limit is not None), default=None) for pair in pairs)
    return latency_us, variation_us


def exceeds_limits(placement: Placement, bound: Bound) -> bool:
    """Whether this bound of a flow in its place exceeds a limit of it."""
    flow, rate_bps = placement.flow, placement.reserved_bps
    return limit_violation("", flow.requirement, rate_bps, bound, flow.name, "", placement) is not None


def latency_room_us(placement: Placement, bound: Bound) -> float:
    """By how much the latency bound may rise before a limit of this flow is exceeded; infinite without limits."""
    requirement = placement.flow.requirement
    checks = *_checks(requirement, placement.reserved_bps, bound), *_promises(placement, bound)
    return min((limit_us - bound_us for _, bound_us, limit_us in checks if limit_us is not None), default=inf)


def _checks(
    requirement: Requirement, rate_bps: int, bound: Bound
) -> Iterator[tuple[str, float, float | None]]:
    yield "latency", bound.accumulated_latency_us, requirement.max_latency_us
    yield "latency variation", bound.latency_variation_us, requirement.max_latency_variation_us
    done_us = completion_us(requirement, rate_bps, bound.accumulated_latency_us)
    if done_us is not None and requirement.deadline_ms is not None:
        yield "completion", done_us, requirement.deadline_ms * 1000


def _promises(placement: Placement, bound: Bound) -> Iterator[tuple[str, float, float | None]]:
    yield "latency", bound.accumulated_latency_us, placement.promised_latency_us
    yield "latency variation", bound.latency_variation_us, placement.promised_variation_us
