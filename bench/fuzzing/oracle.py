"""Judges what arrived by what was promised: latency bounds, losses and arrival curves of every flow."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from machine.stall_watch import Stall, stalled_s

TOLD_LAG_S = 0.6
"""How long after a change its bound may become known to the fuzzer, which reads it every half second."""
TOLERATED_SHARE = 0.001
"""The share of datagrams that a switch may take longer for than its calibration says (docs/guarantees.md)."""
TOLERATED_LOSS_SHARE = 0.005
"""The share of its datagrams that a sender in software may lose at its meter because it was late and then hasty."""
METER_TICK_S = 0.001
EXPEDITED_DSCP = 46


class Arrival(NamedTuple):
    """A datagram that arrived; times in seconds since the epoch."""

    number: int
    sent_s: float
    arrived_s: float
    dscp: int
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class Told:
    """What the controller said of a flow from `since_s` on; `bound_us` bounds latency, `variation_us` jitter."""

    since_s: float
    rate_bps: int
    burst_bytes: int
    bound_us: float
    variation_us: float


@dataclass(slots=True)
class FlowHistory:
    """All that is known of a flow when the run is over.

    `limit_us`: the limit of its latency, if it has one. `conforms`: whether its sender kept within rate and burst.
    `excluded`: intervals in which nothing is promised, for example while a link has just been cut. `late_gates`: those
    of which the controller told that gates changed late: a flow with a window may be unmarked. `sent`: how many
    datagrams left.
    """

    name: str
    conforms: bool
    limit_us: float | None = None
    told: list[Told] = field(default_factory=list)
    excluded: list[tuple[float, float]] = field(default_factory=list)
    sent: int = 0
    arrivals: list[Arrival] = field(default_factory=list)
    late_gates: list[tuple[float, float]] = field(default_factory=list)

    def is_excluded(self, begin_s: float, end_s: float) -> bool:
        """Whether anything between these times is excluded."""
        return _overlaps(self.excluded, begin_s, end_s)

    def bound_us(self, begin_s: float, end_s: float) -> float:
        """The largest bound told for any moment between these times, or known late for one of them."""
        times_s = [each.since_s for each in self.told]
        first = max(bisect_right(times_s, begin_s - TOLD_LAG_S) - 1, 0)
        last = bisect_right(times_s, end_s + TOLD_LAG_S)
        return max(each.bound_us for each in self.told[first : max(last, first + 1)])


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one flow.

    `late`: datagrams that arrived after their bound, proven stalls of the machine deducted; `worst_excess_us`: by how
    much; `beyond_limit`: those that arrived after the flow's limit; `lost`: datagrams of a conforming sender that never
    arrived; `unmarked`: those that arrived outside the reserved class; `excess_bytes`: by how much the flow exceeded
    the arrival curve that the bounds of the others rely on.
    """

    name: str
    judged: int
    late: int = 0
    worst_excess_us: float = 0.0
    beyond_limit: int = 0
    lost: int = 0
    unmarked: int = 0
    excess_bytes: float = 0.0
    largest_share_of_bound: float = 0.0

    @property
    def is_violated(self) -> bool:
        """Whether a promise was broken, single datagrams within the calibration's share apart."""
        tolerated, tolerated_lost = 1 + self.judged * TOLERATED_SHARE, 2 + self.judged * TOLERATED_LOSS_SHARE
        late_or_unmarked = any(count > tolerated for count in (self.late, self.beyond_limit, self.unmarked))
        return late_or_unmarked or self.lost > tolerated_lost or self.excess_bytes > 0


def judge(flow: FlowHistory, stalls: Sequence[Stall]) -> Verdict:
    """Judge one flow."""
    excess_bytes = curve_excess_bytes(flow)
    if not flow.conforms or not flow.told:
        return Verdict(flow.name, 0, excess_bytes=excess_bytes)
    judged = late = beyond_limit = unmarked = 0
    worst_us = share = 0.0
    for arrival in flow.arrivals:
        if flow.is_excluded(arrival.sent_s, arrival.arrived_s):
            continue
        judged += 1
        if arrival.dscp != EXPEDITED_DSCP:
            unmarked += not _overlaps(flow.late_gates, arrival.sent_s, arrival.arrived_s)
            continue
        latency_us = (arrival.arrived_s - arrival.sent_s) * 1e6
        bound_us = flow.bound_us(arrival.sent_s, arrival.arrived_s)
        share = max(share, latency_us / bound_us)
        latest_us = bound_us if flow.limit_us is None else min(bound_us, flow.limit_us)
        if latency_us > latest_us:
            latency_us -= stalled_s(stalls, arrival.sent_s, arrival.arrived_s) * 1e6
            late += latency_us > bound_us
            beyond_limit += flow.limit_us is not None and latency_us > flow.limit_us
            worst_us = max(worst_us, latency_us - bound_us)
    lost = _lost(flow, stalls)
    return Verdict(flow.name, judged, late, worst_us, beyond_limit, lost, unmarked, excess_bytes, share)


def _overlaps(intervals: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> bool:
    return any(begin_s <= until_s and from_s <= end_s for from_s, until_s in intervals)


def _lost(flow: FlowHistory, stalls: Sequence[Stall]) -> int:
    """Datagrams missing between two that arrived, where neither was sent in an excluded interval or beside a stall."""
    lost = 0
    in_order = sorted(flow.arrivals)
    for before, after in pairwise(in_order):
        missing = after.number - before.number - 1
        if missing <= 0 or flow.is_excluded(before.sent_s, after.arrived_s):
            continue
        if stalled_s(stalls, before.sent_s - 0.1, after.arrived_s) == 0:
            lost += missing
    return lost


def curve_excess_bytes(flow: FlowHistory) -> float:
    """By how much the marked arrivals exceed the curve burst + rate * t, jitter and one tick of the meter added.

    While a rate is being changed the larger of the two counts.
    """
    if not flow.told:
        return 0.0
    burst_bytes = max(each.burst_bytes for each in flow.told)
    rates = [(each.since_s, each.rate_bps / 8) for each in flow.told]
    jitter_s = max(each.variation_us for each in flow.told) / 1e6 + METER_TICK_S
    depth = burst_bytes + max(rate for _, rate in rates) * jitter_s
    tokens, last_s, worst = depth, None, 0.0
    for arrival in flow.arrivals:
        if arrival.dscp != EXPEDITED_DSCP:
            continue
        if last_s is not None:
            tokens = min(depth, tokens + _rate_bytes(rates, last_s, arrival.arrived_s) * (arrival.arrived_s - last_s))
        last_s = arrival.arrived_s
        tokens -= arrival.frame_bytes
        worst = max(worst, -tokens)
    return worst


def _rate_bytes(rates: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> float:
    """The largest rate told for any moment between these times."""
    times_s = [since_s for since_s, _ in rates]
    first = max(bisect_right(times_s, begin_s - TOLD_LAG_S) - 1, 0)
    last = bisect_right(times_s, end_s + TOLD_LAG_S)
    return max(rate for _, rate in rates[first : max(last, first + 1)])
