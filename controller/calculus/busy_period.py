"""Bounds of delay and backlog of one server when not all of its streams are active at all times.

Streams delay each other only if they have packets in the same busy period. Activities that do not overlap can still
share a busy period: the second begins while the server is busy with the first. So every activity is extended by
`extension_us`: the longest busy period, plus the longest delay of a packet from its entry into the network to this
server, plus the tolerance of clocks and gates. Streams that share a busy period then overlap pairwise, and intervals
that overlap pairwise have a point in common, so it suffices to examine the sets of streams that are active at one time.
The extension depends on the busy period, and this on the sets; the least consistent extension is searched from below.
It never falls when bursts or lateness grow, and so neither does the delay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from controller.booking.peak_load import ALWAYS, Activity, concurrent_lifetimes, concurrent_windows
from controller.calculus.curves import (
    Group,
    Server,
    ShapingCurve,
    backlog_bound_bits,
    busy_period_us,
    delay_bound_us,
)
from controller.domain.reservation import Window

MAX_DELAY_US = 60_000_000.0
"""Longer delays count as unbounded."""

EXTENSION_HEADROOM = 1.05
"""The extension is chosen so much longer than required if that leaves the sets as they are: small changes then leave
them, too, and need no new analysis."""

FEW_INTERMITTENT = 8
LOW_UTILISATION = 0.5


def considers_activities(intermittent: int, rate_bps: float, server: Server) -> bool:
    """Return whether the analysis of a server distinguishes when its streams are active.

    `intermittent`: how many streams are not always active. The analysis by sets is cheap for few, and worthwhile at a
    loaded server. Otherwise all streams are treated as always active, which is a valid bound too: then the reserved
    rates of the whole calendar sum to less than half of the service rate.
    """
    return 0 < intermittent <= FEW_INTERMITTENT or (
        intermittent > FEW_INTERMITTENT and rate_bps > LOW_UTILISATION * server.rate_bps
    )


@dataclass(frozen=True, slots=True)
class CrossFlow:
    """A stream at a server: its token bucket there, the shaping of its input link, its longest delay up to there."""

    activity: Activity
    group: str
    shaping: ShapingCurve | None
    burst_bits: float
    rate_bps: float
    lateness_us: float


@dataclass(frozen=True, slots=True)
class ServerDelay:
    """A delay bound and its slack: while bursts and lateness grow by no more, the sets of concurrent streams stay the
    same, and the bound grows by at most the added bits over the service rate.
    """

    delay_us: float
    extension_us: float = 0.0
    burst_slack_bits: float = float("inf")
    lateness_slack_us: float = float("inf")


class Unstable(Exception):  # noqa: N818 - a result of the analysis, not an error
    """The server is unstable: the arrival rate is not below the service rate."""


def server_delay(server: Server, flows: Sequence[CrossFlow], clock_us: float = 0.0) -> ServerDelay:
    """Return the delay bound of the server. `clock_us`: tolerance of the starts and ends of activities.

    Raises: Unstable
    """
    if all(flow.activity is ALWAYS for flow in flows):
        return ServerDelay(_delay_us(server, flows))
    consistent = _consistent_sets(server, flows, clock_us)
    if consistent is None:
        return ServerDelay(_delay_us(server, flows), MAX_DELAY_US)
    return _worst_delay(server, *consistent)


def server_backlog_bits(server: Server, flows: Sequence[CrossFlow], clock_us: float = 0.0) -> float:
    """Return the backlog bound of the server: the largest over all sets that can share a busy period.

    Raises: Unstable
    """
    always_active = all(flow.activity is ALWAYS for flow in flows)
    consistent = None if always_active else _consistent_sets(server, flows, clock_us)
    sets = [list(flows)] if consistent is None else consistent[0]
    return max(_bound(server, flows_in_set, backlog_bound_bits) for flows_in_set in sets)


def _consistent_sets(
    server: Server, flows: Sequence[CrossFlow], clock_us: float
) -> tuple[list[list[CrossFlow]], float, float] | None:
    """Return the sets of concurrent streams of the least consistent extension, an extension that has the same sets, and
    by how much it exceeds the least; None if that is too long.
    """
    lateness_us = max(flow.lateness_us for flow in flows) + clock_us
    least_us, sets = lateness_us, _sets(flows, lateness_us)
    while (required_us := lateness_us + max(_busy_us(server, flows_in_set) for flows_in_set in sets)) > least_us:
        if required_us > MAX_DELAY_US:
            return None
        least_us, sets = required_us, _sets(flows, required_us)
    extension_us = least_us * EXTENSION_HEADROOM
    if _sets(flows, extension_us) != sets:
        extension_us = least_us
    return sets, extension_us, extension_us - least_us


def may_become_concurrent(flows: Iterable[CrossFlow], extension_us: float) -> bool:
    """Whether an extension of activities by up to this may change which streams are concurrent."""
    starts_s, ends_s = [], []
    for flow in flows:
        activity = flow.activity
        if activity is not ALWAYS:
            if activity.window is not None:
                return True
            starts_s.append(activity.start_s)
            ends_s.append(activity.end_s)
    ends_s.sort()
    for start_s in starts_s:
        later = bisect_left(ends_s, start_s - extension_us / 1e6)
        if later < len(ends_s) and ends_s[later] < start_s:
            return True
    return False


def least_server_delay_us(server: Server, flows: Sequence[CrossFlow], extension_us: float) -> float:
    """Return the delay bound if only those streams are concurrent that are with this extension of their activities."""
    return max(_delay_us(server, flows_in_set) for flows_in_set in _sets(flows, extension_us))


def _worst_delay(server: Server, sets: list[list[CrossFlow]], extension_us: float, slack_us: float) -> ServerDelay:
    """Return the largest delay over all sets; a set whose bursts alone cannot exceed the maximum so far is skipped."""
    sets.sort(key=_burst_bits, reverse=True)
    worst_delay_us = 0.0
    for flows_in_set in sets:
        if _burst_bits(flows_in_set) / server.rate_bps * 1e6 + server.latency_us <= worst_delay_us:
            break
        worst_delay_us = max(worst_delay_us, _delay_us(server, flows_in_set))
    spare_bps = server.rate_bps - max(_rate_bps(flows_in_set) for flows_in_set in sets)
    return ServerDelay(worst_delay_us, extension_us, slack_us / 2 * spare_bps / 1e6, slack_us / 2)


def _delay_us(server: Server, flows: Iterable[CrossFlow]) -> float:
    return _bound(server, flows, delay_bound_us)


def _bound(
    server: Server, flows: Iterable[CrossFlow], bound_of: Callable[[Server, Iterable[Group]], float]
) -> float:
    """Return that bound of the server if all these streams are active together.

    Raises: Unstable
    """
    groups: dict[str, Group] = {}
    rate_bps = 0.0
    for flow in flows:
        shaping, group_bits, group_bps = groups.get(flow.group, (flow.shaping, 0.0, 0.0))
        groups[flow.group] = shaping, group_bits + flow.burst_bits, group_bps + flow.rate_bps
        rate_bps += flow.rate_bps
    if rate_bps >= server.rate_bps:
        raise Unstable
    return bound_of(server, list(groups.values()))


def _busy_us(server: Server, flows: Sequence[CrossFlow]) -> float:
    return busy_period_us(server, _burst_bits(flows), _rate_bps(flows))


def _burst_bits(flows: Sequence[CrossFlow]) -> float:
    return sum(flow.burst_bits for flow in flows)


def _rate_bps(flows: Sequence[CrossFlow]) -> float:
    return sum(flow.rate_bps for flow in flows)


def _sets(flows: Sequence[CrossFlow], extension_us: float) -> list[list[CrossFlow]]:
    """Return the sets of streams that can share a busy period, at least one."""
    return list(_concurrent_sets(flows, extension_us)) or [[]]


def _concurrent_sets(flows: Sequence[CrossFlow], extension_us: float) -> Iterator[list[CrossFlow]]:
    """Yield the sets of streams that can share a busy period; every such set is a subset of a yielded one."""
    activities = [_extended(flow.activity, extension_us) for flow in flows]
    for live in concurrent_lifetimes(activities):
        for open_indices in concurrent_windows([activities[i] for i in live]):
            concurrent = [flows[live[i]] for i in open_indices]
            always = [flow for flow in concurrent if not flow.activity.failures]
            failures = {failure for flow in concurrent for failure in flow.activity.failures}
            if not failures:
                yield always
            for failure in sorted(failures):
                yield always + [flow for flow in concurrent if failure in flow.activity.failures]


def _extended(activity: Activity, extension_us: float) -> Activity:
    window = activity.window
    if window is not None:
        length_us = window.length_us + ceil(extension_us)
        window = Window(window.period_us, window.offset_us, length_us) if length_us < window.period_us else None
    return replace(activity, end_s=activity.end_s + extension_us / 1e6, window=window)
