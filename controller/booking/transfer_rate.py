"""Deadline transfers: the least rate that meets a deadline, and the window in every period.

A sender has a transfer of B bytes available at once and paces it at the reserved rate r. Its last bit is sent after 8 B
/ r and is delayed by at most the latency bound L:

    completion = 8 B / r + L <= deadline.

L depends on r and on the other reservations, so the caller iterates from L = 0 upwards: the rates never decrease, and
the fixed point is the least solution. A transfer that fits in one frame is not paced: its completion is L, and its rate
only has to fill the bucket for the next one.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from controller.domain.reservation import Flow, Requirement, Window
from controller.errors import InvalidRequest

HEADROOM_SHARE = 0.05
"""Share of a deadline left unused where capacity permits: without it, a transfer at the least rate would miss its
deadline as soon as a later flow delayed it by a microsecond, and that flow would have to be rejected."""

SLOW_SHARE = 0.02
LATE_US = 10_000
"""How much slower than its rate, and later than its offset, a sender may be before its gate closes."""

RATE_STEP_BPS = 1000
"""The rate resolution of a meter, 1 kbit/s."""


def least_rate_bps(requirement: Requirement, latency_us: float = 0.0, headroom_share: float = 0.0) -> int | None:
    """Return the least rate, in whole kbit/s, that meets the requirement at this latency; None if no rate does."""
    rate_bps = requirement.min_bandwidth_bps or 0
    if requirement.transfer_bytes is not None and requirement.deadline_ms is not None:
        available_us = requirement.deadline_ms * 1000 * (1 - headroom_share) - latency_us
        if available_us <= 0:
            return None
        if requirement.is_one_frame:
            available_us = (requirement.period_ms or requirement.deadline_ms) * 1000
        rate_bps = max(rate_bps, ceil(8e6 * requirement.transfer_bytes / available_us))
    return ceil(rate_bps / RATE_STEP_BPS) * RATE_STEP_BPS


def completion_us(requirement: Requirement, rate_bps: int, latency_us: float) -> float | None:
    """Return the bound on the time from a transfer's start until its last byte arrives; None if not a transfer."""
    if requirement.transfer_bytes is None:
        return None
    return sending_us(requirement, rate_bps) + latency_us


def sending_us(requirement: Requirement, rate_bps: int) -> float:
    """Return how long the sender of a transfer takes at this rate, from its first bit on."""
    return 0.0 if requirement.is_one_frame else 8e6 * (requirement.transfer_bytes or 0) / rate_bps


def gate_window(flow: Flow, rate_bps: int) -> Window | None:
    """Return the window of the gate: the sending time at this rate, with the tolerance for a slow or late sender.

    It is shorter than the transfer's window by about the packet latency.
    """
    window = booked_window(flow)
    if window is None:
        return None
    length_us = ceil(sending_us(flow.requirement, rate_bps) * (1 + SLOW_SHARE) + LATE_US)
    return replace(window, length_us=min(window.length_us, length_us))


def booked_window(flow: Flow) -> Window | None:
    """Return the window for which a periodic transfer books its rate, from offset to deadline; None if not periodic.

    All its packets arrive within the window, so it books nothing outside.

    Raises: InvalidRequest if the deadline exceeds the period or the offset is not within it.
    """
    requirement = flow.requirement
    if requirement.period_ms is None or requirement.deadline_ms is None:
        return None
    window = Window(
        round(requirement.period_ms * 1000), round(requirement.offset_ms * 1000), ceil(requirement.deadline_ms * 1000)
    )
    if not 0 <= window.offset_us < window.period_us or window.length_us > window.period_us:
        raise InvalidRequest(
            f"{flow.name}: a deadline of {requirement.deadline_ms:g} ms and an offset of {requirement.offset_ms:g} ms "
            f"do not fit a period of {requirement.period_ms:g} ms; required: deadline <= period, 0 <= offset < period.",
            mistakes=[{"place": flow.name, "message": "deadline_ms <= period_ms and 0 <= offset_ms < period_ms"}],
        )
    return window
