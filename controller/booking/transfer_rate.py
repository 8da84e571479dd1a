"""A transfer with a deadline -> the least rate at which it is there in time, and its window of every period.

A sender hands a transfer of B bytes over at once and paces it at the reserved rate r. Its last bit leaves after 8 B / r
and is at most the proven latency L under way:

    completion = 8 B / r + L <= deadline.

L itself grows with r and with what else is promised, so who asks for the least rate iterates from L = 0 upwards: the
rates never fall, and where they stand still is the least solution.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from controller.domain.reservation import Flow, Requirement, Window
from controller.errors import InvalidRequest

HEADROOM_SHARE = 0.05
"""Of a deadline, what is left unused where there is room: without it a transfer given the least rate would be late as
soon as any later flow made it wait a microsecond more, and so that flow would have to be refused."""

SLOW_SHARE = 0.02
LATE_US = 10_000
"""What a sender may be slower than its rate, and later than its offset, before it finds the gate closed."""

RATE_STEP_BPS = 1000
"""A meter counts whole kbit/s."""


def least_rate_bps(requirement: Requirement, latency_us: float = 0.0, headroom_share: float = 0.0) -> int | None:
    """The least whole kbit/s that satisfies the requirement at this latency; None if no rate is quick enough."""
    asked_bps = requirement.min_bandwidth_bps or 0
    if requirement.transfer_bytes is not None and requirement.deadline_ms is not None:
        left_us = requirement.deadline_ms * 1000 * (1 - headroom_share) - latency_us
        if left_us <= 0:
            return None
        asked_bps = max(asked_bps, ceil(8e6 * requirement.transfer_bytes / left_us))
    return ceil(asked_bps / RATE_STEP_BPS) * RATE_STEP_BPS


def completion_us(requirement: Requirement, rate_bps: int, latency_us: float) -> float | None:
    """The proven time from a transfer's start until its last byte is there; None if it is not a transfer."""
    if requirement.transfer_bytes is None:
        return None
    return 8e6 * requirement.transfer_bytes / rate_bps + latency_us


def gate_of(flow: Flow, rate_bps: int) -> Window | None:
    """When a periodic transfer is let in: as long as a sender at this rate takes who is a little slow or late.

    It is shorter than the transfer's window by about the time that the last packet is on its way.
    """
    whole, size = window_of(flow), flow.requirement.transfer_bytes
    if whole is None or size is None:
        return None
    sending_us = ceil(8e6 * size / rate_bps * (1 + SLOW_SHARE) + LATE_US)
    return replace(whole, length_us=min(whole.length_us, sending_us))


def window_of(flow: Flow) -> Window | None:
    """The window for which a periodic transfer books its rate: from its offset to its deadline; None if not periodic.

    All its packets arrive within it, so it takes nothing outside.

    Raises: InvalidRequest if the deadline is later than the next period's start.
    """
    needed = flow.requirement
    if needed.period_ms is None or needed.deadline_ms is None:
        return None
    window = Window(round(needed.period_ms * 1000), round(needed.offset_ms * 1000), ceil(needed.deadline_ms * 1000))
    if not 0 <= window.offset_us < window.period_us or window.length_us > window.period_us:
        raise InvalidRequest(
            f"{flow.name}: a deadline of {needed.deadline_ms:g} ms and an offset of {needed.offset_ms:g} ms do not "
            f"fit a period of {needed.period_ms:g} ms; the deadline is at most the period, the offset less than it.",
            mistakes=[{"place": flow.name, "message": "deadline_ms <= period_ms and 0 <= offset_ms < period_ms"}],
        )
    return window
