"""Checks proven bounds against latency limits and words the violation."""

from __future__ import annotations

from collections.abc import Iterator

from controller.booking.transfer_rate import completion_us
from controller.calculus.network_bounds import Bound
from controller.domain.reservation import Requirement
from controller.errors import LatencyNotMet


def has_limit(requirement: Requirement) -> bool:
    """Whether the requirement limits latency, latency variation or completion time."""
    limits = requirement.max_latency_us, requirement.max_latency_variation_us, requirement.deadline_ms
    return limits != (None, None, None)


def limit_violation(
    subject: str, requirement: Requirement, rate_bps: int, bound: Bound, flow: str, reservation_id: str
) -> LatencyNotMet | None:
    """The first limit that this bound exceeds, as a refusal; None if it meets all. `subject` begins the sentence."""
    if not has_limit(requirement):
        return None
    for quantity, bound_us, limit_us in _checks(requirement, rate_bps, bound):
        if limit_us is not None and bound_us > limit_us:
            sentence = f"{subject}: the proven {quantity} would be {bound_us:.0f} us; its limit is {limit_us:.0f} us."
            facts = {"flow": flow, "reservation": reservation_id, "promise": quantity.replace(" ", "_")}
            return LatencyNotMet(sentence, **facts, bound_us=round(bound_us, 1), limit_us=limit_us)
    return None


def _checks(
    requirement: Requirement, rate_bps: int, bound: Bound
) -> Iterator[tuple[str, float, float | None]]:
    yield "latency", bound.accumulated_latency_us, requirement.max_latency_us
    yield "latency variation", bound.latency_variation_us, requirement.max_latency_variation_us
    done_us = completion_us(requirement, rate_bps, bound.accumulated_latency_us)
    if done_us is not None and requirement.deadline_ms is not None:
        yield "completion", done_us, requirement.deadline_ms * 1000
