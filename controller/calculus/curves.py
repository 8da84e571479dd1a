"""Arrival and service curves of one server: the bounds of its delay and its backlog, and its longest busy period.

A server guarantees a rate after a latency (rate-latency service curve) and serves first come, first served. Streams
that arrive over one link form a group with two arrival curves: the sum of their token buckets and the shaping curve of
the link,

    alpha_g(t) = min( sum b_i + t sum r_i,  b_link + t r_link ).

The delay bound is the horizontal deviation between the sum of arrival curves and the service curve,

    D = latency + max over t of sum_g alpha_g(t) / R - t.

The sum is concave with one corner per group, so the maximum is at a corner or at t = 0. The backlog bound is the
vertical deviation,

    B = max over t >= latency of sum_g alpha_g(t) - R (t - latency)  <=  R D.

Source: Le Boudec and Thiran, "Network Calculus", §1.4 (horizontal and vertical deviation; first come, first served
aggregates); Mifdaoui and Leydier, "Beyond the accuracy-complexity tradeoffs of compositional analyses using network
calculus for complex networks", CRTS 2017 (line shaping of groups).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class ShapingCurve:
    """The arrival curve that a link imposes: at most `burst_bits` + t `rate_bps` in t seconds."""

    burst_bits: float
    rate_bps: float


@dataclass(frozen=True, slots=True)
class Server:
    """A rate-latency server.

    `min_delay_us`: the least delay of any packet. `max_transit_us`: the longest time to the next server;
    `transit_jitter_us`: its longest minus its shortest. `output_shaping`: limits the traffic that leaves over its link.
    `is_regulated`: regulators precede it, in the same queue.
    """

    rate_bps: float
    latency_us: float
    min_delay_us: float = 0.0
    max_transit_us: float = 0.0
    transit_jitter_us: float = 0.0
    output_shaping: ShapingCurve | None = None
    is_regulated: bool = False


Group = tuple[ShapingCurve | None, float, float]
"""Streams that arrive over one link: its shaping curve (None: unshaped), their burst in bit and their rate in bit/s."""


def delay_bound_us(server: Server, groups: Iterable[Group]) -> float:
    """Return the delay bound of the server, including service; the total rate must be below the server's.

    Before its corner a group arrives at the link's rate, after it at its buckets' rate. The backlog grows until the
    corner at which the total arrival rate falls to the service rate; the delay is largest there. The long-term rate of
    a group never exceeds its link's.
    """
    bits, rate_bps, corners = 0.0, 0.0, []
    for shaping, burst_bits, bucket_bps in groups:
        if shaping is None or burst_bits <= shaping.burst_bits or bucket_bps >= shaping.rate_bps:
            bits += burst_bits
            rate_bps += bucket_bps
        else:
            excess_bps = shaping.rate_bps - bucket_bps
            bits += shaping.burst_bits
            rate_bps += shaping.rate_bps
            corners.append(((burst_bits - shaping.burst_bits) / excess_bps, excess_bps))
    time_s, service_bps = 0.0, server.rate_bps
    if rate_bps > service_bps:
        corners.sort()
        for corner_s, excess_bps in corners:
            bits += rate_bps * (corner_s - time_s)
            rate_bps -= excess_bps
            time_s = corner_s
            if rate_bps <= service_bps:
                break
    return (bits / service_bps - time_s) * 1e6 + server.latency_us


def backlog_bound_bits(server: Server, groups: Iterable[Group]) -> float:
    """Return the backlog bound of the server; the total rate must be below the server's.

    The vertical deviation is largest at the latency or at a later corner. From the latency on, the server's remaining
    curve has none, and those of the groups begin with what has arrived by then.
    """
    latency_s = server.latency_us / 1e6
    later: list[Group] = []
    for shaping, burst_bits, bucket_bps in groups:
        if shaping is not None:
            shaping = ShapingCurve(shaping.burst_bits + shaping.rate_bps * latency_s, shaping.rate_bps)
        later.append((shaping, burst_bits + bucket_bps * latency_s, bucket_bps))
    return (delay_bound_us(server, later) - server.latency_us) * server.rate_bps / 1e6


def busy_period_us(server: Server, burst_bits: float, rate_bps: float) -> float:
    """Return the longest busy period of the server; infinite if the arrival rate is not below the service rate."""
    if rate_bps >= server.rate_bps:
        return inf
    latency_bits = server.rate_bps * server.latency_us / 1e6
    return (burst_bits + latency_bits) / (server.rate_bps - rate_bps) * 1e6


def recovery_us(server: Server, before: Sequence[Group], after: Sequence[Group]) -> float:
    """Return after how long the delay bound with the streams `after` holds, if `before` includes others that end now.

    At that time after the start of a busy period, what may have arrived of all streams exceeds the service by no more
    than the streams `after` alone may at any time. Infinite if the total rate of `before` reaches the server's.
    """
    most_bits = max((backlog_bits for _, backlog_bits in _backlogs(server, after)), default=0.0)
    corners = _backlogs(server, before)
    last_s, backlog_bits = corners[-1]
    rate_bps = server.rate_bps - sum(bucket_bps for _, _, bucket_bps in before)
    if backlog_bits > most_bits:
        return (last_s + (backlog_bits - most_bits) / rate_bps) * 1e6 if rate_bps > 0 else inf
    for (from_s, from_bits), (to_s, to_bits) in zip(corners[-2::-1], corners[:0:-1], strict=True):
        if from_bits > most_bits:
            return (from_s + (from_bits - most_bits) / (from_bits - to_bits) * (to_s - from_s)) * 1e6
    return 0.0


def _backlogs(server: Server, groups: Sequence[Group]) -> list[tuple[float, float]]:
    """Return (time, arrivals less service) at the start and at each corner of the sum of arrival curves, in order."""
    times_s = {0.0}
    for shaping, burst_bits, bucket_bps in groups:
        if shaping is not None and burst_bits > shaping.burst_bits and bucket_bps < shaping.rate_bps:
            times_s.add((burst_bits - shaping.burst_bits) / (shaping.rate_bps - bucket_bps))
    return [(time_s, _arrivals_bits(groups, time_s) - server.rate_bps * time_s) for time_s in sorted(times_s)]


def _arrivals_bits(groups: Sequence[Group], time_s: float) -> float:
    total_bits = 0.0
    for shaping, burst_bits, bucket_bps in groups:
        bits = burst_bits + bucket_bps * time_s
        total_bits += bits if shaping is None else min(bits, shaping.burst_bits + shaping.rate_bps * time_s)
    return total_bits
