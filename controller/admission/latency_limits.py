"""What a flow's bounds must not exceed, and the sentence for one that does."""

from __future__ import annotations

from collections.abc import Iterator

from controller.booking.transfer_rate import completion_us
from controller.calculus.network_bounds import Bound
from controller.domain.reservation import Requirement
from controller.errors import LatencyNotMet


def has_limit(requirement: Requirement) -> bool:
    """Whether a bound can break anything that was promised."""
    limits = requirement.max_latency_us, requirement.max_latency_variation_us, requirement.deadline_ms
    return limits != (None, None, None)


def late(
    whose: str, requirement: Requirement, rate_bps: int, bound: Bound, flow: str, reservation_id: str
) -> LatencyNotMet | None:
    """The first limit that this bound breaks, as a refusal; None if all are kept. `whose`: the sentence's subject."""
    if not has_limit(requirement):
        return None
    for word, bound_us, limit_us in _checks(requirement, rate_bps, bound):
        if limit_us is not None and bound_us > limit_us:
            sentence = f"{whose}: the proven {word} would be {bound_us:.0f} us; its limit is {limit_us:.0f} us."
            facts = {"flow": flow, "reservation": reservation_id, "promise": word.replace(" ", "_")}
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
